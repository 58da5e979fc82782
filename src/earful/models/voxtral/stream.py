"""Streaming Voxtral Realtime: the device half steps slots of 80 ms, the host half turns ids into words with times."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from earful.audio.mel import log_mel
from earful.events import Event, Text, Word
from earful.models.voxtral.config import VoxtralConfig
from earful.models.voxtral.model import DecoderState, EncoderState, VoxtralRealtime
from earful.nn.state import keep, put
from earful.text.incremental import Utf8Stream
from earful.text.tekken import Tekken

CHUNK_SLOTS = 32  # the most slots that one call may encode; the rings have room for it
LETTER_S = 0.07  # about how long a letter is spoken: bounds a word whose start nothing else tells
RUT_STEP, RUT_MOST = 0.5, 7.0  # how fast and how far the blank of a rut is weakened, in logits


@dataclass(frozen=True)
class Policy:
    """What to do at the end of text and in a blank rut.

    stop_at_end: no text after the model's end-of-text id. rut_slots: after so many blanks in a row weaken the blank
    (spoken audio can leave the model silent for minutes; natural silences reach about 165 slots); None never does.
    """

    stop_at_end: bool = False
    rut_slots: int | None = None


@dataclass
class StreamState:
    encoder: EncoderState
    decoder: DecoderState
    gains: Tensor  # [B, layers, D] from the delay
    delay: Tensor  # [B] int64, in slots
    token: Tensor  # [B] int64, the last id written
    blanks: Tensor  # [B] int64, blanks in a row


@dataclass
class Memo:
    """What the host remembers of one session."""

    delay: int
    position: int  # slots stepped, the silent ones before the audio included
    utf8: Utf8Stream = field(default_factory=Utf8Stream)
    started: bool = False  # some text has been written
    ended: bool = False  # the end-of-text id was met and counts
    word: str = ""  # the word being written
    word_end_s: float = 0.0
    last_end_s: float = 0.0  # where the previous word ended
    limit_s: float = math.inf  # the length of the audio, once it is known: no word ends later


class VoxtralStream:
    """Everything about this family that the engine needs; holds no stream itself."""

    def __init__(self, model: VoxtralRealtime, tokenizer: Tekken, policy: Policy = Policy()) -> None:
        self.model, self.tokenizer, self.policy = model, tokenizer, policy
        self.config: VoxtralConfig = model.config
        audio = self.config.audio
        if audio.left_slots < 1:
            raise ValueError(f"expected at least 1 silent slot before the audio, got {audio.left_slots}")
        self.rate_hz = audio.rate_hz
        self.hop = self.config.slot_samples
        self.before = audio.window // 2
        self.after = max(0, audio.window - audio.hop - self.before)  # what a slot's last mel frame sees of the next one
        self.chunk = CHUNK_SLOTS
        self.lead = self.hop  # samples of silence fed before the audio: the slot whose last mel frame hears its start
        self._fresh: dict[int, StreamState] = {}

    @torch.inference_mode()
    def init_state(self, batch: int) -> StreamState:
        c = self.config
        weight = self.model.decoder.norm.weight
        count = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return StreamState(
            self.model.encoder.init_state(batch, self.chunk * c.downsample),
            self.model.decoder.init_state(batch, self.chunk),
            weight.new_zeros(batch, c.decoder.layers, c.decoder.dim),
            *(count.clone() for _ in range(3)),
        )

    def delay_slots(self, delay_s: float | None) -> int:
        """A delay in whole slots. Raises ValueError for one that is not a positive multiple of a slot."""
        if delay_s is None:
            return self.config.audio.delay_slots
        slots = round(delay_s / self.config.slot_s)
        if slots < 1 or abs(slots * self.config.slot_s - delay_s) > 1e-6:
            raise ValueError(f"expected a delay in steps of {self.config.slot_s:g} s, at least one, got {delay_s} s")
        return slots

    def open(self, state: StreamState, slot: int, delay_s: float | None = None) -> Memo:
        """Make a slot a fresh session: the silence before the audio is already heard."""
        delay = self.delay_slots(delay_s)
        if delay not in self._fresh:
            self._fresh[delay] = self._heard_silence(delay)
        put(state, [slot], self._fresh[delay])
        return Memo(delay, self.config.audio.left_slots - 1)

    @torch.inference_mode()
    def _heard_silence(self, delay: int) -> StreamState:
        state, silent = self.init_state(1), self.config.audio.left_slots - 1
        state.delay.fill_(delay)
        state.gains.copy_(self.model.decoder.gains(state.delay))
        for begin in range(0, silent, self.chunk):
            slots = min(self.chunk, silent - begin)
            samples = torch.zeros(1, slots * self.hop + self.before + self.after, device=state.delay.device)
            audio = self.hear(state, samples, None)  # [1, slots, D]
            tokens = torch.full((1, slots), self.config.ids.blank, device=samples.device)
            if begin == 0:
                tokens[:, 0] = self.config.ids.bos
            self.model.decoder(self.model.decoder.embed(tokens) + audio, state.gains, state.decoder)
        return state

    def hear(self, state: StreamState, samples: Tensor, active: Tensor | None) -> Tensor:
        """samples: [B, slots * hop + before + after] float32 -> audio vectors [B, slots, D]."""
        a = self.config.audio
        mel = log_mel(samples, a.rate_hz, a.hop, a.window, a.bins, a.log_max, center=False)
        return self.model.hear(mel.to(self.model.decoder.norm.weight.dtype), state.encoder, active)

    def write(self, state: StreamState, audio: Tensor, active: Tensor | None) -> Tensor:
        """One slot of the decoder. audio: [B, D] -> ids [B]; inside the prompt the ids mean nothing."""
        ids, decoder = self.config.ids, self.model.decoder
        pos = state.decoder.pos
        prompt = pos < self.config.audio.left_slots + state.delay + 1
        token = torch.where(prompt, ids.blank, state.token).masked_fill(pos == 0, ids.bos)  # [B]
        x = (decoder.embed(token) + audio)[:, None]  # [B, 1, D]
        logits = decoder.logits(decoder(x, state.gains, state.decoder, active))[:, 0]  # [B, V]
        if self.policy.rut_slots is not None:
            weaker = ((state.blanks - self.policy.rut_slots) * RUT_STEP).clamp(0, RUT_MOST)
            logits[:, ids.blank] -= weaker
        token = logits.argmax(-1)
        blanks = torch.where((token == ids.blank) & ~prompt, state.blanks + 1, 0)
        state.token.copy_(keep(token, state.token, active))
        state.blanks.copy_(keep(blanks, state.blanks, active))
        return token

    @torch.inference_mode()
    def step(self, state: StreamState, samples: Tensor, counts: list[int]) -> Tensor:
        """Hear up to `chunk` slots at once and write them one by one.

        samples: [B, slots * hop + before + after] float32; counts: how many of the slots are real in each row: all of
        them, none (the row is frozen), or fewer in the last call of a stream, whose state is then spent.
        Returns ids [B, slots]; a row's ids beyond its count mean nothing.
        """
        device = state.token.device
        slots = max(counts)
        active = self._active([n > 0 for n in counts], device)
        audio = self.hear(state, samples.to(device), active)  # [B, slots, D]
        ids = [
            self.write(state, audio[:, j], active if min(counts) > j else self._active([n > j for n in counts], device))
            for j in range(slots)
        ]
        return torch.stack(ids, dim=1)

    @staticmethod
    def _active(flags: list[bool], device: torch.device) -> Tensor | None:
        return None if all(flags) else torch.tensor(flags, device=device)

    # ------------------------------------------------------------------------------------------------- host half

    def tail_slots(self, memo: Memo) -> int:
        """Slots of silence that bring out what is still inside the delay."""
        return memo.delay + 1 + self.config.audio.tail_slots

    def events(self, ids: list[int], memo: Memo) -> list[Event]:
        """What the ids of the next slots say."""
        found: list[Event] = []
        left = self.config.audio.left_slots
        for token in ids:
            memo.position += 1  # now the index at which this id stands
            if memo.position <= left + memo.delay or memo.ended:
                continue
            if token == self.config.ids.eos and self.policy.stop_at_end:
                found += self.finish(memo)
                memo.ended = True
            elif token == self.config.ids.word:
                found += self._close_word(memo)
                ended_s = (memo.position - left - memo.delay - 0.5) * self.config.slot_s
                memo.word_end_s = min(ended_s, memo.limit_s)
            elif token == self.config.ids.blank:
                found += self._close_word(memo)
            else:
                found += self._text(memo.utf8.feed(self.tokenizer.token_bytes(token)), memo)
        return found

    def finish(self, memo: Memo) -> list[Event]:
        """What the end of the stream completes."""
        return self._text(memo.utf8.finish(), memo) + self._close_word(memo)

    def preview(self, memo: Memo) -> Memo:
        """A copy to look ahead with."""
        return copy.deepcopy(memo)

    def _text(self, text: str, memo: Memo) -> list[Event]:
        if not memo.started:
            text = text.lstrip()
        if not text:
            return []
        memo.started = True
        heard_s = max(0, memo.position - self.config.audio.left_slots) * self.config.slot_s
        found: list[Event] = [Text(text, heard_s)]
        for character in text:
            if character.isspace():
                found += self._close_word(memo)
            else:
                memo.word += character
        return found

    def _close_word(self, memo: Memo) -> list[Event]:
        if not memo.word:
            return []
        text, memo.word = memo.word, ""
        end_s = max(memo.word_end_s, memo.last_end_s)
        start_s = max(memo.last_end_s, end_s - self.config.slot_s - LETTER_S * len(text))
        memo.last_end_s = end_s
        return [Word(text, start_s, end_s)]


def streams(model: VoxtralRealtime, tokenizer: Path) -> tuple[VoxtralStream, VoxtralStream]:
    """The family for whole files, which ends at the end-of-text id, and for live audio, which hears on."""
    tekken = Tekken.from_file(tokenizer)
    return VoxtralStream(model, tekken, Policy(stop_at_end=True)), VoxtralStream(model, tekken)
