"""The law for Kyutai Speech-To-Text: a stream says what the plain definition says, times and pauses included."""

import copy
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.errors import CheckpointError
from earful.events import Pause, Word
from earful.generate import ahead
from earful.models.kyutai_stt.stream import CHUNK_FRAMES, KyutaiSttStream, Memo
from earful.models.moshi.prompt import PROMPT_PIECES
from earful.nn.state import leaves, row, select
from earful.registry import load_model
from earful.stream.engine import Engine
from earful.stream.session import Session
from earful.testing import write_tiny
from earful.text.sentencepiece import SentencePiece
from tests.helpers import hear_all, near_tie, said
from tests.models.kyutai_stt.helpers import (
    FRAME_S,
    HOP,
    RATE,
    SIZES,
    Recorded,
    clip,
    offline,
    stable,
    tiny_family,
    told,
    voice_like,
)

PAD, WORD, BYTE = 3, 0, 4  # of the tiny tokenizer; the 256 bytes from 4 on


def ids_of(memo):
    return [int(token) for token, *_ in memo.rows]


def assert_same_events(events, expected):
    """Probabilities may differ in their last bits, everything else not."""
    assert len(events) == len(expected)
    for event, other in zip(events, expected, strict=True):
        if isinstance(event, Pause):
            assert event.seconds == other.seconds
            assert event.probability == pytest.approx(other.probability, abs=1e-4)
        else:
            assert event == other


def assert_says(session, one, chunks):
    memo = session._lane.memo
    events = [event for chunk in chunks for event in session.feed(chunk)] + session.finish()
    assert ids_of(memo) == one.ids
    assert_same_events(events, one.events)


# ------------------------------------------------------------------------------------------------------------ the law


@pytest.mark.parametrize("sizes", SIZES)
@settings(max_examples=5)
@given(cuts=st.lists(st.integers(0, 40 * HOP) | st.integers(0, 40).map(lambda n: n * HOP), max_size=12))
def test_any_chunks_say_what_the_whole_says(sizes, cuts):
    family = tiny_family(sizes)
    one = clip(family, 40 * HOP - 77)
    assert len(set(one.ids)) > 8  # a model that hears, not one that repeats itself
    assert len(one.words) > 3
    session = Session(Engine(family))
    assert_says(session, one, np.split(one.samples, sorted(min(cut, len(one.samples)) for cut in cuts)))


def test_single_samples_say_what_the_whole_says():
    one = clip(tiny_family("like 1b with heads"), 2 * HOP + 41)
    assert_says(Session(Engine(tiny_family("like 1b with heads"))), one, list(one.samples[:, None]))


@pytest.mark.parametrize("length", [0, 1, HOP - 1, HOP, HOP + 1, 5 * HOP + 191, 5 * HOP + 192, 5 * HOP + 193])
@pytest.mark.parametrize("sizes", ["like 1b", "like 2.6b"])
def test_audio_of_any_length(sizes, length):
    family = tiny_family(sizes)
    one = clip(family, length)
    prefix_s, delay_s = (0.0, 0.5) if sizes == "like 1b" else (1.0, 2.5)
    assert len(one.ids) == (int(prefix_s * RATE) + length + int((delay_s + 1) * RATE)) // HOP  # as the references
    assert_says(Session(Engine(family)), one, [one.samples])


@settings(max_examples=3)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("sizes", ["like 1b with heads", "like 2.6b"])
def test_sessions_that_come_and_go_say_what_each_says_alone(sizes, seed):
    family, rng = tiny_family(sizes), np.random.default_rng(seed)
    engine = Engine(family, 3)
    clips = [clip(family, length) for length in (9 * HOP + 5, 30 * HOP, 14 * HOP - 100, HOP)]
    for _ in range(2):  # every slot is taken, and given back, and taken again
        chosen = [clips[i] for i in rng.integers(len(clips), size=rng.integers(1, 4))]
        lanes = [engine.open() for _ in chosen]
        broken = engine.open() if len(chosen) < 3 else None
        if broken:  # one that is given up halfway
            broken.framer.feed(voice_like(rng, 6 * HOP))
        hear_all(engine, rng, [(lane, one.samples) for lane, one in zip(lanes, chosen, strict=True)])
        for lane, one in zip(lanes, chosen, strict=True):
            assert ids_of(lane.memo) == one.ids
            assert_same_events(lane.events, one.events)
        for lane in [*lanes, *([broken] if broken else [])]:
            engine.close(lane)


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_frozen_slots_do_not_notice_and_nothing_moves_in_memory(seed):
    """Random slots step, by 1 or by 32; the others are handed noise. Each says what it says alone."""
    family, rng = tiny_family("like 1b with heads"), np.random.default_rng(seed)
    clips = [clip(family, 70 * HOP, which) for which in range(3)]
    state = family.init_state(3)
    addresses = [leaf.data_ptr() for leaf in leaves(state)]
    transformers = (state.codec.transformer, state.temporal)
    rings = {leaf.data_ptr() for part in transformers for leaf in leaves(part.layers)}
    memos = [family.open(state, slot) for slot in range(3)]
    at = [0, 0, 0]
    for _ in range(20):
        frames = int(rng.choice([1, CHUNK_FRAMES], p=[0.8, 0.2]))
        counts = [frames if rng.random() < 0.6 and begin + frames < 70 else 0 for begin in at]
        if not any(counts):
            continue
        samples = rng.standard_normal((3, frames * HOP)).astype(np.float32)
        for slot, taken in enumerate(counts):
            if taken:
                samples[slot] = clips[slot].samples[at[slot] * HOP :][: frames * HOP]
                at[slot] += taken
        before = select(state, range(3))
        rows = family.step(state, torch.from_numpy(samples), counts).tolist()
        for slot, taken in enumerate(counts):
            family.events(rows[slot][:taken], memos[slot])
        for leaf, old in zip(leaves(state), leaves(before), strict=True):
            for slot, taken in enumerate(counts):
                if not taken and leaf.data_ptr() not in rings:  # what is written to a ring shows, or not, in the ids
                    assert torch.equal(leaf[slot], old[slot])
        assert [leaf.data_ptr() for leaf in leaves(state)] == addresses
    for memo, one in zip(memos, clips, strict=True):
        assert ids_of(memo) == one.ids[: len(memo.rows)]


class Far(Recorded):
    """A family that can hear silence for long in few calls."""

    def __init__(self, model, tokenizer):
        super().__init__(model, tokenizer)
        self.chunk = 1024

    def init_state(self, batch):
        state = super().init_state(batch)
        state.temporal = self.model.temporal.init_state(batch, self.chunk)
        return state

    @torch.inference_mode()
    def silent_until(self, state, position):
        """No word is written meanwhile."""
        while (left := position - int(state.temporal.pos)) > 0:
            frames = min(left, self.chunk)
            codes = self.model.hear(torch.zeros(1, 1, frames * HOP), state.codec)
            columns = torch.cat([torch.full((1, 1, frames), PAD), codes], dim=1)
            self.model.temporal(self.model.temporal.embed(columns), state.temporal)
        state.token.fill_(PAD)


def test_a_stream_goes_on_exactly_after_an_hour():
    """Ids as after five seconds, in any chunks and beside a stream that has just begun; logits but for rounding."""
    family = Far(tiny_family("like 1b").model, tiny_family("like 1b").tokenizer)
    quiet, rng, logits = 62, np.random.default_rng(1), torch.zeros(1, 2)
    beside = clip(tiny_family("like 1b"), 14 * HOP - 100)

    @torch.inference_mode()
    def resume(engine):
        lane = engine.open()
        for leaf, late in zip(leaves(row(engine.state, lane.slot)), leaves(state), strict=True):
            leaf.copy_(late)
        lane.memo.rows.clear()
        return lane

    def logits_of_the_whole():
        temporal, plain, found = family.model.temporal, family.model.temporal.logits, []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(temporal, "logits", lambda x: found.append(plain(x)) or found[-1])
            for rows in (ahead.TYPICAL_ROWS, 1):  # at last one position after the other
                patch.setattr(ahead, "TYPICAL_ROWS", rows)
                found.clear()
                engine = Engine(family)
                lane = resume(engine)
                hear_all(engine, rng, [(lane, samples)])
                assert ids_of(lane.memo) == expected
        return torch.cat(found)

    samples = np.zeros(1, np.float32)
    while near_tie(logits) or not stable(family, samples):
        samples = voice_like(rng, 30 * HOP - 100)
        silence = np.zeros(quiet * HOP, np.float32)
        ids, logits, _ = offline(family, np.concatenate([silence, samples]), told_pads=quiet + 1)
        expected, logits = ids[quiet + 1 :], logits[quiet + 1 :]
    assert len(set(expected)) > 8
    state = family.init_state(1)
    family.open(state, 0)
    family.silent_until(state, quiet + 1)
    early = logits_of_the_whole()
    family.silent_until(state, math.ceil(3600 / FRAME_S))
    torch.testing.assert_close(logits_of_the_whole(), early, rtol=0, atol=1e-3)
    for _ in range(2):
        engine = Engine(family, 2)
        young, old = engine.open(), resume(engine)
        hear_all(engine, rng, [(young, beside.samples), (old, samples)])
        assert ids_of(old.memo) == expected
        assert ids_of(young.memo) == beside.ids


def test_a_preview_leaves_the_stream_alone():
    family = tiny_family("like 1b with heads")
    one = clip(family, 40 * HOP - 77)
    session = Session(Engine(family))
    first = session.feed(one.samples[: 20 * HOP])
    ahead = clip(family, 40 * HOP - 77).samples[: 20 * HOP]
    assert_same_events(first + session.peek(), told_offline(family, ahead))
    rest = session.feed(one.samples[20 * HOP :]) + session.finish()
    assert_same_events(first + rest, one.events)


def told_offline(family, samples):
    ids, _, pauses = offline(family, samples)
    return told(family, [[id, *row] for id, row in zip(ids, pauses, strict=True)], len(samples) / RATE)


def test_a_model_in_bfloat16_writes(tmp_path):
    model, tokenizer = load_model(write_tiny("kyutai_stt", path=tmp_path, dtype=torch.bfloat16))
    family = KyutaiSttStream(model, SentencePiece.from_file(tokenizer))
    text = said(Session(Engine(family)).feed(voice_like(np.random.default_rng(0), 40 * HOP)))
    assert len(text) > 10


# --------------------------------------------------------------------------------------------------- prompt and chance


def test_chance_belongs_to_the_session():
    """The same ids for the same seed, in any chunks and in any company; others for another."""
    family, rng = tiny_family("like 1b"), np.random.default_rng(0)
    samples = clip(family, 30 * HOP).samples

    def ids(engine, *options):
        lanes = [engine.open(**option) for option in options]
        hear_all(engine, rng, [(lane, samples) for lane in lanes])
        return [ids_of(lane.memo) for lane in lanes]

    (alone,) = ids(Engine(family), {"temperature": 0.7, "seed": 5})
    together = ids(Engine(family, 3), {"temperature": 0.7, "seed": 6}, {"temperature": 0.7, "seed": 5}, {})
    assert together[1] == alone != together[0]
    assert together[2] == clip(family, 30 * HOP).ids != alone
    assert len({*map(tuple, [alone, *together])}) == 3


def test_chance_is_another_one_at_each_position(monkeypatch):
    family = tiny_family("like 1b")
    monkeypatch.setattr(family.model.temporal, "logits", lambda hidden: hidden.new_zeros(*hidden.shape[:2], 320))
    engine = Engine(family)
    lane = engine.open(temperature=1.0, seed=3)
    lane.framer.feed(np.zeros(60 * HOP, np.float32))
    engine.pump()
    ids = ids_of(lane.memo)
    assert len(ids) == 61
    assert len(set(ids)) > 20  # of 50 that are allowed


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_frames_beside_which_nothing_is_written_take_fewer_passes(monkeypatch, batch):
    """With the commonest id for padding: the same ids and pauses as one position after the other, whatever is asked."""
    plain, rng = tiny_family("like 1b"), np.random.default_rng(batch)
    (common, _), *_ = Counter(clip(plain, 40 * HOP).ids).most_common()
    family = copy.copy(plain)
    family.config = replace(plain.config, pad_id=common)
    family.silence = torch.tensor([common, WORD])
    audio = [np.tile(clip(plain, 30 * HOP).samples, 1 + row)[: int(rng.integers(20, 30)) * HOP] for row in range(batch)]
    options = [{}, {"temperature": 0.1, "seed": 3}, {"prompt": "the dog is it"}]

    def written(rows):
        passes, write = [], KyutaiSttStream.write_ahead
        monkeypatch.setattr(ahead, "TYPICAL_ROWS", rows)
        monkeypatch.setattr(
            family, "write_ahead", lambda *given: passes.append(1) or write(family, *given), raising=False
        )
        said = []
        for turn in range(3):  # each option in each row
            engine = Engine(family, batch)
            lanes = [engine.open(**options[(turn + row) % 3]) for row in range(batch)]
            for lane, samples in zip(lanes, audio, strict=True):
                lane.framer.feed(samples)
                engine.finish(lane, len(samples) / family.rate_hz)
            engine.pump()
            said += [lane.memo.rows for lane in lanes]
        return said, len(passes)

    said, few = written(4)
    expected, many = written(1)
    for one, other in zip(said, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert sum(row[0] == common for rows in said for row in rows) > 10
    assert few < many if batch < 3 else few == many


def test_prompts_of_frozen_sessions_wait():
    """A slot that sits out a step is asked for an id all the same, which may be the next piece."""
    family, rng = tiny_family("like 1b"), np.random.default_rng(0)
    options = {"prompt": "the dog is it one two three", "temperature": 3.0}
    samples = clip(family, 30 * HOP).samples
    lone = Engine(family)
    alone = lone.open(**options)
    hear_all(lone, rng, [(alone, samples)])
    for _ in range(4):
        engine = Engine(family, 3)
        lanes = [engine.open(**options), engine.open(), engine.open(temperature=1.0)]
        lanes[1].framer.feed(samples)
        engine.pump()  # the other two are frozen for as long
        hear_all(engine, rng, [(lane, samples) for lane in (lanes[0], lanes[2])])
        assert ids_of(lanes[0].memo) == ids_of(alone.memo)


def test_a_prompt_is_written_first():
    family = tiny_family("like 1b")
    pieces = family.tokenizer.encode("the dog is it 日本")
    samples = clip(family, 40 * HOP - 77).samples
    for options in ({}, {"temperature": 0.5}):
        session = Session(Engine(family), prompt="the dog is it 日本", **options)
        memo = session._lane.memo
        text = said(session.feed(np.tile(samples, 4)) + session.finish())
        written = [id for id in ids_of(memo) if id not in (PAD, WORD)]
        assert written[: len(pieces)] == pieces
        assert len(written) > len(pieces) + 5  # and then what is heard
        assert text.startswith("the dog is it 日本")


def test_a_prompt_with_its_audio_is_left_out():
    """As if it had been the beginning of the stream, but for its ids; times begin behind it."""
    family, rng = tiny_family("like 1b"), np.random.default_rng(0)
    samples = clip(family, 40 * HOP - 77).samples
    prompt_audio = voice_like(rng, 50 * HOP + 9)
    engine = Engine(family, 2)
    lanes = [engine.open(prompt="one two", prompt_audio=prompt_audio), engine.open(prompt="one two")]
    silence = np.zeros(11 * HOP - 9, np.float32)
    before = len(prompt_audio) + len(silence)
    hear_all(engine, rng, [(lanes[0], samples), (lanes[1], np.concatenate([prompt_audio, silence, samples]))])
    assert before == 61 * HOP
    whole = ids_of(lanes[1].memo)
    assert lanes[0].memo.first - 61 == int(0.5 / FRAME_S)
    assert ids_of(lanes[0].memo)[-len(whole) + 62 :] == whole[62:]
    assert ids_of(lanes[0].memo)[:1] == whole[61:62]
    kept = [[id] for id in whole[lanes[0].memo.first :]]
    memo = Memo(61 * HOP, 0, position=lanes[0].memo.first, limit_s=len(samples) / RATE)
    assert_same_events(lanes[0].events, KyutaiSttStream.events(family, kept, memo) + family.finish(memo))
    times = [event.start_s for event in lanes[0].events if isinstance(event, Word)]
    assert times == sorted(times)
    assert times[-1] > 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"delay_s": 1.0}, "expected no delay but the model's own, 0.5 s, got 1.0 s"),
        ({"temperature": -1.0}, "expected a temperature of at least 0, got -1.0"),
        ({"temperature": math.nan}, "expected a temperature of at least 0, got nan"),
        ({"prompt": "x" * 300}, f"expected a prompt of at most {PROMPT_PIECES} pieces, got"),
        ({"prompt_audio": np.zeros((2, 2), np.float32)}, r"expected mono float32 samples of shape \[N\]"),
    ],
)
def test_options_that_cannot_be_are_refused_and_take_no_slot(options, message):
    engine = Engine(tiny_family("like 1b"))
    with pytest.raises(ValueError, match=message):
        Session(engine, **options)
    with pytest.raises(TypeError, match="beam"):
        Session(engine, beam=5)
    one = clip(tiny_family("like 1b"), 14 * HOP - 100)
    assert_says(Session(engine, delay_s=0.5), one, [one.samples])  # the only slot is still free, and fresh


def test_a_vocabulary_that_is_too_small_is_refused():
    family = tiny_family("like 1b")
    small = SentencePiece(family.tokenizer.pieces[:-1])
    with pytest.raises(CheckpointError, match="expected a vocabulary of at least 320 pieces, got 319"):
        KyutaiSttStream(family.model, small)
