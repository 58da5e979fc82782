import json
import subprocess
import sys
import textwrap

import pytest
import torch

from earful.checkpoint.files import load_tensors, save_weights
from earful.errors import CheckpointError
from earful.registry import FAMILIES, load_model, recognise, save_model
from earful.testing import write_tiny


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    return write_tiny("voxtral", "hf", path=tmp_path_factory.mktemp("hf"))


def test_each_layout_is_recognised(tmp_path):
    for family in FAMILIES:
        for layout in (name for name, layout in FAMILIES[family].load_layouts().items() if layout.write):
            folder = write_tiny(family, layout, path=tmp_path / family / layout)
            assert recognise(folder) == (family, layout)
            assert recognise(str(folder)) == (family, layout)


def test_a_folder_in_two_layouts_is_of_the_one_whose_weights_are_there(tmp_path):
    for layout in ("mistral", "hf"):
        write_tiny("voxtral", layout, path=tmp_path)
    assert recognise(tmp_path) == ("voxtral", "hf")
    (tmp_path / "model.safetensors").unlink()
    assert recognise(tmp_path) == ("voxtral", "mistral")
    (tmp_path / "consolidated.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors or .*index\.json, got config\.json, "):
        load_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"got only pytorch_model\.bin: .*`earful convert \S+ TARGET` reads"):
        load_model(tmp_path)


MARKERS = r"expected config\.json of .*\bmimi\b.* or params\.json of voxtral"


@pytest.mark.parametrize(
    "files, got",
    [
        ({}, "nothing"),
        ({"notes.txt": "hello", "talk.wav": ""}, r"notes\.txt, talk\.wav"),
        ({"config.json": '{"model_type": "whisper"}'}, r"config\.json of another model \(model_type 'whisper'\)"),
        ({"config.json": '{"model_type": ["a"]}'}, r"config\.json of another model \(model_type \['a'\]\)"),
        ({"config.json": "[1, 2]"}, r"config\.json of another model"),
        ({"config.json": "null"}, r"config\.json of another model"),
        ({"params.json": '{"dim": 3}'}, r"params\.json of another model"),
        ({"params.json": '{"multimodal": {"whisper_model_args": 3}}'}, r"params\.json of another model"),
    ],
)
def test_another_folder_says_what_it_holds(tmp_path, files, got):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=f"{MARKERS}, got {got}$") as caught:
        recognise(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_no_folder_at_all(tmp_path):
    with pytest.raises(CheckpointError, match="expected a checkpoint folder, got: No such file or directory"):
        recognise(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: expected JSON, got"):
        recognise(tmp_path)
    with pytest.raises(CheckpointError, match="expected a checkpoint folder, got: Not a directory"):
        recognise(tmp_path / "config.json")


def test_a_loaded_model_is_ready_to_run(hf):
    model, tokenizer = load_model(hf)
    assert tokenizer == hf / "tekken.json"
    assert not model.training
    states = [*model.named_parameters(), *model.named_buffers()]
    assert all(tensor.device.type == "cpu" for _, tensor in states)
    assert {tensor.dtype for _, tensor in states} == {torch.float32}


def test_the_type_of_the_weights(tmp_path):
    folder = write_tiny("voxtral", "mistral", path=tmp_path, dtype=torch.bfloat16)

    def types(**options):
        return {parameter.dtype for parameter in load_model(folder, **options)[0].parameters()}

    assert types() == {torch.bfloat16}
    assert types(dtype=torch.float32) == {torch.float32}
    tensors = load_tensors(folder / "consolidated.safetensors")
    tensors["norm.weight"] = tensors["norm.weight"].float()
    save_weights(folder, tensors.items(), "consolidated")
    assert types() == {torch.float32}  # one type for all, or layers would not fit each other


@pytest.mark.parametrize("layout, stem", [("hf", "model"), ("mistral", "consolidated")])
def test_tensors_that_do_not_fit_are_named(tmp_path, layout, stem):
    folder = write_tiny("voxtral", layout, path=tmp_path)
    tensors = load_tensors(folder / f"{stem}.safetensors")
    first = min(name for name in tensors if "bias" in name)
    removed = {name: tensor for name, tensor in tensors.items() if name != first}
    for held, message in [
        (removed, f"got 1 missing: {first}$"),
        ({**tensors, "extra.weight": torch.zeros(2)}, r"got 1 not of this model: extra\.weight$"),
        (
            {**tensors, first: torch.zeros(2, 3)},
            rf"got 1 misshapen: {first} \(expected floats \[\d+\], got floats \[2, 3\]",
        ),
        ({**removed, "extra.weight": torch.zeros(2)}, f"got 1 missing: {first}; 1 not of this model: extra"),
    ]:
        save_weights(folder, held.items(), stem)
        with pytest.raises(CheckpointError, match=message):
            load_model(folder)


def test_a_config_that_asks_for_the_impossible(tmp_path):
    folder = write_tiny("voxtral", "mistral", path=tmp_path)
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps(params | {"n_layers": 10**9}))
    with pytest.raises(CheckpointError, match="expected n_layers to be a whole number of 1 to 1024, got 1000000000"):
        load_model(folder)
    (folder / "params.json").write_text(json.dumps(params | {"hidden_dim": 200_000, "n_layers": 50}))
    with pytest.raises(CheckpointError, match=r"got \d+ missing: layers\.10\..* misshapen: .*\[200000, 36\]"):
        load_model(folder)


def test_an_unknown_layout_is_refused(hf, tmp_path):
    model, _ = load_model(hf)
    with pytest.raises(CheckpointError, match="expected a layout of hf, mistral, got gguf"):
        save_model(model, tmp_path, "gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_model_may_be_written_without_its_tokenizer(hf, tmp_path):
    model, tokenizer = load_model(hf)
    save_model(model, tmp_path, "hf")
    with pytest.raises(CheckpointError, match=r"tekken\.json: expected a readable file"):
        load_model(tmp_path)
    (tmp_path / "tekken.json").write_bytes(tokenizer.read_bytes())
    assert load_model(tmp_path)[0].config == model.config


def test_loading_takes_the_memory_of_the_model_and_its_largest_tensor(tmp_path):
    """From bfloat16 to float32, in a process of its own, because the peak of this one is long past."""
    small = write_tiny("voxtral", "mistral", path=tmp_path / "small")
    large = write_tiny("voxtral", "mistral", path=tmp_path / "large", decoder={"mlp_dim": 60_000}, dtype=torch.bfloat16)
    program = f"""
        import resource, torch
        from earful.registry import load_model
        load_model({str(small)!r})  # so that all is imported
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
        model, _ = load_model({str(large)!r}, dtype=torch.float32)
        mine = sum(p.nbytes for p in model.parameters())
        print((peak() - before) * 1024 - mine, mine, max(p.nbytes for p in model.parameters()))
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    above, model, largest = map(int, run.stdout.split())
    assert model > 48 << 20
    assert above < 1.5 * largest + (8 << 20)
