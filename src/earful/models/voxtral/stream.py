"""Streaming Voxtral Realtime: the device half steps slots of 80 ms, the host half turns ids into words with times."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from earful.audio.mel import log_mel
from earful.events import Event, Text, Word
from earful.generate.ahead import Written, guesses, held, write_steps
from earful.models.voxtral.config import VoxtralConfig
from earful.models.voxtral.model import DecoderState, EncoderState, VoxtralRealtime
from earful.nn.attention import advance, positions
from earful.nn.linear import pack
from earful.nn.state import keep, row
from earful.text.incremental import Utf8Stream
from earful.text.tekken import Tekken

CHUNK_SLOTS = 32  # the most slots that one call may encode; the rings have room for it
DELAY_SLOTS = 30  # the longest delay that the published model was trained with
LETTER_S = 0.07  # about how long a letter is spoken: bounds a word whose start nothing else tells
GROUP_WORDS = 8  # more words than are ever written behind one marker
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
    blanks: Tensor  # [B] int64, blanks in a row just before


@dataclass
class Memo:
    """What the host remembers of one session."""

    delay: int
    position: int  # slots stepped, the silent ones before the audio included
    utf8: Utf8Stream = field(default_factory=Utf8Stream)
    started: bool = False  # some text has been written
    ended: bool = False  # the end-of-text id was met and counts
    word: str = ""  # the word being written
    group: list[str] = field(default_factory=list)  # the words before it behind the same marker
    group_end_s: float | None = None  # where the last of them ended, once there is a marker or a letter
    last_end_s: float = 0.0  # where the previous group ended
    limit_s: float = math.inf  # the length of the audio, once it is known: nothing happens later


class VoxtralStream:
    """Everything about this family that the engine needs; holds no stream itself."""

    def __init__(self, model: VoxtralRealtime, tokenizer: Tekken, policy: Policy = Policy()) -> None:
        self.model, self.tokenizer, self.policy = model, tokenizer, policy
        self.config: VoxtralConfig = model.config
        audio = self.config.audio
        if audio.left_slots < 1:
            raise ValueError(f"expected at least 1 silent slot before the audio, got {audio.left_slots}")
        if audio.log_max is None:
            raise ValueError("expected a constant log_max, got none: the loudest moment of a stream is not known yet")
        self.rate_hz = audio.rate_hz
        self.hop = self.config.slot_samples
        self.before = audio.window // 2
        self.after = max(0, audio.window - audio.hop - self.before)  # what a slot's last mel frame sees of the next one
        self.chunk = CHUNK_SLOTS
        self.delay_s = audio.delay_slots * self.config.slot_s
        self.lead = self.hop  # samples of silence fed before the audio: the slot whose last mel frame hears its start
        self._openings: dict[int, list[Tensor]] = {}  # delay in slots -> what `open` leaves in a slot

    @torch.inference_mode()
    def init_state(self, batch: int) -> StreamState:
        c = self.config
        if batch > 1:
            pack(self.model.decoder)  # it was made for one row
        weight = self.model.decoder.norm.weight
        count = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return StreamState(
            self.model.encoder.init_state(batch, self.chunk * c.downsample),
            self.model.decoder.init_state(batch, self.chunk),
            weight.new_zeros(batch, c.decoder.layers, c.decoder.dim),
            *(count.clone() for _ in range(3)),
        )

    def delay_slots(self, delay_s: float | None) -> int:
        """A delay in whole slots. Raises ValueError for one that is not a multiple of a slot, or too short or long."""
        if delay_s is None:
            return self.config.audio.delay_slots
        slot_s = self.config.slot_s
        for slots in range(1, DELAY_SLOTS + 1):
            if math.isclose(slots * slot_s, delay_s, abs_tol=1e-6):
                return slots
        raise ValueError(
            f"expected a delay of {slot_s:g} to {DELAY_SLOTS * slot_s:g} s in steps of {slot_s:g} s, got {delay_s} s"
        )

    @torch.inference_mode()
    def open(self, state: StreamState, slot: int, delay_s: float | None = None) -> Memo:
        """Begin a session in a slot that is zero: the silence before the audio has been heard."""
        delay, silent = self.delay_slots(delay_s), self.config.audio.left_slots - 1
        state = row(state, slot)
        state.delay.fill_(delay)
        state.gains.copy_(self.model.decoder.gains(state.delay))
        filled = self._filled(state, silent)
        if delay not in self._openings:
            self._hear_silence(state, silent)
            self._openings[delay] = [leaf.clone() for leaf in filled]
        for leaf, opening in zip(filled, self._openings[delay], strict=True):
            leaf.copy_(opening)
        return Memo(delay, silent)

    def _filled(self, state: StreamState, slots: int) -> list[Tensor]:
        """The parts of a zero state that the first slots fill."""
        encoder, decoder = state.encoder, state.decoder
        counted = [(kv, slots * self.config.downsample) for kv in encoder.layers] + [
            (kv, slots) for kv in decoder.layers
        ]
        rings = [ring[:, :, :count] for kv, count in counted for ring in (kv.keys, kv.values)]
        return [encoder.conv1.tail, encoder.conv2.tail, encoder.pos, decoder.pos, *rings]

    def _hear_silence(self, state: StreamState, silent: int) -> None:
        decoder = self.model.decoder
        for begin in range(0, silent, self.chunk):
            slots = min(self.chunk, silent - begin)
            samples = torch.zeros(1, slots * self.hop + self.before + self.after, device=state.delay.device)
            audio = self.hear(state, samples, None)  # [1, slots, D]
            tokens = torch.full((1, slots), self.config.ids.blank, device=samples.device)
            if begin == 0:
                tokens[:, 0] = self.config.ids.bos
            decoder(decoder.embed(tokens) + audio, state.gains, state.decoder)

    def hear(self, state: StreamState, samples: Tensor, active: Tensor | None) -> Tensor:
        """samples: [B, slots * hop + before + after] float32 -> audio vectors [B, slots, D]."""
        a = self.config.audio
        mel = log_mel(samples, a.rate_hz, a.hop, a.window, a.bins, a.log_max, center=False)
        return self.model.hear(mel.to(self.model.decoder.norm.weight.dtype), state.encoder, active)

    def write(self, state: StreamState, audio: Tensor, active: Tensor | None, most: Tensor | None = None) -> Written:
        """One pass of the decoder, whose ids but for the last are taken to be blanks, see generate/ahead.py.

        audio: [B, K, D] -> ids [B, K]; inside the prompt the ids mean nothing.
        """
        ids, decoder = self.config.ids, self.model.decoder
        pos = positions(audio, state.decoder)  # [B, K]
        last = (self.config.audio.left_slots + state.delay)[:, None]  # [B, 1] where the prompt ends
        # The last id of the prompt is followed by the first that counts.
        prompt, silent = pos <= last, (last - pos[:, :1]).clamp(min=0)  # [B, K], [B, 1]
        tokens = torch.full_like(pos, ids.blank)
        tokens[:, 0] = state.token
        tokens = tokens.masked_fill(prompt, ids.blank).masked_fill(pos == 0, ids.bos)
        x = decoder(decoder.embed(tokens) + audio, state.gains, state.decoder, active)
        logits = decoder.logits(x)  # [B, K, V]
        before = (state.blanks[:, None] + (pos - pos[:, :1]) - silent).clamp(min=0)  # [B, K] blanks in a row so far
        if self.policy.rut_slots is not None:
            logits[..., ids.blank] -= ((before - self.policy.rut_slots) * RUT_STEP).clamp(0, RUT_MOST)
        found = logits.argmax(-1)  # [B, K]
        right = (found == ids.blank)[:, :-1] | prompt[:, 1:]  # whether the next slot has read what stands before it
        written = Written(found, held(right, most))
        blanks = torch.where((found == ids.blank) & (pos >= last), before + 1, 0)  # [B, K]
        token, blanks = written.last(found), written.last(blanks)
        advance(state.decoder.pos, written.count - audio.shape[1], active)
        state.token.copy_(keep(token, state.token, active))
        state.blanks.copy_(keep(blanks, state.blanks, active))
        return written

    @torch.inference_mode()
    def step(self, state: StreamState, samples: Tensor, counts: list[int]) -> Tensor:
        """Hear up to `chunk` slots at once and write them.

        samples: [B, slots * hop + before + after] float32; counts: how many of the slots are real in each row: all of
        them, none (the row is frozen), or fewer in the last call of a stream, whose state is then spent.
        Returns ids [B, slots]; a row's ids beyond its count mean nothing.
        """
        device = state.token.device
        active = None if all(counts) else torch.tensor(counts, device=device) > 0
        audio = self.hear(state, samples.to(device), active)  # [B, slots, D]
        slots = max(counts)
        known = self._read_prompt(state, audio, active) if slots > 1 else 0
        blank = torch.full((len(audio), known), self.config.ids.blank, device=device)
        if known == slots:
            return blank
        ahead = guesses(self.model.decoder.norm.weight, len(audio))
        ids = write_steps(partial(self.write, state), audio[:, known:slots], active, ahead)
        return torch.cat([blank, ids], dim=1)

    def _read_prompt(self, state: StreamState, audio: Tensor, active: Tensor | None) -> int:
        """Take the slots at once that are inside the prompt in all rows, since no id there waits for another."""
        ids, decoder, pos = self.config.ids, self.model.decoder, state.decoder.pos
        left = self.config.audio.left_slots + state.delay - pos  # [B]
        known = min(audio.shape[1], int(left.min() if active is None else left[active].min()))
        if known < 2:
            return 0
        tokens = torch.full((len(pos), known), ids.blank, device=pos.device)
        tokens[:, 0].masked_fill_(pos == 0, ids.bos)
        decoder(decoder.embed(tokens) + audio[:, :known], state.gains, state.decoder, active)
        return known

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
                found += self._close_group(memo)
                memo.group_end_s = self._spoken_s(memo)
            elif token == self.config.ids.blank:
                found += self._close_group(memo)
            else:
                found += self._text(memo.utf8.feed(self.tokenizer.token_bytes(token)), memo)
        return found

    def finish(self, memo: Memo) -> list[Event]:
        """What the end of the stream completes."""
        return self._text(memo.utf8.finish(), memo) + self._close_group(memo)

    def _text(self, text: str, memo: Memo) -> list[Event]:
        if not memo.started:
            text = text.lstrip()
        if not text:
            return []
        memo.started = True
        heard_s = (memo.position - self.config.audio.left_slots) * self.config.slot_s
        found: list[Event] = [Text(text, min(heard_s, memo.limit_s))]
        for character in text:
            if not character.isspace():
                if memo.group_end_s is None:
                    memo.group_end_s = self._spoken_s(memo)
                memo.word += character
            elif memo.word:
                memo.group.append(memo.word)
                memo.word = ""
                if len(memo.group) == GROUP_WORDS:
                    found += self._close_group(memo)
        return found

    def _spoken_s(self, memo: Memo) -> float:
        """When a word ended that is due now: half a slot ago on average, and the delay before that."""
        slots = memo.position - self.config.audio.left_slots - memo.delay - 0.5
        return min(slots * self.config.slot_s, memo.limit_s)

    def _close_group(self, memo: Memo) -> list[Event]:
        """The words behind one marker: it tells when the last of them ended, and each has its letters' share."""
        words = [*memo.group, memo.word] if memo.word else memo.group
        if not words:
            return []
        letters = sum(map(len, words))
        end_s = max(memo.group_end_s or 0.0, memo.last_end_s)
        start_s = max(memo.last_end_s, end_s - self.config.slot_s - LETTER_S * letters)
        shares = accumulate(map(len, words), initial=0)
        edges = [start_s + (end_s - start_s) * share / letters for share in shares]
        edges[-1] = end_s  # whatever the rounding
        memo.group, memo.word, memo.group_end_s, memo.last_end_s = [], "", None, end_s
        return [Word(text, *edges[i : i + 2]) for i, text in enumerate(words)]


def streams(model: VoxtralRealtime, tokenizer: Path) -> tuple[VoxtralStream, VoxtralStream]:
    """The family for whole files, which ends at the end-of-text id, and for live audio, which hears on.

    The model is one for inference from here on: see `pack`.
    """
    decoder = model.decoder
    if decoder.head is None:  # a layer like others
        vocab, dim = decoder.embed.weight.shape
        decoder.head = torch.nn.Linear(dim, vocab, bias=False, device="meta")
        decoder.head.weight = decoder.embed.weight
    pack(decoder, one_row=True)
    pack(model.encoder)
    pack(model.projector)
    tekken = Tekken.from_file(tokenizer)
    return VoxtralStream(model, tekken, Policy(stop_at_end=True)), VoxtralStream(model, tekken)
