"""Both layouts: the published names and shapes, configurations both ways, and files that store something else."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earful.checkpoint import table
from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Entry, Weights, load_tensors, save_weights
from earful.errors import CheckpointError
from earful.models.moshi.config import MOSHI_7B, ConditionConfig
from earful.models.moshi.config_hf import from_hf, to_hf, write_hf
from earful.models.moshi.config_kyutai import feedforward_of, mlp_dim_of, read_kyutai, to_kyutai, unpacked
from earful.models.moshi.layouts import LAYOUTS
from earful.registry import FAMILIES, load_model, open_checkpoint, recognise, save_model
from earful.testing import write_tiny
from earful.text.sentencepiece import SentencePiece

GOLDEN = Path(__file__).parents[2] / "golden"
CODEC = {"kyutai": "mimi.", "hf": "audio_encoder."}  # before the codec's names in one list with the others
# What the published config.json says, in repositories that have one.
KYUTAI = {
    "dim": 4096, "text_card": 32000, "existing_text_padding_id": 3, "n_q": 16, "dep_q": 8, "card": 2048,
    "num_heads": 32, "num_layers": 32, "hidden_scale": 4.125, "causal": True, "layer_scale": None, "context": 3000,
    "max_period": 10000, "gating": "silu", "norm": "rms_norm_f32", "positional_embedding": "rope",
    "depformer_dim": 1024, "depformer_dim_feedforward": 4224, "depformer_num_heads": 16, "depformer_num_layers": 6,
    "depformer_layer_scale": None, "depformer_multi_linear": True, "depformer_context": 8,
    "depformer_max_period": 10000, "depformer_gating": "silu", "depformer_pos_emb": "none",
    "depformer_weights_per_step": True, "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
}  # fmt: skip
MOOD = ConditionConfig("mood", ("bad", "good"), rows=5, dim=6)
# What Kyutai's layout can say and Hugging Face's cannot, and what that one says of it.
WIDER = {
    "schedule": ({"depth": {"schedule": (0, 1, 1)}}, "expected weights of its own to every codebook"),
    "low rank": ({"depth": {"low_rank": 5}}, "expected no low-rank tables"),
    "user": ({"temporal": {"codebooks": 4}}, "expected 3 codebooks of the user"),
    "delays": ({"model": {"delays": (1, 0, 2, 2, 3)}}, r"expected delays of \(0, 0, 1, 1, 0, 1, 1\)"),
    "ids": ({"model": {"pad_id": 5, "end_pad_id": 1}}, "expected the ids 3 and 0 for a frame without text"),
    "norms": (
        {"temporal": {"norm": "layer", "norm_eps": 1e-5}, "depth": {"norm": "layer", "norm_eps": 1e-5}},
        "expected root-mean-square norms, gates and rotary positions",
    ),
    "gates": ({"temporal": {"gated": False}}, "norms, gates and rotary positions"),
    "sinusoids": ({"temporal": {"rotary": False}}, "norms, gates and rotary positions"),
    "norms of codes": ({"depth": {"norm": "layer"}}, "expected root-mean-square norms over the codes"),
    "places": ({"depth": {"sinusoid_base": 1e3}}, "expected no positions of codes"),
    "conditions": ({"model": {"conditions": (replace(MOOD, name="age"), MOOD)}}, "expected no conditions"),
}

TINY = replace(
    MOSHI_7B, depth=replace(MOSHI_7B.depth, schedule=(0, 1, 2)), temporal=replace(MOSHI_7B.temporal, codebooks=6),
    delays=(0, 0, 1, 1, 0, 1, 1),
)  # fmt: skip


def parts_of(names):
    """The sizes of several of these cases, as `write_tiny` takes them."""
    together = {}
    for name in names:
        for part, values in WIDER[name][0].items():
            together[part] = together.get(part, {}) | values
    return together


def listed(layout):
    """Weights with the published names and shapes, and no bytes."""
    names = json.loads((GOLDEN / f"moshi_{layout}.json").read_text())
    codec = json.loads((GOLDEN / f"mimi_{layout}.json").read_text())
    names |= {CODEC[layout] + key: shape for key, shape in codec.items()}
    entries = {key: Entry(Path("nowhere"), torch.bfloat16, tuple(shape), 0) for key, shape in names.items()}
    return Weights(entries, layout)


def on_meta(config=MOSHI_7B):
    return FAMILIES["moshi"].build(config)


def change_config(folder, **changes):
    document = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(document))


def assert_same(model, again, **tolerance):
    """Vectors of the codec are sums over usage in a file, which costs their last bit."""
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, **(tolerance or {"rtol": 1e-6, "atol": 1e-7}))


# The published checkpoints


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_published_tensors_map_one_to_one(layout):
    weights, parameters = listed(layout), on_meta().state_dict()
    fit = table.fitting(LAYOUTS[layout].tables(MOSHI_7B), weights, parameters)
    assert sorted(name for match in fit.matches for name in match.there) == sorted(weights)
    assert sorted(name for match in fit.matches for name in match.here) == sorted(parameters)


def test_the_newest_names_of_kyutai():
    weights, parameters = Weights(unpacked(listed("kyutai"), 8), "newest"), on_meta().state_dict()
    assert weights.shape("depformer.layers.5.self_attn.in_projs.7.weight") == (3072, 1024)
    fit = table.fitting(LAYOUTS["kyutai"].tables(MOSHI_7B), weights, parameters)
    assert sorted(name for match in fit.matches for name in match.there) == sorted(weights)


def test_the_lists_have_the_published_sum():
    for layout in LAYOUTS:
        names = json.loads((GOLDEN / f"moshi_{layout}.json").read_text())
        assert round(sum(map(math.prod, names.values())) / 1e6) == 7688


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_lists_are_what_the_references_build():
    from moshi.models.loaders import get_moshi_lm
    from transformers import MoshiConfig, MoshiForConditionalGeneration

    def few(names):
        """Without the layers that are like those before."""
        return {name: list(shape) for name, shape in names.items() if not re.search(r"layers\.([2-9]|\d\d)\.", name)}

    depth, temporal = replace(MOSHI_7B.depth, layers=2), replace(MOSHI_7B.temporal, layers=2)
    document = to_hf(replace(MOSHI_7B, depth=depth, temporal=temporal), torch.bfloat16)["config.json"]
    with torch.device("meta"):
        theirs = MoshiForConditionalGeneration(MoshiConfig(**document)).state_dict()
    shapes = {key: list(tensor.shape) for key, tensor in theirs.items() if not key.startswith("audio_encoder.")}
    assert shapes == few(json.loads((GOLDEN / "moshi_hf.json").read_text()))
    ours = {key: entry.shape for key, entry in unpacked(listed("kyutai"), 8).items() if not key.startswith("mimi.")}
    theirs = get_moshi_lm(None, None, "meta", lm_kwargs_overrides={"num_layers": 2, "depformer_num_layers": 2})
    assert {key: list(tensor.shape) for key, tensor in theirs.state_dict().items()} == few(ours)


@pytest.mark.parametrize("stem", ["model", "model.q8"])
def test_a_repository_without_a_config_is_moshi(tmp_path, stem):
    """Its files at their full size, of which only the headers are written."""
    sizes = {"moshi_kyutai": f"{stem}.safetensors", "mimi_kyutai": "tokenizer-e351c8d8-checkpoint125.safetensors"}
    for name, file in sizes.items():
        header, end = {}, 0
        for key, shape in json.loads((GOLDEN / f"{name}.json").read_text()).items():
            begin, end = end, end + 2 * math.prod(shape)
            header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with (tmp_path / file).open("wb") as opened:
            opened.write(len(text).to_bytes(8, "little") + text)
            opened.truncate(8 + len(text) + end)
    assert recognise(tmp_path) == ("moshi", "kyutai")
    family, layout, weights = open_checkpoint(tmp_path)
    config = layout.read(tmp_path, weights)
    assert (family, config, layout.tokenizer(tmp_path)) == ("moshi", MOSHI_7B, "tokenizer_spm_32k_3.model")
    fit = table.fitting(layout.tables(config), weights, on_meta(config).state_dict())
    assert sorted(name for match in fit.matches for name in match.there) == sorted(weights)
    (tmp_path / sizes["mimi_kyutai"]).unlink()
    with pytest.raises(CheckpointError, match="expected tokenizer-e351c8d8-checkpoint125.safetensors or "):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("more", [{}, {"model_type": "moshi", "conditioners": {}, "fuser": None, "quantize": True}])
def test_the_published_configuration_of_kyutai(tmp_path, more):
    (tmp_path / "config.json").write_text(json.dumps(KYUTAI | more))
    assert recognise(tmp_path) == ("moshi", "kyutai")
    assert read_kyutai(tmp_path, Weights({}, "")) == MOSHI_7B
    assert LAYOUTS["kyutai"].tokenizer(tmp_path) == "tokenizer_spm_32k_3.model"


def test_what_a_configuration_of_hugging_face_leaves_out_is_as_published():
    published = {"num_codebooks": 8, "head_dim": None, "audio_vocab_size": 2048, "num_key_value_heads": None}
    for document in ({}, {**published, "audio_encoder_config": {"num_quantizers": 32}, "depth_decoder_config": {}}):
        assert from_hf(Fields({"model_type": "moshi", **document}, "config.json")) == MOSHI_7B


def test_a_written_configuration_is_read_as_it_was(tmp_path):
    assert from_hf(Fields(to_hf(MOSHI_7B, torch.bfloat16)["config.json"], "")) == MOSHI_7B
    written = to_kyutai(MOSHI_7B)
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert read_kyutai(tmp_path, Weights({}, "")) == MOSHI_7B
    assert {key: written[key] for key in KYUTAI} == KYUTAI


@given(dim=st.integers(4, 4096), mlp_dim=st.integers(4, 20_000))
def test_the_rule_of_the_inner_width_has_an_inverse(dim, mlp_dim):
    assert mlp_dim_of(dim, feedforward_of(dim, mlp_dim)) == mlp_dim


def test_the_published_inner_widths():
    assert (mlp_dim_of(4096, int(4.125 * 4096)), feedforward_of(4096, 11264)) == (11264, 16896)
    assert (mlp_dim_of(1024, 4224), feedforward_of(1024, 2816)) == (2816, 4224)


# From one layout to the other


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", LAYOUTS)
def test_conversion_loses_nothing(tiny, tmp_path, source, target):
    model, tokenizer = load_model(tiny[source])
    save_model(model, tmp_path, target, tokenizer, max_shard_bytes=1 << 30 if source == target else 50_000)
    again, kept = load_model(tmp_path)
    assert again.config == model.config
    assert_same(model, again)
    assert SentencePiece.from_file(kept).pieces == SentencePiece.from_file(tokenizer).pieces
    if source == target:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in tiny[target].iterdir())


def test_both_layouts_hold_the_same_model(tiny):
    """The published conversion, written out for what it changes."""
    kyutai = load_tensors(tiny["kyutai"] / "model.safetensors")
    hugging_face = load_tensors(tiny["hf"] / "model.safetensors")
    packed = kyutai["transformer.layers.1.self_attn.in_proj_weight"].view(3, 4, 12, 48)  # [q k v, heads, width, D]
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    for part, name in zip(packed, "qkv", strict=True):
        rows = part[:, order] if name != "v" else part
        name = f"decoder.model.layers.1.self_attn.{name}_proj.linear.weight"
        assert torch.equal(hugging_face[name], rows.reshape(48, 48))
    block = kyutai["depformer.layers.1.self_attn.in_proj_weight"].view(3, 3, 32, 32)  # [code, q k v, ...]: no positions
    for part, name in zip(block.unbind(1), "qkv", strict=True):
        assert torch.equal(hugging_face[f"depth_decoder.layers.1.self_attn.{name}_proj.linear.weight"], part)
    for k in range(3):
        gating = f"depformer.layers.0.gating.{k}.linear"
        assert torch.equal(hugging_face["depth_decoder.layers.0.mlp.fc1.weight"][k], kyutai[f"{gating}_in.weight"])
        assert torch.equal(hugging_face["depth_decoder.layers.0.mlp.fc2.weight"][k], kyutai[f"{gating}_out.weight"])
        assert torch.equal(
            hugging_face["depth_decoder.input_projections.weight"][k], kyutai[f"depformer_in.{k}.weight"]
        )
        assert torch.equal(hugging_face["depth_decoder.lm_heads.weight"][k], kyutai[f"linears.{k}.weight"])
    assert torch.equal(hugging_face["depth_decoder.embed_tokens.1.weight"], kyutai["depformer_emb.1.weight"])
    assert torch.equal(hugging_face["embed_tokens.4.weight"], kyutai["emb.4.weight"])  # the user's
    assert torch.equal(hugging_face["decoder.lm_head.weight"], kyutai["text_linear.weight"])


def test_the_wider_family_in_kyutais_layout(tmp_path):
    changes = parts_of(WIDER)
    model, tokenizer = load_model(write_tiny("moshi", "kyutai", path=tmp_path, **changes))
    for part, values in changes.items():
        config = model.config if part == "model" else getattr(model.config, part)
        assert {name: getattr(config, name) for name in values} == values
    assert (model.config.own, model.config.max_delay, len(model.depth.inputs)) == (3, 3, 2)
    save_model(model, tmp_path / "again", "kyutai", tokenizer)
    again, _ = load_model(tmp_path / "again")
    assert again.config == model.config
    assert_same(model, again)


@pytest.mark.parametrize("case", WIDER)
def test_the_wider_family_is_kyutais_alone(tmp_path, case):
    changes, message = WIDER[case]
    parts = {part: replace(getattr(TINY, part), **values) for part, values in changes.items() if part != "model"}
    config = replace(TINY, **parts, **changes.get("model", {}))
    with pytest.raises(CheckpointError, match=f"{message}: the Hugging Face layout cannot say otherwise"):
        write_hf(config, tmp_path / "hf", torch.float32, None)
    assert not (tmp_path / "hf").exists()


def test_codec_and_conditions_stay_in_float32(tmp_path):
    folder = write_tiny("moshi", "kyutai", path=tmp_path, dtype=torch.bfloat16, model={"conditions": (MOOD,)})
    for wanted in (None, torch.float16):
        model, _ = load_model(folder, dtype=wanted)
        for part, dtype in {"codec": torch.float32, "conditions": torch.float32}.items():
            assert {tensor.dtype for tensor in getattr(model, part).state_dict().values()} == {dtype}
        assert {tensor.dtype for tensor in model.depth.parameters()} == {wanted or torch.bfloat16}


# Files that do not store what they mean


@pytest.mark.parametrize("packed", [True, False])
def test_8_bit_files_are_read_as_floats(folder, packed):
    """As Kyutai's int8 files have all matrices but tables: rows, and what 127 stands for in each."""
    model, _ = load_model(folder)
    tensors, held = load_tensors(folder / "model.safetensors"), {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or "emb" in name:
            held[name] = tensor
            continue
        largest = tensor.abs().amax(1)
        parts = [(name, (tensor * 127 / largest[:, None]).round().to(torch.int8), largest)]
        if not packed and ".self_attn." in name:  # one to each set of weights
            stem, sets = name.removesuffix("_weight").removesuffix(".weight"), 3 if "depformer" in name else 1
            chunks = zip(parts[0][1].chunk(sets), largest.chunk(sets), strict=True)
            parts = [(f"{stem}s.{k}.weight", rows.clone(), scale.clone()) for k, (rows, scale) in enumerate(chunks)]
        for part, rows, scale in parts:
            held |= {part: rows, f"{part}_scb": scale}
    (folder / "model.safetensors").unlink()
    save_weights(folder, held.items(), "model.q8")
    change_config(folder, moshi_name="model.q8.safetensors", quantize=True)
    again, _ = load_model(folder)
    assert again.config == model.config
    assert {tensor.dtype for tensor in again.parameters()} == {torch.float32}
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 2 and "embed" not in name and not name.startswith("codec."):
            step = tensor.abs().amax(-1, keepdim=True) / 127
            assert ((again.state_dict()[name] - tensor).abs() <= 0.51 * step).all(), name
            assert not torch.equal(again.state_dict()[name], tensor)


@pytest.mark.parametrize("naming", ["{}s.{k}", "{}"])
def test_low_rank_changes_of_the_depth_model_are_merged(folder, naming):
    """Of projections with a set of weights to each code, set by set or one below the other, and of plain ones."""
    generator = torch.Generator().manual_seed(0)
    tensors = load_tensors(folder / "model.safetensors")

    def pair(rows, columns):
        return [torch.randn(shape, generator=generator) * 0.1 for shape in ((2, columns), (rows, 2))]

    changes = {}
    for kind, rows in {"in_proj": 96, "out_proj": 32}.items():
        stem = f"depformer.layers.1.self_attn.{kind}"
        pairs = [pair(rows, 32) for _ in range(3)]
        tensors[stem + ("_weight" if kind == "in_proj" else ".weight")] += torch.cat(
            [2 * up @ down for down, up in pairs]
        )
        if "{k}" in naming:
            for k, (down, up) in enumerate(pairs):
                changes |= dict(zip(names(naming.format(stem, k=k)), (down, up), strict=True))
        else:
            changes |= dict(zip(names(stem), map(torch.cat, zip(*pairs, strict=True)), strict=True))
    for stem in ("depformer.layers.0.gating.2.linear_out", "linears.1", "depformer_in.0", "text_linear"):
        down, up = pair(*tensors[f"{stem}.weight"].shape)
        tensors[f"{stem}.weight"] += 2 * up @ down
        changes |= dict(zip(names(stem), (down, up), strict=True))
    save_weights(folder, changes.items(), "changes")
    change_config(folder, lora=True, lora_name="changes.safetensors", lora_rank=2)
    merged, _ = load_model(folder)
    save_weights(folder, tensors.items())
    change_config(folder, lora=False)
    assert_same(load_model(folder)[0], merged, rtol=1e-5, atol=1e-6)


def names(stem):
    return [f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"]
