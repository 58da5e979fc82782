"""The search for texts of given features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from earful.generate.beam import Decoding, Hypothesis, search
from earful.models.s2t.config import EOS, START
from earful.models.s2t.model import Speech2Text

NOTHING = Hypothesis([EOS], 0.0)


@torch.inference_mode()
def write(
    model: Speech2Text,
    features: Tensor,
    frames: Tensor | None,
    how: Decoding,
    forced: Sequence[int | None],
    copies: int = 1,
) -> list[list[Hypothesis]]:
    """The texts of each utterance, best first; where there is no frame, one without a word.

    features: [B, F, bins]; frames: [B] how many are real, None for all; forced: the first id of each utterance's text,
    None where the model chooses it. copies: how often each utterance is searched for, where chance has a part in it.
    """
    lengths = [features.shape[1]] * len(features) if frames is None else frames.tolist()
    heard = [row for row, length in enumerate(lengths) if min(length, features.shape[1]) for _ in range(copies)]
    found: list[list[Hypothesis]] = [[] for _ in lengths]
    if heard:
        memory = model.hear(features[heard], None if frames is None else frames[heard])
        state = model.decoder.init_state(len(heard) * how.beams)
        texts = search(model.step, state, memory, START, EOS, how, [forced[row] for row in heard])
        for row, hypotheses in zip(heard, texts, strict=True):
            found[row] += hypotheses
    return [sorted(texts, key=lambda text: -text.score) or [NOTHING] for texts in found]
