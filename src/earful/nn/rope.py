"""Positions: rotary embeddings in both layouts of the pairs, and sinusoids beside the input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def _frequencies(head_dim: int, base: float, device: torch.device) -> Tensor:
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    return (1.0 / base**exponent).double()  # rounded to float32 first, as the published models were trained


def sinusoids(positions: Tensor, dim: int, base: float, dtype: torch.dtype) -> Tensor:
    """Cosines, then sines of positions [..., T] int64, in periods of 2 pi to 2 pi base -> [..., T, dim].

    Angles are taken in float64, as in `Rope`. Source: Vaswani et al. 2017.
    """
    exponent = torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / max(1, dim // 2 - 1)
    angles = positions.double()[..., None] / base**exponent
    return torch.cat([angles.cos(), angles.sin()], -1).to(dtype)


def unturned(x: Tensor) -> Tensor:
    """In the place of a rotation, where positions are told otherwise."""
    return x


@dataclass(frozen=True)
class Rope:
    """The rotation of one step, made once and shared by all layers of a stack.

    Source: RoFormer (Su et al. 2021). `interleaved` pairs dimensions (2i, 2i + 1), otherwise (i, i + head_dim / 2).
    """

    cos: Tensor  # [B, 1, T, head_dim]
    sin: Tensor  # negative where the partner is subtracted
    interleaved: bool = False

    @classmethod
    def at(cls, positions: Tensor, head_dim: int, base: float, dtype: torch.dtype, interleaved: bool = False) -> Rope:
        """positions: [B, T] int64. Angles are taken in float64, so that they are exact after hours of stream."""
        angles = positions.double()[:, None, :, None] * _frequencies(head_dim, base, positions.device)
        cos, sin = [angles.cos()] * 2, [-angles.sin(), angles.sin()]  # of the first and the second of each pair
        if interleaved:
            return cls(torch.stack(cos, -1).flatten(-2).to(dtype), torch.stack(sin, -1).flatten(-2).to(dtype), True)
        return cls(torch.cat(cos, -1).to(dtype), torch.cat(sin, -1).to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """x: [B, heads, T, head_dim] -> the same, rotated."""
        if self.interleaved:
            partner = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        else:
            partner = x.roll(x.shape[-1] // 2, dims=-1)
        return torch.addcmul(x * self.cos, partner, self.sin)
