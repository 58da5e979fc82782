"""The law for Voxtral Realtime: ids, text, words and times of a stream are those of the plain offline definition."""

import copy
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.generate import ahead
from earful.models.voxtral.model import VoxtralRealtime
from earful.models.voxtral.stream import CHUNK_SLOTS, Policy, VoxtralStream
from earful.nn.state import leaves, row, select
from earful.stream.engine import Engine, Lane
from earful.stream.session import Session
from tests.helpers import (
    LIVE,
    SIZES,
    Clip,
    Recorded,
    clip,
    hear_all,
    near_tie,
    offline,
    spoken_like,
    tiny_family,
)

SLOT = 1280
SLOT_S = 0.08
BOS, END, BLANK, MARKER, SPECIAL, BYTE = 1, 2, 32, 33, 35, 40  # of the tiny tokenizer; the 256 bytes from 40 on


def assert_says(session: Session, one: Clip, chunks: list[np.ndarray]) -> None:
    """The session, fed with these chunks, says what the clip gives offline."""
    memo = session._lane.memo
    events = [event for chunk in chunks for event in session.feed(chunk)]
    events += session.finish()
    assert memo.ids == one.ids
    assert events == one.events


# ------------------------------------------------------------------------------------------------------------ the law


@pytest.mark.parametrize("sizes", SIZES)
@settings(max_examples=10)
@given(
    cuts=st.lists(st.integers(0, 40 * SLOT) | st.integers(0, 40).map(lambda n: n * SLOT + 40), max_size=12),
    delay=st.sampled_from([1, 6]),
)
def test_any_chunks_say_what_the_whole_says(sizes, cuts, delay):
    family = tiny_family(sizes)
    one = clip(family, 40 * SLOT - 77, delay)
    assert len(set(one.ids)) > 8  # a model that hears, not one that repeats itself
    session = Session(Engine(family), delay_s=one.delay_s)
    assert_says(session, one, np.split(one.samples, sorted(min(cut, len(one.samples)) for cut in cuts)))


@pytest.mark.parametrize("sizes", ["published", "builtin"])
def test_single_samples_say_what_the_whole_says(sizes):
    one = clip(tiny_family(sizes), 3 * SLOT + 41, 2)
    assert_says(Session(Engine(tiny_family(sizes)), delay_s=one.delay_s), one, list(one.samples[:, None]))


@pytest.mark.parametrize("length", [0, 1, 39, 40, 41, 200, 1279, 1280, 1281, 1319, 1320, 1321, 9000])
@pytest.mark.parametrize("sizes", ["published", "builtin"])
def test_audio_of_any_length(sizes, length):
    one = clip(tiny_family(sizes), length, 6)
    assert len(one.ids) == math.ceil(length / SLOT) + 11
    assert_says(Session(Engine(tiny_family(sizes)), delay_s=0.48), one, [one.samples])


@pytest.mark.parametrize("delay", [1, 2, 3, 7, 12, 15, 29, 30])
def test_any_delay(delay):
    one = clip(tiny_family("published"), 10 * SLOT, delay)
    assert_says(Session(Engine(tiny_family("published")), delay_s=one.delay_s), one, [one.samples])


def test_the_delay_of_the_model_is_the_default():
    family = tiny_family("published")
    one = clip(family, 10 * SLOT, family.config.audio.delay_slots)
    assert_says(Session(Engine(family)), one, [one.samples])


@pytest.mark.parametrize("delay_s", [0.1, 0, 0.04, -0.08, 2.48, 1e9, math.nan, math.inf])
def test_other_delays_are_refused_and_take_no_slot(delay_s):
    engine = Engine(tiny_family("builtin"))
    with pytest.raises(ValueError, match=r"^expected a delay of 0.08 to 2.4 s in steps of 0.08 s, got \S+ s$"):
        Session(engine, delay_s=delay_s)
    Session(engine, delay_s=2.4)  # the only slot is still free


@pytest.mark.parametrize(
    "change, message",
    [
        ({"left_slots": 0}, "expected at least 1 silent slot before the audio, got 0"),
        ({"log_max": None}, "expected a constant log_max, got none"),
    ],
)
def test_a_model_that_cannot_stream_is_refused(change, message):
    config = tiny_family("builtin").config
    with torch.device("meta"):
        model = VoxtralRealtime(replace(config, audio=replace(config.audio, **change)))
    with pytest.raises(ValueError, match=message):
        VoxtralStream(model, tiny_family("builtin").tokenizer)


# -------------------------------------------------------------------------------------------------------------- state


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_frozen_slots_do_not_notice_and_nothing_moves_in_memory(seed):
    """Random slots step, by 1 or by 32; the others are handed noise. Each says what it says alone."""
    family, rng = tiny_family("builtin"), np.random.default_rng(seed)
    clips = [clip(family, 70 * SLOT, delay) for delay in (1, 6, 12)]
    state = family.init_state(3)
    addresses = [leaf.data_ptr() for leaf in leaves(state)]
    rings = {leaf.data_ptr() for part in (state.encoder, state.decoder) for leaf in leaves(part.layers)}
    memos = [family.open(state, slot, one.delay_s) for slot, one in enumerate(clips)]
    before_audio = np.zeros(family.lead + family.before, np.float32)
    signals = [np.concatenate([before_audio, one.samples]) for one in clips]
    at = [0, 0, 0]
    for _ in range(20):
        slots = int(rng.choice([1, CHUNK_SLOTS], p=[0.8, 0.2]))
        counts = [slots if rng.random() < 0.6 and begin + slots < 70 else 0 for begin in at]
        if not any(counts):
            continue
        samples = rng.standard_normal((3, slots * SLOT + family.before + family.after)).astype(np.float32)
        for slot, count in enumerate(counts):
            if count:
                samples[slot] = signals[slot][at[slot] * SLOT :][: samples.shape[1]]
                at[slot] += count
        before = select(state, range(3))
        rows = family.step(state, torch.from_numpy(samples), counts).tolist()
        for slot, count in enumerate(counts):
            family.events(rows[slot][:count], memos[slot])
        for leaf, old in zip(leaves(state), leaves(before), strict=True):
            for slot, count in enumerate(counts):
                if not count and leaf.data_ptr() not in rings:  # what is written to a ring shows, or not, in the ids
                    assert torch.equal(leaf[slot], old[slot])
        assert [leaf.data_ptr() for leaf in leaves(state)] == addresses
    for memo, one in zip(memos, clips, strict=True):
        assert memo.ids == one.ids[: len(memo.ids)]


def test_a_stream_goes_on_exactly_after_six_hours(monkeypatch):
    """Ids as after ten seconds, in any chunks and beside a stream that has just begun; logits but for rounding."""
    family = Recorded(tiny_family("builtin").model, tiny_family("builtin").tokenizer)
    family.chunk = 128  # fewer calls
    decoder, delay_s = family.model.decoder, 0.48
    silence = torch.full((1, family.config.encoder.mels, family.chunk * family.config.mels_per_slot), -0.625)
    blanks = torch.full((1, family.chunk), BLANK)
    state = family.init_state(1)
    family.open(state, 0, delay_s)

    @torch.inference_mode()
    def silent_for(seconds: float) -> None:
        while state.decoder.pos < seconds / SLOT_S:
            audio = family.model.hear(silence, state.encoder)
            decoder(decoder.embed(blanks) + audio, state.gains, state.decoder)
        state.token.fill_(BLANK)

    @torch.inference_mode()
    def resume(engine: Engine) -> Lane:
        lane = engine.open(delay_s=delay_s)
        for leaf, late in zip(leaves(row(engine.state, lane.slot)), leaves(state), strict=True):
            leaf.copy_(late)
        lane.memo.position = int(state.decoder.pos)
        return lane

    def logits_of_the_whole() -> torch.Tensor:
        found, plain = [], decoder.logits
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "logits", lambda x: found.append(plain(x)) or found[-1])
            engine = Engine(family)
            lane = resume(engine)
            lane.framer.feed(samples)
            engine.finish(lane, len(samples) / family.rate_hz)
            engine.pump()
        assert lane.memo.ids == expected
        return torch.cat(found)[:, 0]  # [passes, V]

    rng, logits = np.random.default_rng(6), torch.zeros(1, 2)
    while near_tie(logits):
        samples = spoken_like(rng, 30 * SLOT - 300)
        # Of silence that lies before the windows of every layer nothing is left.
        expected, logits = offline(family, samples, 6, blanks=40)
    assert len(set(expected)) > 8
    silent_for(10)
    early = logits_of_the_whole()
    silent_for(6 * 3600)
    torch.testing.assert_close(logits_of_the_whole(), early, rtol=0, atol=1e-3)

    beside = clip(tiny_family("builtin"), 30 * SLOT, 1)
    for _ in range(3):
        engine = Engine(family, 2)
        young, old = engine.open(delay_s=beside.delay_s), resume(engine)
        hear_all(engine, rng, [(young, beside.samples), (old, samples)])
        assert old.memo.ids == expected
        assert young.memo.ids == beside.ids


# ----------------------------------------------------------------------------------------------------------- policies


def rigged(policy: Policy, lead: float) -> Recorded:
    """A model that always prefers the blank, by so much, to the marker of a word."""
    config = tiny_family("builtin").config
    model = VoxtralRealtime(config)
    logits = torch.zeros(config.decoder.vocab)
    logits[BLANK], logits[MARKER] = 20.0 + lead, 20.0
    model.decoder.logits = lambda x: logits.expand(*x.shape[:-1], -1).clone()
    return Recorded(model, tiny_family("builtin").tokenizer, policy)


@pytest.mark.parametrize("lead, until", [(0.25, 1), (3.0, 7), (6.9, 14)])
def test_a_blank_rut_is_left(lead, until):
    """After 5 blanks their logit falls by 0.5 with each one more; a word begins the count anew."""
    engine = Engine(rigged(Policy(rut_slots=5), lead), 2)
    first, second = engine.open(delay_s=0.08), engine.open(delay_s=0.8)
    silence = np.zeros(50 * SLOT, np.float32)
    hear_all(engine, np.random.default_rng(0), [(first, silence), (second, silence[:SLOT])])
    period = [BLANK] * (5 + until) + [MARKER]
    assert first.memo.ids == (period * 61)[:61]
    assert second.memo.ids == (period * 12)[:12]


@pytest.mark.parametrize("policy, lead", [(Policy(rut_slots=5), 7.5), (LIVE, 0.1)])
def test_true_silence_stays_silent(policy, lead):
    session = Session(Engine(rigged(policy, lead)), delay_s=0.08)
    memo = session._lane.memo
    session.feed(np.zeros(100 * SLOT, np.float32))
    assert session.finish() == []
    assert memo.ids == [BLANK] * 111


def with_ids(policy: Policy, **ids: int) -> Recorded:
    """The tiny model where other ids have a meaning of their own."""
    family = tiny_family("builtin")
    model = copy.copy(family.model)
    model.config = replace(family.config, ids=replace(family.config.ids, **ids))
    return Recorded(model, family.tokenizer, policy)


def test_the_end_of_text_keeps_the_law():
    plain = clip(tiny_family("builtin"), 40 * SLOT, 6)
    middle = next(id for id in plain.ids[10:] if id not in plain.ids[:10])
    family = with_ids(Policy(stop_at_end=True), eos=middle)
    one = clip(family, 40 * SLOT, 6)
    engine = Engine(family)
    lane = engine.open(delay_s=one.delay_s)
    hear_all(engine, np.random.default_rng(1), [(lane, one.samples)])
    assert lane.memo.ids == one.ids == plain.ids
    assert lane.events == one.events
    assert 0 < len(one.text) < len(plain.text)
    assert plain.text.startswith(one.text.rstrip("\ufffd"))


def test_leaving_a_rut_keeps_the_law():
    (common, _), *_ = Counter(clip(tiny_family("builtin"), 40 * SLOT, 6).ids).most_common()
    plain = clip(with_ids(LIVE, blank=common), 40 * SLOT, 6)
    family = with_ids(Policy(rut_slots=0), blank=common)
    one = clip(family, 40 * SLOT, 6)
    assert 1 < one.ids.count(common) < plain.ids.count(common)
    engine = Engine(family, 2)
    lanes = [engine.open(delay_s=one.delay_s) for _ in range(2)]
    hear_all(engine, np.random.default_rng(1), [(lane, one.samples) for lane in lanes])
    assert lanes[0].memo.ids == lanes[1].memo.ids == one.ids


@pytest.mark.parametrize("batch, rut_slots", [(1, None), (1, 2), (2, None), (2, 1), (3, 3)])
def test_slots_that_turn_out_to_be_blank_are_written_in_fewer_passes(monkeypatch, batch, rut_slots):
    """With the commonest id for a blank: the same ids as one slot after the other, for all delays and lengths."""
    (common, _), *_ = Counter(clip(tiny_family("builtin"), 40 * SLOT, 6).ids).most_common()
    rng = np.random.default_rng(batch)
    audio = [spoken_like(rng, int(rng.integers(30, 90)) * SLOT) for _ in range(batch)]

    def written_by(family):
        passes, write = [], family.write
        monkeypatch.setattr(
            family, "write", lambda state, heard, *rest: passes.append(heard) or write(state, heard, *rest)
        )
        engine = Engine(family, batch)
        lanes = [engine.open(delay_s=SLOT_S * (1 + 9 * row)) for row in range(batch)]
        for lane, samples in zip(lanes, audio, strict=True):
            lane.framer.feed(samples)
            engine.finish(lane, len(samples) / family.rate_hz)
        engine.pump()
        return [lane.memo.ids for lane in lanes], len(passes)

    ids, few = written_by(with_ids(Policy(rut_slots=rut_slots), blank=common))
    monkeypatch.setattr(ahead, "TYPICAL_ROWS", 1)
    expected, many = written_by(with_ids(Policy(rut_slots=rut_slots), blank=common))
    assert ids == expected
    assert sum(row.count(common) for row in ids) > 10 * batch
    assert few < many if batch < 3 else few == many
