"""The choice of the next id: the likeliest, or one drawn at random from the likely ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How ids are chosen. Raises ValueError for what is out of range.

    temperature: 0 takes the likeliest id, otherwise ids are drawn from softmax(logits / temperature); top_k: only from
    the k likeliest; top_p: then only from the fewest of the likeliest that together have at least this probability.
    Source: top-p is the nucleus of Holtzman et al. 2020.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"expected a temperature of at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"expected top_k of at least 1, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"expected top_p above 0 and at most 1, got {self.top_p}")


GREEDY = Sampling()


def shaped(logits: Tensor, how: Sampling) -> Tensor:
    """logits: [B, V] float32 -> the same over the temperature, -inf where an id is too unlikely to be drawn."""
    logits = logits / how.temperature
    if how.top_k is not None:
        least = logits.topk(min(how.top_k, logits.shape[-1])).values[:, -1:]  # [B, 1]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if how.top_p < 1:
        rising, order = logits.sort()  # the last one always stays
        unlikely = rising.softmax(-1).cumsum(-1) <= 1 - how.top_p
        unlikely[:, -1] = False
        logits = logits.masked_fill(unlikely.scatter(-1, order, unlikely), float("-inf"))
    return logits


def choose(logits: Tensor, how: Sampling = GREEDY, generator: torch.Generator | None = None) -> Tensor:
    """logits: [B, V] float32 -> ids [B] int64. generator: where chance comes from, None for torch's own."""
    if how.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(shaped(logits, how).softmax(-1), 1, generator=generator)[:, 0]


def noise(seed: Tensor, position: Tensor, vocab: int) -> Tensor:
    """Gumbel noise that depends on nothing but a stream's seed and its position: [B] int64 each -> float32 [B, vocab].

    The likeliest of logits + temperature * noise is drawn from softmax(logits / temperature), whatever else is in the
    batch. Source: Steele et al. 2014 for the mixing of bits (SplitMix64).
    """
    index = torch.arange(vocab, device=seed.device)
    bits = _mixed(_mixed(_mixed(seed)[:, None] + position[:, None]) + index)  # [B, vocab]
    uniform = ((bits >> 12 & (1 << 52) - 1).double() + 0.5) * 2.0**-52  # above 0 and below 1
    return -(-uniform.log()).log().float()


def _mixed(bits: Tensor) -> Tensor:
    """64 bits as different from those of a neighbour as chance would have them; products wrap around."""
    bits = bits + -0x61C8864680B583EB
    bits = (bits ^ (bits >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    bits = (bits ^ (bits >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return bits ^ (bits >> 31 & (1 << 33) - 1)
