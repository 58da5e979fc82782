import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from earful.checkpoint.codes import About, read_codes, write_codes
from earful.errors import CheckpointError

ABOUT = About(samples=1_000, rate_hz=24_000, frame_samples=300, codebook_size=2048, model="kyutai/mimi", vectors="ab12")
CODES = np.array([[0, 1, 2047, 3], [4, 5, 6, 7]])


@pytest.mark.parametrize("size, stored", [(2048, torch.int16), (1 << 15, torch.int16), (1 << 16, torch.int32)])
def test_there_and_back(tmp_path, size, stored):
    path = tmp_path / "a.safetensors"
    codes, about = CODES.copy(), replace(ABOUT, codebook_size=size)
    codes[0, 2] = size - 1
    write_codes(path, codes, about)
    assert load_file(path)["codes"].dtype == stored
    got, said = read_codes(path)
    np.testing.assert_array_equal(got, codes)
    assert said == about


@pytest.mark.parametrize(
    "change, message",
    [
        ({"samples": None}, "expected samples to be a whole number of 1 to .*, got None"),
        ({"samples": "4"}, "expected samples to be a whole number of 1 to .*, got '4'"),
        ({"samples": -4}, "expected samples to be a whole number"),
        ({"samples": 10**400}, "expected samples to be a whole number"),
        ({"frame_samples": 0}, "expected frame_samples to be a whole number"),
        ({"samples": 1201}, r"of shape \[codebooks, 5\] for 1201 samples, got torch.int16 \[2, 4\]"),
        ({"samples": 900}, r"of shape \[codebooks, 3\] for 900 samples, got torch.int16 \[2, 4\]"),
        ({"model": 3}, "expected model to be text, got 3"),
    ],
)
def test_a_file_that_says_something_else(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_codes(written(tmp_path, json.dumps({**asdict(ABOUT), **change})))
    assert str(tmp_path) in str(caught.value)


def written(folder, text, key="earful_codes", **tensors):
    tensors = tensors or {"codes": torch.from_numpy(CODES.astype(np.int16))}
    save_file(tensors, folder / "a.safetensors", {key: text})
    return folder / "a.safetensors"


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", "3"])
def test_a_file_that_says_nothing(tmp_path, text):
    with pytest.raises(CheckpointError, match="expected (earful_codes to be JSON|an object)"):
        read_codes(written(tmp_path, text))


@pytest.mark.parametrize(
    "tensors",
    [{"weights": torch.ones(2, 4)}, {"codes": torch.zeros(2, 4)}, {"codes": torch.ones(2, 4), "more": torch.ones(1)}],
)
def test_a_file_that_holds_something_else(tmp_path, tensors):
    with pytest.raises(CheckpointError, match="got another kind of file|expected int16 or int32 codes"):
        read_codes(written(tmp_path, json.dumps(asdict(ABOUT)), **tensors))


def test_weights_are_no_codes(tmp_path):
    message = "expected codes as `earful codec encode` writes them, got another kind of file"
    with pytest.raises(CheckpointError, match=message):
        read_codes(written(tmp_path, "pt", key="format"))
    with pytest.raises(CheckpointError, match="expected a readable file"):
        read_codes(tmp_path / "b.safetensors")


def test_the_same_codes_make_the_same_file(tmp_path):
    contents = []
    for _ in range(3):
        write_codes(tmp_path / "a.safetensors", CODES, ABOUT)
        contents.append((tmp_path / "a.safetensors").read_bytes())
    assert contents == contents[:1] * 3
