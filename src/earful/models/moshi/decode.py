"""Speech behind a prompt, as Moshi's `generate` has it: text and codes column by column, the user being silent.

A column is what the model takes in at once; it holds each codebook as late as its delay. In terms of frames, column 0
is the start and column c holds text c - 1 and, of a codebook with delay d, code c - 1 - d.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from earful.generate.lockstep import Choice
from earful.models.moshi.codes import codes_of
from earful.models.moshi.model import Moshi, Temporal, TemporalState
from earful.nn.passes import CHUNK, rings, run
from earful.nn.state import select


def writing_state(temporal: Temporal, batch: int, prompt: int, length: int | None = None) -> TemporalState:
    """A fresh state for a prompt of so many ids; length: of prompt and ids in all, where it is known."""
    return TemporalState(*rings(temporal, batch, min(CHUNK, prompt), length))


@dataclass(frozen=True)
class Prompt:
    """What has been written, said and heard of B conversations, in frames; the start is none of them."""

    ids: Tensor  # int64 [B, channels, T], text, own codes, user's codes; -1 where nothing is known
    started: bool  # the start stands before the first frame
    embeds: Tensor | None = None  # [B, columns, D] in place of what the ids say; these then need not be known

    def text(self, core: Moshi) -> Tensor:
        """The ids before those that will be written [B, L]; embeddings have none."""
        if self.embeds is not None:
            return self.ids[:, 0, :0]
        start = core.start(len(self.ids))[:, 0]
        return torch.cat([start, self.ids[:, 0]], dim=-1) if self.started else self.ids[:, 0]


@dataclass
class SpeechState:
    temporal: TemporalState
    hidden: Tensor  # [R, D] of the last column
    made: Tensor  # int64 [R, count, own], the codes that were made behind each new id


class SpeechWriter:
    """As `lockstep.Writer` wants one: text behind B prompts, `rows` for each, and beside each id what is said."""

    logits: Tensor
    state: SpeechState

    def __init__(self, core: Moshi, prompt: Prompt, count: int, rows: int, how: Choice) -> None:
        """count: how many ids are written; how: the codes are chosen."""
        self.core, self.prompt, self.how, c = core, prompt, how, core.config
        self.frames, self.written = prompt.ids.shape[-1], 0
        index = torch.arange(len(prompt.ids), device=prompt.ids.device).repeat_interleave(rows)
        self.known = prompt.ids[index]  # [R, channels, T]
        self.start, self.silence = core.start(1)[..., 0], silence(core)  # [1, channels], [1, user]
        self.delays = torch.tensor(c.delays, device=prompt.ids.device)
        x = prompt.embeds
        if x is None:
            late = core.delayed(prompt.ids)
            x = summed(core, torch.cat([core.start(len(late)), late], dim=-1) if prompt.started else late)
        temporal = writing_state(core.temporal, len(x), x.shape[1], x.shape[1] + count)
        hidden = run(core.temporal, x, temporal).last[:, -1]
        made = torch.zeros(len(x), count, c.own, dtype=torch.int64, device=x.device)
        self.state = select(SpeechState(temporal, hidden, made), index)
        self.logits = core.temporal.logits(self.state.hidden)

    def take(self, ids: Tensor, last: bool) -> None:
        state, temporal, own = self.state, self.core.temporal, slice(1, 1 + self.core.config.own)
        forced = self._forced()
        codes = codes_of(self.core.depth, state.hidden, ids, self.how, forced[:, own])  # [R, own]
        state.made[:, self.written] = codes
        self.written += 1
        if not last:
            column = torch.cat([ids[:, None], codes, self.silence.expand(len(ids), -1)], dim=1)
            column = torch.where(forced >= 0, forced, column)  # [R, channels]
            state.hidden.copy_(run(temporal, summed(self.core, column[..., None]), state.temporal).last[:, -1])
            self.logits = temporal.logits(state.hidden)

    def _forced(self) -> Tensor:
        """What of the next column is of the prompt's frames, or before all frames: [R, channels], -1 where new."""
        frame = self.frames + self.written - self.delays  # [channels], from which each is
        known = self.known.new_full((*self.known.shape[:2], 1), -1)
        if self.frames:
            place = frame.clamp(0, self.frames - 1)[None, :, None]
            known = self.known.gather(2, place.expand(len(self.known), -1, 1))
        return torch.where(frame < 0, self.start, known[..., 0].masked_fill(frame >= self.frames, -1))

    def codes(self) -> Tensor:
        """Own codes of all frames that are whole, the prompt's where they are known first: int64 [R, own, frames]."""
        own = slice(1, 1 + self.core.config.own)
        delays = self.core.config.delays[own]
        whole = max(0, self.written - max(delays))
        made = torch.stack([self.state.made[:, d : d + whole, j] for j, d in enumerate(delays)], dim=1)
        said = self.prompt.ids[:, own]
        if (said < 0).any():  # a prompt of embeddings alone
            return made
        return torch.cat([said.repeat_interleave(len(made) // len(said), 0), made], dim=-1)

    def audio(self, codes: Tensor) -> Tensor:
        """Samples [R, 1, N] of codes [R, own, frames]."""
        if codes.shape[-1]:
            return self.core.codec.decode(codes)
        return torch.zeros(len(codes), 1, 0, device=codes.device)


def summed(core: Moshi, columns: Tensor) -> Tensor:
    """Columns [B, channels, T] as the transformer over time takes them [B, T, D], its conditions having no value."""
    return core.temporal.embed(columns, core.told({})[None])


def silence(core: Moshi) -> Tensor:
    """The codes of one frame of silence: int64 [1, user]."""
    c = core.config
    samples = torch.zeros(1, 1, c.codec.frame_samples, device=core.temporal.norm.weight.device)
    return core.codec.encode(samples, c.temporal.codebooks - c.own)[..., 0]
