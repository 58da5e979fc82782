"""Both layouts: the published names and shapes, configurations read and written, and the way from one to the other."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.checkpoint import table
from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Entry, Weights, load_tensors, open_weights, save_weights
from earful.errors import CheckpointError
from earful.models.mimi.config import MIMI, MimiConfig
from earful.models.mimi.config_hf import config_json, extractor_json, from_hf
from earful.models.mimi.config_kyutai import from_kyutai, mimi_config
from earful.models.mimi.layouts import ATTENTION, CODEBOOK, LAYOUTS, hf_table, kyutai_table
from earful.models.mimi.model import Mimi
from earful.registry import load_model, recognise, save_model
from earful.testing import write_tiny

GOLDEN = Path(__file__).parents[2] / "golden"
FILE = {"hf": "model.safetensors", "kyutai": "mimi.safetensors"}
CONFIG = {"hf": "config.json", "kyutai": "mimi_config.json"}


def listed(layout, rename=lambda name: name, keep=lambda name: True):
    """Weights with the published names and shapes, and no bytes."""
    names = json.loads((GOLDEN / f"mimi_{layout}.json").read_text())
    entries = {
        rename(name): Entry(Path("nowhere"), torch.float32, tuple(shape), 0)
        for name, shape in names.items()
        if keep(name)
    }
    return Weights(entries, layout)


def on_meta(config):
    with torch.device("meta"):
        return Mimi(config)


def in_memory(name):
    """Where current releases of transformers hold in memory what they write under `name`."""
    part, _, rest = name.partition(".")
    half = "decoder" if part in ("decoder", "decoder_transformer", "upsample") else "encoder"
    if part == "quantizer":
        return name
    return f"{half}.{part}_seanet.{rest}" if part == half else f"{half}.{name}"


def recent(name):
    """What recent releases of Kyutai's code write."""
    return name.replace("in_proj_weight", "in_projs.0.weight").replace("out_proj.weight", "out_projs.0.weight")


def older(sums):
    """What releases before the published checkpoint wrote."""
    new = {"_initialized": "inited", "cluster_usage": "cluster_size", "embedding_sum": sums}

    def rename(name):
        stem, _, last = name.rpartition(".")
        return f"{stem}.{new.get(last, last)}"

    return rename


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The same tiny model in both layouts, by name of the layout."""
    folder = tmp_path_factory.mktemp("tiny")
    return {layout: write_tiny("mimi", layout, path=folder / layout) for layout in LAYOUTS}


def assert_same(model, again):
    """Vectors are sums over usage in a file, which costs their last bit."""
    assert again.config == model.config
    weights, kept = model.state_dict(), again.state_dict()
    assert weights.keys() == kept.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(kept[name], tensor, rtol=3e-7 if name.endswith("embedding") else 0, atol=0)


# The published checkpoints


def test_the_lists_have_the_published_sums():
    for layout, count in (("kyutai", 318), ("hf", 350)):
        sizes = {
            name: math.prod(shape) for name, shape in json.loads((GOLDEN / f"mimi_{layout}.json").read_text()).items()
        }
        assert len(sizes) == count
        books = sum(size for name, size in sizes.items() if "codebook" in name)
        assert books == 32 * (1 + 2048 + 2048 * 256)
        assert round((sum(sizes.values()) - books) / 1e5) == 793


NAMINGS = {
    "hf": ("hf", lambda name: name),
    "hf in memory": ("hf", in_memory),
    "kyutai": ("kyutai", lambda name: name),
    "kyutai, recent": ("kyutai", recent),
    "kyutai, other projection": ("kyutai", lambda name: name.replace("in_proj_weight", "in_proj.weight")),
    "kyutai, old codebooks": ("kyutai", older("embed_avg")),
    "kyutai, older codebooks": ("kyutai", lambda name: older("embed_sum")(recent(name))),
}


@pytest.mark.parametrize("case", NAMINGS)
def test_the_published_tensors_map_one_to_one(case):
    layout, rename = NAMINGS[case]
    weights, parameters = listed(layout, rename), on_meta(MIMI).state_dict()
    fit = table.fitting(LAYOUTS[layout].tables(MIMI), weights, parameters)
    assert sorted(name for match in fit.matches for name in match.there) == sorted(weights)
    assert sorted(name for match in fit.matches for name in match.here) == sorted(parameters)


def test_each_naming_is_told_from_the_others():
    for layout, count in (("hf", 2), ("kyutai", len(ATTENTION) * len(CODEBOOK))):
        tables = LAYOUTS[layout].tables(MIMI)
        assert len({tuple(sorted(name for line in rows for name in line.there)) for rows in tables}) == count


@pytest.mark.parametrize("layout, make", [("hf", hf_table), ("kyutai", kyutai_table)])
def test_a_codec_inside_another_model_has_a_prefix_on_both_sides(layout, make):
    weights = listed(layout, lambda name: f"codec_model.{name}")
    parameters = {f"mimi.{name}": tensor for name, tensor in on_meta(MIMI).state_dict().items()}
    fit = table.fitting([make(MIMI, "codec_model.", "mimi.")], weights, parameters)
    assert sorted(name for match in fit.matches for name in match.there) == sorted(weights)


@pytest.mark.parametrize("half, kept", [("encodes", "encoder"), ("decodes", "decoder")])
@pytest.mark.parametrize("case", ["hf", "hf in memory", "kyutai"])
def test_one_half_is_read_from_a_whole_codec_and_from_half_of_one(half, kept, case):
    layout, rename = NAMINGS[case]
    config = replace(MIMI, **{name: name == half for name in ("encodes", "decodes")})
    parameters = on_meta(config).state_dict()
    assert 10e6 < sum(tensor.numel() for tensor in parameters.values()) - 32 * 2048 * 257 < 45e6
    of_half = lambda name: in_memory(name).startswith(("quantizer", kept)) or kept in name  # noqa: E731
    for keep in (lambda name: True, of_half if layout == "hf" else lambda name: True):
        fit = table.fitting(LAYOUTS[layout].tables(config), listed(layout, rename, keep), parameters)
        assert sorted(name for match in fit.matches for name in match.here) == sorted(parameters)


def test_a_list_with_other_shapes_or_without_a_tensor_does_not_fit():
    parameters = on_meta(MIMI).state_dict()
    for layout, name in (("hf", "upsample.conv.weight"), ("kyutai", "upsample.convtr.convtr.convtr.weight")):
        weights = listed(layout)
        weights.entries[name] = replace(weights.entries[name], shape=(512, 512, 4))
        with pytest.raises(CheckpointError, match=rf"1 misshapen: {name} \(expected floats \[512, 1, 4\]"):
            table.fitting(LAYOUTS[layout].tables(MIMI), weights, parameters)
        del weights.entries[name]
        with pytest.raises(CheckpointError, match=f"1 missing: {name}"):
            table.fitting(LAYOUTS[layout].tables(MIMI), weights, parameters)


# Configurations

OLD = {"model_type": "mimi", "frame_rate": 12.5, "chunk_in_sec": None, "rope_theta": 10000.0, "upsample_groups": 512}


@pytest.mark.parametrize("document", [{}, OLD, {"_frame_rate": 12.5, "rope_parameters": {"rope_theta": 10000.0}}])
def test_what_a_config_of_hugging_face_leaves_out_is_as_published(document):
    assert from_hf(Fields(document, "config.json")) == MIMI


def test_derived_sizes_of_the_published_model():
    assert (MIMI.hop, MIMI.frame_samples, MIMI.frame_rate_hz, MIMI.frame_s) == (960, 1920, 12.5, 0.08)


@pytest.mark.parametrize("encodes, decodes", [(True, True), (True, False), (False, True)])
def test_a_written_config_is_read_as_it_was(encodes, decodes):
    config = MimiConfig(
        rate_hz=16_000, channels=2, ratios=(5, 3, 2), filters=12, residual_layers=3, kernel=9, residual_kernel=5,
        last_kernel=4, dilation_base=3, compress=4, dim=48, layers=5, heads=3, head_dim=16, mlp_dim=100, window=33,
        rope_base=500.0, norm_eps=1e-5, codebooks=11, semantic_codebooks=2, codebook_size=128, codebook_dim=20,
        encodes=encodes, decodes=decodes,
    )  # fmt: skip
    assert from_hf(Fields(config_json(config), "config.json")) == config
    other = replace(config, head_dim=10, norm_eps=1e-3)
    assert from_hf(Fields(config_json(other), "config.json")) == other
    whole = replace(config, encodes=True, decodes=True)
    assert from_kyutai(Fields(mimi_config(whole), "mimi_config.json")) == whole


@pytest.mark.parametrize(
    "layout, change, message",
    [
        ("hf", {"codebook_size": 100}, "expected codebook_size to be 64: the Hugging Face layout cannot say otherwise"),
        (
            "kyutai",
            {"norm_eps": 1e-6},
            "expected norm_eps to be 1e-05: the Kyutai layout cannot say otherwise; got 1e-06",
        ),
        ("kyutai", {"head_dim": 16}, "expected head_dim to be 12"),
        ("kyutai", {"decodes": False}, "expected decodes to be True"),
    ],
)
def test_what_a_layout_cannot_say_is_not_written(tmp_path, layout, change, message):
    with torch.device("cpu"):
        model = Mimi(replace(load_model(write_tiny("mimi", path=tmp_path / "tiny"))[0].config, **change))
    with pytest.raises(CheckpointError, match=message):
        save_model(model, tmp_path / "out", layout)


def test_a_codec_file_alone_is_the_published_model(tmp_path):
    """As the codec of Kyutai's repositories lies in a folder of its own, under the names it has had."""
    model = on_meta(MIMI)
    for name in ("tokenizer-e351c8d8-checkpoint125", "mimi-pytorch-e351c8d8@125"):
        folder = tmp_path / name
        halves = (
            (key, torch.zeros(tensor.shape)) for key, tensor in table.save(kyutai_table(MIMI), model.state_dict())
        )
        few = ((key, tensor if "rvq_first.input_proj" in key else tensor[:0]) for key, tensor in halves)
        save_weights(folder, few, stem=name)
        assert recognise(folder) == ("mimi", "kyutai")
        layout = LAYOUTS["kyutai"]
        assert layout.find(folder) == name
        assert layout.read(folder, open_weights(folder, name)) == MIMI
    other = tmp_path / "other"
    save_weights(other, [("weight", torch.zeros(3))])
    assert LAYOUTS["kyutai"].find(other) is None


BAD = [
    ("hf", ("hidden_size",), 10**12, "expected hidden_size to be a whole number of 2 to 65536, got 1000000000000"),
    ("hf", ("num_hidden_layers",), True, "expected num_hidden_layers to be a whole number"),
    ("hf", ("upsampling_ratios",), [8, 0], "expected upsampling_ratios to be 1 to 8 whole numbers"),
    ("hf", ("upsampling_ratios",), [1000, 1000], "with a product of at most 65536"),
    ("hf", ("upsampling_ratios",), "8654", "expected upsampling_ratios to be 1 to 8 whole numbers"),
    ("hf", ("num_key_value_heads",), 1, "expected num_key_value_heads to be 2, got 1"),
    ("hf", ("upsample_groups",), 1, "expected upsample_groups to be 24, got 1"),
    ("hf", ("vector_quantization_hidden_dimension",), 16, "vector_quantization_hidden_dimension to be 14, got 16"),
    ("hf", ("use_causal_conv",), False, "expected use_causal_conv to be true, got False"),
    ("hf", ("use_conv_shortcut",), True, "expected use_conv_shortcut to be false, got True"),
    ("hf", ("pad_mode",), "reflect", 'expected pad_mode to be "constant", got'),
    ("hf", ("hidden_act",), "relu", 'expected hidden_act to be "gelu", got'),
    ("hf", ("frame_rate",), 25.0, "expected frame_rate to be 12.5, got 25.0"),
    ("hf", ("num_semantic_quantizers",), 6, "expected fewer than 6 semantic codebooks, got 6"),
    ("hf", ("head_dim",), 7, "expected an even head_dim, got 7"),
    ("hf", ("compress",), 3, "expected a compress that divides 4 filters, got 3"),
    ("hf", ("rope_parameters", "rope_type"), "yarn", 'expected rope_type to be "default", got'),
    ("hf", ("norm_eps",), float("nan"), "expected norm_eps to be a number of 0 to 1, got nan"),
    ("kyutai", ("seanet",), 3, "seanet: expected an object, got 3"),
    ("kyutai", ("seanet", "activation"), "GELU", 'expected activation to be "ELU", got'),
    ("kyutai", ("seanet", "n_filters"), 0, "seanet: expected n_filters to be a whole number of 1 to 4096, got 0"),
    ("kyutai", ("seanet", "dilation_base"), 10**9, "expected dilation_base to be a whole number of 1 to 8"),
    ("kyutai", ("transformer", "context"), None, "transformer: expected context, a whole number"),
    ("kyutai", ("transformer", "num_heads"), 5, "expected heads that divide a width of 24, got 5"),
    ("kyutai", ("transformer", "gating"), "silu", 'expected gating to be "none", got'),
    ("kyutai", ("transformer", "output_dimensions"), [3], r"expected output_dimensions to be \[24\], got \[3\]"),
    ("kyutai", ("quantizer", "bins"), 1, "quantizer: expected bins to be a whole number of 2"),
    ("kyutai", ("frame_rate",), 13, "expected frame_rate to be 12.5, got 13"),
]


def edited(folder, layout, target, path, value):
    """The config of a folder with one value changed, or removed where it is None."""
    document = json.loads((folder / CONFIG[layout]).read_text())
    inside = document
    for key in path[:-1]:
        inside = inside[key]
    if value is None:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    (target / CONFIG[layout]).write_text(json.dumps(document))
    return LAYOUTS[layout].read(target, Weights({}, "nothing"))


@pytest.mark.parametrize("layout, path, value, message", BAD)
def test_a_bad_value_is_refused_by_name(tiny, tmp_path, layout, path, value, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        edited(tiny[layout], layout, tmp_path, path, value)
    assert "\n" not in str(caught.value)


VALUES = st.one_of(
    st.booleans(), st.integers(-(10**20), 10**20), st.integers(0, 100), st.floats(), st.text(max_size=3),
    st.lists(st.integers(-1, 9), max_size=9), st.just({}),
)  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=150)
@given(data=st.data())
def test_a_mutated_config_is_read_within_bounds_or_refused(tiny, tmp_path_factory, layout, data):
    document = json.loads((tiny[layout] / CONFIG[layout]).read_text())
    places = [(key,) for key in document]
    places += [(key, inner) for key, value in document.items() if isinstance(value, dict) for inner in value]
    folder = tmp_path_factory.getbasetemp() / f"mutated-{layout}"
    folder.mkdir(exist_ok=True)
    config, message = None, "expected"
    try:
        config = edited(tiny[layout], layout, folder, data.draw(st.sampled_from(places)), data.draw(VALUES | st.none()))
    except CheckpointError as error:
        message = str(error)
    assert "expected" in message
    assert "\n" not in message
    if config is None:
        return
    assert 1 <= config.frame_samples <= 1 << 17
    assert 1 <= config.semantic_codebooks < config.codebooks
    assert config.filters % config.compress == 0
    on_meta(replace(config, layers=min(config.layers, 2), codebooks=config.semantic_codebooks + 1))


# The weights themselves


def test_the_extractor_is_described_beside_the_model(tiny):
    written = json.loads((tiny["hf"] / "preprocessor_config.json").read_text())
    assert written == extractor_json(load_model(tiny["hf"])[0].config)
    assert (written["feature_extractor_type"], written["sampling_rate"]) == ("EncodecFeatureExtractor", 4800)


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target, max_shard_bytes", [("hf", 20_000), ("hf", 1 << 30), ("kyutai", 1 << 30)])
def test_conversion_loses_nothing(tiny, tmp_path, source, target, max_shard_bytes):
    model, tokenizer = load_model(tiny[source])
    assert tokenizer is None
    save_model(model, tmp_path, target, tokenizer, max_shard_bytes)
    assert_same(model, load_model(tmp_path)[0])


def test_both_layouts_hold_the_same_model(tiny):
    """The published conversion, written out for what is more than a name."""
    kyutai, hugging_face = (load_tensors(tiny[layout] / FILE[layout]) for layout in ("kyutai", "hf"))
    order = torch.tensor(
        [row for head in range(2) for parity in (0, 1) for row in range(12 * head + parity, 12 * head + 12, 2)]
    )
    for half in ("encoder", "decoder"):
        for layer in range(2):
            attention = f"{half}_transformer.transformer.layers.{layer}.self_attn"
            q, k, v = kyutai[f"{attention}.in_proj_weight"].split(24)
            there = f"{half}_transformer.layers.{layer}.self_attn"
            assert torch.equal(hugging_face[f"{there}.q_proj.weight"], q[order])
            assert torch.equal(hugging_face[f"{there}.k_proj.weight"], k[order])
            assert torch.equal(hugging_face[f"{there}.v_proj.weight"], v)
            assert torch.equal(hugging_face[f"{there}.o_proj.weight"], kyutai[f"{attention}.out_proj.weight"])
    model, _ = load_model(tiny["hf"])
    for name, part, ours in (("rvq_first", "semantic", "semantic"), ("rvq_rest", "acoustic", "acoustic")):
        book = f"quantizer.{name}.vq.layers.0._codebook"
        same = f"quantizer.{part}_residual_vector_quantizer.layers.0.codebook"
        sums, usage = kyutai[f"{book}.embedding_sum"], kyutai[f"{book}.cluster_usage"]
        assert torch.equal(sums, hugging_face[f"{same}.embed_sum"])
        assert torch.equal(usage, hugging_face[f"{same}.cluster_usage"])
        assert torch.equal(kyutai[f"{book}._initialized"], torch.ones(1))
        vectors = getattr(model.quantizer, ours).codebooks[0].embedding
        torch.testing.assert_close(vectors, sums / usage[:, None], rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", [case for case in NAMINGS if case not in LAYOUTS])
def test_other_names_are_read(tiny, tmp_path, case):
    layout, rename = NAMINGS[case]
    tensors = {rename(name): tensor for name, tensor in load_tensors(tiny[layout] / FILE[layout]).items()}
    (tmp_path / CONFIG[layout]).write_bytes((tiny[layout] / CONFIG[layout]).read_bytes())
    save_weights(tmp_path, tensors.items(), stem=FILE[layout].removesuffix(".safetensors"))
    assert_same(load_model(tiny[layout])[0], load_model(tmp_path)[0])


def test_equal_widths_need_no_projections_in_one_layout(tmp_path):
    folder = write_tiny("mimi", "kyutai", path=tmp_path / "kyutai", codec={"codebook_dim": 24})
    model, _ = load_model(folder)
    with pytest.raises(CheckpointError, match="expected the identity, which this layout leaves out, got another"):
        save_model(model, tmp_path / "refused", "hf")
    for part in (model.quantizer.semantic, model.quantizer.acoustic):
        torch.nn.init.eye_(part.project_in.weight)
        torch.nn.init.eye_(part.project_out.weight)
    save_model(model, tmp_path / "hf", "hf")
    assert not any("proj.weight" in name and "quantizer" in name for name in open_weights(tmp_path / "hf"))
    assert_same(model, load_model(tmp_path / "hf")[0])


# The reference


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_the_lists_are_what_both_references_build():
    from moshi.models import loaders
    from transformers import MimiConfig as TheirConfig
    from transformers import MimiModel

    with torch.device("meta"):
        theirs = MimiModel(TheirConfig())
    built = {name: list(tensor.shape) for name, tensor in theirs.state_dict().items()}
    golden = json.loads((GOLDEN / "mimi_hf.json").read_text())
    assert {in_memory(name): shape for name, shape in golden.items()} == built
    kyutai = {name: list(tensor.shape) for name, tensor in loaders.get_mimi(None).state_dict().items()}
    golden = json.loads((GOLDEN / "mimi_kyutai.json").read_text())
    assert {recent(name): shape for name, shape in golden.items()} == kyutai
    assert TheirConfig().frame_size == MIMI.frame_samples
    assert mimi_config(MIMI)["seanet"] == loaders._seanet_kwargs
    assert mimi_config(MIMI)["transformer"] == loaders._transformer_kwargs
    assert mimi_config(MIMI)["quantizer"] == loaders._quantizer_kwargs | {"n_q_semantic": 1}
