"""Convolutions that see only the past."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.nn.state import keep


@dataclass
class ConvState:
    tail: Tensor  # [B, C_in, history] the last inputs, oldest first


@dataclass
class ReplicateState:
    tail: Tensor  # [B, C_in, history] the last inputs, oldest first
    started: Tensor  # [B] bool, whether there are any


@dataclass
class OverlapState:
    rest: Tensor  # [B, C_out, kernel - stride] what is known so far of the next outputs, without the bias


class CausalConv1d(nn.Module):
    """1-D convolution that sees only the past.

    x: [B, C_in, T] with T a multiple of `stride`  ->  [B, C_out, T / stride]
    Without a state, x is a whole signal preceded by zeros. active: [B] bool, slots whose state moves on.
    Raises ValueError when T is not a multiple of the stride.
    Source: SEANet (Tagliasacchi et al. 2020), in the causal form of streaming encoders.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, bias: bool = True, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, stride, dilation=dilation, bias=bias)
        self.stride = stride
        self.history = (kernel - 1) * dilation + 1 - stride

    def init_state(self, batch: int) -> ConvState:
        return ConvState(self.conv.weight.new_zeros(batch, self.conv.in_channels, self.history))

    def forward(self, x: Tensor, state: ConvState | None = None, active: Tensor | None = None) -> Tensor:
        whole_strides(x, self.stride)
        if state is None:
            return self.conv(F.pad(x, (self.history, 0)))  # type: ignore[no-any-return]
        x = torch.cat([state.tail, x], dim=-1)  # [B, C_in, history + T]
        if self.history:
            state.tail.copy_(keep(x[..., -self.history :], state.tail, active))
        return self.conv(x)  # type: ignore[no-any-return]


class ReplicateConv1d(nn.Module):
    """`CausalConv1d` of a signal that is preceded by copies of its first step instead of zeros.

    Source: Mimi (Défossez et al. 2024), between its two frame rates.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, stride, bias=bias)
        self.stride = stride
        self.history = kernel - stride

    def init_state(self, batch: int) -> ReplicateState:
        tail = self.conv.weight.new_zeros(batch, self.conv.in_channels, self.history)
        return ReplicateState(tail, torch.zeros(batch, dtype=torch.bool, device=tail.device))

    def forward(self, x: Tensor, state: ReplicateState | None = None, active: Tensor | None = None) -> Tensor:
        whole_strides(x, self.stride)
        first = x[..., :1].expand(-1, -1, self.history)
        if state is None:
            return self.conv(torch.cat([first, x], dim=-1))  # type: ignore[no-any-return]
        x = torch.cat([keep(state.tail, first, state.started), x], dim=-1)  # [B, C_in, history + T]
        state.tail.copy_(keep(x[..., x.shape[-1] - self.history :], state.tail, active))
        state.started.logical_or_(torch.ones_like(state.started) if active is None else active)
        return self.conv(x)  # type: ignore[no-any-return]


class CausalConvTranspose1d(nn.Module):
    """Transposed 1-D convolution whose outputs depend on no later input.

    x: [B, C_in, T]  ->  [B, C_out, T * stride]. Without a state, x is a whole signal; the last kernel - stride outputs,
    which the next input would have a part in, are left out. active: [B] bool, slots whose state moves on.
    Source: SEANet (Tagliasacchi et al. 2020), in the causal form of streaming decoders.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, bias: bool = True, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels_in, channels_out, kernel, stride, groups=groups, bias=bias)
        self.stride = stride
        self.overlap = kernel - stride

    def init_state(self, batch: int) -> OverlapState:
        return OverlapState(self.conv.weight.new_zeros(batch, self.conv.out_channels, self.overlap))

    def forward(self, x: Tensor, state: OverlapState | None = None, active: Tensor | None = None) -> Tensor:
        length = x.shape[-1] * self.stride
        if state is None:
            return self.conv(x)[..., :length]  # type: ignore[no-any-return]
        y = F.conv_transpose1d(x, self.conv.weight, None, self.stride, groups=self.conv.groups)
        # The bias is added to what leaves, not to what is kept, or outputs of two calls would have it twice.
        y[..., : self.overlap] += state.rest
        state.rest.copy_(keep(y[..., length:], state.rest, active))
        y = y[..., :length]
        return y if self.conv.bias is None else y + self.conv.bias[:, None]


def whole_strides(x: Tensor, stride: int) -> None:
    if x.shape[-1] % stride:
        raise ValueError(f"expected a multiple of {stride} steps, got {x.shape[-1]}")
