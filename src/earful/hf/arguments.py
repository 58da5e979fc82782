"""Arguments that several of the documents' classes share, checked and translated."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Begun(Protocol):
    """A state that tells how far its stream is."""

    pos: Tensor  # [B] int64


def initialise(model: nn.Module, spread: float) -> None:
    """Random weights of this standard deviation, biases zero, norms one."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=spread)
        else:
            nn.init.constant_(parameter, float(name.endswith("norm.weight")))


def require_one(**either: object) -> None:
    """Exactly one of two arguments."""
    given = [name for name, value in either.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"expected exactly one of {' and '.join(either)}, got {' and '.join(given) or 'neither'}")


def caching(asked: bool | None, configured: bool, output_attentions: bool) -> bool:
    """Whether to begin a cache. Unless asked, not where gradients are taken: it would hold on to every step's graph."""
    if asked is None:
        return configured and not torch.is_grad_enabled() and not output_attentions
    return asked


def require_positions(cache_position: Tensor | None, state: Begun | None, steps: int) -> None:
    """Positions in the stream follow from the state; others than those would be a mistake."""
    if cache_position is None:
        return
    start = int(state.pos[0]) if state is not None else 0
    if cache_position.tolist() != list(range(start, start + steps)):
        raise ValueError(f"expected cache_position of {start} to {start + steps - 1}, got {cache_position.tolist()}")


def keys_of(attention_mask: Tensor | None, state: Begun | None, steps: int) -> Tensor | None:
    """The positions that may be looked at, None for all. Raises ValueError for a mask of another length."""
    if attention_mask is None:
        return None
    total = steps + (int(state.pos[0]) if state is not None else 0)
    if attention_mask.ndim != 2 or attention_mask.shape[1] != total:
        raise ValueError(f"expected attention_mask of shape [B, {total}], got {list(attention_mask.shape)}")
    return attention_mask.bool()
