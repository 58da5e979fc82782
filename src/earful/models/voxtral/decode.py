"""Writing a transcript of known features, or of features as they come: one id per slot behind a prompt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor

from earful.generate.sample import GREEDY, Sampling, choose
from earful.models.voxtral.model import VoxtralRealtime
from earful.models.voxtral.passes import decoder_state, encoder_state, hear
from earful.nn.passes import CHUNK, run


def hear_whole(model: VoxtralRealtime, mel: Tensor, prompt: int) -> Iterator[Tensor]:
    """Audio vectors [B, slots, D] of a whole signal: of `prompt` slots at first, then of one slot at a time.

    mel: [B, M, F]; what is left over behind the last whole slot is not heard. At most CHUNK slots beyond those
    asked for are in memory.
    """
    config = model.config
    slots = mel.shape[-1] // config.mels_per_slot
    chunk = min(CHUNK, slots)
    state = encoder_state(model.encoder, len(mel), chunk * config.downsample, slots * config.downsample)
    waiting = mel.new_empty(len(mel), 0, config.decoder.dim, dtype=model.decoder.norm.weight.dtype)
    wanted = prompt
    for piece in mel[..., : slots * config.mels_per_slot].split(chunk * config.mels_per_slot, dim=-1):
        waiting = torch.cat([waiting, hear(model, piece, state)], dim=1)
        while waiting.shape[1] >= wanted:
            yield waiting[:, :wanted]
            waiting, wanted = waiting[:, wanted:], 1


def hear_chunks(model: VoxtralRealtime, chunks: Iterable[Tensor], prompt: int) -> Iterator[Tensor]:
    """Audio vectors [B, slots, D] of features [B, M, F] that come in chunks: of `prompt` slots, then of one each."""
    state = None
    for mel in chunks:
        if state is None:
            state = encoder_state(model.encoder, len(mel), min(CHUNK, prompt) * model.config.downsample)
        yield hear(model, mel, state)


def write(
    model: VoxtralRealtime,
    prompt: Tensor,
    heard: Iterable[Tensor],
    delay: Tensor,
    sampling: Sampling = GREEDY,
    ends: Collection[int] = (),
    filler: int = 0,
    length: int | None = None,
) -> Iterator[Tensor]:
    """The ids [B] of one slot after the other, until every row has ended or nothing more is heard.

    prompt: [B, L] int64; heard: audio vectors [B, L, D] at first, then [B, 1, D] each; delay: [B] slots. A row ends
    with an id of `ends` and is filled with `filler` from there on. length: of prompt and ids, where it is known.
    Raises ValueError for audio vectors of other shapes, and where none come at all.
    """
    decoder = model.decoder
    chunk = min(CHUNK, prompt.shape[1])
    state = decoder_state(decoder, len(prompt), chunk, length)
    gains = decoder.gains(delay)
    ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    end_ids = torch.tensor(list(ends), dtype=torch.int64, device=prompt.device)
    tokens: Tensor | None = None
    for audio in heard:
        tokens = prompt if tokens is None else tokens[:, None]
        if audio.shape[:2] != tokens.shape:
            raise ValueError(f"expected audio of {list(tokens.shape)} rows and slots, got {list(audio.shape[:2])}")
        for piece in (decoder.embed(tokens) + audio).split(chunk, dim=1):
            x = run(decoder, piece, state, gains).last
        tokens = torch.where(ended, filler, choose(decoder.logits(x[:, -1]), sampling))
        yield tokens
        ended |= torch.isin(tokens, end_ids)
        if ended.all():
            return
    if tokens is None:
        raise ValueError(f"expected audio of at least {prompt.shape[1]} slots, got less")
