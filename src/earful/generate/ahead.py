"""Writing ahead: where all is heard, steps are taken to say nothing and written in one pass, and wrong ones again.

Source: speculative decoding (Leviathan et al. 2023), with silence for a draft.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from earful.nn.linear import TYPICAL_ROWS


@dataclass(frozen=True)
class Written:
    """What a pass over K steps of each row wrote; it holds up to the first step that did not read what was written."""

    said: Tensor  # [B, K, ...]
    count: Tensor  # [B] int64, how many steps of it hold

    def last(self, values: Tensor) -> Tensor:
        """values: [B, K] -> those of the last step that holds, [B]."""
        return values.gather(1, (self.count - 1).clamp(min=0)[:, None])[:, 0]


class Pass(Protocol):
    def __call__(self, heard: Tensor, active: Tensor | None, most: Tensor | None) -> Written:
        """heard: [B, K, ...]; active: [B] bool, rows that move on; most: [B] int64, steps that a row may take."""


def guesses(weight: Tensor, batch: int) -> int:
    """How many steps more than one a pass may take at no cost: weights are read once for a few rows as for one.

    weight: a tensor of the model's type. None in bfloat16, where rows that are multiplied together may be rounded
    otherwise than one at a time, so that a live stream could write something else.
    """
    return max(0, TYPICAL_ROWS // batch - 1) if weight.dtype == torch.float32 else 0


def held(right: Tensor, most: Tensor | None) -> Tensor:
    """right: [B, K - 1] bool, whether the step behind each one has read what that wrote -> how many steps hold, [B]."""
    count = 1 + right.long().cumprod(1).sum(1)
    return count if most is None else count.minimum(most)


def write_steps(write: Pass, heard: Tensor, active: Tensor | None, ahead: int) -> Tensor:
    """What is said beside `heard`, [B, T, ...] both, in passes of `ahead` steps more than one."""
    steps = heard.shape[1]
    if not ahead or steps < 2:
        return torch.cat([write(heard[:, t : t + 1], active, None).said for t in range(steps)], dim=1)
    window = torch.arange(ahead + 1, device=heard.device)
    rows = torch.arange(len(heard), device=heard.device)[:, None]
    # What a row hears and says once it is done stands behind.
    heard = F.pad(heard, (0, 0) * (heard.ndim - 2) + (0, len(window)))
    done = torch.zeros(len(heard), dtype=torch.int64, device=heard.device)
    if active is not None:
        done.masked_fill_(~active, steps)
    said: Tensor | None = None
    while said is None or not (done == steps).all():
        at = done[:, None] + window  # [B, K]
        written = write(heard[rows, at], done < steps, steps - done)
        if said is None:
            said = written.said.new_zeros(*heard.shape[:2], *written.said.shape[2:])
        said[rows, at] = written.said  # what does not hold is written over by the next pass
        done += written.count.masked_fill(done == steps, 0)
    return said[:, :steps]
