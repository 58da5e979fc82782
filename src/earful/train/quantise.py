"""Residual vector quantisation that learns: codebooks follow what they stand for, gradients pass straight through.

Source: VQ-VAE (van den Oord et al. 2017, appendix A.1) for the averages, SoundStream (Zeghidour et al. 2021, section
III-C) for codes that nothing chooses and for dropout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from earful.models.mimi.model import SplitQuantizer
from earful.nn.rvq import Codebook, ResidualQuantizer

DECAY = 0.99  # of the averages, from one step to the next
DEAD = 0.1  # of the usage that all would have if it were even: a vector with less is put somewhere else
LEAST = 1e-5  # usage that a vector's sum is divided by


def quantise_split(
    quantizer: SplitQuantizer, x: Tensor, kept: Tensor, generator: torch.Generator, learning: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What the codes of x stand for, the part of it that the semantic codes do, and the commitment loss.

    x: [B, T, D]; kept: [B] int64, so many codebooks of each row are heard, the others are dropped; semantic ones never.
    generator: decides where dead vectors go; learning: whether the codebooks follow. Returns [B, T, D] twice, scalar.
    """
    everything = torch.full_like(kept, quantizer.split)
    said, of_said = quantise(quantizer.semantic, x, everything, generator, learning)
    sounded, of_sounded = quantise(quantizer.acoustic, x, kept - quantizer.split, generator, learning)
    heard = (kept > quantizer.split)[:, None, None]  # where nothing is heard of them, nothing is learned for them
    counts = len(quantizer.semantic.codebooks), len(quantizer.acoustic.codebooks)
    commitment = (counts[0] * of_said + counts[1] * of_sounded) / sum(counts)
    return said + sounded * heard, said, commitment


def quantise(
    quantizer: ResidualQuantizer, x: Tensor, kept: Tensor, generator: torch.Generator, learning: bool
) -> tuple[Tensor, Tensor]:
    """X as its codes have it, and how far the codebooks are from it. x: [B, T, D], kept: [B] -> [B, T, D], scalar.

    The gradient of what comes out is that of x; the loss, averaged over codebooks, draws x towards its codes.
    """
    x = quantizer.project_in(x)
    left, total = x, torch.zeros_like(x)
    losses = []
    for k, codebook in enumerate(quantizer.codebooks):
        assert isinstance(codebook, Codebook)
        rest = left.detach().flatten(0, 1)  # [B * T, D]
        if learning:
            revive(codebook, rest, generator)
        codes = codebook.encode(rest)
        vectors = codebook.decode(codes).view_as(left)  # before they move
        if learning:
            follow(codebook, rest, codes)
        losses.append(F.mse_loss(left, vectors))
        left = left - vectors
        total = total + vectors * (k < kept)[:, None, None]
    return quantizer.project_out(x + (total - x).detach()), torch.stack(losses).mean()


@torch.no_grad()
def follow(codebook: Codebook, x: Tensor, codes: Tensor) -> None:
    """Move the averages towards the vectors x: [N, D] that `codes` [N] stand for, in place."""
    counts = torch.bincount(codes, minlength=len(codebook.usage)).to(x.dtype)
    sums = torch.zeros_like(codebook.embedding).index_add_(0, codes, x)
    sums = torch.lerp(sums, codebook.embedding * codebook.usage[:, None], DECAY)
    codebook.usage.lerp_(counts, 1 - DECAY)
    codebook.embedding.copy_(sums / codebook.usage.clamp(min=LEAST)[:, None])


@torch.no_grad()
def revive(codebook: Codebook, x: Tensor, generator: torch.Generator) -> None:
    """Put the vectors of codes that hardly anything chooses where some of x [N, D] are, in place.

    A codebook that has never learned has no usage, so that all of it is put there.
    """
    even = len(x) / len(codebook.usage)
    dead = torch.nonzero(codebook.usage < DEAD * even)[:, 0]
    if len(dead):
        chosen = torch.randperm(len(x), generator=generator)[: len(dead)]
        chosen = chosen[torch.arange(len(dead)) % len(chosen)]  # more of them than there are vectors
        codebook.embedding[dead] = x[chosen.to(x.device)]
        codebook.usage[dead] = even
