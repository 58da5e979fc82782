"""One pass through a stack of blocks with what only Hugging Face's `forward` lets a caller choose or see.

Own positions, masked keys, what lies between the blocks, calls of any length on rings of a fixed size, and rings for a
stream whose length is known. The stacks' own `forward` is the plain case of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.nn.attention import KV, Attention, View
from earful.nn.rope import Rope

CHUNK = 64  # the most steps in one call on a ring: its entries beyond the window cost memory
IGNORED = -100  # a label that costs nothing


class Stack(Protocol):
    """Blocks of (x, rope, view, ring) with `attn_norm` and `attn`, and a norm behind them."""

    config: Any  # with window, head_dim, rope_base
    layers: nn.ModuleList
    norm: Any


class State(Protocol):
    layers: list[KV]
    pos: Tensor  # [B] int64, steps so far


@dataclass(frozen=True)
class Ask:
    """What is asked of a pass beyond its result."""

    positions: Tensor | None = None  # [B or 1, T] int64, where the rotary angles are taken
    keys: Tensor | None = None  # [B, S] bool, which positions of the whole stream so far may be looked at
    hidden: bool = False
    attentions: bool = False


@dataclass(frozen=True)
class Passed:
    last: Tensor  # [B, T, D] normalised
    hidden: tuple[
        Tensor, ...
    ] = ()  # [B, T, D] each: what goes into the first block and comes out of each, normalised last
    attentions: tuple[Tensor, ...] = ()  # [B, H, T, T] of each block


PLAIN = Ask()


def run(
    stack: Stack,
    x: Tensor,
    state: State | None = None,
    gains: Tensor | None = None,
    ask: Ask = PLAIN,
) -> Passed:
    """x: [B, T, D]; gains: [B, layers, D], one for each block, where the blocks take one beside x.

    Raises ValueError for attentions that are asked of a ring, whose entries are in no order.
    """
    if state is not None:
        if ask.attentions:
            raise ValueError("expected no cache with attention weights, got one")
        most = state.layers[0].keys.shape[2] - stack.config.window + 1
        if 0 < most < x.shape[1]:
            return _joined([run(stack, *piece) for piece in _pieces(x, most, state, gains, ask)])
    rope, view = _view(stack, x, state, ask)
    hidden, attentions = [], []
    for i, block in enumerate(stack.layers):
        if ask.attentions:
            attentions.append(attention_weights(block.attn, block.attn_norm(x), rope, view))  # type: ignore[arg-type, operator]
        if ask.hidden:
            hidden.append(x)
        kv: KV | None = state.layers[i] if state else None
        x = block(x, rope, view, kv) if gains is None else block(x, gains[:, i, None], rope, view, kv)
    if state:
        state.pos.add_(x.shape[1])
    last: Tensor = stack.norm(x)
    return Passed(last, (*hidden, last) if ask.hidden else (), tuple(attentions))


def _pieces(
    x: Tensor, most: int, state: State, gains: Tensor | None, ask: Ask
) -> Iterator[tuple[Tensor, State, Tensor | None, Ask]]:
    """The calls that a ring has room for; each is made before the next is asked for."""
    for begin in range(0, x.shape[1], most):
        part = slice(begin, begin + most)
        positions = None if ask.positions is None else ask.positions[:, part]
        yield x[:, part], state, gains, replace(ask, positions=positions)


def _joined(parts: list[Passed]) -> Passed:
    hidden = zip(*(part.hidden for part in parts), strict=True)
    return Passed(torch.cat([part.last for part in parts], dim=1), tuple(torch.cat(h, dim=1) for h in hidden))


def _view(stack: Stack, x: Tensor, state: State | None, ask: Ask) -> tuple[Rope, View]:
    c, steps = stack.config, x.shape[1]
    new = torch.arange(steps, device=x.device)[None]  # [1, T]
    seen = ask.keys
    if state is None:
        view = View.whole(steps, c.window, x.dtype, x.device)
    else:
        new = state.pos[:, None] + new  # [B, T]
        capacity = state.layers[0].keys.shape[2]
        # A ring that is shorter than the window was made for a stream that is shorter still.
        view = View.ring(state.pos, steps, min(c.window, capacity - steps + 1), capacity, x.dtype)
        if seen is not None:
            last = new[:, -1:]
            entry = torch.arange(view.mask.shape[-1], device=x.device)
            held = last - (last - entry) % capacity  # [B, entries looked at] as in View.ring
            seen = seen.gather(1, held.clamp(min=0))
    if seen is not None:
        mask = view.mask.masked_fill(~seen[:, None, None], float("-inf"))
        # What a step that sees nothing comes to is nobody's concern, but it must be a number: 0 times it is added up.
        view = replace(view, mask=mask.masked_fill(mask.isneginf().all(-1, keepdim=True), 0.0))
    positions = new if ask.positions is None else ask.positions
    return Rope.at(positions, c.head_dim, c.rope_base, x.dtype), view


def attention_weights(attention: Attention, x: Tensor, rope: Rope, view: View) -> Tensor:
    """How much each step looks at each other one of a whole signal. x: [B, T, D] -> [B, H, T, T], rows sum to 1."""
    q = rope(attention.q(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2))  # [B, H, T, K]
    k = rope(attention.k(x).unflatten(-1, (attention.kv_heads, -1)).transpose(1, 2))  # [B, G, T, K]
    k = k.repeat_interleave(attention.heads // attention.kv_heads, dim=1)
    scores: Tensor = q @ k.transpose(2, 3) * attention.head_dim**-0.5 + view.mask
    return scores.softmax(-1, dtype=torch.float32).to(x.dtype)


def rings(stack: Stack, batch: int, steps: int, length: int | None = None) -> tuple[list[KV], Tensor]:
    """Fresh rings and position for calls of at most `steps` steps; length: steps in all, where it is known."""
    window = stack.config.window
    capacity = (window if length is None else min(window, length)) + steps - 1
    layers = [block.attn.init_state(batch, capacity) for block in stack.layers]  # type: ignore[operator, union-attr]
    return layers, torch.zeros(batch, dtype=torch.int64, device=stack.norm.weight.device)


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each label but the first, given by the logits before it, in float32.

    logits: [B, T, V]; labels: [B, T] int64, IGNORED where nothing is asked. Raises ValueError for other shapes.
    """
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"expected labels of shape {list(logits.shape[:2])}, one per logit, got {list(labels.shape)}")
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
