"""What a session must write first: pieces of text, each when the model finds it time for one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PROMPT_PIECES = 256  # the longest prompt


@dataclass
class Prompt:
    """A state, see nn/state.py; where it is zero nothing must be written."""

    pieces: Tensor  # [B, PROMPT_PIECES] int64, in order
    at: Tensor  # [B] int64, how many of them have been written
    end: Tensor  # [B] int64, how many there are

    @classmethod
    def empty(cls, batch: int, device: torch.device) -> Prompt:
        count = torch.zeros(batch, dtype=torch.int64, device=device)
        return cls(count[:, None].repeat(1, PROMPT_PIECES), count, count.clone())

    def begin(self, pieces: Sequence[int], vocab: int) -> None:
        """Of a state of one row that is zero. vocab: ids that can be written. Raises ValueError for other ones, and for
        too many."""
        if len(pieces) > PROMPT_PIECES:
            raise ValueError(f"expected a prompt of at most {PROMPT_PIECES} pieces, got {len(pieces)}")
        if max(pieces, default=0) >= vocab:
            raise ValueError(f"expected a prompt of pieces below {vocab}, got {max(pieces)}")
        self.pieces[0, : len(pieces)] = torch.tensor(pieces, dtype=torch.int64)
        self.end.fill_(len(pieces))

    def restrict(self, logits: Tensor, silence: Tensor) -> Tensor:
        """logits: [B, V] -> the same where nothing is left, else -inf for all but the next piece and `silence`."""
        allowed = torch.cat([silence.expand(len(logits), -1), self._next()], dim=1)
        refused = torch.ones_like(logits, dtype=torch.bool).scatter_(1, allowed, False) & self.left()[:, None]
        return logits.masked_fill(refused, -math.inf)

    def advance(self, ids: Tensor, active: Tensor | None) -> None:
        """ids: [B] int64, what has been written now; active: [B] bool, slots where it has, None for all."""
        written = (self.left() & (ids == self._next()[:, 0])).long()
        self.at.add_(written if active is None else written * active)

    def left(self) -> Tensor:
        """Rows in which something is: [B] bool."""
        return self.at < self.end

    def _next(self) -> Tensor:  # [B, 1]
        return self.pieces.gather(1, self.at.clamp(max=PROMPT_PIECES - 1)[:, None])
