"""Convolutions that see only the past."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.nn.state import keep


@dataclass
class ConvState:
    tail: Tensor  # [B, C_in, kernel - stride] the last inputs, oldest first


class CausalConv1d(nn.Module):
    """1-D convolution that sees only the past.

    x: [B, C_in, T] with T a multiple of `stride`  ->  [B, C_out, T / stride]
    Without a state, x is a whole signal preceded by zeros. active: [B] bool, slots whose state moves on.
    Raises ValueError when T is not a multiple of the stride.
    Source: SEANet (Tagliasacchi et al. 2020), in the causal form of streaming encoders.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, stride, bias=bias)
        self.stride = stride
        self.history = kernel - stride

    def init_state(self, batch: int) -> ConvState:
        return ConvState(self.conv.weight.new_zeros(batch, self.conv.in_channels, self.history))

    def forward(self, x: Tensor, state: ConvState | None = None, active: Tensor | None = None) -> Tensor:
        if x.shape[-1] % self.stride:
            raise ValueError(f"expected a multiple of {self.stride} steps, got {x.shape[-1]}")
        if state is None:
            return self.conv(F.pad(x, (self.history, 0)))  # type: ignore[no-any-return]
        x = torch.cat([state.tail, x], dim=-1)  # [B, C_in, history + T]
        if self.history:
            state.tail.copy_(keep(x[..., -self.history :], state.tail, active))
        return self.conv(x)  # type: ignore[no-any-return]
