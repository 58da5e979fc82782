"""The speaker, fed block by block."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np

from earful.audio.frames import Samples
from earful.audio.microphone import sound_library
from earful.errors import AudioError


class Speaker:
    """What is said and not yet played. Silence is played where nothing has come in time."""

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._waiting: deque[Samples] = deque()
        self._count = 0  # samples in it
        self._lock = Lock()  # the sound library takes in a thread of its own

    @property
    def waiting_s(self) -> float:
        """Seconds of what still has to be played."""
        return self._count / self.rate_hz

    def play(self, samples: Samples) -> None:
        """samples: float32 [N], played behind what waits."""
        with self._lock:
            self._waiting.append(samples)
            self._count += len(samples)

    def take(self, count: int) -> Samples:
        """The next samples, [count], and silence behind them where there are fewer."""
        taken, free = np.zeros(count, np.float32), 0
        with self._lock:
            while self._waiting and free < count:
                block = self._waiting.popleft()
                part = block[: count - free]
                taken[free : free + len(part)] = part
                free += len(part)
                if len(part) < len(block):
                    self._waiting.appendleft(block[len(part) :])
            self._count -= free
        return taken


@contextmanager
def speaker(rate_hz: int, device: str | None = None) -> Iterator[Speaker]:
    """Open the speaker for mono float32 at rate_hz.

    device: a name or a number of sounddevice's; None is the system's choice. Raises AudioError when sounddevice is not
    installed or there is no such device.
    """
    library = sound_library()
    player = Speaker(rate_hz)

    def wanted(block: Any, frames: int, time: Any, status: Any) -> None:
        block[:, 0] = player.take(frames)

    chosen = int(device) if device is not None and device.isdigit() else device
    try:
        stream = library.OutputStream(
            samplerate=rate_hz, device=chosen, channels=1, dtype="float32", latency="low", callback=wanted
        )
    except (library.PortAudioError, ValueError) as error:
        name = f"the speaker {device!r}" if device is not None else "a speaker"
        raise AudioError(f"expected {name} at {rate_hz} Hz, got: {str(error).splitlines()[0]}") from error
    with stream:
        yield player
