import numpy as np
import pytest
import torch

import earful
from earful.generate.sample import GREEDY, Sampling
from earful.hf.generating import sampling_of
from earful.testing import write_tiny

SLOTS, PROMPT, PER_SLOT = 40, 6, 8
Model = earful.VoxtralRealtimeForConditionalGeneration


class Recorder:
    """A streamer that keeps what it is told."""

    def __init__(self):
        self.told = []

    def put(self, value):
        self.told.append(value.clone())

    def end(self):
        self.told.append("end")


def prompts(inputs):
    ids = torch.tensor([[1] + [32] * (PROMPT - 1)] * 2)
    return {**inputs, "input_ids": ids}


def chunks(inputs):
    features = inputs["input_features"]
    yield features[..., : PROMPT * PER_SLOT]
    yield from features[..., PROMPT * PER_SLOT :].split(PER_SLOT, dim=-1)


@pytest.fixture(scope="module")
def given(inputs):
    return prompts(inputs)


@pytest.fixture(scope="module")
def free(model, given):
    return model.generate(**given)


def test_lengths(model, given, free):
    assert free.shape == (2, SLOTS)
    assert torch.equal(free[:, :PROMPT], given["input_ids"])
    for limit, length in [
        ({"max_new_tokens": 3}, PROMPT + 3),
        ({"max_new_tokens": 1000}, SLOTS),
        ({"max_length": 9}, 9),
        ({"max_length": 1000}, SLOTS),
    ]:
        assert torch.equal(model.generate(**given, **limit), free[:, :length])


@pytest.mark.parametrize("frames, length", [(0, SLOTS), (-1, SLOTS), (-7, SLOTS), (-8, SLOTS - 1)])
def test_half_a_slot_counts_for_the_length(model, given, free, frames, length):
    features = given["input_features"][..., : SLOTS * PER_SLOT + frames]
    assert torch.equal(model.generate(**{**given, "input_features": features}), free[:, :length])


def test_a_stream_writes_an_id_for_each_chunk(model, given, free):
    streamed = model.generate(**{**given, "input_features": chunks(given)})
    assert streamed.shape == (2, SLOTS + 1)
    assert torch.equal(streamed[:, :SLOTS], free)
    pulled = []
    counted = (pulled.append(0) or chunk for chunk in chunks(given))
    limited = model.generate(**{**given, "input_features": counted}, max_new_tokens=4)
    assert torch.equal(limited, free[:, : PROMPT + 4])
    assert len(pulled) == 4


def test_an_end_stops_and_fills(model, given, free):
    end = int(free[0, 15])
    written = model.generate(**given, eos_token_id=end)
    for row, own in zip(written, free, strict=True):
        after = (own[PROMPT:] == end).nonzero()
        stop = PROMPT + int(after[0]) + 1 if len(after) else SLOTS
        assert torch.equal(row[:stop], own[:stop])
        assert (row[stop:] == 11).all()
    streamed = model.generate(
        free[:1, :PROMPT],
        chunks({"input_features": given["input_features"][:1]}),
        num_delay_tokens=2,
        eos_token_id=[end],
    )
    first = PROMPT + int((free[0, PROMPT:] == end).nonzero()[0])
    assert torch.equal(streamed, free[:1, : first + 1])


def test_fillers(folder, given, free, tmp_path):
    end = int(free[0, 8])
    ends = {"eos_token_id": end, "max_length": 12}
    filled = Model.from_pretrained(folder).generate(**given, **ends, pad_token_id=77)
    assert filled[0, 9:].tolist() == [77] * (filled.shape[1] - 9)
    without = write_tiny("voxtral", path=tmp_path, ids={"filler": 2})  # a model without a padding id
    filled = Model.from_pretrained(without).generate(**given, **ends)
    assert filled[0, 9:].tolist() == [end] * (filled.shape[1] - 9)


def test_the_checkpoints_end_and_none(given, free, tmp_path):
    end = int(free[0, 12])
    folder = write_tiny("voxtral", path=tmp_path, ids={"eos": end})
    model = Model.from_pretrained(folder)
    assert (model.generate(**given)[0, 13:] == 11).all()
    assert torch.equal(model.generate(**given, eos_token_id=[]), free)


def test_chance(model, given, free):
    options = {"do_sample": True, "temperature": 2.0, "top_k": 100, "top_p": 0.99}
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(model.generate(**given, **options))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    torch.manual_seed(0)
    assert torch.equal(model.generate(**given, do_sample=True, top_k=1), free)


def test_sampling_has_the_references_defaults():
    assert sampling_of(False, None, None, None) == GREEDY
    assert sampling_of(True, None, None, None) == Sampling(1.0, 50, 1.0)
    assert sampling_of(True, 0.5, 3, 0.9) == Sampling(0.5, 3, 0.9)


def test_what_a_streamer_is_told(model, given, free):
    recorder = Recorder()
    model.generate(**given, streamer=recorder)
    assert recorder.told.pop() == "end"
    assert torch.equal(recorder.told[0], given["input_ids"])
    assert torch.equal(torch.stack(recorder.told[1:], 1), free[:, PROMPT:])


def test_a_streamer_hears_of_the_end_of_what_fails(model, given):
    def broken():
        yield from list(chunks(given))[:3]
        raise OSError("microphone unplugged")

    recorder = Recorder()
    with pytest.raises(OSError, match="microphone unplugged"):
        model.generate(**{**given, "input_features": broken()}, streamer=recorder)
    assert len(recorder.told) == 1 + 3 + 1
    assert recorder.told[-1] == "end"


def test_an_id_is_told_before_the_next_chunk_is_asked_for(model, given):
    recorder = Recorder()

    def watched():
        for number, chunk in enumerate(chunks(given)):
            assert len(recorder.told) == 1 + number
            yield chunk

    model.generate(**{**given, "input_features": watched()}, streamer=recorder)


def test_results_may_be_trained_on(folder, given):
    model = Model.from_pretrained(folder)
    ids = model.generate(**given)
    assert not ids.is_inference()
    model(ids, given["input_features"], num_delay_tokens=2, labels=ids).loss.backward()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"max_new_tokens": 0}, "expected room for more ids than the 6 of the prompt, got a length of 6"),
        ({"max_length": 3}, "got a length of 3"),
        ({"input_features": torch.zeros(2, 24, 48)}, "got a length of 6"),
        ({"max_length": 9, "max_new_tokens": 2}, "expected max_new_tokens or max_length, got both"),
        ({"temperature": 0.5}, "expected do_sample=True with temperature, top_k and top_p, got False"),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1]] * 2)}, "expected an attention_mask of ones"),
        ({"do_sample": True, "top_k": 0}, "expected top_k of at least 1, got 0"),
        ({"input_features": iter([])}, "expected audio of at least 6 slots, got less"),
    ],
)
def test_refusals(model, given, change, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**{**given, **change})


def test_audio_shorter_than_a_slot(model, folder):
    processor = earful.AutoProcessor.from_pretrained(folder)
    for samples in (0, 1, 1280, 1281):
        inputs = processor(np.zeros(samples, np.float32), return_tensors="pt")
        slots = 3 + -(-samples // 1280) + 13
        assert model.generate(**inputs, eos_token_id=[]).shape == (1, slots)


def test_half_precision(folder, given):
    model = Model.from_pretrained(folder, dtype="bfloat16")
    assert model.generate(**given).shape == (2, SLOTS)  # float32 features are cast
