"""The whole network: what each position may hear, and what the training path gives."""

from dataclasses import replace

import pytest
import torch

from earful.models.kyutai_stt.model import KyutaiStt
from earful.registry import load_model
from earful.testing import write_tiny

T = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_tiny("kyutai_stt", "kyutai", path=tmp_path_factory.mktemp("m"), model={"vad_heads": 4}))[0]


@pytest.fixture(scope="module")
def example():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(320, (2, T), generator=generator), torch.randint(32, (2, 6, T), generator=generator)


@pytest.mark.parametrize("p", [0, 1, 7, T - 2])
def test_id_p_has_heard_the_frames_before_p_and_nothing_else(model, example, p):
    text, codes = example
    logits = model(text, codes)
    other_codes, other_text = codes.clone(), text.clone()
    other_codes[:, :, p] = (codes[:, :, p] + 1) % 32
    other_text[:, p] = (text[:, p] + 1) % 320
    for changed in (model(text, other_codes), model(other_text, codes)):
        assert torch.equal(changed[:, : p + 1], logits[:, : p + 1])
        assert (changed[:, p + 1] - logits[:, p + 1]).abs().max() > 1e-3


def test_the_first_position_takes_the_initial_ids(model, example):
    text, codes = example
    ids = model.inputs(text, codes)
    assert ids.shape == (2, 7, T)
    assert ids[:, :, 0].tolist() == [[320] + [32] * 6] * 2
    assert torch.equal(ids[:, 0, 1:], text[:, :-1])
    assert torch.equal(ids[:, 1:, 1:], codes[..., :-1])
    assert torch.equal(model.start(2), ids[:, :, :1])


def test_logits_have_no_room_for_the_initial_id(model, example):
    assert model(*example).shape == (2, T, 320)


def test_text_that_is_not_there_yet_changes_nothing(model, example):
    """An id of -1 is a position with its frame alone."""
    text, codes = example
    without = text.clone()
    without[:, :4] = -1
    x = model.temporal.embed(model.inputs(without, codes))
    audio = sum(table(codes[:, k, 2]) for k, table in enumerate(model.temporal.audio_embeds))
    torch.testing.assert_close(x[:, 3], audio)


def test_pauses_are_the_first_class_of_each_head(model):
    hidden = torch.randn(3, 5, 48)
    pauses = model.pauses(hidden)
    assert pauses.shape == (3, 5, 4)
    for i, head in enumerate(model.vad_heads):
        torch.testing.assert_close(pauses[..., i], torch.softmax(hidden @ head.weight.T, -1)[..., 0])
    without = KyutaiStt(replace(model.config, vad_heads=0, vad_classes=0))
    assert without.pauses(hidden).shape == (3, 5, 0)


def test_only_the_codebooks_of_the_language_model_are_heard(tmp_path):
    folder = write_tiny("kyutai_stt", "kyutai", path=tmp_path, temporal={"codebooks": 4})
    model, _ = load_model(folder)
    samples = torch.randn(1, 1, 5 * 384)
    assert torch.equal(model.hear(samples), model.codec.encode(samples)[:, :4])
    assert model(torch.zeros(1, 5, dtype=torch.int64), model.hear(samples)).shape == (1, 5, 320)
