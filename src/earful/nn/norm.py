"""Normalisation with float32 statistics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension.

    x: [..., D] of any float type -> the same shape and type; the statistics are float32.
    Source: Zhang and Sennrich 2019.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.is_grad_enabled():
            # The mean of x and -x together is 0 and their variance the mean square: one kernel for seven small ones.
            dim = x.shape[-1]
            return F.layer_norm(torch.cat([x, -x], -1), [2 * dim], eps=self.eps).narrow(-1, 0, dim) * self.weight
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def norm_of(kind: str, dim: int, eps: float) -> RMSNorm | nn.LayerNorm:
    """kind: "rms", or "layer" for one with a mean and a bias (Ba et al. 2016)."""
    return RMSNorm(dim, eps) if kind == "rms" else nn.LayerNorm(dim, eps)


class LayerScale(nn.Module):
    """A learnt factor for each channel of a residual branch. x: [..., D] -> [..., D].

    Source: Touvron et al. 2021.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x
