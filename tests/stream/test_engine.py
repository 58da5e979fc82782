"""The law for many sessions in one batch, and what an engine promises about its slots and its memory."""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest

from earful.errors import EngineFull, StreamClosed
from earful.models.voxtral.stream import CHUNK_SLOTS
from earful.nn.state import leaves, nbytes
from earful.stream.engine import Engine, Lane
from tests.helpers import chunked, clip, hear_all, spoken_like, tiny_family

RATE = 16_000
SLOT = 1280
LENGTHS = (0, 1, 399, 1279, 1280, 1281, 12_345, 2 * RATE, 50 * SLOT)


@pytest.mark.parametrize("sizes, seed", [("published", 0), ("builtin", 1), ("no silence", 2), ("wide", 3)])
def test_sessions_that_come_and_go_say_what_each_says_alone(sizes, seed):
    """Three slots; sessions of all lengths and two delays join, leave at the end or before, and try again."""
    family, rng = tiny_family(sizes), np.random.default_rng(seed)
    engine = Engine(family, 3)
    waiting = [clip(family, length, delay) for length in LENGTHS for delay in (1, 6)]
    rng.shuffle(waiting)
    sessions, left, finished = [], 0, 0
    while waiting or sessions:
        while waiting and len(sessions) < 3 and rng.random() < 0.5:
            one = waiting.pop()
            sessions.append((engine.open(delay_s=one.delay_s), one, chunked(rng, one.samples)))
        for lane, one, chunks in list(sessions):
            if rng.random() < 0.5 and not lane.finished:
                chunk = next(chunks, None)
                if chunk is None:
                    engine.finish(lane, len(one.samples) / RATE)
                else:
                    lane.framer.feed(chunk)
            if lane.finished and not lane.framer.ready:
                assert lane.memo.ids == one.ids
                assert lane.events == one.events
                engine.close(lane)
                sessions.remove((lane, one, chunks))
                finished += 1
            elif rng.random() < 0.02:
                engine.close(lane)
                sessions.remove((lane, one, chunks))
                waiting.insert(0, one)
                left += 1
        for _ in range(rng.integers(4)):
            engine.step()
    assert finished == 2 * len(LENGTHS)
    assert left > 2


def test_a_slot_is_zero_once_it_is_released():
    """And what is released is the session's own slot alone."""
    family = tiny_family("builtin")
    engine = Engine(family, 2)
    one, other = clip(family, 12_345, 6), clip(family, 2 * RATE, 1)
    lanes = [engine.open(delay_s=one.delay_s), engine.open(delay_s=other.delay_s)]
    for lane in lanes:
        lane.framer.feed(other.samples)
    engine.pump()
    assert all(leaf[slot].any() for leaf in leaves(engine.state.encoder) for slot in (0, 1))
    engine.close(lanes[0])
    assert not any(leaf[0].any() for leaf in leaves(engine.state))
    assert all(leaf[1].any() for leaf in leaves(engine.state.encoder))
    again = engine.open(delay_s=one.delay_s)
    assert again.slot == 0
    engine.finish(lanes[1], 2.0)
    hear_all(engine, np.random.default_rng(0), [(again, one.samples)])
    assert again.memo.ids == one.ids
    assert lanes[1].memo.ids == other.ids


def test_closing_twice_does_not_take_another_sessions_slot():
    engine = Engine(tiny_family("builtin"))
    gone = engine.open()
    engine.close(gone)
    lane = engine.open()
    engine.close(gone)
    assert engine.lanes == [lane]
    assert engine.state.decoder.pos.item() == tiny_family("builtin").config.audio.left_slots - 1


def test_a_full_engine_says_so():
    engine = Engine(tiny_family("builtin"), 2)
    lanes = [engine.open(), engine.open()]
    with pytest.raises(EngineFull, match="^expected a free slot, got 2 sessions in 2 slots$"):
        engine.open()
    engine.close(lanes[0])
    assert engine.open().slot == 0


@pytest.mark.parametrize("slots", [0, -1])
def test_an_engine_has_slots(slots):
    with pytest.raises(ValueError, match=f"expected at least 1 slot, got {slots}"):
        Engine(tiny_family("builtin"), slots)


def test_bytes_of_a_slot_do_not_depend_on_their_number():
    family = tiny_family("builtin")
    assert Engine(family, 5).bytes_per_slot == Engine(family, 1).bytes_per_slot == nbytes(family.init_state(1))


def test_a_live_session_does_not_wait_for_anothers_backlog():
    """One has a minute of audio waiting, the other speaks a slot at a time and is answered at once."""
    engine = Engine(tiny_family("builtin"), 2)
    late, live = engine.open(), engine.open()
    late.framer.feed(np.zeros(60 * RATE, np.float32))
    for _ in range(5):
        live.framer.feed(np.zeros(SLOT, np.float32))
        while live.framer.ready:
            before = late.framer.ready
            engine.step()
            assert late.framer.ready < before
        assert live.framer.ready == 0
        engine.step()
    assert late.framer.ready <= 60 * RATE // SLOT - 4 * CHUNK_SLOTS  # and a backlog alone is heard in large calls


def test_steps_are_few_and_of_two_sizes_while_a_stream_is_open(monkeypatch):
    """So that a captured graph of each fits; only what ends may come in a last call of another size."""
    family = tiny_family("builtin")
    engine = Engine(family, 2)
    sizes, step = [], family.step
    monkeypatch.setattr(
        family, "step", lambda state, samples, counts: sizes.append(counts) or step(state, samples, counts)
    )
    lane = engine.open(delay_s=0.08)
    lane.framer.feed(np.zeros(70 * SLOT + family.after, np.float32))
    engine.pump()
    assert sizes == [[32, 0], [32, 0], *[[1, 0]] * 7]
    sizes.clear()
    other = engine.open(delay_s=0.16)
    other.framer.feed(np.zeros(70 * SLOT, np.float32))
    engine.finish(lane, 5.6)
    engine.finish(other, 5.6)
    engine.pump()
    assert sizes == [[12, 32], [0, 32], [0, 20]]


def test_nothing_is_fed_to_a_finished_lane():
    engine = Engine(tiny_family("builtin"))
    lane = engine.open()
    engine.finish(lane, 0.0)
    with pytest.raises(StreamClosed):
        lane.framer.feed(np.zeros(1, np.float32))
    with pytest.raises(StreamClosed):
        engine.finish(lane, 0.0)


# ------------------------------------------------------------------------------------------------------------- memory


def hear(engine: Engine, lane: Lane, rng: np.random.Generator, seconds: int) -> None:
    """So much audio, in chunks of 0.1 s."""
    for _ in range(seconds * 10):
        lane.framer.feed(spoken_like(rng, RATE // 10))
        engine.pump()
        assert len(lane.events) < 20
        assert len(lane.framer._buffer) < 20 * SLOT
        lane.events.clear()
        lane.memo.ids.clear()  # which is the tests' own
    gc.collect()


def test_a_stream_does_not_grow():
    """30 s are 375 slots: what keeps one object of each shows."""
    engine, rng = Engine(tiny_family("builtin")), np.random.default_rng(0)
    lane = engine.open(delay_s=0.08)
    hear(engine, lane, rng, 10)
    early = sys.getallocatedblocks()
    hear(engine, lane, rng, 30)
    assert abs(sys.getallocatedblocks() - early) < 200
    held = [value for value in vars(lane.memo).values() if hasattr(value, "__len__")]
    assert held
    assert all(len(value) < 100 for value in held)


@pytest.mark.slow
def test_resident_memory_is_flat_from_minute_1_to_minute_30():
    engine, rng = Engine(tiny_family("builtin")), np.random.default_rng(0)
    lane = engine.open(delay_s=0.08)

    def resident_pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    hear(engine, lane, rng, 60)
    early = resident_pages()
    for _ in range(29):
        hear(engine, lane, rng, 60)
        assert abs(resident_pages() - early) <= 0.01 * early
