"""The law for many sessions in one batch, and what an engine promises about its slots."""

import numpy as np
import pytest

from earful.stream.engine import Engine
from tests.helpers import chunked, clip, tiny_family

SECOND = 16_000
LENGTHS = (0, 1, 399, 1279, 1280, 1281, 12_345, 2 * SECOND, 5 * SECOND)


@pytest.mark.parametrize("sizes, seed", [("published", 0), ("builtin", 1), ("no silence", 2), ("wide", 3)])
def test_sessions_that_come_and_go_say_what_each_says_alone(sizes, seed):
    family, rng = tiny_family(sizes), np.random.default_rng(seed)
    engine = Engine(family, 3)
    waiting = [clip(family, length, delay) for length in LENGTHS for delay in (1, 6)]
    rng.shuffle(waiting)
    sessions: list[tuple] = []
    finished = 0
    while waiting or sessions:
        while waiting and len(sessions) < 3 and rng.random() < 0.5:
            one = waiting.pop()
            sessions.append((engine.open(delay_s=one.delay_s), one, chunked(rng, one.samples)))
        for lane, one, chunks in list(sessions):
            if rng.random() < 0.5 and not lane.finished:
                chunk = next(chunks, None)
                if chunk is None:
                    engine.finish(lane, len(one.samples) / SECOND)
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
                waiting.append(one)
        for _ in range(rng.integers(4)):
            engine.step()
    assert finished == 2 * len(LENGTHS)
