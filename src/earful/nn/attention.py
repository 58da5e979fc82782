"""Causal attention over a sliding window, offline or on a ring of cached keys and values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.nn.rope import Rope

BLOCK = 64  # a ring that fills up is looked at in whole blocks, so that few different shapes occur
LARGE = 1 << 19  # bytes in the keys of a call
MANY = 32  # queries in a call
ALIGNED = 32  # blocks of a whole signal are a multiple of this


@dataclass
class KV:
    """The ring of one layer. Position p is held at index p % C; a call of T steps needs C >= window + T - 1."""

    keys: Tensor  # [B, G, C, K], already rotated
    values: Tensor  # [B, G, C, K]

    def write(self, k: Tensor, v: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """New keys and values [B, G, T, K] -> all that the call may look at, [B, G, S, K] each, in no order."""
        assert view.entries is not None
        for ring, new in ((self.keys, k), (self.values, v)):
            if view.begin is not None:
                ring.narrow(2, view.begin, new.shape[2]).copy_(new)
            else:
                ring.transpose(1, 2).index_put_(view.entries, new.transpose(1, 2))
        looked_at = view.mask.shape[-1]
        return self.keys.narrow(2, 0, looked_at), self.values.narrow(2, 0, looked_at)


@dataclass(frozen=True)
class View:
    """What each step of a call may see; made once and shared by all layers of a stack."""

    # [B or 1, 1, T, S] additive, 0 or -inf, in the type of the activations, S <= C on a ring; or [N, S, W] for N blocks
    # of S steps that each look at W, the last S of them their own
    mask: Tensor
    entries: tuple[Tensor, Tensor] | None  # [B, 1] slots and [B, T] ring entries that the call writes, None offline
    begin: int | None = None  # the first of these entries, where a single slot's lie side by side; known on CPUs alone

    @classmethod
    def whole(cls, steps: int, window: int, dtype: torch.dtype, device: torch.device) -> View:
        """Of a whole signal: step t sees t - window + 1 ... t."""
        position = torch.arange(steps, device=device)
        age = position[:, None] - position[None, :]  # [T, T] how long before the query
        return cls(_additive((age >= 0) & (age < window), dtype)[None, None], None)

    @classmethod
    def blocks(cls, steps: int, window: int, dtype: torch.dtype, device: torch.device) -> View:
        """Of a whole signal longer than the window: the same as `whole`, without the work for what is masked."""
        size = math.ceil(window / 2 / ALIGNED) * ALIGNED
        before = math.ceil((window - 1) / size) * size
        query = torch.arange(math.ceil(steps / size) * size, device=device).view(-1, size, 1)  # [N, S, 1]
        key = query[:, :1] - before + torch.arange(before + size, device=device)  # [N, 1, W]
        age = query - key
        return cls(_additive((age >= 0) & (age < window) & (key >= 0), dtype), None)

    @classmethod
    def ring(cls, pos: Tensor, steps: int, window: int, capacity: int, dtype: torch.dtype) -> View:
        """Of `steps` new steps after pos: [B], on rings of `capacity` entries."""
        if capacity < window + steps - 1:
            raise ValueError(f"expected at most {capacity - window + 1} steps in a call, got {steps}")
        looked_at, begin = capacity, None
        if pos.device.type == "cpu" and not torch.compiler.is_compiling():
            # Entries that no stream has reached yet cost as much to look at as any, and here their count costs nothing.
            furthest = int(pos.max())
            looked_at = min(capacity, math.ceil((furthest + steps) / BLOCK) * BLOCK)
            if len(pos) == 1 and furthest % capacity + steps <= capacity:
                begin = furthest % capacity
        query = pos[:, None] + torch.arange(steps, device=pos.device)  # [B, T]
        entry = torch.arange(looked_at, device=pos.device)
        last = query[:, -1:]
        held = last - (last - entry) % capacity  # [B, S] the position that each entry holds once the call has written
        age = query[:, :, None] - held[:, None, :]  # [B, T, S]
        seen = (held[:, None, :] >= 0) & (age >= 0) & (age < window)
        slots = torch.arange(len(pos), device=pos.device)[:, None]
        return cls(_additive(seen, dtype)[:, None], (slots, query % capacity), begin)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))


class Stack(Protocol):
    """The state of layers of attention that share their positions."""

    layers: list[KV]
    pos: Tensor  # [B] int64, steps so far


class Sizes(Protocol):
    """What a config says of such layers."""

    @property
    def window(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def rope_base(self) -> float: ...


def step_view(x: Tensor, state: Stack | None, c: Sizes) -> tuple[Rope, View]:
    """The rotation and the mask of one call, for all layers of a stack. x: [B, T, D]; without a state, all of it."""
    return Rope.at(positions(x, state), c.head_dim, c.rope_base, x.dtype), view_of(x, state, c.window)


def positions(x: Tensor, state: Stack | None) -> Tensor:
    """Where the steps of x [B, T, D] stand in their streams: [B or 1, T] int64."""
    steps = torch.arange(x.shape[1], device=x.device)[None]
    return steps if state is None else steps + state.pos[:, None]


def view_of(x: Tensor, state: Stack | None, window: int) -> View:
    """The mask of one call. x: [B, T, D]; without a state, all of it."""
    steps = x.shape[1]
    if state is None:
        return (View.whole if steps <= window else View.blocks)(steps, window, x.dtype, x.device)
    return View.ring(state.pos, steps, window, state.layers[0].keys.shape[2], x.dtype)


def advance(pos: Tensor, steps: int | Tensor, active: Tensor | None) -> None:
    """Move on by so many steps, in place, where a slot is active. steps: the same for all slots, or [B] int64."""
    pos.add_(steps if active is None else steps * active)


def products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention as two plain products, the scores in the type of the activations: the softmax alone is float32."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    y: Tensor = scores.add_(mask).softmax(-1) @ v
    return y


def in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of each block of steps to itself and what its window reaches. q: [B, H, T, K]; k, v: [B, G, T, K]."""
    count, size, wide = mask.shape
    groups, missing = q.shape[1] // k.shape[1], count * size - q.shape[2]

    def seen(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, wide - size, missing)).unflatten(2, (-1, size))
        return torch.cat([x[:, :, first : first + count] for first in range(wide // size)], dim=3)  # [B, G, N, W, K]

    q = F.pad(q, (0, 0, 0, missing)).unflatten(2, (count, size)).unflatten(1, (-1, groups))  # [B, G, groups, N, S, K]
    q = q.transpose(2, 3).flatten(3, 4)  # the queries that share a key stand as further steps
    y = products(q, seen(k), seen(v), mask.repeat(1, groups, 1)).unflatten(3, (groups, size))
    joined: Tensor = y.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return joined[:, :, : count * size - missing]


class Attention(nn.Module):
    """Multi-head attention with grouped keys and values.

    x: [B, T, D] -> [B, T, D]. With a ring, the new keys and values are written before anything is looked up; a frozen
    slot is written too, in entries that no later step can see, because its position does not move on.
    Source: Vaswani et al. 2017; grouped queries: Ainslie et al. 2023.
    """

    joined: ClassVar = {"qkv": ("q", "k", "v")}

    def __init__(
        self, dim: int, heads: int, kv_heads: int, head_dim: int, qv_bias: bool = False, out_bias: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.q = nn.Linear(dim, heads * head_dim, bias=qv_bias)
        self.k = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.v = nn.Linear(dim, kv_heads * head_dim, bias=qv_bias)
        self.o = nn.Linear(heads * head_dim, dim, bias=out_bias)
        self.qkv: nn.Module | None = None  # see nn/linear.py

    def init_state(self, batch: int, capacity: int) -> KV:
        shape = (batch, self.kv_heads, capacity, self.head_dim)
        return KV(self.o.weight.new_zeros(shape), self.o.weight.new_zeros(shape))

    def forward(self, x: Tensor, rope: Callable[[Tensor], Tensor], view: View, kv: KV | None = None) -> Tensor:
        x = torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1) if self.qkv is None else self.qkv(x)
        x = x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)  # [B, H + 2 G, T, K]
        turned, v = x.split_with_sizes((self.heads + self.kv_heads, self.kv_heads), 1)  # v: [B, G, T, K]
        q, k = rope(turned).split_with_sizes((self.heads, self.kv_heads), 1)  # [B, H, T, K], [B, G, T, K]
        if kv is not None:
            k, v = kv.write(k, v, view)
        if view.mask.ndim == 3:
            return self.o(in_blocks(q, k, v, view.mask).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
        mask, groups = view.mask, self.heads // self.kv_heads
        if groups > 1:  # the queries that share a key stand as further steps of one head, so that no key is copied
            if q.shape[2] > 1:
                mask = mask.repeat(1, 1, groups, 1)
            q = q.reshape(len(q), self.kv_heads, -1, self.head_dim)  # [B, G, groups * T, K]
        # CPUs are faster at plain products than at the fused kernel, in bfloat16 two or three times; but these copy a
        # part of a ring, which only many queries are worth.
        plain = kv is not None and k.device.type == "cpu" and k.numel() * k.itemsize >= LARGE
        plain = plain and (k.is_contiguous() or q.shape[2] >= MANY)
        y = products(q, k, v, mask) if plain else F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        if groups > 1:
            y = y.reshape(len(y), self.heads, -1, self.head_dim)  # [B, H, T, K]
        return self.o(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
