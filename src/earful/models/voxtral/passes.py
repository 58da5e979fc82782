"""One pass through a stack with what only Hugging Face's `forward` lets a caller choose or see.

Own positions, masked keys, what lies between the blocks, calls of any length on rings of a fixed size, and rings for a
stream whose length is known. The stacks' own `forward` is the plain case of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from earful.models.voxtral.model import Decoder, DecoderState, Encoder, EncoderState, VoxtralRealtime, advance
from earful.nn.attention import KV, Attention, View
from earful.nn.rope import Rope

CHUNK_SLOTS = 64  # the most slots in one call on a ring: its entries beyond the window cost memory
IGNORED = -100  # a label that costs nothing


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
    stack: Encoder | Decoder,
    x: Tensor,
    state: EncoderState | DecoderState | None = None,
    gains: Tensor | None = None,
    ask: Ask = PLAIN,
) -> Passed:
    """The transformer of a stack. x: [B, T, D]; gains: [B, layers, D] for the decoder, None for the encoder.

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
        advance(state.pos, x.shape[1], None)
    last: Tensor = stack.norm(x)
    return Passed(last, (*hidden, last) if ask.hidden else (), tuple(attentions))


def _pieces(
    x: Tensor, most: int, state: EncoderState | DecoderState, gains: Tensor | None, ask: Ask
) -> Iterator[tuple[Tensor, EncoderState | DecoderState, Tensor | None, Ask]]:
    """The calls that a ring has room for; each is made before the next is asked for."""
    for begin in range(0, x.shape[1], most):
        part = slice(begin, begin + most)
        positions = None if ask.positions is None else ask.positions[:, part]
        yield x[:, part], state, gains, replace(ask, positions=positions)


def _joined(parts: list[Passed]) -> Passed:
    hidden = zip(*(part.hidden for part in parts), strict=True)
    return Passed(torch.cat([part.last for part in parts], dim=1), tuple(torch.cat(h, dim=1) for h in hidden))


def _view(
    stack: Encoder | Decoder, x: Tensor, state: EncoderState | DecoderState | None, ask: Ask
) -> tuple[Rope, View]:
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
        view = View(view.mask.masked_fill(~seen[:, None, None], float("-inf")), view.entries)
    positions = new if ask.positions is None else ask.positions
    return Rope.at(positions, c.head_dim, c.rope_base, x.dtype), view


def attention_weights(attention: Attention, x: Tensor, rope: Rope, view: View) -> Tensor:
    """How much each step looks at each other one of a whole signal. x: [B, T, D] -> [B, H, T, T], rows sum to 1."""
    q = rope(attention.q(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2))  # [B, H, T, K]
    k = rope(attention.k(x).unflatten(-1, (attention.kv_heads, -1)).transpose(1, 2))  # [B, G, T, K]
    k = k.repeat_interleave(attention.heads // attention.kv_heads, dim=1)
    scores: Tensor = q @ k.transpose(2, 3) * attention.head_dim**-0.5 + view.mask
    return scores.softmax(-1, dtype=torch.float32).to(x.dtype)


def encoder_state(encoder: Encoder, batch: int, frames: int, length: int | None = None) -> EncoderState:
    """A fresh state for calls of at most `frames` encoder frames; length: frames in all, where it is known."""
    layers, pos = _rings(encoder, batch, frames, length)
    return EncoderState(encoder.conv1.init_state(batch), encoder.conv2.init_state(batch), layers, pos)


def decoder_state(decoder: Decoder, batch: int, slots: int, length: int | None = None) -> DecoderState:
    """A fresh state for calls of at most `slots` slots; length: slots in all, where it is known."""
    return DecoderState(*_rings(decoder, batch, slots, length))


def padding_state(encoder: Encoder, batch: int) -> EncoderState:
    """The part of a fresh state that the convolutions use."""
    pos = torch.zeros(batch, dtype=torch.int64, device=encoder.norm.weight.device)
    return EncoderState(encoder.conv1.init_state(batch), encoder.conv2.init_state(batch), [], pos)


def _rings(stack: Encoder | Decoder, batch: int, steps: int, length: int | None) -> tuple[list[KV], Tensor]:
    window = stack.config.window
    capacity = (window if length is None else min(window, length)) + steps - 1
    layers = [block.attn.init_state(batch, capacity) for block in stack.layers]  # type: ignore[operator, union-attr]
    return layers, torch.zeros(batch, dtype=torch.int64, device=stack.norm.weight.device)


def hear(model: VoxtralRealtime, mel: Tensor, state: EncoderState) -> Tensor:
    """mel: [B, M, slots * mels_per_slot] -> audio vectors [B, slots, D]. Raises ValueError for a part of a slot."""
    frames = model.encoder.embed(mel.to(model.decoder.norm.weight.dtype), state)
    return join(model, run(model.encoder, frames, state).last)


def join(model: VoxtralRealtime, frames: Tensor) -> Tensor:
    """Encoder frames [B, slots * downsample, D_enc] -> audio vectors [B, slots, D]; raises ValueError for others."""
    if frames.shape[1] % model.config.downsample:
        raise ValueError(
            f"expected whole slots of {model.config.mels_per_slot} mel frames, {model.config.downsample} behind the "
            f"convolutions, got {frames.shape[1]} of these"
        )
    return model.projector(frames)  # type: ignore[no-any-return]


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each label but the first, given by the logits before it, in float32.

    logits: [B, T, V]; labels: [B, T] int64, IGNORED where nothing is asked. Raises ValueError for other shapes.
    """
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"expected labels of shape {list(logits.shape[:2])}, one per logit, got {list(labels.shape)}")
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
