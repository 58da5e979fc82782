"""Tensors that a checkpoint does not store as such: 8-bit ones with a scale to a row, and ones with a low-rank change.

Source: Kyutai's moshi 0.2.13 for the names; LLM.int8() (Dettmers et al. 2022) for the scales, LoRA (Hu et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from earful.checkpoint.files import Entry
from earful.errors import CheckpointError

SCALE = "_scb"  # the largest absolute value of each row, which 127 stands for
DOWN, UP, FROZEN = ".lora_A.weight", ".lora_B.weight", ".frozen_W.weight"


@dataclass(frozen=True)
class Scaled(Entry):
    """8-bit rows and what 127 stands for in each."""

    rows: Entry
    scale: Entry

    def read(self) -> Tensor:
        return self.rows.read().float() * (self.scale.read().float() / 127)[:, None]


@dataclass(frozen=True)
class Adapted(Entry):
    """A matrix and a product of two narrow ones that is added to it."""

    plain: Entry
    down: Entry
    up: Entry
    scaling: float

    def read(self) -> Tensor:
        return torch.addmm(
            self.plain.read().float(), self.up.read().float(), self.down.read().float(), alpha=self.scaling
        )


def unscaled(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries, with one of floats in the place of each 8-bit one and its scale.

    Raises `CheckpointError` for a scale without 8-bit rows, or of another number of them.
    """
    result = dict(entries)
    for name in [name for name in entries if name.endswith(SCALE)]:
        scale, stem = result.pop(name), name.removesuffix(SCALE)
        rows = result.get(stem)
        if rows is None or rows.dtype != torch.int8 or len(rows.shape) != 2 or scale.shape != rows.shape[:1]:
            got = "none" if rows is None else f"{rows.dtype} {list(rows.shape)}"
            raise CheckpointError(
                f"{scale.path}: expected {stem} to have 8-bit rows for the {list(scale.shape)} scales of {name}, "
                f"got {got}"
            )
        result[stem] = Scaled(rows.path, torch.bfloat16, rows.shape, rows.start, rows, scale)  # as exact as bfloat16 is
    return result


def adapted(
    entries: Mapping[str, Entry],
    changes: Mapping[str, Entry],
    scaling: float,
    names: Callable[[str], list[str]] = lambda name: [name],
) -> dict[str, Entry]:
    """The entries with what a file of low-rank changes adds to them or has in their place.

    names: every name that `entries` may have for a tensor, itself included. Raises `CheckpointError` for changes to a
    tensor that is not there or has another shape, and for half of a change.
    """
    result = dict(entries)

    def find(name: str, change: Entry) -> str:
        found = next((other for other in names(name) if other in result), None)
        if found is None:
            raise CheckpointError(f"{change.path}: expected changes of the tensors of this model, got one of {name}")
        return found

    for name, change in changes.items():
        if name.endswith(FROZEN):
            result[find(name.removesuffix(FROZEN) + ".weight", change)] = change
        elif not name.endswith((DOWN, UP)):
            result[find(name, change)] = change
    for name, down in changes.items():
        stem = name.removesuffix(DOWN)
        if name.endswith(UP) and name.removesuffix(UP) + DOWN not in changes:
            raise CheckpointError(f"{down.path}: expected {name.removesuffix(UP) + DOWN} beside {name}, got none")
        if stem == name:
            continue
        up, target = changes.get(stem + UP), find(stem + ".weight", down)
        plain = result[target]
        if up is None or down.shape != (up.shape[-1], *plain.shape[1:]) or up.shape[:-1] != plain.shape[:1]:
            got = [list(part.shape) for part in (up, down) if part]
            raise CheckpointError(
                f"{down.path}: expected {stem} to have a pair of {list(plain.shape)} together, got {got}"
            )
        result[target] = Adapted(plain.path, plain.dtype, plain.shape, plain.start, plain, down, up, scaling)
    return result
