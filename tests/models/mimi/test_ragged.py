"""Signals that end inside a frame; numbers are compared with transformers in tests/hf/test_mimi_parity.py."""

from pathlib import Path

import pytest
import torch

from earful.models.mimi.ragged import encode_ragged
from earful.testing import tiny_mimi

FRAME = 384


@pytest.fixture(scope="module")
def model():
    return tiny_mimi(Path())[0].eval()


@pytest.fixture(scope="module")
def samples():
    return 0.5 * torch.randn(3, 1, 12 * FRAME, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_whole_frames_are_nothing_special(model, samples):
    for codebooks in (1, 6):
        assert torch.equal(encode_ragged(model, samples, codebooks), model.encode(samples, codebooks))


@torch.inference_mode()
def test_only_the_last_frame_is_told_from_one_filled_up_with_zeros(model, samples):
    different = 0
    for length in (1, 7, FRAME - 1, FRAME + 1, 3 * FRAME + 100, 12 * FRAME - 1):
        ragged, filled = encode_ragged(model, samples[..., :length], 6), model.encode(samples[..., :length])
        assert ragged.shape == filled.shape == (3, 6, -(-length // FRAME))
        assert torch.equal(ragged[..., :-1], filled[..., :-1])
        different += int((ragged[..., -1] != filled[..., -1]).sum())
    assert different


def test_half_a_codec_refuses(samples):
    model, _ = tiny_mimi(Path(), changes={"codec": {"encodes": False}})
    for length in (FRAME, FRAME + 1):
        with pytest.raises(ValueError, match="expected a codec that can encode, got only the other half of one"):
            encode_ragged(model, samples[..., :length], 6)
