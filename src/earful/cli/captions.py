"""Live captions: the lines that are said, and what a terminal shows of a session."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.text import Text as Styled

from earful.events import Event, Text
from earful.stream.transcript import Growing

PAUSE_S = 1.2  # after so long without a word a line is done, whatever comes
FRESH_S = 1.2  # how long a word counts as new
FLOOR_DB = -60.0
METER = "▁▂▃▄▅▆▇█"

Samples = npt.NDArray[np.float32]


def loudness_db(block: Samples) -> float:
    """Of a block, full scale being 0."""
    power = float(np.mean(np.square(block, dtype=np.float64))) if len(block) else 0.0
    return max(FLOOR_DB, float(10 * np.log10(power + 1e-12)))


def bars(level_db: float) -> str:
    """A level meter."""
    share = (level_db - FLOOR_DB) / -FLOOR_DB
    return "".join(bar if number / len(METER) < share else " " for number, bar in enumerate(METER))


class Captions:
    """What is said in a session and how it stands; of lines that are done it remembers nothing."""

    def __init__(self, model: str, delay_s: float | None, fast: bool = False) -> None:
        """model: its name; delay_s: of the session, if it has one; fast: it need not keep up with anything."""
        self.model, self.delay_s, self.fast = model, delay_s, fast
        self.growing = Growing()
        self.arrivals: deque[tuple[float, int]] = deque()  # when, and how many characters came, of late
        self.heard_s = self.elapsed_s = self.said_s = 0.0
        self.level_db = FLOOR_DB

    def heard(self, block: Samples, rate_hz: int, elapsed_s: float) -> None:
        """Count a block of audio. elapsed_s: since the session began, by the clock."""
        self.heard_s += len(block) / rate_hz
        self.elapsed_s = elapsed_s
        self.level_db = loudness_db(block)
        while self.arrivals and self.arrivals[0][0] < self.heard_s - FRESH_S:
            self.arrivals.popleft()

    def take(self, events: Sequence[Event], last: bool = False) -> list[str]:
        """What has come; returns the lines that are done by it, all of them when it is the last."""
        for event in events:
            if isinstance(event, Text):
                self.arrivals.append((self.heard_s, len(event.text)))
                self.said_s = self.heard_s
        lines = self.growing.take(events)
        if last or self.heard_s - self.said_s > PAUSE_S:
            lines += self.growing.rest(self.heard_s)
        return [segment.line for segment in lines]

    def picture(self) -> Group:
        """The line that is being said, what came last standing out, and a line of numbers."""
        text = self.growing.text.strip()
        settled = max(0, len(text) - sum(count for _, count in self.arrivals))
        said = Styled(text[:settled]) + Styled(text[settled:], style="bold cyan")
        minutes, seconds = divmod(int(self.heard_s), 60)
        state = [f"{bars(self.level_db)} {minutes:02}:{seconds:02}", self.model]
        if self.delay_s is not None:
            state.append(f"delay {self.delay_s * 1000:.0f} ms")
        if self.fast:
            state.append(f"{self.heard_s / max(self.elapsed_s, 1e-3):.1f} × real time")
        else:
            state.append(f"behind {max(0.0, self.elapsed_s - self.heard_s) * 1000:.0f} ms")
        return Group(said, Styled("  ".join(state), style="dim"))
