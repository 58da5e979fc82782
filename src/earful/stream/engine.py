"""B slots and one step loop: the sessions that have a whole hop ready are stepped together, the others are frozen."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earful.audio.frames import Framer
from earful.errors import EngineFull
from earful.events import Event
from earful.nn.state import nbytes, reset, select

Samples = npt.NDArray[np.floating[Any]]


class Family(Protocol):
    """What a model family brings: see models/*/stream.py."""

    rate_hz: int
    hop: int  # samples of one step
    before: int  # samples that a step sees before its own
    after: int  # and behind
    lead: int  # samples of silence before the first one
    chunk: int  # the most steps in one call
    delay_s: float | None  # of a session that chooses none

    def init_state(self, batch: int) -> Any: ...
    def open(self, state: Any, slot: int, **options: Any) -> Any: ...
    def step(self, state: Any, samples: Tensor, counts: list[int]) -> Tensor: ...
    def events(self, ids: list[Any], memo: Any) -> list[Event]: ...  # rows of what `step` returns
    def tail_slots(self, memo: Any) -> int: ...
    def finish(self, memo: Any) -> list[Event]: ...


@dataclass
class Lane:
    """One session's place in the engine: its audio that waits, its host memory, its events that wait."""

    slot: int
    framer: Framer
    memo: Any
    finished: bool = False  # no more audio will come
    events: list[Event] = field(default_factory=list)


class Engine:
    """Runs up to `slots` sessions of one model. Not thread-safe: one loop owns it."""

    def __init__(self, family: Family, slots: int = 1) -> None:
        if slots < 1:
            raise ValueError(f"expected at least 1 slot, got {slots}")
        self.family = family
        self.state = family.init_state(slots)
        self.lanes: list[Lane | None] = [None] * slots

    @property
    def bytes_per_slot(self) -> int:
        """What one more session costs in device memory."""
        return nbytes(self.state) // len(self.lanes)

    @torch.inference_mode()
    def open(self, **options: Any) -> Lane:
        """Take a free slot for a new session. Raises EngineFull when there is none."""
        if None not in self.lanes:
            raise EngineFull(f"expected a free slot, got {len(self.lanes)} sessions in {len(self.lanes)} slots")
        slot = self.lanes.index(None)
        family = self.family
        framer = Framer(family.hop, family.before, family.after)
        framer.feed(np.zeros(family.lead, np.float32))
        lane = Lane(slot, framer, family.open(self.state, slot, **options))
        self.lanes[slot] = lane
        return lane

    @torch.inference_mode()
    def close(self, lane: Lane) -> None:
        """Give the slot back; nothing of its stream stays behind."""
        if self.lanes[lane.slot] is lane:
            self.lanes[lane.slot] = None
            reset(self.state, [lane.slot])

    def finish(self, lane: Lane, heard_s: float) -> None:
        """No more audio will come: add the silence that brings out what the model still holds back."""
        lane.memo.limit_s = heard_s
        lane.framer.finish(self.family.tail_slots(lane.memo))
        lane.finished = True

    def pump(self) -> None:
        """Step until no session has a whole hop left."""
        while self.step():
            pass

    def step(self) -> bool:
        """One call of the model, for as many hops as some session can fill. Returns whether there was any to do."""
        lanes = [lane for lane in self.lanes if lane is not None and lane.framer.ready]
        if not lanes:
            return False
        family = self.family
        # A finished lane may take part with what it has: its last call leaves a state that nobody needs. The others
        # fill the whole call or, so that none of them waits for another's backlog, hear one hop each.
        size = min(family.chunk, max(lane.framer.ready for lane in lanes))
        if any(lane.framer.ready < family.chunk for lane in lanes if not lane.finished):
            size = 1
        counts = [0] * len(self.lanes)
        samples = np.zeros((len(self.lanes), size * family.hop + family.before + family.after), np.float32)
        for lane in lanes:
            counts[lane.slot] = hops = min(size, lane.framer.ready)
            taken = lane.framer.take(hops)
            samples[lane.slot, : len(taken)] = taken
        rows = family.step(self.state, torch.from_numpy(samples), counts).tolist()
        for lane in lanes:
            lane.events += family.events(rows[lane.slot][: counts[lane.slot]], lane.memo)
            if lane.finished and not lane.framer.ready:
                lane.events += family.finish(lane.memo)
        return True

    @torch.inference_mode()
    def preview(self, lane: Lane, heard_s: float) -> list[Event]:
        """What would come if the stream ended here; the stream itself does not notice."""
        alone = copy.copy(self)
        alone.state = select(self.state, [lane.slot])
        ahead = replace(copy.deepcopy(lane), slot=0)
        alone.lanes = [ahead]
        alone.finish(ahead, heard_s)
        alone.pump()
        return ahead.events
