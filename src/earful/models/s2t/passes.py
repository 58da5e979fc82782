"""One pass through either half with what only Hugging Face's `forward` lets a caller choose or see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from earful.models.s2t.config import PAD, START
from earful.models.s2t.model import Decoder, DecoderState, Encoder, Heads, Memory, left_out
from earful.nn.passes import IGNORED


@dataclass(frozen=True)
class Ask:
    """What is asked of a pass beyond its result; heads are [H] for all layers or [layers, H]."""

    hidden: bool = False
    attentions: bool = False
    heads: Heads = None
    cross_heads: Heads = None


@dataclass(frozen=True)
class Passed:
    last: Tensor  # [B, T, D] normalised
    hidden: tuple[Tensor, ...]  # [B, T, D] each: what goes into the first block and comes out of each, normalised last
    attentions: tuple[Tensor, ...]  # [B, H, T, S] of each block, after the softmax
    crosses: tuple[Tensor, ...]  # the same for the attention to what is heard


@dataclass
class Cache:
    """What a text so far has left behind: of its ids, and of what is heard."""

    state: DecoderState
    memory: Memory

    @property
    def pos(self) -> Tensor:
        return self.state.pos


PLAIN = Ask()


def encode(encoder: Encoder, features: Tensor, frames: Tensor | None, ask: Ask = PLAIN) -> Passed:
    """Features [B, F, bins] and how many frames of each are real [B], None for all."""
    x, mask, _ = encoder.enter(features, frames)
    hidden: list[Tensor] = []
    attentions: list[Tensor] = []
    for block, heads in zip(encoder.layers, per_layer(ask.heads, encoder), strict=True):
        hidden.append(x)
        if not left_out(encoder.config.encoder, encoder.training):
            x = block(x, mask, attentions if ask.attentions else None, heads)
    return _passed(encoder.norm(x), hidden, attentions, [])


def decode(
    decoder: Decoder,
    ids: Tensor | None,
    embedded: Tensor | None,
    memory: Memory,
    state: DecoderState | None = None,
    real: Tensor | None = None,
    ask: Ask = PLAIN,
) -> Passed:
    """Ids [B, T], or what stands for their embeddings [B, T, D], scaled; the rest as of the decoder's `forward`."""
    c = decoder.config
    if embedded is None:
        assert ids is not None
        embedded, counted = c.scale * decoder.embed(ids), ids != PAD
    else:
        counted = torch.ones(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
    x, view = decoder.enter(embedded, counted, state, real)
    hidden: list[Tensor] = []
    attentions: list[Tensor] = []
    crosses: list[Tensor] = []
    watch = (attentions, crosses) if ask.attentions else (None, None)
    every_heads = zip(per_layer(ask.heads, decoder), per_layer(ask.cross_heads, decoder), strict=True)
    for i, (block, heads) in enumerate(zip(decoder.layers, every_heads, strict=True)):
        hidden.append(x)
        if not left_out(c.decoder, decoder.training):
            kv = state.layers[i] if state else None
            x = block(x, view, kv, memory.layers[i], memory.mask, watch, heads)
    if state:
        state.pos.add_(x.shape[1])
    return _passed(decoder.norm(x), hidden, attentions, crosses)


def _passed(last: Tensor, hidden: list[Tensor], attentions: list[Tensor], crosses: list[Tensor]) -> Passed:
    return Passed(last, (*hidden, last), tuple(attentions), tuple(crosses))


def per_layer(heads: Heads, half: Encoder | Decoder) -> Iterator[Heads]:
    """For each layer how much its heads count; raises ValueError for another shape."""
    layers = len(half.layers)
    if heads is None:
        return iter([None] * layers)
    config = half.config.encoder if isinstance(half, Encoder) else half.config.decoder
    if list(heads.shape) not in ([config.heads], [layers, config.heads]):
        raise ValueError(
            f"expected a head mask of shape [{config.heads}] or [{layers}, {config.heads}], got {list(heads.shape)}"
        )
    return iter(heads.expand(layers, -1))


def shifted(labels: Tensor) -> Tensor:
    """What the decoder reads to write labels [B, T], IGNORED where nothing is asked: the start, and the first ones."""
    ids = labels.roll(1, dims=1)
    ids[:, 0] = START
    return ids.masked_fill(ids == IGNORED, PAD)


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of labels [B, T], each given by the logits [B, T, V] in its place.

    Raises ValueError for other shapes.
    """
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"expected labels of shape {list(logits.shape[:2])}, one per logit, got {list(labels.shape)}")
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
