"""What `generate` has in common for all models: lengths, chance, and where the ids go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from earful.generate.sample import GREEDY, Sampling


class Streamer(Protocol):
    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


def length_of(prompt: int, slots: int | None, max_new_tokens: int | None, max_length: int | None) -> int | None:
    """The most ids in all: what is asked for, and never more than there are slots; None without an end."""
    if max_new_tokens is not None and max_length is not None:
        raise ValueError("expected max_new_tokens or max_length, got both")
    wanted = max_length if max_new_tokens is None else prompt + max_new_tokens
    limits = [limit for limit in (wanted, slots) if limit is not None]
    if limits and min(limits) <= prompt:
        raise ValueError(f"expected room for more ids than the {prompt} of the prompt, got a length of {min(limits)}")
    return min(limits, default=None)


def sampling_of(do_sample: bool, temperature: float | None, top_k: int | None, top_p: float | None) -> Sampling:
    """With the reference's defaults; raises ValueError for what would count for nothing."""
    if not do_sample:
        if (temperature, top_k, top_p) != (None, None, None):
            raise ValueError("expected do_sample=True with temperature, top_k and top_p, got False")
        return GREEDY
    return Sampling(
        1.0 if temperature is None else temperature, 50 if top_k is None else top_k, 1.0 if top_p is None else top_p
    )


def collected(prompt: Tensor, written: Iterator[Tensor], streamer: Streamer | None) -> Tensor:
    """The prompt [B, L] and the ids [B] behind it as one [B, T]; the streamer hears of its end even when that fails."""
    parts = [prompt]
    try:
        if streamer is not None:
            streamer.put(prompt.cpu())
        for tokens in written:
            parts.append(tokens[:, None])
            if streamer is not None:
                streamer.put(tokens.cpu())
    finally:
        if streamer is not None:
            streamer.end()
    return torch.cat(parts, dim=1)
