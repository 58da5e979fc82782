"""Writing the transcript of known audio: one id per frame behind a prompt.

Position p hears frame p - 1, as in training; the first position hears the start ids.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, islice

import torch
import torch.nn.functional as F
from torch import Tensor

from earful.generate.sample import GREEDY, Sampling, choose
from earful.models.mimi.model import Mimi
from earful.models.moshi.model import Temporal, TemporalState
from earful.nn.passes import run

CHUNK_FRAMES = 25  # frames that the codec encodes in one call: 2 s


def hear(mimi: Mimi, samples: Tensor, codebooks: int) -> Iterator[Tensor]:
    """The codes [B, codebooks, 1] of one frame after the other. At most CHUNK_FRAMES are in memory.

    samples: [B, 1, N] float32; what is left over behind the last whole frame is not heard.
    """
    frame = mimi.config.frame_samples
    frames = samples.shape[-1] // frame
    if frames == 0:
        return
    chunk = min(CHUNK_FRAMES, frames)
    state = mimi.init_encode_state(len(samples), chunk)
    for piece in samples[..., : frames * frame].split(chunk * frame, dim=-1):
        yield from mimi.encode(piece, codebooks, state).split(1, dim=-1)


def frames_of(padding_mask: Tensor, frame_samples: int) -> Tensor:
    """How many whole frames belong to each row [B]: its audio, and as much behind it as behind the longest.

    padding_mask: [B, N], 1 for audio. A row without any is as long as the longest.
    """
    samples = torch.arange(1, padding_mask.shape[-1] + 1, device=padding_mask.device)
    ends = (padding_mask.bool() * samples).amax(-1)  # [B]
    ends = torch.where(ends == 0, ends.max(), ends)
    return (padding_mask.shape[-1] - ends.max() + ends) // frame_samples


def write(
    temporal: Temporal,
    prompt: Tensor,
    heard: Iterable[Tensor],
    start: Tensor,
    state: TemporalState,
    sampling: Sampling = GREEDY,
    ends: Collection[int] = (),
    filler: int = 0,
    lengths: Tensor | None = None,
) -> Iterator[Tensor]:
    """The ids [B] of one position after the other, until every row has ended or nothing more is heard.

    prompt: [B, L] int64; heard: codes [B, codebooks, 1] of each frame; start: [codebooks] what the first position
    hears. state: has taken in some of the prompt or none of it, and is moved on. A row ends with an id of `ends`, or
    when it has `lengths` [B] ids, the prompt's included, and is filled with `filler` from there on.
    Raises ValueError where fewer frames are heard than the prompt needs.
    """
    rows, length = prompt.shape
    begun = int(state.pos[0])
    columns = islice(chain([start[None, :, None].expand(rows, -1, 1)], heard), begun, None)
    lengths = torch.tensor(math.inf, device=prompt.device) if lengths is None else lengths
    ended = (lengths <= length).expand(rows).clone()
    end_ids = torch.tensor(list(ends), dtype=torch.int64, device=prompt.device)
    ids, new = prompt[:, begun:], list(islice(columns, length - begun))
    if len(new) < ids.shape[1]:
        raise ValueError(f"expected at least {length - 1} frames under {length} ids, got {begun + len(new) - 1}")
    while new:
        x = temporal.embed(torch.cat([ids[:, None], torch.cat(new, dim=-1)], dim=1))
        hidden = run(temporal, x, state).last
        tokens = torch.where(ended, filler, choose(temporal.logits(hidden[:, -1]), sampling))
        yield tokens
        length += 1
        ended |= torch.isin(tokens, end_ids) | (lengths <= length)
        if ended.all():
            return
        ids, new = tokens[:, None], list(islice(columns, 1))


def with_start_id(logits: Tensor) -> Tensor:
    """Logits [..., text_vocab] and one more, of the start id: 0 as in Hugging Face's files, where its row is empty."""
    return F.pad(logits, (0, 1))
