"""Trees of tensors that hold a stream.

A state is a dataclass of tensors, of states, or of lists of them. Every tensor has the slots (the batch) as its first
dimension, zeros are the beginning of a stream, and tensors are written in place, so that their addresses never change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")


def leaves(state: Any) -> Iterator[Tensor]:
    """Every tensor of a state, in a fixed order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, (list, tuple)):
        for part in state:
            yield from leaves(part)
    elif is_dataclass(state):
        for field in fields(state):
            yield from leaves(getattr(state, field.name))
    else:
        raise TypeError(f"expected tensors, lists or dataclasses in a state, got {type(state).__name__}")


def reset(state: Any, slots: Sequence[int] | Tensor) -> None:
    """Make these slots fresh streams, in place."""
    for leaf in leaves(state):
        leaf[slots] = 0


def select(state: S, index: Sequence[int] | Tensor) -> S:
    """A copy of some slots as a state of its own: a snapshot, a peek, a move."""
    return _map(state, lambda leaf: leaf[index].clone())  # type: ignore[no-any-return]


def row(state: S, slot: int) -> S:
    """One slot as a state of its own in the same memory: what is written to it is written to `state`."""
    return _map(state, lambda leaf: leaf[slot : slot + 1])  # type: ignore[no-any-return]


def reorder(state: Any, index: Tensor) -> None:
    """Slot i becomes what slot index[i] was, in place (beam search); only slots that change are written."""
    moved = (index != torch.arange(len(index), device=index.device)).nonzero()[:, 0]
    if len(moved):
        for leaf in leaves(state):
            leaf.index_copy_(0, moved, leaf.index_select(0, index[moved]))


def nbytes(state: Any) -> int:
    """The memory of a state in bytes."""
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves(state))


def keep(new: Tensor, old: Tensor, active: Tensor | None) -> Tensor:
    """`new` for the active slots, `old` for the frozen ones. active: [B] bool, None for all."""
    if active is None:
        return new
    return torch.where(active.view(-1, *[1] * (new.dim() - 1)), new, old)


def _map(state: Any, change: Any) -> Any:
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, (list, tuple)):
        return type(state)(_map(part, change) for part in state)
    return type(state)(**{field.name: _map(getattr(state, field.name), change) for field in fields(state)})
