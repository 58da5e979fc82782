import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earful.audio.frames import Framer, as_samples
from earful.errors import AudioError, StreamClosed


def ramp(count: int) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.float32)


@given(
    hop=st.integers(1, 9),
    before=st.integers(0, 12),
    after=st.integers(-8, 12),
    silence=st.integers(0, 3),
    chunks=st.lists(st.integers(0, 40), max_size=12),
    data=st.data(),
)
def test_blocks_are_slices_of_the_padded_stream(hop, before, after, silence, chunks, data):
    after = max(after, 1 - hop, -before)
    stream = ramp(sum(chunks))
    hops = -(-len(stream) // hop) + silence
    # Sample s of the stream lies at index before + s.
    whole = np.concatenate([np.zeros(before), stream, np.zeros((silence + 1) * hop + abs(after))]).astype(np.float32)
    framer, taken, fed = Framer(hop, before, after), 0, 0

    def take_some() -> None:
        nonlocal taken
        if framer.ready:
            count = data.draw(st.integers(1, framer.ready))
            block = framer.take(count)
            assert np.array_equal(block, whole[hop * taken : hop * (taken + count) + before + after])
            taken += count

    for chunk in chunks:
        framer.feed(stream[fed : fed + chunk])
        fed += chunk
        assert framer.ready == max(0, fed - after) // hop - taken  # as soon as it can be, never sooner
        take_some()
    framer.finish(silence)
    while framer.ready:
        take_some()
    assert taken == hops


def test_before_the_first_sample_is_zeros():
    framer = Framer(hop=4, before=3, after=2)
    framer.feed(ramp(5))
    assert framer.ready == 0
    framer.feed(ramp(1))
    assert framer.ready == 1
    assert framer.take(1).tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 1]


def test_negative_after_does_not_wait_for_the_end_of_a_hop():
    framer = Framer(hop=4, before=1, after=-1)
    framer.feed(ramp(3))
    assert framer.take(1).tolist() == [0, 1, 2, 3]
    framer.finish(0)
    assert framer.ready == 0  # the three samples were one hop, and it has been taken


def test_empty_stream_finishes_in_silence():
    framer = Framer(hop=4, before=1, after=1)
    framer.finish(2)
    assert framer.ready == 2
    assert framer.take(2).tolist() == [0] * 10


def test_a_block_is_the_callers_own():
    framer = Framer(hop=2, before=2, after=0)
    framer.feed(ramp(4))
    framer.take(1)[:] = 99
    assert framer.take(1).tolist() == [1, 2, 3, 4]


def test_fed_samples_may_be_reused_by_the_caller():
    framer = Framer(hop=2, before=0, after=0)
    chunk = ramp(2)
    framer.feed(chunk)
    chunk[:] = 99
    assert framer.take(1).tolist() == [1, 2]


def test_memory_follows_what_is_held_not_what_was_fed():
    framer = Framer(hop=100, before=50, after=10)
    framer.feed(np.zeros(1_000_000, np.float32))
    framer.take(framer.ready)
    assert framer._buffer.size < 1_000
    for _ in range(2_000):
        framer.feed(np.zeros(100, np.float32))
        framer.take(framer.ready)
    assert framer._buffer.size < 1_000


def test_copies_stay_linear_in_what_was_fed(monkeypatch):
    copied = 0
    move = Framer._move

    def counting(self, capacity):
        nonlocal copied
        copied += self._end - self._start
        move(self, capacity)

    monkeypatch.setattr(Framer, "_move", counting)
    framer = Framer(hop=10, before=5, after=0)
    for _ in range(5_000):  # nothing is taken: the buffer grows
        framer.feed(np.zeros(7, np.float32))
    while framer.ready:  # and now it shrinks
        framer.take(1)
    assert copied < 4 * 35_000


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.zeros(3, np.int16), "expected mono float32 samples, got int16"),
        (np.zeros(3, np.float16), "expected mono float32 samples, got float16"),
        (np.zeros((2, 3), np.float32), r"got shape \[2, 3\]"),
        ([0.0, 1.0], "got list"),
        (np.array([0, np.nan], np.float32), "expected finite samples, got nan"),
        (np.array([0, -np.inf]), "expected finite samples, got -inf"),
        (np.array([1e300]), "expected finite samples, got inf"),
    ],
)
def test_refuses_what_is_not_mono_float_and_stays_usable(bad, message):
    framer = Framer(hop=2, before=0, after=0)
    with pytest.raises(AudioError, match=message):
        framer.feed(bad)
    framer.feed(ramp(2))
    assert framer.take(1).tolist() == [1, 2]


def test_float64_becomes_float32():
    assert as_samples(np.array([0.1])).dtype == np.float32


@pytest.mark.parametrize("hops", [-1, 0, 2])
def test_takes_only_what_is_ready(hops):
    framer = Framer(hop=4, before=0, after=0)
    framer.feed(ramp(7))
    with pytest.raises(ValueError, match=f"expected 1 to 1 hops, which are ready, got {hops}"):
        framer.take(hops)


def test_a_finished_stream_is_closed():
    framer = Framer(hop=4, before=0, after=0)
    framer.finish(0)
    with pytest.raises(StreamClosed):
        framer.feed(ramp(1))
    with pytest.raises(StreamClosed):
        framer.finish(0)


@pytest.mark.parametrize("hop, before, after", [(0, 0, 0), (4, -1, 0), (4, 4, -4), (4, 1, -2)])
def test_refuses_impossible_sizes(hop, before, after):
    with pytest.raises(ValueError, match="expected hop >= 1"):
        Framer(hop, before, after)


def test_refuses_negative_silence():
    with pytest.raises(ValueError, match="expected hops_of_silence >= 0, got -1"):
        Framer(1, 0, 0).finish(-1)
