"""Rotary position embeddings, in both layouts of the pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def _frequencies(head_dim: int, base: float, device: torch.device) -> Tensor:
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    return (1.0 / base**exponent).double()  # rounded to float32 first, as the published models were trained


@dataclass(frozen=True)
class Rope:
    """The rotation of one step, made once and shared by all layers of a stack.

    Source: RoFormer (Su et al. 2021). `interleaved` pairs dimensions (2i, 2i + 1), otherwise (i, i + head_dim / 2).
    """

    cos: Tensor  # [B, 1, T, head_dim / 2]
    sin: Tensor
    interleaved: bool = False

    @classmethod
    def at(
        cls, positions: Tensor, head_dim: int, base: float, dtype: torch.dtype, interleaved: bool = False
    ) -> Rope:
        """positions: [B, T] int64. Angles are taken in float64, so that they are exact after hours of stream."""
        angles = positions.double()[:, None, :, None] * _frequencies(head_dim, base, positions.device)
        return cls(angles.cos().to(dtype), angles.sin().to(dtype), interleaved)

    def __call__(self, x: Tensor) -> Tensor:
        """x: [B, heads, T, head_dim] -> the same, rotated."""
        if self.interleaved:
            a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([a * self.cos - b * self.sin, b * self.cos + a * self.sin], dim=-1).flatten(-2)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], dim=-1)
