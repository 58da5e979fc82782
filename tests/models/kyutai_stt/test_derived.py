"""Files that do not store what they mean: 8-bit rows with scales, and low-rank changes beside the weights."""

from pathlib import Path

import pytest
import torch

from earful.checkpoint.derived import adapted, unscaled
from earful.checkpoint.files import Entry, load_tensors, save_weights
from earful.errors import CheckpointError
from earful.registry import load_model
from earful.testing import write_tiny
from tests.models.kyutai_stt.helpers import assert_same, change_config


@pytest.fixture
def folder(tmp_path):
    return write_tiny("kyutai_stt", "kyutai", path=tmp_path, model={"vad_heads": 4})


def in_8_bits(tensors):
    """As Kyutai's int8 files have the projections: rows, and what 127 stands for in each."""
    result = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and name.startswith("transformer."):
            largest = tensor.abs().amax(1)
            result[name] = (tensor * 127 / largest[:, None]).round().to(torch.int8)
            result[f"{name}_scb"] = largest
        else:
            result[name] = tensor
    return result


def test_8_bit_files_are_read_as_floats(folder):
    model, _ = load_model(folder)
    tensors = in_8_bits(load_tensors(folder / "model.safetensors"))
    assert "transformer.layers.0.self_attn.in_proj_weight_scb" in tensors
    save_weights(folder, tensors.items())
    again, _ = load_model(folder)
    assert again.config == model.config
    assert {tensor.dtype for tensor in again.parameters()} == {torch.float32}
    for name, tensor in model.temporal.state_dict().items():
        step = tensor.abs().amax(-1, keepdim=True) / 127 if "layers" in name else torch.zeros(1)
        assert ((again.temporal.state_dict()[name] - tensor).abs() <= 0.51 * step).all(), name
    tensors = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_weights(folder, {n: t.float() if n.endswith("_scb") else t for n, t in tensors.items()}.items())
    assert {tensor.dtype for tensor in load_model(folder)[0].temporal.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("naming", ["in_projs.0", "in_proj"])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_low_rank_changes_are_merged(folder, naming, scaling):
    """Of a packed projection, of the output head, one whole tensor, and a matrix that comes with its change."""
    model, _ = load_model(folder)
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape):
        return torch.randn(shape, generator=generator) * 0.1

    embedding, frozen = matrix(321, 48), matrix(48, 60)
    pairs = {
        f"transformer.layers.0.self_attn.{naming}": (matrix(2, 48), matrix(144, 2)),
        "text_linear": (matrix(2, 48), matrix(320, 2)),
        "transformer.layers.1.gating.linear_out": (matrix(3, 60), matrix(48, 3)),
    }
    changes = {"text_emb.weight": embedding, "transformer.layers.1.gating.linear_out.frozen_W.weight": frozen}
    for stem, (down, up) in pairs.items():
        changes |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    save_weights(folder, changes.items(), "changes")
    change_config(folder, lora=True, lora_name="changes.safetensors", lora_rank=2)
    if scaling is not None:
        change_config(folder, lora_scaling=scaling)
    factor = 2.0 if scaling is None else scaling
    products = {stem: factor * up @ down for stem, (down, up) in pairs.items()}
    (folder / "plain").mkdir()
    tensors = load_tensors(folder / "model.safetensors")
    tensors["transformer.layers.0.self_attn.in_proj_weight"] += products[f"transformer.layers.0.self_attn.{naming}"]
    tensors["text_linear.weight"] += products["text_linear"]
    tensors["transformer.layers.1.gating.linear_out.weight"] = (
        frozen + products["transformer.layers.1.gating.linear_out"]
    )
    tensors["text_emb.weight"] = embedding
    merged, _ = load_model(folder)
    save_weights(folder, tensors.items())
    change_config(folder, lora=False)
    expected, _ = load_model(folder)
    assert_same(expected, merged, rtol=1e-5, atol=1e-6)
    assert not torch.equal(merged.temporal.text_head.weight, model.temporal.text_head.weight)


def entry(*shape, dtype=torch.float32):
    return Entry(Path("nowhere"), dtype, shape, 0)


@pytest.mark.parametrize(
    "entries, got",
    [
        ({"a_scb": entry(4)}, "got none"),
        ({"a": entry(4, 3), "a_scb": entry(4)}, r"got torch.float32 \[4, 3\]"),
        ({"a": entry(4, 3, dtype=torch.int8), "a_scb": entry(3)}, r"for the \[3\] scales of a_scb"),
    ],
)
def test_scales_of_nothing_are_refused(entries, got):
    with pytest.raises(CheckpointError, match=got):
        unscaled(entries)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"b.weight": entry(4, 3)}, "expected changes of the tensors of this model, got one of b.weight"),
        ({"b.lora_A.weight": entry(2, 3), "b.lora_B.weight": entry(4, 2)}, "got one of b.weight"),
        ({"a.lora_A.weight": entry(2, 3)}, r"expected a to have a pair of \[4, 3\] together, got \[\[2, 3\]\]"),
        ({"a.lora_B.weight": entry(4, 2)}, "expected a.lora_A.weight beside a.lora_B.weight, got none"),
        ({"a.lora_A.weight": entry(2, 5), "a.lora_B.weight": entry(4, 2)}, "expected a to have a pair"),
        ({"a.lora_A.weight": entry(2, 3), "a.lora_B.weight": entry(4, 1)}, "expected a to have a pair"),
    ],
)
def test_changes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        adapted({"a.weight": entry(4, 3)}, changes, 2.0)
