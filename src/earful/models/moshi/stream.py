"""Streaming Moshi: for every 80 ms heard, 80 ms are spoken and perhaps a piece of text is written beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from earful.errors import CheckpointError
from earful.events import Audio, Event, Text
from earful.generate.sample import noise
from earful.models.mimi.model import DecodeState, EncodeState
from earful.models.moshi.config import MoshiConfig
from earful.models.moshi.model import Moshi, TemporalState
from earful.models.moshi.prompt import Prompt
from earful.nn.linear import pack
from earful.nn.state import keep, row
from earful.text.incremental import Utf8Stream
from earful.text.sentencepiece import SentencePiece

CHUNK_FRAMES = 32  # the most frames that one call may encode; the rings have room for it
MOST_CHOICES = 512  # ids that chance may choose from


@dataclass(frozen=True)
class Chance:
    """How a session chooses its ids; raises ValueError for what is out of range.

    A temperature of 0 takes the likeliest id, otherwise ids are drawn from the top_k likeliest, always the same ones
    for one seed. The defaults are those of Kyutai's own programs.
    """

    temperature: float = 0.8
    top_k: int = 250
    text_temperature: float = 0.7
    text_top_k: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("temperature", "text_temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected a {name} of at least 0, got {getattr(self, name)}")
        for name in ("top_k", "text_top_k"):
            if not 1 <= getattr(self, name) <= MOST_CHOICES:
                raise ValueError(f"expected {name} of 1 to {MOST_CHOICES}, got {getattr(self, name)}")


@dataclass
class StreamState:
    hearing: EncodeState
    temporal: TemporalState
    speaking: DecodeState
    made: Tensor  # [B, 1 + own, max_delay + 1] int64, text id and own codes of the last positions, the newest last
    heard: Tensor  # [B, user, max_delay + 1] int64, the user's codes of the last frames, the newest last
    temperature: Tensor  # [B, 2] float32, of text and of codes
    top_k: Tensor  # [B, 2] int64
    seed: Tensor  # [B] int64
    prompt: Prompt
    told: Tensor  # [B, 2, D] float32, what conditions add, and what is added to `against`; D of 0 without conditions
    guidance: Tensor  # [B] float32, how much further than `told` the choice goes from `against`; 0 is no further
    against: list[TemporalState]  # the same session told something else; none without conditions


@dataclass
class Memo:
    """What the host remembers of one session."""

    position: int = 0  # frames spoken or left out so far
    utf8: Utf8Stream = field(default_factory=Utf8Stream)
    started: bool = False  # some text has been written
    limit_s: float = math.inf  # the length of what was heard, once it is known: no more is spoken


class MoshiStream:
    """Everything about this family that the engine needs; holds no stream itself."""

    def __init__(self, model: Moshi, tokenizer: SentencePiece) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.config: MoshiConfig = model.config
        if tokenizer.vocab < self.config.temporal.text_vocab:
            raise CheckpointError(
                f"{tokenizer.name}: expected a vocabulary of at least {self.config.temporal.text_vocab} pieces, "
                f"got {tokenizer.vocab}"
            )
        self.rate_hz = self.config.codec.rate_hz
        self.hop = self.config.codec.frame_samples
        self.before = self.after = self.lead = 0
        self.chunk = CHUNK_FRAMES
        self.delay_s = None
        self.user = self.config.temporal.codebooks - self.config.own
        delays = torch.tensor(self.config.delays, device=model.temporal.norm.weight.device)
        self.delays = delays[None, :]  # [1, channels]
        own = delays[: 1 + self.config.own]
        self.ages = (self.config.max_delay - own)[None, :, None]  # [1, 1 + own, 1], of what belongs to one frame
        self.silence = torch.tensor([self.config.pad_id, self.config.end_pad_id], device=delays.device)

    @torch.inference_mode()
    def init_state(self, batch: int) -> StreamState:
        c, device = self.config, self.delays.device
        if batch > 1 or c.conditions:  # of which each session may take two rows
            pack(self.model.temporal)  # it was made for one row
            pack(self.model.depth)
        ids = torch.zeros(batch, 1, c.max_delay + 1, dtype=torch.int64, device=device)
        width = c.temporal.dim if c.conditions else 0
        return StreamState(
            self.model.codec.init_encode_state(batch, self.chunk),
            self.model.temporal.init_state(batch),
            self.model.codec.init_decode_state(batch),
            made=ids.repeat(1, 1 + c.own, 1),
            heard=ids.repeat(1, self.user, 1),
            temperature=torch.zeros(batch, 2, device=device),
            top_k=torch.zeros(batch, 2, dtype=torch.int64, device=device),
            seed=ids[:, 0, 0].clone(),
            prompt=Prompt.empty(batch, device),
            told=torch.zeros(batch, 2, width, device=device),
            guidance=torch.zeros(batch, device=device),
            against=[self.model.temporal.init_state(batch) for _ in c.conditions[:1]],
        )

    @torch.inference_mode()
    def open(
        self,
        state: StreamState,
        slot: int,
        delay_s: float | None = None,
        chance: Chance = Chance(),
        prompt: str = "",
        conditions: Mapping[str, str] | None = None,
        guidance: float = 1.0,
        against: Mapping[str, str] | None = None,
    ) -> Memo:
        """Begin a session in a slot that is zero.

        prompt: what is said first; its pieces are written before any other, when the model finds it time for one.
        conditions: values by name, for a model that knows some; what is left out is as if it was not known. guidance:
        how much more this shall sound like `conditions` than like `against`, 1 for no more. Raises ValueError for a
        delay, as each answer comes at once, a prompt that is too long, conditions that the model does not have, and a
        guidance below 0 or without conditions.
        """
        if delay_s is not None:
            raise ValueError(f"expected no delay, got {delay_s} s")
        if not 0 <= guidance < math.inf or (guidance != 1 and not self.config.conditions):
            possible = "of at least 0" if self.config.conditions else "of 1 for a model without conditions"
            raise ValueError(f"expected a guidance {possible}, got {guidance}")
        told = torch.stack([self.model.told(conditions or {}), self.model.told(against or {})])  # [2, D]
        state = row(state, slot)
        if prompt:
            state.prompt.begin(self.tokenizer.encode(prompt), self.config.temporal.text_vocab)
        state.told.copy_(told[:, : state.told.shape[-1]])
        state.guidance.fill_(guidance - 1)
        state.temperature.copy_(torch.tensor([[chance.text_temperature, chance.temperature]]))
        state.top_k.copy_(torch.tensor([[chance.text_top_k, chance.top_k]]))
        state.seed.fill_(chance.seed & (1 << 63) - 1)
        self.write(state, None)
        return Memo()

    def write(self, state: StreamState, active: Tensor | None) -> None:
        """One position: what was last heard and made goes in, a text id and own codes come out, into `made`."""
        c, temporal = self.config, self.model.temporal
        position = state.temporal.pos.clone()
        user = state.heard.flip(-1).gather(2, self.delays[:, 1 + c.own :, None].expand(len(position), -1, -1))  # by age
        ids = torch.cat([state.made[..., -1], user[..., 0]], dim=1)  # [B, channels]
        known = position[:, None] > self.delays
        ids = torch.where(known, ids, self.model.start(len(ids))[..., 0])[..., None]
        if self._guided(state):
            hidden = torch.cat(
                [
                    temporal(temporal.embed(ids, told[:, None]), kept, active)[:, 0]
                    for told, kept in zip(state.told.unbind(1), [state.temporal, *state.against], strict=True)
                ]
            )  # [2 B, D]
        else:
            told = state.told[:, :1] if c.conditions else None
            hidden = temporal(temporal.embed(ids, told), state.temporal, active)[:, 0]  # [B, D]
        logits = state.prompt.restrict(self._apart(state, temporal.logits(hidden)), self.silence)
        text = self._choose(state, logits, position, 0)
        state.prompt.advance(text, active)
        times = len(hidden) // len(text)

        def choose(k: int, logits: Tensor) -> Tensor:
            return self._choose(state, self._apart(state, logits), position, 1 + k).repeat(times)

        codes = self.model.depth(hidden, text.repeat(times), choose)[0][: len(text)]
        made = torch.cat([state.made[..., 1:], torch.cat([text[:, None], codes], dim=1)[..., None]], dim=-1)
        state.made.copy_(keep(made, state.made, active))

    def _guided(self, state: StreamState) -> bool:
        """Whether some session is to sound unlike its `against`; on the CPU alone this can be told at no cost."""
        return bool(state.against) and (state.guidance.device.type != "cpu" or bool(state.guidance.any()))

    def _apart(self, state: StreamState, logits: Tensor) -> Tensor:
        """Logits [B, V], or those of both ways [2 B, V], -> [B, V]."""
        if len(logits) == len(state.guidance):
            return logits
        told, against = logits.chunk(2)
        return told + (told - against) * state.guidance[:, None]

    def _choose(self, state: StreamState, logits: Tensor, position: Tensor, channel: int) -> Tensor:
        """logits: [B, V] -> ids [B]. Chance depends on the session's seed, its position and the channel alone."""
        kind = min(channel, 1)
        likeliest = logits.topk(min(MOST_CHOICES, logits.shape[-1])).values
        last = (state.top_k[:, kind, None] - 1).clamp(0, likeliest.shape[-1] - 1)
        logits = logits.masked_fill(logits < likeliest.gather(1, last), -math.inf)
        place = position * (1 + self.config.own) + channel
        # Without temperature the noise adds nothing, so that every slot takes the same way.
        return (logits + state.temperature[:, kind, None] * noise(state.seed, place, logits.shape[-1])).argmax(-1)

    @torch.inference_mode()
    def step(self, state: StreamState, samples: Tensor, counts: list[int]) -> Tensor:
        """Hear up to `chunk` frames at once and answer them one by one.

        samples: [B, frames * hop] float32; counts: how many of the frames are real in each row: all of them, none (the
        row is frozen), or fewer in the last call of a stream, whose state is then spent.
        Returns float64 [B, frames, 1 + hop], the text id and the samples of each frame; the first `max_delay - 1`
        frames of a stream mean nothing, and those of a row beyond its count.
        """
        device = self.delays.device
        active = None if all(counts) else torch.tensor(counts, device=device) > 0
        codes = self.model.codec.encode(samples.to(device)[:, None], self.user, state.hearing, active)
        return torch.stack([self._answer(state, codes[..., j], active) for j in range(max(counts))], dim=1)

    def _answer(self, state: StreamState, codes: Tensor, active: Tensor | None) -> Tensor:
        """codes: [B, user] of one frame -> float64 [B, 1 + hop]."""
        state.heard.copy_(keep(torch.cat([state.heard[..., 1:], codes[..., None]], dim=-1), state.heard, active))
        self.write(state, active)
        frame = state.made.flip(-1).gather(2, self.ages.expand(len(codes), -1, -1))[..., 0]  # [B, 1 + own]
        whole = state.temporal.pos > self.config.max_delay  # nothing of it is from before the first position
        speaks = whole if active is None else whole & active
        samples = self.model.codec.decode(frame[:, 1:, None], state.speaking, speaks)  # [B, 1, hop]
        return torch.cat([frame[:, :1].double(), samples[:, 0].double()], dim=1)

    # ------------------------------------------------------------------------------------------------- host half

    @property
    def late(self) -> int:
        """Frames by which the voice is behind the ear."""
        return max(0, self.config.max_delay - 1)

    def tail_slots(self, memo: Memo) -> int:
        """Frames of silence that bring out the answer to the last frame."""
        return self.late

    def events(self, rows: list[list[float]], memo: Memo) -> list[Event]:
        """What the next frames say."""
        found: list[Event] = []
        for token, *samples in rows:
            begin_s = (memo.position - self.late) * self.hop / self.rate_hz
            memo.position += 1
            if memo.position <= self.late:
                continue
            found += self._text(memo.utf8.feed(self.tokenizer.token_bytes(int(token))), memo)
            length = (
                min(self.hop, round((memo.limit_s - begin_s) * self.rate_hz)) if memo.limit_s < math.inf else self.hop
            )
            found.append(Audio(np.array(samples[:length], np.float32)))
        return found

    def _text(self, text: str, memo: Memo) -> list[Event]:
        shown = text if memo.started else text.lstrip()
        memo.started |= bool(shown)
        heard_s = memo.position * self.hop / self.rate_hz
        return [Text(shown, min(heard_s, memo.limit_s))] if shown else []

    def finish(self, memo: Memo) -> list[Event]:
        """What the end of the stream completes."""
        return self._text(memo.utf8.finish(), memo)


def streams(model: Moshi, tokenizer: Path) -> tuple[MoshiStream, MoshiStream]:
    """The family for whole files and for live audio, which are heard alike.

    The model is one for inference from here on: see `pack`.
    """
    pack(model.temporal, one_row=True)
    pack(model.depth, one_row=True)
    pack(model.codec)
    stream = MoshiStream(model, SentencePiece.from_file(tokenizer))
    return stream, stream
