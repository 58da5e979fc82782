"""Checkpoint tables: one row per kind of tensor, read in both directions.

A row says what a tensor is called in the file ("there"), what it is called in the model ("here"), and which operation
turns one into the other. Operations know their inverse, so the table that loads a checkpoint also saves it. Names are
whole names; `{i}` stands for a number, the same one on both sides, and `{any}` for anything.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from earful.checkpoint.files import Entry, Weights, old_weights, some
from earful.errors import CheckpointError

Tensors = Sequence[Tensor]


class Operation(ABC):
    """How tensors of the file become tensors of the model, and back. Made of torch code that runs on `meta` too."""

    @abstractmethod
    def load(self, there: Tensors) -> Tensors: ...

    @abstractmethod
    def save(self, here: Tensors) -> Tensors: ...


class Same(Operation):
    """The same numbers on both sides."""

    def load(self, there: Tensors) -> Tensors:
        return there

    def save(self, here: Tensors) -> Tensors:
        return here


@dataclass(frozen=True)
class RopePairs(Operation):
    """Rows of a query or key projection: rotated in pairs (2j, 2j + 1) there, in pairs (j, j + K / 2) here.

    [H * K, ...] on both sides, weights and biases alike; the rows of each head change places.
    """

    heads: int

    def load(self, there: Tensors) -> Tensors:
        return [self._swap(tensor, (self.heads, -1, 2)) for tensor in there]

    def save(self, here: Tensors) -> Tensors:
        return [self._swap(tensor, (self.heads, 2, -1)) for tensor in here]

    def _swap(self, tensor: Tensor, shape: tuple[int, int, int]) -> Tensor:
        rows: Tensor = tensor.reshape(*shape, *tensor.shape[1:])  # [H, K / 2, 2, ...] there, [H, 2, K / 2, ...] here
        return rows.transpose(1, 2).reshape(tensor.shape)


@dataclass(frozen=True)
class Split(Operation):
    """One tensor there whose rows are, in equal parts, several tensors here, each through an operation of its own."""

    parts: tuple[Operation, ...]

    def load(self, there: Tensors) -> Tensors:
        rows = there[0].chunk(len(self.parts))
        return [op.load([part])[0] for op, part in zip(self.parts, rows, strict=True)]

    def save(self, here: Tensors) -> Tensors:
        return [_joined([op.save([part])[0] for op, part in zip(self.parts, here, strict=True)])]


@dataclass(frozen=True)
class Slices(Operation):
    """One tensor there of so many slices, [slices, rows, ...], whose rows are, in equal parts, matrices here."""

    slices: int
    parts: int

    def load(self, there: Tensors) -> Tensors:
        return there[0].flatten(0, 1).chunk(self.parts)

    def save(self, here: Tensors) -> Tensors:
        return [_joined(here).unflatten(0, (self.slices, -1))]


@dataclass(frozen=True)
class Flat(Operation):
    """A vector here, with sizes of 1 before its own there: [1, ..., D] of so many dimensions."""

    dimensions: int

    def load(self, there: Tensors) -> Tensors:
        return [tensor.flatten() for tensor in there]

    def save(self, here: Tensors) -> Tensors:
        return [tensor.view(*[1] * (self.dimensions - 1), -1) for tensor in here]


@dataclass(frozen=True)
class Stacked(Operation):
    """Rows of one tensor there are several tensors here, of so many rows each; behind them stands a row of zeros."""

    rows: tuple[int, ...]

    def load(self, there: Tensors) -> Tensors:
        return list(there[0][:-1].split(self.rows))

    def save(self, here: Tensors) -> Tensors:
        return [_joined([*here, here[0].new_zeros(1, *here[0].shape[1:])])]


class Pointwise(Operation):
    """A convolution over one step there, [out, in, 1], a matrix here, [out, in]."""

    def load(self, there: Tensors) -> Tensors:
        return [tensor.squeeze(-1) for tensor in there]

    def save(self, here: Tensors) -> Tensors:
        return [tensor.unsqueeze(-1) for tensor in here]


class Codebook(Operation):
    """Vectors that training keeps as sums over what they stood for, with how much that was.

    There: a flag [1] that there are any, usage [V], sums [V, D]. Here: the vectors [V, D], usage [V].
    """

    LEAST = 1e-5  # usage; the vector of one that stood for nothing is its sum over this

    def load(self, there: Tensors) -> Tensors:
        _, usage, sums = there
        return [sums / usage.clamp(min=self.LEAST)[:, None], usage]

    def save(self, here: Tensors) -> Tensors:
        vectors, usage = here
        sums = vectors if vectors.is_meta else vectors * usage.clamp(min=self.LEAST)[:, None]  # as in `_joined`
        return [usage.new_ones(1), usage, sums]


@dataclass(frozen=True)
class Identity(Operation):
    """A square matrix here that the file leaves out, because it changes nothing."""

    size: int

    def load(self, there: Tensors) -> Tensors:
        return [torch.eye(self.size)]

    def save(self, here: Tensors) -> Tensors:
        if not here[0].is_meta and not torch.equal(here[0].cpu(), torch.eye(self.size)):
            raise CheckpointError("expected the identity, which this layout leaves out, got another matrix")
        return []


class Copy:
    """A second copy of a parameter, such as an output head tied to the embedding: compared on load, never written."""


@dataclass(frozen=True)
class Drop:
    """A tensor that this model has no use for: passed over on load, never written."""

    reason: str


@dataclass(frozen=True)
class Row:
    there: tuple[str, ...]
    here: tuple[str, ...]
    op: Operation | Copy | Drop


SAME = Same()
Table = Sequence[Row]
Config = TypeVar("Config")


def row(there: str | Sequence[str], here: str | Sequence[str] = (), op: Operation | Copy | Drop = SAME) -> Row:
    """One row of a table. An operation that joins or splits tensors has several names on one side."""
    both = [(names,) if isinstance(names, str) else tuple(names) for names in (there, here)]
    return Row(both[0], both[1], op)


@dataclass(frozen=True)
class Layout(Generic[Config]):
    """One way in which the checkpoints of a family lie in a folder."""

    marker: str | None  # the file by which it is known, if there is one
    owns: Callable[[Mapping[str, Any]], bool]  # whether the marker's content is of this family
    stem: str  # of the weight files; where they may have any name, of those that are written
    tokenizer: str | Callable[[Path], str] | None  # its file or how it is found, if it has one
    read: Callable[[Path, Weights], Config]
    # All but the weights; last, a tokenizer to copy. None for a layout that is only read.
    write: Callable[[Config, Path, torch.dtype, Path | None], None] | None
    tables: Callable[[Config], Sequence[Table]]  # accepted namings of the tensors; the first one is written
    find: Callable[[Path], str | None] | None = None  # the stem of weight files that are known by their tensors
    open: Callable[[Path], Weights] | None = None  # the weights, where they are not simply files of the stem
    old: Callable[[Path], Path | None] = old_weights  # pickled weights, which only a conversion opens
    parts: Mapping[str, str] = field(
        default_factory=dict
    )  # names that begin so are written without that to other stems


@dataclass(frozen=True)
class Match:
    """A row with its numbers filled in."""

    there: tuple[str, ...]
    here: tuple[str, ...]
    op: Operation


def load(
    tables: Sequence[Table],
    weights: Weights,
    parameters: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    wide: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Read a checkpoint into tensors for `parameters`, which give names and shapes and may be on the `meta` device.

    tables: namings of the same tensors; the one that fits best is taken. dtype: of floats, None as stored; parameters
    whose names begin with one of `wide` are float32 all the same.
    Nothing is read until every key of the file has a row, every parameter is filled and every shape is right, else one
    `CheckpointError` lists all that is not so. One tensor at a time is in memory beside the result.
    """
    fit = fitting(tables, weights, parameters)

    def placed(tensor: Tensor, here: str) -> Tensor:
        kind = torch.float32 if here.startswith(wide) else dtype
        return tensor.to(device, kind if tensor.is_floating_point() else None)

    filled: dict[str, Tensor] = {}
    for match in fit.matches:
        made = match.op.load([placed(weights.read(name), match.here[0]) for name in match.there])
        filled |= {name: placed(tensor, name) for name, tensor in zip(match.here, made, strict=True)}
    for there, here in fit.copies.items():
        if not torch.equal(placed(weights.read(there), here), filled[here]):
            raise CheckpointError(
                f"{weights.where}: expected {there} to be a copy of the tensor for {here}, got others"
            )
    return filled


def save(table: Table, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model under the names and in the form of the file, made one by one."""
    for match in _matches(table, parameters):
        yield from zip(match.there, match.op.save([parameters[name] for name in match.here]), strict=True)


def fitting(tables: Sequence[Table], weights: Weights, parameters: Mapping[str, Tensor]) -> Fit:
    """How the best of some tables maps a checkpoint onto parameters; raises `CheckpointError` where it does not.

    Only names and shapes are looked at, so that `weights` need no file and `parameters` no memory.
    """
    best: Fit | None = None
    for fit in (Fit(table, weights, parameters) for table in tables):
        if best is None or fit.misses < best.misses:
            best = fit
        if not best.misses:
            break  # a table takes a while, and a family may have many
    assert best is not None
    parts = {"missing": best.missing, "not of this model": best.unknown, "misshapen": best.unfit}
    problems = [f"{len(names)} {what}: {some(names)}" for what, names in parts.items() if names]
    if problems:
        raise CheckpointError(f"{weights.where}: expected the tensors of this model, got {'; '.join(problems)}")
    return best


class Fit:
    """How a table maps a checkpoint onto parameters, and where it does not."""

    def __init__(self, table: Table, weights: Weights, parameters: Mapping[str, Tensor]) -> None:
        self.matches = _matches(table, parameters)
        expected: dict[str, Tensor] = {}
        for match in self.matches:
            # The inverse operation on empty tensors tells what the file must hold.
            inverse = match.op.save([parameters[name].detach().to("meta") for name in match.here])
            for name, tensor in zip(match.there, inverse, strict=True):
                assert name not in expected, f"two rows for {name}"
                expected[name] = tensor
        self.copies: dict[str, str] = {}
        self.unknown: list[str] = []
        for name in weights:
            others = [r for r in table if not isinstance(r.op, Operation) and _bind(r.there[0], name) is not None]
            assert len(others) + (name in expected) < 2, f"two rows for {name}"
            if name in expected:
                continue
            if not others:
                self.unknown.append(name)
            elif isinstance(others[0].op, Copy):
                self.copies[name] = others[0].here[0]
                expected[name] = parameters[self.copies[name]]
        self.missing = [name for name in expected if name not in weights]
        self.misses = len(self.missing) + len(self.unknown)
        self.unfit = [
            f"{name} (expected {_kind(tensor)}, got {_kind(weights[name])})"
            for name, tensor in expected.items()
            if name in weights and not _agree(tensor, weights[name])
        ]


def _joined(parts: Tensors) -> Tensor:
    """Rows of several tensors, one behind the other; on `meta` the shape alone, as torch loads its compiler to join."""
    if not parts[0].is_meta:
        return torch.cat(list(parts))
    return parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])


def _agree(parameter: Tensor, entry: Entry) -> bool:
    return tuple(parameter.shape) == entry.shape and parameter.is_floating_point() == entry.dtype.is_floating_point


def _kind(tensor: Tensor | Entry) -> str:
    kind = "floats" if tensor.dtype.is_floating_point else str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {list(tensor.shape)}"


def _matches(table: Table, parameters: Iterable[str]) -> list[Match]:
    """Every row that fills parameters, once per set of numbers. A table fills each parameter exactly once."""
    parameters = list(parameters)
    matches = []
    for line in table:
        if isinstance(line.op, Operation):
            numbers = [bound for name in parameters if (bound := _bind(line.here[0], name)) is not None]
            matches += [Match(_fill(line.there, bound), _fill(line.here, bound), line.op) for bound in numbers]
    filled = sorted(name for match in matches for name in match.here)
    assert filled == sorted(parameters), f"rows for {some(set(filled) ^ set(parameters))}, or two for one parameter"
    return matches


def _fill(patterns: tuple[str, ...], numbers: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(pattern.format(**numbers) for pattern in patterns)


def _bind(pattern: str, name: str) -> dict[str, str] | None:
    """What stands for the placeholders of a pattern in a name, None where they do not agree."""
    match = _compiled(pattern).fullmatch(name)
    return match.groupdict() if match else None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)  # texts and placeholders in turn
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [f"(?P<{name}>{'.+' if name == 'any' else '0|[1-9][0-9]*'})" for name in parts[1::2]]
    return re.compile("".join(parts))
