"""Texts that are all of one length, which no id ends: one of them, or a beam search for the likeliest.

Source: transformers 5.23 for the rules of the search, where no id ends a text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from earful.generate.beam import NEVER
from earful.generate.sample import GREEDY, Sampling, choose, shaped
from earful.nn.state import reorder, select


@dataclass(frozen=True)
class Choice:
    """How ids are chosen; raises ValueError for what is out of range."""

    sampling: Sampling = GREEDY
    beams: int = 1  # texts kept at once

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError(f"expected at least 1 beam, got {self.beams}")


class Writer(Protocol):
    """A model that writes R texts at once, id by id."""

    logits: Tensor  # [R, V] float32, of what comes next
    state: Any  # everything else that belongs to a text: a tree of tensors, R rows each

    def take(self, ids: Tensor, last: bool) -> None:
        """Go on behind ids [R] int64; last: no more will be asked for, so that there need be no logits."""


def write(
    writer: Writer, count: int, how: Sampling = GREEDY, ends: Collection[int] = (), filler: int = 0
) -> Iterator[Tensor]:
    """At most `count` ids [R], one after the other. Behind an id of `ends` a row is filled with `filler`."""
    ended = torch.zeros(len(writer.logits), dtype=torch.bool, device=writer.logits.device)
    end_ids = torch.tensor(list(ends), dtype=torch.int64, device=ended.device)
    for left in range(count, 0, -1):
        ids = torch.where(ended, filler, choose(writer.logits, how))
        yield ids
        ended |= torch.isin(ids, end_ids)
        last = left == 1 or bool(ended.all())
        writer.take(ids, last)
        if last:
            return


def search(writer: Writer, count: int, beams: int, wanted: int = 1, how: Sampling = GREEDY) -> tuple[Tensor, Tensor]:
    """The `wanted` best texts of each group of `beams` rows, best first: int64 [U * wanted, count], scores likewise.

    The rows of a group are the same at the beginning; in the end the writer's state is that of the texts found.
    """
    device = writer.logits.device
    groups = len(writer.logits) // beams
    scores = torch.tensor([0.0] + [NEVER] * (beams - 1), device=device).expand(groups, -1)
    texts = torch.empty(groups * beams, 0, dtype=torch.int64, device=device)
    for left in range(count, 0, -1):
        scores, rows, ids = continued(writer.logits, scores, how)
        reorder(writer.state, rows)
        texts = torch.cat([texts[rows], ids[:, None]], dim=1)
        writer.take(ids, left == 1)
    kept = (torch.arange(groups, device=device)[:, None] * beams + torch.arange(wanted, device=device)).flatten()
    writer.state = select(writer.state, kept)
    return texts[kept], scores.flatten()[kept]


def continued(logits: Tensor, scores: Tensor, how: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations, as many as there are beams.

    logits: [U * beams, V] float32, scores: [U, beams] log-probabilities so far. Chance draws twice as many as beams,
    the best of which go on. Returns scores [U, beams], best first, and of each which row it goes on from and its id,
    both int64 [U * beams].
    """
    groups, beams = scores.shape
    vocab = logits.shape[-1]
    likely = logits.log_softmax(-1)
    if how.temperature:
        likely = shaped(likely, how)
    sums = (likely.unflatten(0, (groups, beams)) + scores[..., None]).flatten(1)  # [U, beams * V]
    if how.temperature:  # the largest of these are drawn without putting any back
        drawn = (sums - torch.empty_like(sums).exponential_().log()).topk(min(2 * beams, sums.shape[1])).indices
        best, among = sums.gather(1, drawn).topk(beams)
        which = drawn.gather(1, among)
    else:
        best, which = sums.topk(beams)
    rows = which // vocab + torch.arange(groups, device=which.device)[:, None] * beams
    return best, rows.flatten(), (which % vocab).flatten()
