"""One live stream as its user holds it: what it takes, what it refuses, and what it says when."""

import numpy as np
import pytest

from earful.errors import AudioError, EarfulError, StreamClosed
from earful.events import Text, Word
from earful.stream.engine import Engine
from earful.stream.session import Session
from tests.helpers import chunked, clip, said, tiny_family

RATE = 16_000
SLOT = 1280


@pytest.fixture
def session():
    return Session(Engine(tiny_family("builtin")), delay_s=0.24)


@pytest.fixture
def one():
    return clip(tiny_family("builtin"), 2 * RATE - 100, 3)


def test_text_comes_as_soon_as_it_is_known(session, one):
    """With every slot of audio one id, and with it what that id says; the last mel frame looks a little ahead."""
    assert session.rate_hz == RATE
    memo = session._lane.memo
    after = tiny_family("builtin").after
    assert session.feed(one.samples[: 4 * SLOT + after - 1]) == []  # the delay and a slot more are not heard yet
    assert memo.ids == []
    events = session.feed(one.samples[4 * SLOT + after - 1 : 4 * SLOT + after])
    assert memo.ids == one.ids[:1]
    for slot in range(4, 20):
        come = session.feed(one.samples[slot * SLOT + after : (slot + 1) * SLOT + after])
        assert memo.ids == one.ids[: slot - 2]
        assert all(event.time_s == pytest.approx((slot + 1) * 0.08) for event in come if isinstance(event, Text))
        events += come
    assert session.heard_s == (20 * SLOT + after) / RATE
    events += session.feed(one.samples[20 * SLOT + after :]) + session.finish()
    assert events == one.events
    assert said(events) == tiny_family("builtin").tokenizer.decode(one.ids).lstrip()
    assert any(isinstance(event, Word) for event in events)


@pytest.mark.parametrize("seed", range(4))
def test_peek_is_what_finish_would_say_and_leaves_the_stream_alone(one, seed):
    """At random moments, also beside another session whose feeding steps this one."""
    family, rng = tiny_family("builtin"), np.random.default_rng(seed)
    engine = Engine(family, 2)
    session, beside = Session(engine, delay_s=0.24), Session(engine, delay_s=0.08)
    events, heard = [], 0
    for chunk in chunked(rng, one.samples):
        if rng.random() < 0.5:
            session._lane.framer.feed(chunk)  # as a server does, which steps everyone later
            session._samples += len(chunk)
            beside.feed(chunk)
        else:
            events += session.feed(chunk)
        heard += len(chunk)
        shorter = Session(Engine(family), delay_s=0.24)
        would = shorter.feed(one.samples[:heard]) + shorter.finish()
        assert events + session.peek() == would
        assert session.peek() == would[len(events) :]
    assert events + session.finish() == one.events


def test_peek_before_any_audio(session):
    silent = Session(Engine(tiny_family("builtin")), delay_s=0.24)
    assert session.peek() == silent.finish()
    assert session.heard_s == 0


@pytest.mark.parametrize(
    "bad, got",
    [
        (np.zeros(5, np.int16), r"got int16 \(divide 16-bit samples by 32768\)"),
        (np.zeros(5, np.uint8), "got uint8"),
        (np.zeros(5, np.complex64), "got complex64"),
        (np.zeros((5, 2), np.float32), r"got shape \[5, 2\]"),
        (np.float32(0.5), "got float32"),
        (np.array(0.5, np.float32), r"got shape \[\]"),
        (np.array([0, np.nan, 1], np.float32), "got nan"),
        (np.array([0, -np.inf]), "got -inf"),
        (np.array([1e300]), "got inf"),
        ([0.0, 0.5], "got list"),
        (b"\0\0", "got bytes"),
        (None, "got NoneType"),
    ],
    ids=repr,
)
def test_bad_samples_are_refused_and_the_session_lives_on(session, one, bad, got):
    events = session.feed(one.samples[:9000])
    with pytest.raises(ValueError, match=f"^expected [^\n]+, {got}$") as caught:
        session.feed(bad)
    assert isinstance(caught.value, AudioError)
    assert session.heard_s == 9000 / RATE
    assert events + session.feed(one.samples[9000:]) + session.finish() == one.events


def test_double_precision_and_strided_samples_are_taken(session, one):
    events = session.feed(one.samples[:9000].astype(np.float64))
    twice = np.repeat(one.samples[9000:], 2)
    assert events + session.feed(twice[::2]) + session.finish() == one.events


def test_what_was_fed_may_be_overwritten(session, one):
    """A microphone's buffer is used again."""
    buffer, events = np.empty(333, np.float32), []
    for begin in range(0, len(one.samples), 333):
        chunk = one.samples[begin : begin + 333]
        buffer[: len(chunk)] = chunk
        events += session.feed(buffer[: len(chunk)])
        buffer[:] = 7.0
    assert events + session.finish() == one.events


def test_a_finished_stream_is_closed(session):
    session.feed(np.zeros(100, np.float32))
    session.finish()
    for use in (lambda: session.feed(np.zeros(1, np.float32)), session.finish, session.peek):
        with pytest.raises(StreamClosed, match="^expected an open stream, got one that has finished") as caught:
            use()
        assert isinstance(caught.value, EarfulError)
        assert isinstance(caught.value, ValueError)
    session.close()  # harmless


def test_leaving_the_block_gives_the_slot_back_whatever_happened(one):
    engine = Engine(tiny_family("builtin"))
    with Session(engine) as session:
        session.feed(one.samples)
    with pytest.raises(StreamClosed):
        session.feed(one.samples)
    with pytest.raises(KeyboardInterrupt), Session(engine):
        raise KeyboardInterrupt
    with Session(engine) as session:
        session.finish()
        Session(engine, delay_s=0.24)  # which has the slot now, and keeps it
    assert engine.lanes[0] is not None


def test_sessions_of_one_engine_hear_only_their_own(one):
    family = tiny_family("builtin")
    engine, rng = Engine(family, 3), np.random.default_rng(3)
    clips = [one, clip(family, 40 * SLOT, 1), clip(family, 40 * SLOT, 6)]
    sessions = [Session(engine, delay_s=each.delay_s) for each in clips]
    come: list[list] = [[], [], []]
    waiting = {i: chunked(rng, each.samples) for i, each in enumerate(clips)}
    while waiting:
        i = int(rng.choice(list(waiting)))
        chunk = next(waiting[i], None)
        if chunk is None:
            come[i] += sessions[i].finish()
            del waiting[i]
        else:
            come[i] += sessions[i].feed(chunk)
    assert come == [each.events for each in clips]
    assert engine.lanes == [None] * 3
