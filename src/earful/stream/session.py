"""One live stream, as its user holds it."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from earful.errors import StreamClosed
from earful.events import Event
from earful.stream.engine import Engine


class Session:
    """Audio in, events out. Chunks of any length give the same events as the whole at once.

    Several sessions may share an engine: whatever is ready in any of them is stepped together.
    """

    def __init__(self, engine: Engine, **options: Any) -> None:
        """Takes a slot of the engine; options are the family's, such as delay_s. Raises EngineFull."""
        self._engine = engine
        self._lane = engine.open(**options)
        self._samples = 0
        self._open = True

    @property
    def rate_hz(self) -> int:
        """The rate that `feed` expects."""
        return self._engine.family.rate_hz

    @property
    def heard_s(self) -> float:
        """Seconds of audio fed so far."""
        return self._samples / self.rate_hz

    def feed(self, samples: npt.NDArray[np.floating[Any]]) -> list[Event]:
        """Hear some more. samples: [N] mono float at `rate_hz`, any N. Raises StreamClosed after `finish`."""
        self._require_open()
        self._lane.framer.feed(samples)
        self._samples += len(samples)
        self._engine.pump()
        return self._drain()

    def peek(self) -> list[Event]:
        """What would come if the stream ended here. A copy is asked: the stream goes on as if nothing had been."""
        self._require_open()
        return self._engine.preview(self._lane, self.heard_s)

    def finish(self) -> list[Event]:
        """The end of the audio: what was still inside the delay. The slot is free afterwards."""
        self._require_open()
        self._engine.finish(self._lane, self.heard_s)
        self._engine.pump()
        self.close()
        return self._drain()

    def close(self) -> None:
        """Give up the slot without asking for what is left."""
        self._open = False
        self._engine.close(self._lane)

    def _drain(self) -> list[Event]:
        events, self._lane.events = self._lane.events, []
        return events

    def _require_open(self) -> None:
        if not self._open:
            raise StreamClosed("expected an open stream, got one that has finished: open another with model.stream()")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self.close()
