"""Both layouts: the published names and shapes, configurations read and written, and the way from one to the other."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.checkpoint import table
from earful.checkpoint.files import Entry, Weights, load_tensors, open_weights, save_weights
from earful.errors import CheckpointError
from earful.models.voxtral.config import AudioConfig, DecoderConfig, EncoderConfig, SpecialIds, VoxtralConfig
from earful.models.voxtral.config_files import write_tekken
from earful.models.voxtral.config_hf import to_hf
from earful.models.voxtral.config_mistral import to_params
from earful.models.voxtral.layouts import LAYOUTS, hf_table, mistral_table
from earful.models.voxtral.model import VoxtralRealtime
from earful.registry import load_model, save_model
from earful.testing import write_tiny
from earful.text.bpe import SPEECH_TOKENS
from earful.text.tekken import Tekken

GOLDEN = Path(__file__).parents[2] / "golden"
PUBLISHED = VoxtralConfig(
    EncoderConfig(
        mels=128,
        dim=1280,
        layers=32,
        heads=32,
        kv_heads=32,
        head_dim=64,
        mlp_dim=5120,
        window=750,
        rope_base=1e6,
        norm_eps=1e-5,
    ),
    DecoderConfig(
        vocab=131072,
        dim=3072,
        layers=26,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mlp_dim=9216,
        window=8192,
        rope_base=1e6,
        norm_eps=1e-5,
        ada_dim=32,
        tied=True,
    ),
    AudioConfig(
        rate_hz=16_000, hop=160, window=400, bins=128, log_max=1.5, left_slots=32, delay_slots=6, tail_slots=10
    ),
    SpecialIds(bos=1, eos=2, blank=32, word=33, filler=11),
    mels_per_slot=8,
    downsample=4,
)
AUDIO_BLOCK = {
    "sampling_rate": 16000,
    "frame_rate": 12.5,
    "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
    "transcription_format": "streaming",
    "transcription_delay_ms": 480,
    "streaming_look_ahead_ms": 2.5,
    "streaming_look_back_ms": 52.5,
    "streaming_n_left_pad_tokens": 32,
}


def published_tekken(vocab=131072, audio=AUDIO_BLOCK):
    pieces = [bytes([byte]) for byte in range(256)] + [b"%05x" % rank for rank in range(vocab - 1256)]
    config = {"pattern": r"\S+|\s+", "default_vocab_size": vocab, "default_num_special_tokens": 1000, "version": "v7"}
    names = [{"rank": rank, "token_str": name, "is_control": True} for rank, name in SPEECH_TOKENS.items()]
    return Tekken({"config": config, "special_tokens": names, "audio": audio}, pieces)


def listed(name, rename=lambda name: name):
    """Weights with the published names and shapes, and no bytes."""
    names = json.loads((GOLDEN / name).read_text())
    entries = {rename(key): Entry(Path("nowhere"), torch.bfloat16, tuple(shape), 0) for key, shape in names.items()}
    return Weights(entries, name)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with the published configuration in both layouts."""
    folder = tmp_path_factory.mktemp("published")
    published_tekken().save(folder / "tekken.json")
    (folder / "params.json").write_bytes((GOLDEN / "voxtral_params.json").read_bytes())
    (folder / "config.json").write_bytes((GOLDEN / "voxtral_config.json").read_bytes())
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11}')
    return folder


@pytest.fixture(scope="module")
def network():
    with torch.device("meta"):
        return VoxtralRealtime(PUBLISHED)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The same tiny model in both layouts, by name of the layout."""
    folder = tmp_path_factory.mktemp("tiny")
    return {layout: write_tiny("voxtral", layout, path=folder / layout) for layout in LAYOUTS}


def in_memory(name):
    """Where current releases of transformers hold in memory what they write under `name`."""
    moved = name.replace("language_model.model.", "language_model.")
    return "lm_head.weight" if name == "language_model.lm_head.weight" else f"model.{moved}"


# The published checkpoint


@pytest.mark.parametrize("layout, golden", [("mistral", "voxtral_mistral.json"), ("hf", "voxtral_hf.json")])
def test_the_published_configuration(published, layout, golden):
    assert LAYOUTS[layout].read(published, listed(golden)) == PUBLISHED


def test_both_published_files_are_written_as_they_were():
    assert to_params(PUBLISHED) == json.loads((GOLDEN / "voxtral_params.json").read_text())
    files = to_hf(PUBLISHED, torch.bfloat16)
    assert files["config.json"] == json.loads((GOLDEN / "voxtral_config.json").read_text())
    assert files["generation_config.json"] == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11}


def test_the_lists_have_the_published_sums():
    for name, encoder, projector in [
        ("voxtral_mistral.json", "whisper_encoder", "audio_language_projection"),
        ("voxtral_hf.json", "audio_tower", "multi_modal_projector"),
    ]:
        sizes = {key: math.prod(shape) for key, shape in json.loads((GOLDEN / name).read_text()).items()}
        assert len(sizes) == 711
        in_encoder = sum(size for key, size in sizes.items() if encoder in key)
        in_projector = sum(size for key, size in sizes.items() if projector in key)
        total = sum(sizes.values())
        assert (round(in_encoder / 1e6), round(in_projector / 1e6)) == (970, 25)
        assert round((total - in_encoder - in_projector) / 1e7) == 343
        assert round(2 * total / 1e7) == 886  # bytes in bfloat16


MAPPINGS = {
    "mistral": ("mistral", "voxtral_mistral.json", None),
    "on disk": ("hf", "voxtral_hf.json", None),
    "on disk, with head": ("hf", "voxtral_hf.json", "language_model.lm_head.weight"),
    "in memory": ("hf", "voxtral_hf.json", None),
    "in memory, with head": ("hf", "voxtral_hf.json", "lm_head.weight"),
}


@pytest.mark.parametrize("case", MAPPINGS)
def test_the_published_tensors_map_one_to_one(network, case):
    layout, golden, head = MAPPINGS[case]
    weights = listed(golden, in_memory if case.startswith("in memory") else lambda name: name)
    if head:
        weights.entries[head] = Entry(Path("nowhere"), torch.bfloat16, (131072, 3072), 0)
    parameters = network.state_dict()
    fit = table.fitting(LAYOUTS[layout].tables(PUBLISHED), weights, parameters)
    there = [name for match in fit.matches for name in match.there]
    assert len(there) == len(set(there)) == 711
    assert {*there, *fit.copies} == set(weights)
    assert [name for match in fit.matches for name in match.here if name not in parameters] == []
    assert fit.copies == ({head: "decoder.embed.weight"} if head else {})


def test_a_published_list_with_other_shapes_does_not_fit(network):
    parameters = network.state_dict()
    for layout, golden, name in [
        ("mistral", "voxtral_mistral.json", "layers.25.attention.wk.weight"),
        ("hf", "voxtral_hf.json", "language_model.model.layers.25.self_attn.k_proj.weight"),
    ]:
        weights = listed(golden)
        weights.entries[name] = replace(weights.entries[name], shape=(4096, 3072))
        with pytest.raises(CheckpointError, match=rf"1 misshapen: {name} \(expected floats \[1024, 3072\], got"):
            table.fitting(LAYOUTS[layout].tables(PUBLISHED), weights, parameters)
        del weights.entries[name]
        with pytest.raises(CheckpointError, match=f"1 missing: {name}"):
            table.fitting(LAYOUTS[layout].tables(PUBLISHED), weights, parameters)


# From one layout to the other


def halves(tensor, heads):
    """Interleaved to half-split rows of a projection, one by one."""
    width = len(tensor) // heads
    order = [head * width + 2 * j + side for head in range(heads) for side in range(2) for j in range(width // 2)]
    return tensor[order]


def test_both_layouts_hold_the_same_model(tiny):
    """The published conversion, written out: what each tensor of Mistral's is called in the other layout."""
    names = {
        "mm_streams_embeddings.embedding_module.tok_embeddings": "language_model.model.embed_tokens",
        "mm_streams_embeddings.embedding_module.audio_language_projection.0": "multi_modal_projector.linear_1",
        "mm_streams_embeddings.embedding_module.audio_language_projection.2": "multi_modal_projector.linear_2",
        "mm_streams_embeddings.embedding_module.whisper_encoder.conv_layers.0.conv": "audio_tower.embedder.conv1",
        "mm_streams_embeddings.embedding_module.whisper_encoder.conv_layers.1.conv": "audio_tower.embedder.conv2",
        "mm_streams_embeddings.embedding_module.whisper_encoder.transformer.norm": "audio_tower.norm",
        "norm": "language_model.model.norm",
    }
    for i in range(2):
        whisper = f"mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.{i}"
        for there, here in [(whisper, f"audio_tower.layers.{i}"), (f"layers.{i}", f"language_model.model.layers.{i}")]:
            names |= {f"{there}.attention.w{x}": f"{here}.self_attn.{x}_proj" for x in "qkvo"}
            names |= {f"{there}.feed_forward.w1": f"{here}.mlp.gate_proj"}
            names |= {f"{there}.feed_forward.w2": f"{here}.mlp.down_proj"}
            names |= {f"{there}.feed_forward.w3": f"{here}.mlp.up_proj"}
        names |= {f"{whisper}.attention_norm": f"audio_tower.layers.{i}.self_attn_layer_norm"}
        names |= {f"{whisper}.ffn_norm": f"audio_tower.layers.{i}.final_layer_norm"}
        names |= {f"layers.{i}.attention_norm": f"language_model.model.layers.{i}.input_layernorm"}
        names |= {f"layers.{i}.ffn_norm": f"language_model.model.layers.{i}.post_attention_layernorm"}
        for old, new in (("0", "linear1"), ("2", "linear2")):
            names |= {f"layers.{i}.ada_rms_norm_t_cond.{old}": f"language_model.model.layers.{i}.ada_rms_norm.{new}"}
    mistral = load_tensors(tiny["mistral"] / "consolidated.safetensors")
    hugging_face = load_tensors(tiny["hf"] / "model.safetensors")
    assert len(mistral) == len(hugging_face)
    for name, tensor in mistral.items():
        stem, kind = name.rsplit(".", 1)
        if stem.endswith(("attention.wq", "attention.wk")):
            heads = 4 if stem.startswith("layers") and stem.endswith("wq") else 2
            tensor = halves(tensor, heads)
        assert torch.equal(tensor, hugging_face[f"{names[stem]}.{kind}"]), name


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("max_shard_bytes", [20_000, 1 << 30])
def test_conversion_loses_nothing(tiny, tmp_path, source, target, max_shard_bytes):
    model, tokenizer = load_model(tiny[source])
    save_model(model, tmp_path, target, tokenizer, max_shard_bytes)
    again, _ = load_model(tmp_path)
    assert again.config == model.config
    weights, kept = model.state_dict(), again.state_dict()
    assert weights.keys() == kept.keys()
    assert all(torch.equal(weights[name], kept[name]) for name in weights)
    assert (tmp_path / "tekken.json").read_bytes() == tokenizer.read_bytes()
    if source == target and max_shard_bytes > 20_000:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in tiny[source].iterdir())
        for path in tmp_path.iterdir():
            assert path.read_bytes() == (tiny[source] / path.name).read_bytes(), path.name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_geometries_and_an_untied_head(tmp_path, layout):
    folder = write_tiny(
        "voxtral",
        layout,
        path=tmp_path,
        encoder={"layers": 1, "window": 3, "rope_base": 500.0, "norm_eps": 1e-6},
        decoder={"layers": 11, "tied": False, "ada_dim": 7, "kv_heads": 1, "rope_base": 30_000.0, "norm_eps": 1e-3},
        audio={"hop": 320, "window": 512, "bins": 80, "log_max": None, "left_slots": 0, "delay_slots": 30},
    )
    model, tokenizer = load_model(folder)
    config = model.config
    assert (config.mels_per_slot, config.downsample, config.slot_samples) == (4, 2, 1280)
    assert config.audio == AudioConfig(16_000, 320, 512, 80, None, 0, 30)
    assert (config.encoder.window, config.encoder.rope_base, config.encoder.norm_eps) == (3, 500.0, 1e-6)
    assert (config.decoder.ada_dim, config.decoder.tied, config.decoder.kv_heads) == (7, False, 1)
    assert "decoder.head.weight" in model.state_dict()
    other = "hf" if layout == "mistral" else "mistral"
    save_model(model, tmp_path / "other", other, tokenizer)
    again, _ = load_model(tmp_path / "other")
    assert again.config == config
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_names_of_memory_and_a_copied_head_are_read(tiny, tmp_path):
    model, tokenizer = load_model(tiny["hf"])
    for case, (rename, head) in {
        "memory": (in_memory, None),
        "memory with head": (in_memory, "lm_head.weight"),
        "disk with head": (lambda name: name, "language_model.lm_head.weight"),
    }.items():
        folder = tmp_path / case
        save_model(model, folder, "hf", tokenizer)
        tensors = load_tensors(folder / "model.safetensors")
        held = {rename(name): tensor for name, tensor in tensors.items()}
        if head:
            held[head] = tensors["language_model.model.embed_tokens.weight"].clone()
        save_weights(folder, held.items())
        again, _ = load_model(folder)
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
        if head:
            held[head][3, 5] += 1
            save_weights(folder, held.items())
            with pytest.raises(CheckpointError, match=f"expected {head} to be a copy of the tensor for decoder.embed"):
                load_model(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_name_of_the_file_has_exactly_one_row(tiny, layout):
    """A second row for a name or a parameter is an AssertionError of the table's."""
    model, _ = load_model(tiny[layout])
    config, weights = model.config, open_weights(tiny[layout], LAYOUTS[layout].stem)
    for tied in (True, False):
        changed = replace(config, decoder=replace(config.decoder, tied=tied))
        with torch.device("meta"):
            parameters = VoxtralRealtime(changed).state_dict()
        for rows in LAYOUTS[layout].tables(changed):
            table.Fit(rows, weights, parameters)
    assert len({line.there for line in hf_table(config)}) == len(hf_table(config))
    assert len({line.there for line in mistral_table(config)}) == len(mistral_table(config))


def test_the_encoder_of_hugging_face_has_as_many_key_heads_as_query_heads(tmp_path):
    folder = write_tiny("voxtral", "mistral", path=tmp_path / "mistral", encoder={"kv_heads": 1})
    model, tokenizer = load_model(folder)
    assert model.config.encoder.kv_heads == 1
    with pytest.raises(CheckpointError, match="expected an encoder of 2 key heads, .*; got 1"):
        save_model(model, tmp_path / "hf", "hf", tokenizer)


# Files that say less, or something else


def edited(folder, tmp_path, **files):
    """A copy of a folder with some JSON files changed (a function of their content) or removed (None)."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name, change in files.items():
        path = tmp_path / f"{name}.json"
        if change is None:
            path.unlink()
        else:
            document = json.loads(path.read_text())
            change(document)
            path.write_text(json.dumps(document))
    return tmp_path


def read(folder, layout):
    return LAYOUTS[layout].read(folder, open_weights(folder, LAYOUTS[layout].stem))


def test_a_missing_rotary_base_is_a_million(tiny, tmp_path):
    def without(config):
        del config["audio_config"]["rope_parameters"]
        config["text_config"]["rope_parameters"] = None

    config = read(edited(tiny["hf"], tmp_path, config=without), "hf")
    assert config.encoder.rope_base == config.decoder.rope_base == 1e6

    def older(config):
        without(config)
        config["audio_config"]["rope_theta"] = 500.0

    assert read(edited(tiny["hf"], tmp_path, config=older), "hf").encoder.rope_base == 500.0
    missing = edited(tiny["mistral"], tmp_path, params=lambda params: params.pop("rope_theta"))
    assert read(missing, "mistral").decoder.rope_base == 1e6


def test_keys_that_hugging_face_leaves_out_take_the_published_sizes(published):
    """A config.json may say no more than what it is."""
    path = published / "config.json"
    full = path.read_text()
    path.write_text('{"model_type": "voxtral_realtime", "audio_config": {}, "text_config": {}}')
    assert LAYOUTS["hf"].read(published, listed("voxtral_hf.json")) == PUBLISHED
    path.write_text('{"model_type": "voxtral_realtime"}')
    assert LAYOUTS["hf"].read(published, listed("voxtral_hf.json")) == PUBLISHED
    path.write_text(full)


def test_the_filler_of_hugging_face_is_in_the_generation_config(tiny, tmp_path):
    def ids(change):
        return read(edited(tiny["hf"], tmp_path, generation_config=change), "hf").ids

    assert ids(lambda g: None).filler == 11
    assert ids(lambda g: g.update(pad_token_id=7)).filler == 7
    assert ids(lambda g: g.update(pad_token_id=None)).filler == 2
    assert ids(lambda g: g.pop("pad_token_id")).filler == 2
    other = ids(lambda g: g.update(eos_token_id=5, pad_token_id=None))
    assert (other.eos, other.filler) == (5, 5)
    assert ids(None) == SpecialIds(bos=1, eos=2, blank=32, word=33, filler=2)
    for wrong in (-1, 360, "</s>", [2, 3]):
        with pytest.raises(
            CheckpointError, match=r"generation_config\.json: expected eos_token_id to be a whole number"
        ):
            ids(lambda g, wrong=wrong: g.update(eos_token_id=wrong))


def test_the_older_name_of_the_processors_file(tiny, tmp_path):
    folder = edited(tiny["hf"], tmp_path, processor_config=None)
    assert read(folder, "hf").audio.log_max == 1.5
    (folder / "preprocessor_config.json").write_text('{"global_log_mel_max": 2.25, "hop_length": 160, "n_fft": 400}')
    assert read(folder, "hf").audio.log_max == 2.25
    (folder / "preprocessor_config.json").write_text('{"hop_length": 320}')
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: expected hop_length to be 160, got 320"):
        read(folder, "hf")


def test_the_encoders_window_and_epsilon_are_its_own(tmp_path):
    folder = write_tiny("voxtral", "mistral", path=tmp_path, encoder={"window": 5, "norm_eps": 1e-4})
    config = read(folder, "mistral")
    assert (config.encoder.window, config.encoder.norm_eps) == (5, 1e-4)
    assert (config.decoder.window, config.decoder.norm_eps) == (10, 1e-5)


def test_a_tokenizer_gets_the_audio_block_of_the_model(tmp_path):
    """As published where the model is, verbatim where nothing changes, and made where there is none."""
    tekken = published_tekken(vocab=2000, audio=None)
    tekken.save(tmp_path / "plain.json")
    config = replace(PUBLISHED, decoder=replace(PUBLISHED.decoder, vocab=2000))
    write_tekken(config, tmp_path / "plain.json", tmp_path / "tekken.json")
    assert Tekken.from_file(tmp_path / "tekken.json").audio == AUDIO_BLOCK
    (tmp_path / "spaced.json").write_text(json.dumps({**tekken.to_json(), "audio": AUDIO_BLOCK}, indent=1))
    write_tekken(config, tmp_path / "spaced.json", tmp_path / "tekken.json")
    assert (tmp_path / "tekken.json").read_bytes() == (tmp_path / "spaced.json").read_bytes()
    later = replace(config, audio=replace(config.audio, delay_slots=10))
    write_tekken(later, tmp_path / "tekken.json", tmp_path / "tekken.json")
    written = Tekken.from_file(tmp_path / "tekken.json")
    assert written.audio == AUDIO_BLOCK | {"transcription_delay_ms": 800}
    assert (written.pieces, written.special_tokens) == (tekken.pieces, tekken.special_tokens)


# What must be refused


def at(document, path):
    for key in path[:-1]:
        document = document[key]
    return document, path[-1]


WHISPER = ("multimodal", "whisper_model_args")
ENCODER = (*WHISPER, "encoder_args")
BAD = [
    ("mistral", "params", ("n_layers",), 10**9, r"params\.json: expected n_layers to be .* of 1 to 1024, got"),
    ("mistral", "params", ("n_layers",), None, "expected n_layers, a whole number .*, got no such key"),
    ("mistral", "params", ("dim",), -36, r"params\.json: expected dim to be a whole number"),
    ("mistral", "params", ("dim",), "36", r"params\.json: expected dim to be a whole number"),
    ("mistral", "params", ("dim",), 36.0, r"params\.json: expected dim to be a whole number"),
    ("mistral", "params", ("dim",), True, r"params\.json: expected dim to be a whole number"),
    ("mistral", "params", ("dim",), 37, "expected an even width, got 37"),
    ("mistral", "params", ("head_dim",), 13, "decoder: expected an even head_dim, got 13"),
    ("mistral", "params", ("n_kv_heads",), 3, "decoder: expected heads in groups of 3, got 4"),
    ("mistral", "params", ("vocab_size",), 10**12, "expected vocab_size to be a whole number of 1 to 1048576"),
    ("mistral", "params", ("vocab_size",), 361, "expected a vocabulary of 360 as in .*tekken.json, got 361"),
    ("mistral", "params", ("norm_eps",), float("nan"), "expected norm_eps to be a number of 0 to 1, got nan"),
    ("mistral", "params", ("rope_theta",), 0, "expected rope_theta to be a number"),
    ("mistral", "params", ("use_biases",), True, "expected use_biases to be false, got True"),
    ("mistral", "params", ("ada_rms_norm_t_cond",), False, "expected ada_rms_norm_t_cond to be true"),
    ("mistral", "params", ("ada_rms_norm_t_cond_dim",), 16, "expected ada_rms_norm_t_cond_dim to be 32, got 16"),
    ("mistral", "params", ("tied_embeddings",), 1, "expected tied_embeddings to be true or false"),
    ("mistral", "params", WHISPER, [], "multimodal: whisper_model_args: expected an object, got"),
    ("mistral", "params", (*ENCODER, "sliding_window"), 0, "encoder_args: expected sliding_window to be a whole"),
    ("mistral", "params", (*ENCODER, "ffn_type"), "gelu", 'expected ffn_type to be "swiglu", got'),
    ("mistral", "params", (*ENCODER, "audio_encoding_args", "hop_length"), 320, "hop_length to be 160, got 320"),
    ("mistral", "params", (*WHISPER, "downsample_args", "downsample_factor"), 8, "a downsample_factor of 4, half"),
    ("hf", "config", ("text_config", "num_hidden_layers"), 10**9, "text_config: expected num_hidden_layers to be"),
    ("hf", "config", ("audio_config", "hidden_size"), -1, "audio_config: expected hidden_size to be a whole number"),
    ("hf", "config", ("audio_config", "hidden_act"), "relu", 'audio_config: expected hidden_act to be "silu", got'),
    ("hf", "config", ("audio_config", "num_key_value_heads"), 1, "expected num_key_value_heads to be 2, got 1"),
    ("hf", "config", ("audio_config", "num_mel_bins"), 128, "expected 24 mel bins as in .*, got 128"),
    ("hf", "config", ("text_config", "sliding_window"), 2**60, "expected sliding_window to be a whole number"),
    ("hf", "config", ("text_config", "rope_parameters", "rope_type"), "yarn", 'rope_type to be "default", got'),
    ("hf", "config", ("audio_length_per_tok",), 4, "expected audio_length_per_tok to be 8, got 4"),
    ("hf", "config", ("downsample_factor",), 2, "expected a downsample_factor of 4, half of the 8 mel frames"),
    ("hf", "config", ("text_config",), "big", "text_config: expected an object, got 'big'"),
    ("hf", "processor_config", ("feature_extractor", "n_fft"), 512, "expected n_fft to be 400, got 512"),
    ("hf", "processor_config", ("feature_extractor", "global_log_mel_max"), "loud", "global_log_mel_max to be"),
    ("hf", "tekken", ("audio",), None, r"tekken\.json: expected an audio block, got none"),
    ("hf", "tekken", ("audio", "transcription_format"), "instruct", 'expected transcription_format to be "streaming"'),
    ("hf", "tekken", ("audio", "transcription_delay_ms"), 100, "expected a whole number of slots, got 1.25"),
    ("hf", "tekken", ("audio", "audio_encoding_config", "hop_length"), 150, "number of mel frames, got 8.53"),
    ("hf", "tekken", ("audio", "frame_rate"), float("inf"), "expected frame_rate to be a number of 0.1 to 1000"),
    ("hf", "tekken", ("audio", "streaming_n_left_pad_tokens"), 10**8, "left_pad_tokens to be a whole number"),
    ("mistral", "tekken", ("audio", "sampling_rate"), 0, "sampling_rate to be a whole number of 4000 to 384000"),
]  # fmt: skip


@pytest.mark.parametrize("layout, file, path, value, message", BAD)
def test_a_bad_value_is_refused_by_name(tiny, tmp_path, layout, file, path, value, message):
    def change(document):
        inside, key = at(document, path)
        if value is None:
            del inside[key]
        else:
            inside[key] = value

    with pytest.raises(CheckpointError, match=message) as caught:
        read(edited(tiny[layout], tmp_path, **{file: change}), layout)
    assert "\n" not in str(caught.value)


def leaves(document, path=()):
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from leaves(value, (*path, key))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.integers(0, 200),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=3),
)


@pytest.mark.parametrize("layout, file", [("mistral", "params"), ("hf", "config"), ("hf", "tekken")])
@settings(max_examples=150)
@given(data=st.data())
def test_a_mutated_config_is_read_within_bounds_or_refused(tiny, tmp_path_factory, layout, file, data):
    source = tiny[layout] / f"{file}.json"
    document = json.loads(source.read_text())
    places = [path for path in leaves({**document, "vocab": None}) if path]
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places))
        changed = copy.deepcopy(document)
        try:
            inside, key = at(changed, path)
            if data.draw(st.booleans()):
                inside[key] = data.draw(VALUES)
            else:
                del inside[key]
        except (KeyError, TypeError):  # an earlier change took the place away
            continue
        document = changed
    folder = tmp_path_factory.getbasetemp() / f"mutated-{layout}-{file}"
    folder.mkdir(exist_ok=True)
    edited(tiny[layout], folder)
    (folder / source.name).write_text(json.dumps(document))
    config, message = None, ""
    try:
        config = read(folder, layout)
    except CheckpointError as error:
        message = str(error)
    assert "\n" not in message
    if config is None:
        assert "expected" in message
        return
    for part in (config.encoder, config.decoder):
        assert 1 <= part.layers <= 1024
        assert 1 <= part.dim <= 1 << 16
        assert 1 <= part.window <= 1 << 20
        assert part.heads % part.kv_heads == 0
        assert 0 <= part.norm_eps <= 1
    assert config.decoder.vocab <= 1 << 20
    assert config.mels_per_slot == 2 * config.downsample
    assert max(vars(config.ids).values()) < config.decoder.vocab
    assert 0 <= config.audio.left_slots <= 10_000


# The reference


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_list_of_hugging_face_is_what_transformers_builds():
    from transformers import VoxtralRealtimeConfig, VoxtralRealtimeForConditionalGeneration

    with torch.device("meta"):
        model = VoxtralRealtimeForConditionalGeneration(VoxtralRealtimeConfig())
    built = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    built.pop("lm_head.weight")
    golden = json.loads((GOLDEN / "voxtral_hf.json").read_text())
    assert {in_memory(name): shape for name, shape in golden.items()} == built


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_transformers_writes_the_same_config(tiny, tmp_path):
    from transformers import AutoConfig

    for layout in LAYOUTS:
        model, tokenizer = load_model(tiny[layout])
        save_model(model, tmp_path / layout, "hf", tokenizer)
        AutoConfig.from_pretrained(tmp_path / layout).save_pretrained(tmp_path / "again")
        ours = json.loads((tmp_path / layout / "config.json").read_text())
        theirs = json.loads((tmp_path / "again" / "config.json").read_text())
        assert ours == {key: value for key, value in theirs.items() if key != "transformers_version"}
