import pytest
import torch

import earful
from earful.errors import CheckpointError
from earful.hf.loading import device_of, dtype_of
from earful.testing import write_tiny

Model, Encoder = earful.VoxtralRealtimeForConditionalGeneration, earful.VoxtralRealtimeEncoder


@pytest.mark.parametrize("layout", ["hf", "mistral"])
def test_layouts_give_the_same_model(layout, model, tmp_path):
    other = Model.from_pretrained(str(write_tiny("voxtral", layout, path=tmp_path)))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert other.config.to_core() == model.config.to_core()
    assert not other.training


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(
    "asked, stored, got",
    [
        (None, torch.bfloat16, torch.bfloat16),
        ("auto", torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.float32),
        ("bfloat16", torch.float32, torch.bfloat16),
        ("torch.float16", torch.float32, torch.float16),
    ],
)
def test_types(name, asked, stored, got, tmp_path):
    folder = write_tiny("voxtral", path=tmp_path, dtype=stored)
    model = Model.from_pretrained(folder, **{name: asked})
    assert model.dtype == got
    assert {p.dtype for p in model.parameters()} == {got}
    encoder = Encoder.from_pretrained(folder, **{name: asked})
    assert encoder.dtype == got


def test_devices():
    assert device_of(None) == device_of("cpu") == device_of({"": "cpu"}) == torch.device("cpu")
    assert device_of("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="expected a device_map of one device"):
        device_of({"encoder": 0, "decoder": 1})


@pytest.mark.parametrize("found, expected", [(None, "cpu"), ("cuda", "cuda"), ("mps", "cpu")])
def test_automatic_device(found, expected, monkeypatch):
    device = found and torch.device(found)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: device)
    assert device_of("auto") == torch.device(expected)


def test_types_that_are_refused(folder):
    for wrong in ("int8", torch.int64, "float8"):
        with pytest.raises(ValueError, match="expected a dtype of auto, float32, bfloat16, float16"):
            dtype_of(wrong)
    with pytest.raises(ValueError, match="expected dtype or its old name torch_dtype, got both"):
        Model.from_pretrained(folder, dtype="float32", torch_dtype="float32")
    with pytest.raises(TypeError, match="attn_implementation"):
        Model.from_pretrained(folder, attn_implementation="eager")


def test_saved_with_its_tokenizer(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert earful.AutoProcessor.from_pretrained(tmp_path).num_delay_tokens == 2


def test_made_from_a_config_it_has_none(model, folder, tmp_path):
    made = Model(earful.VoxtralRealtimeConfig.from_pretrained(folder))
    made.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"tekken.json: expected a readable file"):
        Model.from_pretrained(tmp_path)
    earful.AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), made.parameters(), strict=True))


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match="expected config.json"):
        Model.from_pretrained(tmp_path)


def test_moves_as_modules_do(folder):
    model = Model.from_pretrained(folder).to(torch.bfloat16).to("meta").train()
    assert (model.dtype, model.device.type, model.training) == (torch.bfloat16, "meta", True)
    assert model.audio_tower.dtype == torch.bfloat16
    assert model.audio_tower.training
