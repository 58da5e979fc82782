"""Convolutions that see only the past.

Over the few steps of a live stream they are matrix products in disguise; packed for inference (nn/linear.py) they are
computed as such, on windows of x with the channels last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.nn.linear import PackedLinear
from earful.nn.state import keep

WIDE = 32  # channels: fewer are no tile of a matrix unit


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


class _Windowed(nn.Module):
    """What convolutions with a past have in common: the product over windows of it and of the new steps."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, bias: bool = True, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv: nn.Conv1d | None = nn.Conv1d(channels_in, channels_out, kernel, stride, dilation=dilation, bias=bias)
        self.product: PackedLinear | None = None
        self.channels, self.stride, self.dilation = channels_in, stride, dilation
        self.history = (kernel - 1) * dilation + 1 - stride
        # Steps enter the product a stride at a time where that moves fewer numbers than whole windows do.
        self.pieces = kernel // stride
        self.by_stride = (
            kernel % stride == 0 and 1 in (stride, dilation) and self.pieces * channels_out < kernel * channels_in
        )

    def as_linear(self) -> nn.Linear:
        """The matrix that a window is multiplied by: [C_out, kernel * C_in]; or each stride of it, for its part in as
        many outputs as there are pieces: [pieces * C_out, stride * C_in]."""
        assert self.conv is not None
        weight, bias = self.conv.weight.transpose(1, 2), self.conv.bias  # [C_out, kernel, C_in]
        if not self.by_stride:
            return _linear(weight.flatten(1), bias)
        weight = weight.unflatten(1, (self.pieces, -1)).transpose(0, 1).flatten(2).flatten(0, 1)
        return _linear(weight, None if bias is None else F.pad(bias, (len(weight) - len(bias), 0)))

    def use(self, product: PackedLinear) -> None:
        self.conv, self.product = None, product

    def new_tail(self, batch: int) -> Tensor:
        weight = _held(self.conv, self.product)
        return weight.new_zeros(batch, self.channels, self.history)

    def over(self, tail: Tensor, x: Tensor) -> Tensor:
        """tail: [B, C_in, history]; x: [B, C_in, T] -> [B, C_out, T / stride]."""
        if self.product is None:
            assert self.conv is not None
            windows, weight, bias = torch.cat([tail, x], dim=-1), self.conv.weight, self.conv.bias
            return _exact(F.conv1d, self.channels, windows, weight, bias, self.stride, dilation=self.dilation)
        last = x.transpose(1, 2)
        if self.history:
            last = torch.cat([tail.transpose(1, 2), last], dim=1)  # [B, history + T, C_in]
        if self.by_stride:
            return self._sum(self.product(last.flatten(1).unflatten(1, (-1, self.stride * self.channels))))
        windows = last.unfold(1, self.history + self.stride, self.stride)[..., :: self.dilation]
        return self.product(windows.transpose(2, 3).flatten(2)).transpose(1, 2)  # type: ignore[no-any-return]

    def _sum(self, parts: Tensor) -> Tensor:
        """What each stride of the past and of x adds, [B, S, pieces * C_out] -> outputs, [B, C_out, T / stride]."""
        last, *before = reversed(parts.chunk(self.pieces, dim=-1))
        outputs = parts.shape[1] - self.dilation * len(before)
        y = last[:, -outputs:]
        for age, part in enumerate(before, 1):
            y = y + part[:, (len(before) - age) * self.dilation :][:, :outputs]
        return y.transpose(1, 2)

    def remember(self, tail: Tensor, x: Tensor, active: Tensor | None) -> None:
        """Move a tail on over x, which comes behind it."""
        if x.shape[-1] < self.history:
            x = torch.cat([tail, x], dim=-1)
        if self.history:
            tail.copy_(keep(x[..., -self.history :], tail, active))


class CausalConv1d(_Windowed):
    """1-D convolution that sees only the past.

    x: [B, C_in, T] with T a multiple of `stride`  ->  [B, C_out, T / stride]
    Without a state, x is a whole signal preceded by zeros. active: [B] bool, slots whose state moves on.
    Raises ValueError when T is not a multiple of the stride.
    Source: SEANet (Tagliasacchi et al. 2020), in the causal form of streaming encoders.
    """

    def init_state(self, batch: int) -> ConvState:
        return ConvState(self.new_tail(batch))

    def forward(self, x: Tensor, state: ConvState | None = None, active: Tensor | None = None) -> Tensor:
        whole_strides(x, self.stride)
        if state is None:
            return self.over(x.new_zeros(1, 1, 1).expand(*x.shape[:2], self.history), x)
        y = self.over(state.tail, x)
        self.remember(state.tail, x, active)
        return y


class ReplicateConv1d(_Windowed):
    """`CausalConv1d` of a signal that is preceded by copies of its first step instead of zeros.

    Source: Mimi (Défossez et al. 2024), between its two frame rates.
    """

    def init_state(self, batch: int) -> ReplicateState:
        tail = self.new_tail(batch)
        return ReplicateState(tail, torch.zeros(batch, dtype=torch.bool, device=tail.device))

    def forward(self, x: Tensor, state: ReplicateState | None = None, active: Tensor | None = None) -> Tensor:
        whole_strides(x, self.stride)
        first = x[..., :1].expand(-1, -1, self.history)
        if state is None:
            return self.over(first, x)
        tail = keep(state.tail, first, state.started)
        y = self.over(tail, x)
        self.remember(state.tail, torch.cat([tail, x], dim=-1), active)
        state.started.logical_or_(torch.ones_like(state.started) if active is None else active)
        return y


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
        self.conv: nn.ConvTranspose1d | None = nn.ConvTranspose1d(
            channels_in, channels_out, kernel, stride, groups=groups, bias=bias
        )
        self.product: PackedLinear | None = None
        self.channels, self.stride, self.groups = channels_out, stride, groups
        self.overlap = kernel - stride

    def as_linear(self) -> nn.Linear | None:
        """The matrix that a step is multiplied by: [pieces * stride * C_out, C_in], zeros beyond the kernel.

        The first piece, which every output has exactly one of, brings the bias.
        """
        assert self.conv is not None
        if self.groups > 1:
            return None  # several small products, and few numbers
        weight = F.pad(self.conv.weight, (0, -self.conv.weight.shape[-1] % self.stride)).permute(2, 1, 0).flatten(0, 1)
        if self.conv.bias is None:
            return _linear(weight, None)
        bias = self.conv.bias.repeat(self.stride)
        return _linear(weight, F.pad(bias, (0, len(weight) - len(bias))))

    def use(self, product: PackedLinear) -> None:
        self.conv, self.product = None, product

    def init_state(self, batch: int) -> OverlapState:
        return OverlapState(_held(self.conv, self.product).new_zeros(batch, self.channels, self.overlap))

    def forward(self, x: Tensor, state: OverlapState | None = None, active: Tensor | None = None) -> Tensor:
        length = x.shape[-1] * self.stride
        if self.product is None:
            assert self.conv is not None
            weight, bias = self.conv.weight, self.conv.bias
            y = _exact(F.conv_transpose1d, self.channels, x, weight, None, self.stride, groups=self.groups)
        else:
            y, bias = self._pieces(self.product(x.transpose(1, 2))), None
        # The bias is added to what leaves, not to what is kept, or outputs of two calls would have it twice.
        if state is not None:
            y[..., : self.overlap] += state.rest
            state.rest.copy_(keep(y[..., length : length + self.overlap], state.rest, active))
        y = y[..., :length]
        return y if bias is None else y + bias[:, None]

    def _pieces(self, y: Tensor) -> Tensor:
        """What each step adds, in pieces as long as a stride: [B, T, pieces * stride * C_out] -> their sum over time,
        [B, C_out, (T - 1 + pieces) * stride]."""
        first, *later = y.unflatten(-1, (-1, self.stride * self.channels)).unbind(2)  # each [B, T, stride * C_out]
        total = F.pad(first, (0, 0, 0, len(later)))
        for start, piece in enumerate(later, 1):
            total[:, start : start + y.shape[1]] += piece
        return total.view(len(y), -1, self.channels).transpose(1, 2)


def _exact(
    convolve: Callable[..., Tensor],
    channels: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    **how: int,
) -> Tensor:
    """A convolution of so many channels, or whose gradient is one, in another way where that of bfloat16 is wrong.

    So it is in oneDNN, as of torch 2.13, on processors with AMX: for few channels and kernels of a multiple of 4. Whole
    strides make more channels of fewer steps; the rest is computed in float32.
    """
    kernel = weight.shape[-1]
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if channels >= WIDE or kernel % 4 or dtype != torch.bfloat16 or x.device.type != "cpu":
        return convolve(x, weight, bias, stride, **how)
    if channels * stride >= WIDE and kernel % stride == 0 and set(how.values()) <= {1}:
        weight = weight.unflatten(-1, (-1, stride)).transpose(-1, -2)  # [C_out, C_in, stride, pieces], or C_in first
        if convolve is F.conv1d:
            x = x.unflatten(-1, (-1, stride)).transpose(-1, -2).flatten(1, 2)  # [B, C_in * stride, T / stride]
            return convolve(x, weight.flatten(1, 2), bias)
        y = convolve(x, weight.flatten(1, 2), bias)  # [B, C_out * stride, T + pieces - 1]
        return y.unflatten(1, (-1, stride)).transpose(-1, -2).flatten(2)  # type: ignore[no-any-return]
    with torch.autocast("cpu", enabled=False):
        return convolve(x.float(), weight.float(), None if bias is None else bias.float(), stride, **how).to(dtype)


def whole_strides(x: Tensor, stride: int) -> None:
    if x.shape[-1] % stride:
        raise ValueError(f"expected a multiple of {stride} steps, got {x.shape[-1]}")


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return made


def _held(conv: nn.Module | None, product: PackedLinear | None) -> Tensor:
    """A tensor of the type and on the device of the weights."""
    weight = product.weight if conv is None else conv.weight  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    return weight
