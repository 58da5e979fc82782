"""Exact beam search over any step function, many utterances at once.

Source: transformers 5.23 for the order of the rules, whose ids it gives; with `early_stopping=True` also fairseq's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from earful.generate.sample import GREEDY, Sampling, choose
from earful.nn.state import leaves, reorder, select

NEVER = -1e9  # the score of a hypothesis that only fills up a beam; still a number, so that its successors have one


@dataclass(frozen=True)
class Decoding:
    """How a text is searched for. Raises ValueError for what is out of range.

    beams: hypotheses kept at once, 1 for greedy; max_length: ids at most, those of the prompt counted.
    length_penalty: scores are log-probabilities divided by the number of ids written to this power.
    early_stopping: end when as many texts as beams are complete (True), or when by the length so far no other can be
    better (False), or when none of any length can ("never"). sampling: how one beam goes on; more than one are not for
    chance.
    """

    beams: int = 5
    max_length: int = 200
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = True
    sampling: Sampling = GREEDY

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError(f"expected at least 1 beam, got {self.beams}")
        if self.max_length < 2:
            raise ValueError(f"expected a max_length of at least 2, got {self.max_length}")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f"expected early_stopping of True, False or 'never', got {self.early_stopping!r}")
        if self.beams > 1 and self.sampling.temperature:
            raise ValueError(f"expected one beam with sampling, got {self.beams}")


@dataclass(frozen=True)
class Hypothesis:
    """A text that was found: its ids behind the prompt, the end of text included, and its score."""

    ids: list[int]
    score: float  # the log-probability, divided by a power of the length; that of a forced id is not counted


# Ids [R] int64 and the state of the hypotheses, R rows, and the memory of the utterances, U rows, R a multiple of U
# -> logits [R, V]. The rows of an utterance stand together; the state is written in place.
Step = Callable[[Tensor, Any, Any], Tensor]


@dataclass
class _Utterance:
    """One search: its hypotheses, best first, and what is complete."""

    number: int
    running: list[tuple[list[int], float]]
    done: list[Hypothesis] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # which hypothesis each running one goes on from

    def advance(self, candidates: list[tuple[float, int, int]], how: Decoding, end: int, prompt: int) -> bool:
        """Take the best continuations (score, hypothesis, id), best first; returns whether the search goes on."""
        written = len(self.running[0][0]) + 1
        full = written + prompt == how.max_length
        following: list[tuple[list[int], float]] = []
        self.parents = []
        for rank, (score, parent, id) in enumerate(candidates):
            ids = [*self.running[parent][0], id]
            if id != end and not full:
                if len(following) < how.beams:
                    following.append((ids, score))
                    self.parents.append(parent)
            elif rank < how.beams:
                filler = score < NEVER / 2  # takes a place like any other, and is no answer
                self.done.append(Hypothesis(ids, -math.inf if filler else score / written**how.length_penalty))
        self.done = sorted(self.done, key=lambda hypothesis: -hypothesis.score)[: how.beams]
        self.running = following
        if not following:
            return False
        if len(self.done) < how.beams:
            return True
        if how.early_stopping is True:
            return False
        longest = how.early_stopping == "never" and how.length_penalty > 0
        length = how.max_length - prompt if longest else written
        reachable: float = following[0][1] / length**how.length_penalty
        return reachable > self.done[-1].score


@torch.inference_mode()
def search(
    step: Step, state: Any, memory: Any, start: int, end: int, how: Decoding, forced: list[int | None] | None = None
) -> list[list[Hypothesis]]:
    """The best texts of each utterance, best first: at most `how.beams`, at least one.

    state: of the hypotheses, how.beams rows for each utterance; memory: of the utterances, one row each. An utterance
    whose search is over leaves both, so that it costs nothing. start, end: the ids that a text begins and ends with.
    forced: the first id of each utterance's text, None where the model chooses it.
    """
    rows, device = len(next(leaves(memory))), next(leaves(memory)).device
    forced = forced or [None] * rows
    begun: list[tuple[list[int], float]] = [([], 0.0), *(([], NEVER) for _ in range(how.beams - 1))]
    going = [_Utterance(number, begun) for number in range(rows)]
    found: list[list[Hypothesis]] = [[] for _ in going]
    last = torch.full((rows * how.beams,), start, device=device)
    if how.beams == 1:
        how = replace(how, early_stopping=True)  # the first end of text is the end
    first = True
    while going:
        logits = step(last, state, memory)
        scores = logits.float().log_softmax(-1).unflatten(0, (-1, how.beams))  # [U, beams, V]
        if first:
            for row, id in enumerate(forced):
                if id is not None:
                    scores[row] = float("-inf")
                    scores[row, :, id] = 0.0
            first = False
        so_far = [[score for _, score in one.running] for one in going]
        flat = (scores + torch.tensor(so_far, device=scores.device)[:, :, None]).flatten(1)  # [U, beams * V]
        if how.sampling.temperature:
            which = choose(flat, how.sampling)[:, None]
            best = flat.gather(1, which)
        else:
            best, which = flat.topk(min(2 * how.beams, flat.shape[1]))
        vocab = scores.shape[-1]
        kept: list[int] = []  # utterances that go on
        for row, (one, values, places) in enumerate(zip(going, best.tolist(), which.tolist(), strict=True)):
            candidates = [(value, *divmod(place, vocab)) for value, place in zip(values, places, strict=True)]
            if one.advance(candidates, how, end, prompt=1):
                kept.append(row)
            else:
                found[one.number] = [hypothesis for hypothesis in one.done if hypothesis.score > -math.inf]
        index = torch.tensor([row * how.beams + parent for row in kept for parent in going[row].parents], device=device)
        if len(kept) == len(going):
            reorder(state, index)
        elif kept:
            state, memory = select(state, index), select(memory, torch.tensor(kept, device=device))
        going = [going[row] for row in kept]
        last = torch.tensor([ids[-1] for one in going for ids, _ in one.running], device=device)
    return found
