"""When the words of a text were heard: where the decoder looked while it wrote them.

The text is read once more, and what each of its ids looked at is laid out so that ids follow each other in time. So
they do in transcripts; the words of a translation may stand in another order than what they are for.
Source: attention as an alignment (Bahdanau et al. 2015); the best path as in Viterbi's algorithm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earful.models.s2t.config import START
from earful.models.s2t.model import Memory, Speech2Text
from earful.nn.state import select

Scores = npt.NDArray[np.float32]


@torch.inference_mode()
def word_edges(
    model: Speech2Text, memory: Memory, row: int, ids: Sequence[int], words: Sequence[tuple[int, int]]
) -> list[tuple[float, float]]:
    """Beginning and end of each word, in steps of the encoder.

    memory: what is heard of several utterances, this one in `row`; ids: its text, the end included; words: of each, its
    first id and the one behind its last.
    """
    edges = boundaries(glances(model, memory, row, ids))
    return [(edges[first], edges[last]) for first, last in words]


def glances(model: Speech2Text, memory: Memory, row: int, ids: Sequence[int]) -> Scores:
    """How much each id looked at each step: [T, S], the mean over the heads of the upper half of the layers."""
    alone = select(memory, torch.tensor([row], device=memory.mask.device))
    crosses: list[Tensor] = []
    model.decoder(torch.tensor([[START, *ids[:-1]]], device=memory.mask.device), alone, watch=(None, crosses))
    upper = torch.stack([weights[0].float().mean(0) for weights in crosses[len(crosses) // 2 :]])  # [layers, T, S]
    return upper.mean(0)[:, alone.mask.flatten() == 0].cpu().numpy()


def boundaries(scores: Scores) -> list[float]:
    """Where each of T ids begins among S steps, and where the last one ends: the path of the highest sum.

    Every step belongs to one id and every id has a step; where there are more ids than steps, a part of one.
    """
    ids, steps = scores.shape
    parts = -(-ids // steps)  # of each step
    scores = np.repeat(scores, parts, axis=1)
    best = np.full(ids, -np.inf, np.float32)
    best[0] = 0.0
    came = np.zeros((steps * parts, ids), bool)  # whether the best path to an id at a step came from the id before
    for step in range(steps * parts):
        before = np.concatenate([[-np.inf], best[:-1]]) if step else best
        came[step] = (before > best) & (step > 0)
        best = np.maximum(before, best) + scores[:, step]
    begins, id = [0.0] * ids, ids - 1
    for step in range(steps * parts - 1, -1, -1):
        if came[step, id]:
            begins[id] = step / parts
            id -= 1
    return [*begins, float(steps)]
