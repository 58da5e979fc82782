"""What `generate` has in common for all models: lengths, chance, and where the ids go."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from earful.checkpoint.fields import Fields
from earful.generate.lockstep import Choice, Writer, search, write
from earful.generate.sample import GREEDY, Sampling

NEW_TOKENS = 20  # where no length is asked for


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


def lengths(max_new_tokens: int | None, max_length: int | None) -> tuple[int | None, int | None]:
    """As asked for, where nothing is asked 20 new ones."""
    return (NEW_TOKENS, None) if max_new_tokens is max_length is None else (max_new_tokens, max_length)


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


def choice_of(asked: Mapping[str, Any], settings: Fields) -> Choice:
    """How ids are chosen: as asked for, and where that is None as in a generation_config.json.

    asked: do_sample, temperature, top_k, top_p and num_beams. Raises ValueError for what would count for nothing and
    for what is out of range.
    """
    said = Fields({key: value for key, value in settings.values.items() if value is not None}, settings.where)
    do_sample = said.flag("do_sample", False) if asked["do_sample"] is None else asked["do_sample"]
    beams = said.whole("num_beams", 1, 1 << 10, 1) if asked["num_beams"] is None else asked["num_beams"]
    by = {name: asked[name] for name in ("temperature", "top_k", "top_p")}
    if do_sample:
        stored = {
            "temperature": said.number("temperature", 0, 1e3, said.number("temp", 0, 1e3, 1.0)),
            "top_k": said.whole("top_k", 0, 1 << 20, 50) or 1 << 20,  # 0 is no limit
            "top_p": said.number("top_p", 0, 1, 1.0),
        }
        by = {name: stored[name] if value is None else value for name, value in by.items()}
    return Choice(sampling_of(do_sample, **by), beams)


def rows_of(how: Choice, wanted: int) -> int:
    """How many texts are written at once for each input, so that as many as wanted come out."""
    if wanted < 1:
        raise ValueError(f"expected num_return_sequences of at least 1, got {wanted}")
    if how.beams > 1:
        if wanted > how.beams:
            raise ValueError(f"expected num_return_sequences of at most the {how.beams} beams, got {wanted}")
        return how.beams
    if wanted > 1 and not how.sampling.temperature:
        raise ValueError(f"expected one sequence without beams and chance, which would all be equal, got {wanted}")
    return wanted


def generated(
    writer: Writer,
    prompt: Tensor,
    count: int,
    how: Choice,
    wanted: int = 1,
    streamer: Streamer | None = None,
    ends: Collection[int] = (),
    filler: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """The prompt [B, L] and `count` ids behind it [B * wanted, L + count], fewer where all rows have ended before.

    writer: of as many rows as `rows_of` says. Beams have scores [B * wanted], log-probabilities over the length. Raises
    ValueError for beams with what they cannot have.
    """
    prompt = prompt.repeat_interleave(wanted, 0)
    if how.beams == 1:
        return collected(prompt, write(writer, count, how.sampling, ends, filler), streamer), None
    if streamer is not None or ends:
        raise ValueError("expected one beam with a streamer or ids that end a text, got more")
    texts, scores = search(writer, count, how.beams, wanted, how.sampling)
    return torch.cat([prompt, texts], dim=1), scores / count
