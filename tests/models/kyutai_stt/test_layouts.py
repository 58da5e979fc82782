"""Both layouts: the published names and shapes, configurations both ways."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earful.checkpoint import table
from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Entry, Weights, load_tensors
from earful.errors import CheckpointError
from earful.models.kyutai_stt.config import PRESETS
from earful.models.kyutai_stt.config_hf import from_hf, to_hf
from earful.models.kyutai_stt.config_kyutai import read_kyutai, to_kyutai
from earful.models.kyutai_stt.layouts import LAYOUTS
from earful.models.kyutai_stt.model import KyutaiStt
from earful.models.moshi.config_kyutai import hidden_scale_of, mlp_dim_of, unpacked
from earful.registry import load_model, recognise, save_model
from earful.testing import write_tiny
from earful.text.sentencepiece import SentencePiece
from tests.models.kyutai_stt.helpers import assert_same, change_config

GOLDEN = Path(__file__).parents[2] / "golden"
PUBLISHED = {  # case -> layout, the list of the language model, the model
    "1b": ("kyutai", "kyutai_stt_1b_kyutai", "stt-1b-en_fr"),
    "1b with VAD heads": ("kyutai", "kyutai_stt_1b_candle", "stt-1b-en_fr-candle"),
    "1b, hf": ("hf", "kyutai_stt_1b_hf", "stt-1b-en_fr"),
    "2.6b": ("kyutai", "kyutai_stt_2.6b_kyutai", "stt-2.6b-en"),
    "2.6b, hf": ("hf", "kyutai_stt_2.6b_hf", "stt-2.6b-en"),
}
CODEC = {"kyutai": "mimi.", "hf": "codec_model."}  # before the codec's names in one list with the others
# What the published config.json of stt-1b-en_fr says; the other model differs in what follows.
KYUTAI = {
    "card": 2048, "n_q": 32, "dep_q": 0, "delays": [0] * 33, "dim": 2048, "text_card": 8000,
    "existing_text_padding_id": 3, "num_heads": 16, "num_layers": 16, "hidden_scale": 4.125, "causal": True,
    "layer_scale": None, "context": 750, "max_period": 100000.0, "gating": "silu", "norm": "rms_norm_f32",
    "positional_embedding": "rope", "depformer_dim": 1024, "depformer_num_heads": 16, "depformer_num_layers": 6,
    "depformer_dim_feedforward": None, "depformer_multi_linear": True, "depformer_pos_emb": "none",
    "depformer_weights_per_step": True, "conditioners": {}, "fuser": None, "cross_attention": False,
    "tokenizer_name": "tokenizer_en_fr_audio_8000.model", "mimi_name": "mimi-pytorch-e351c8d8@125.safetensors",
    "model_type": "stt", "stt_config": {"audio_silence_prefix_seconds": 0.0, "audio_delay_seconds": 0.5},
    "lm_gen_config": {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 50},
}  # fmt: skip
LARGER = {
    "text_card": 4000, "num_heads": 32, "num_layers": 48, "context": 375,
    "tokenizer_name": "tokenizer_en_audio_4000.model",
    "stt_config": {"audio_silence_prefix_seconds": 1.0, "audio_delay_seconds": 2.5},
    "model_id": {"sig": "dabcc802", "epoch": 50},
}  # fmt: skip


def listed(layout, name, rename=lambda name: name):
    """Weights with the published names and shapes, and no bytes."""
    names = json.loads((GOLDEN / f"{name}.json").read_text())
    codec = json.loads((GOLDEN / f"mimi_{layout}.json").read_text())
    names |= {CODEC[layout] + key: shape for key, shape in codec.items()}
    entries = {rename(key): Entry(Path("nowhere"), torch.bfloat16, tuple(shape), 0) for key, shape in names.items()}
    return Weights(entries, name)


def on_meta(config):
    with torch.device("meta"):
        return KyutaiStt(config)


def write_config(folder, **changes):
    (folder / "config.json").write_text(json.dumps(KYUTAI | changes))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The same tiny model in both layouts, by name of the layout."""
    folder = tmp_path_factory.mktemp("tiny")
    return {layout: write_tiny("kyutai_stt", layout, path=folder / layout) for layout in LAYOUTS}


@pytest.fixture
def folder(tmp_path):
    return write_tiny("kyutai_stt", "kyutai", path=tmp_path, model={"vad_heads": 4})


# The published checkpoints


@pytest.mark.parametrize("case", PUBLISHED)
def test_the_published_tensors_map_one_to_one(case):
    layout, name, model = PUBLISHED[case]
    weights, parameters = listed(layout, name), on_meta(PRESETS[model]).state_dict()
    fit = table.fitting(LAYOUTS[layout].tables(PRESETS[model]), weights, parameters)
    assert sorted(name for match in fit.matches for name in match.there) == sorted(weights)
    assert sorted(name for match in fit.matches for name in match.here) == sorted(parameters)


def test_other_namings_of_the_published_tensors():
    config = PRESETS["stt-1b-en_fr"]
    parameters = on_meta(config).state_dict()

    def recent(name):
        return name.replace("in_proj_weight", "in_projs.0.weight").replace("out_proj.weight", "out_projs.0.weight")

    for layout, rename in [
        ("kyutai", recent),
        ("kyutai", lambda name: name if name.startswith("mimi.") else recent(name)),
        ("kyutai", lambda name: recent(name) if name.startswith("mimi.") else name),
    ]:
        weights = listed(layout, "kyutai_stt_1b_kyutai", rename)
        weights.entries["depformer_in.0.weight"] = Entry(Path("nowhere"), torch.bfloat16, (1024, 2048), 0)
        weights = Weights(unpacked(weights.entries, 0), "as `open_kyutai` gives it")
        fit = table.fitting(LAYOUTS[layout].tables(config), weights, parameters)
        assert sorted(name for match in fit.matches for name in match.here) == sorted(parameters)


def test_the_lists_have_the_published_sums():
    for case, millions in {"1b": 989, "1b with VAD heads": 989, "1b, hf": 989, "2.6b": 2617, "2.6b, hf": 2617}.items():
        names = json.loads((GOLDEN / f"{PUBLISHED[case][1]}.json").read_text())
        assert round(sum(map(math.prod, names.values())) / 1e6) == millions


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PUBLISHED)
def test_the_lists_are_what_the_references_build(case):
    layout, name, model = PUBLISHED[case]
    names = json.loads((GOLDEN / f"{name}.json").read_text())
    if layout == "hf":
        from transformers import KyutaiSpeechToTextConfig, KyutaiSpeechToTextForConditionalGeneration

        config = KyutaiSpeechToTextConfig(**to_hf(PRESETS[model], torch.bfloat16)["config.json"])
        with torch.device("meta"):
            theirs = KyutaiSpeechToTextForConditionalGeneration(config).state_dict()
        theirs = {key: tensor for key, tensor in theirs.items() if not key.startswith("codec_model.")}
    else:
        from moshi.models.loaders import get_moshi_lm

        published = KYUTAI | (LARGER if model == "stt-2.6b-en" else {})
        skipped = ("_name", "_config", "model_type", "model_id")
        arguments = {key: value for key, value in published.items() if not key.endswith(skipped)}
        arguments |= {"extra_heads_num_heads": PRESETS[model].vad_heads}
        del arguments["conditioners"], arguments["fuser"]
        theirs = get_moshi_lm(None, arguments, "meta").state_dict()
        theirs = {
            key.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0", "out_proj"): tensor
            for key, tensor in theirs.items()
        }
    assert {key: list(tensor.shape) for key, tensor in theirs.items()} == names


@pytest.mark.parametrize("case", ["1b", "1b with VAD heads", "2.6b"])
@pytest.mark.parametrize("fuser", [None, {"sum": [], "cross": [], "prepend": []}])
def test_the_published_configuration_of_kyutai(tmp_path, case, fuser):
    _, name, model = PUBLISHED[case]
    write_config(tmp_path, fuser=fuser, **(LARGER if model == "stt-2.6b-en" else {}))
    assert recognise(tmp_path) == ("kyutai_stt", "kyutai")
    assert read_kyutai(tmp_path, listed("kyutai", name)) == PRESETS[model]
    assert LAYOUTS["kyutai"].tokenizer(tmp_path).startswith("tokenizer_en_")


def test_the_published_configuration_of_hugging_face():
    """Old files have rope_theta beside the sizes, newer ones in a block; what is left out is as in stt-2.6b-en."""
    settings = Fields({"audio_delay_seconds": 2.5, "audio_silence_prefix_seconds": 1.0}, "preprocessor_config.json")
    for document in ({}, {"rope_theta": 1e5, "vocab_size": 4001, "head_dim": 64, "codec_config": {"frame_rate": 12.5}}):
        document = {"model_type": "kyutai_speech_to_text", "bos_token_id": 48000, **document}
        assert from_hf(Fields(document, "config.json"), settings) == PRESETS["stt-2.6b-en"]


@pytest.mark.parametrize("model", ["stt-1b-en_fr", "stt-2.6b-en"])
def test_a_written_configuration_is_read_as_it_was(tmp_path, model):
    config = PRESETS[model]
    files = to_hf(config, torch.bfloat16)
    assert from_hf(Fields(files["config.json"], ""), Fields(files["preprocessor_config.json"], "")) == config
    written = to_kyutai(config)
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert read_kyutai(tmp_path, Weights({}, "")) == config
    published = KYUTAI | (LARGER if model == "stt-2.6b-en" else {})
    ours_alone = {"tokenizer_name", "mimi_name", "moshi_name", "existing_text_end_padding_id"}
    assert {key: written[key] for key in written.keys() - ours_alone} == {
        key: published[key] for key in published.keys() - ours_alone - {"model_id"}
    }


def test_settings_that_say_nothing_are_no_silence():
    for settings in ({}, {"audio_delay_seconds": None, "audio_silence_prefix_seconds": None}):
        config = from_hf(Fields({"model_type": "kyutai_speech_to_text"}, "config.json"), Fields(settings, ""))
        assert (config.delay_s, config.prefix_s) == (0.0, 0.0)


def test_a_written_folder_of_hugging_face_has_the_trained_start_ids():
    config = to_hf(PRESETS["stt-2.6b-en"], torch.bfloat16)["config.json"]
    assert (config["bos_token_id"], config["audio_bos_token_id"], config["audio_pad_token_id"]) == (4000, 2048, 69569)


@given(dim=st.integers(4, 4096), mlp_dim=st.integers(4, 20_000))
def test_the_rule_of_the_inner_width_has_an_inverse(dim, mlp_dim):
    assert mlp_dim_of(dim, int(hidden_scale_of(dim, mlp_dim) * dim)) == mlp_dim


def test_the_published_inner_width():
    assert mlp_dim_of(2048, int(4.125 * 2048)) == 5632
    assert hidden_scale_of(2048, 5632) == 4.125


# From one layout to the other


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("max_shard_bytes", [30_000, 1 << 30])
def test_conversion_loses_nothing(tiny, tmp_path, source, target, max_shard_bytes):
    model, tokenizer = load_model(tiny[source])
    save_model(model, tmp_path, target, tokenizer, max_shard_bytes)
    again, kept = load_model(tmp_path)
    assert again.config == model.config
    assert_same(model, again)
    assert SentencePiece.from_file(kept).pieces == SentencePiece.from_file(tokenizer).pieces
    if max_shard_bytes > 30_000:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in tiny[target].iterdir())


def test_both_layouts_hold_the_same_model(tiny):
    """The published conversion, written out for what it changes."""
    kyutai = load_tensors(tiny["kyutai"] / "model.safetensors")
    hugging_face = load_tensors(tiny["hf"] / "model.safetensors")
    merged = hugging_face[
        "model.embed_tokens.embed_tokens.weight"
    ]  # 321 text rows, then 33 of each codebook, then zeros
    assert torch.equal(merged[:321], kyutai["text_emb.weight"])
    for k in range(6):
        assert torch.equal(merged[321 + 33 * k :][:33], kyutai[f"emb.{k}.weight"])
    assert len(merged) == 321 + 6 * 33 + 1
    assert not merged[-1].any()
    assert torch.equal(hugging_face["lm_head.weight"][:-1], kyutai["text_linear.weight"])
    assert not hugging_face["lm_head.weight"][-1].any()
    packed = kyutai["transformer.layers.1.self_attn.in_proj_weight"].view(3, 4, 12, 48)  # [q k v, heads, width, D]
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    for part, name in zip(packed, "qkv", strict=True):
        rows = part[:, order] if name != "v" else part
        assert torch.equal(hugging_face[f"model.layers.1.self_attn.{name}_proj.linear.weight"], rows.reshape(48, 48))
    gating = kyutai["transformer.layers.1.gating.linear_in.weight"]
    assert torch.equal(hugging_face["model.layers.1.mlp.fc1.weight"], gating)
    assert torch.equal(
        hugging_face["model.layers.1.post_attention_layernorm.weight"],
        kyutai["transformer.layers.1.norm2.alpha"].flatten(),
    )


def test_vad_heads_are_known_by_their_tensors(folder, tmp_path):
    model, tokenizer = load_model(folder)
    assert (model.config.vad_heads, model.config.vad_classes, len(model.vad_heads)) == (4, 6, 4)
    document = json.loads((folder / "config.json").read_text())
    assert (document.pop("extra_heads_num_heads"), document.pop("extra_heads_dim")) == (4, 6)
    (folder / "config.json").write_text(json.dumps(document))  # as it is published
    assert load_model(folder)[0].config == model.config
    change_config(folder, extra_heads_num_heads=3)
    with pytest.raises(CheckpointError, match="expected extra_heads_num_heads to be 4, got 3"):
        load_model(folder)
    with pytest.raises(CheckpointError, match="expected no VAD heads and word_id 0: .* got 4 heads"):
        save_model(model, tmp_path / "hf", "hf", tokenizer)


def test_the_codec_stays_in_float32(tmp_path):
    for layout in LAYOUTS:
        folder = write_tiny("kyutai_stt", layout, path=tmp_path / layout, dtype=torch.bfloat16)
        for wanted in (None, torch.bfloat16, torch.float16):
            model, _ = load_model(folder, dtype=wanted)
            assert {tensor.dtype for tensor in model.codec.state_dict().values()} == {torch.float32}
            assert {tensor.dtype for tensor in model.temporal.parameters()} == {wanted or torch.bfloat16}


# What is wrong with a folder


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dep_q": 8}, "expected dep_q to be 0, got 8"),
        ({"norm": "rms_norm"}, "expected norm to be one of rms_norm_f32, layer_norm, got 'rms_norm'"),
        ({"num_heads": 5}, "expected num_heads to be a divisor of 48, got 5"),
        ({"num_layers": 10**9}, "expected num_layers to be a whole number of 1 to 1024"),
        ({"delays": [0, 1, 1, 1, 1, 1, 1]}, "expected delays to be 7 zeros"),
        ({"n_q": 7, "delays": [0] * 8}, "expected at most the 6 codebooks of the codec, got 7"),
        ({"card": 64}, "expected codes of 32 values as in the codec, got 64"),
        ({"existing_text_padding_id": 0}, "expected two different ids below 320 .*, got 0 and 0"),
        ({"stt_config": {"audio_delay_seconds": -1}}, "expected audio_delay_seconds to be a number of 0 to 60"),
        ({"conditioners": {"description": {}}}, "expected conditioners to be none, got {'description': {}}"),
        ({"moshi_name": "../model.safetensors"}, "expected moshi_name to be the name of a file in the same folder"),
        ({"mimi_name": "hf://kyutai/mimi/x.safetensors"}, "expected mimi_name to be the name of a file in the same"),
        ({"mimi_name": "mimi.pt"}, "expected mimi_name to be a safetensors file: .* never opened"),
        ({"mimi_name": "absent.safetensors"}, "expected absent.safetensors or absent.safetensors.index.json"),
        ({"mimi_config_name": 3}, "expected mimi_config_name to be the name of a file"),
        ({"lora": True}, "expected lora_name to be the name of a file in the same folder, got None"),
        ({"tokenizer_name": None}, "expected tokenizer_name to be the name of a file"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(folder, change, message):
    change_config(folder, **change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ffn_dim": 121}, "expected ffn_dim to be an even number, got 121"),
        ({"num_key_value_heads": 2}, "expected num_key_value_heads to be 4, got 2"),
        ({"audio_bos_token_id": 5}, "expected audio_bos_token_id to be 32"),
        ({"head_dim": 11}, "expected an even head_dim, got 11"),
        ({"vocab_size": 4}, "expected vocab_size to be a whole number of 5 to"),
        ({"rope_parameters": {"rope_type": "yarn"}}, 'expected rope_type to be "default"'),
        ({"codec_config": {"num_quantizers": 4}}, "expected at most the 4 codebooks of the codec, got 6"),
    ],
)
def test_a_config_of_hugging_face_that_cannot_be_used_is_named(tiny, tmp_path, change, message):
    for path in tiny["hf"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    document = json.loads((tmp_path / "config.json").read_text())
    if "codec_config" in change:
        change = {"codec_config": document["codec_config"] | change["codec_config"]}
    change_config(tmp_path, **change)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path)


def test_a_model_that_kyutai_cannot_describe(tmp_path):
    for changes in ({"head_dim": 10}, {"norm_eps": 1e-5}):
        folder = write_tiny("kyutai_stt", "hf", path=tmp_path / "hf", temporal=changes)
        model, tokenizer = load_model(folder)
        with pytest.raises(CheckpointError, match="Kyutai's layout cannot say otherwise"):
            save_model(model, tmp_path / "kyutai", "kyutai", tokenizer)
        assert not (tmp_path / "kyutai").exists()


def test_a_folder_without_times_of_its_own_means_what_kyutais_programs_take(tmp_path):
    write_config(tmp_path, stt_config={})
    config = read_kyutai(tmp_path, listed("kyutai", "kyutai_stt_1b_kyutai"))
    assert (config.delay_s, config.prefix_s) == (5.0, 1.0)
    assert config == replace(PRESETS["stt-1b-en_fr"], delay_s=5.0, prefix_s=1.0)
