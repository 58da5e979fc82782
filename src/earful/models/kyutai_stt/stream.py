"""Streaming Kyutai Speech-To-Text: the device half steps frames of 80 ms, the host half makes words of ids."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earful.audio.frames import as_samples
from earful.errors import CheckpointError
from earful.events import Event, Pause, Text, Word
from earful.generate.ahead import Written, guesses, held, write_steps
from earful.generate.sample import noise
from earful.models.kyutai_stt.config import KyutaiSttConfig
from earful.models.kyutai_stt.config_files import HORIZONS_S
from earful.models.kyutai_stt.model import KyutaiStt
from earful.models.kyutai_stt.processor import lead_samples, tail_samples
from earful.models.mimi.model import EncodeState
from earful.models.moshi.model import TemporalState
from earful.models.moshi.prompt import Prompt
from earful.nn.attention import advance, positions
from earful.nn.linear import TYPICAL_ROWS, pack
from earful.nn.state import keep, row
from earful.text.incremental import Utf8Stream
from earful.text.sentencepiece import SentencePiece

CHUNK_FRAMES = 32  # the most frames that one call may encode; the rings have room for it
TOP_K = 50  # ids that chance chooses from, as the published models do
PROMPT_SILENCE_FRAMES = 10  # behind the audio of a prompt
WAIT_S = 1.0  # for the next word, before one is told that perhaps nothing ends
# What a word lasts at the most that no other ends; of those in 20 hours of speech 3 in 100 are longer.
LEAST_S, LETTER_S, DIGIT_S = 0.2, 0.07, 0.4
LONGEST_WORD = 100  # in characters; more than any word has
PAUSE_FROM = 0.5  # a probability


@dataclass
class StreamState:
    codec: EncodeState
    temporal: TemporalState
    token: Tensor  # [B] int64, the last id written
    temperature: Tensor  # [B] float32
    seed: Tensor  # [B] int64, where chance comes from
    prompt: Prompt


@dataclass
class Memo:
    """What the host remembers of one session."""

    silent: int  # samples in the codec before the audio of the session
    first: int  # position of the first id that is the session's own
    position: int = 0  # ids so far
    utf8: Utf8Stream = field(default_factory=Utf8Stream)
    started: bool = False  # some text has been written
    word: str = ""  # the word being written
    open: bool = False  # a word has begun, perhaps with no whole character yet
    start_s: float = 0.0  # of that word, perhaps before the audio
    written_s: float = 0.0  # where its last piece stands
    waiting: list[Event] = field(default_factory=list)  # for the first call of `events`
    paused: int = 0  # so many VAD heads, shortest pause first, have told of the pause that lasts; bits of a number
    limit_s: float = math.inf  # the length of the audio, once it is known: nothing happens later


class KyutaiSttStream:
    """Everything about this family that the engine needs; holds no stream itself."""

    def __init__(self, model: KyutaiStt, tokenizer: SentencePiece) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.config: KyutaiSttConfig = model.config
        if tokenizer.vocab < self.config.temporal.text_vocab:
            raise CheckpointError(
                f"{tokenizer.name}: expected a vocabulary of at least {self.config.temporal.text_vocab} pieces, "
                f"got {tokenizer.vocab}"
            )
        self.rate_hz = self.config.codec.rate_hz
        self.hop = self.config.codec.frame_samples
        self.before = self.after = 0
        self.lead = lead_samples(self.config)
        self.chunk = CHUNK_FRAMES
        device = model.temporal.norm.weight.device
        self.silence = torch.tensor([self.config.pad_id, self.config.word_id], device=device)
        self.delay_s = None  # the model has been trained for one delay

    @torch.inference_mode()
    def init_state(self, batch: int) -> StreamState:
        if batch > 1:
            pack(self.model.temporal)  # it was made for one row
        device = self.model.temporal.norm.weight.device
        count = torch.zeros(batch, dtype=torch.int64, device=device)
        return StreamState(
            self.model.codec.init_encode_state(batch, self.chunk),
            self.model.temporal.init_state(batch, TYPICAL_ROWS),
            token=count.clone(),
            temperature=count.float(),
            seed=count.clone(),
            prompt=Prompt.empty(batch, device),
        )

    @torch.inference_mode()
    def open(
        self,
        state: StreamState,
        slot: int,
        delay_s: float | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        prompt: str = "",
        prompt_audio: npt.NDArray[np.floating[Any]] | None = None,
    ) -> Memo:
        """Begin a session in a slot that is zero.

        temperature: 0 writes the likeliest ids, otherwise chance chooses, always the same for one `seed`.
        prompt: what is said first; its pieces are written before any other, when the model finds it time for one.
        prompt_audio: [N] mono at `rate_hz`, in which the prompt is said before the session's own audio; left out of the
        transcript. Raises ValueError for a delay, a temperature below 0 and a prompt that is too long.
        """
        if delay_s is not None and not math.isclose(delay_s, self.config.delay_s, abs_tol=1e-6):
            raise ValueError(f"expected no delay but the model's own, {self.config.delay_s:g} s, got {delay_s} s")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"expected a temperature of at least 0, got {temperature}")
        samples = np.zeros(0, np.float32) if prompt_audio is None else as_samples(prompt_audio)
        state = row(state, slot)
        if prompt:
            state.prompt.begin(self.tokenizer.encode(prompt), self.config.temporal.text_vocab)
        state.temperature.fill_(temperature)
        state.seed.fill_(seed & (1 << 63) - 1)
        memo = Memo(self.lead, 0)
        said = self.write(state, self.model.start(1)[:, 1:, 0], None).tolist()
        if len(samples):
            said += self._hear_prompt(state, samples)
            memo.position = len(said) - 1  # its ids are not the session's
            memo.silent += memo.position * self.hop
            memo.first = memo.position + (self.lead + round(self.config.delay_s * self.rate_hz)) // self.hop
            said = said[-1:]
        memo.waiting = self.events(said, memo)
        return memo

    def _hear_prompt(self, state: StreamState, samples: npt.NDArray[np.float32]) -> list[list[float]]:
        behind = -(self.lead + len(samples)) % self.hop + PROMPT_SILENCE_FRAMES * self.hop
        whole = torch.from_numpy(np.pad(samples, (self.lead, behind)))[None]
        said: list[list[float]] = []
        for piece in whole.split(self.chunk * self.hop, dim=-1):
            said += self.step(state, piece, [piece.shape[-1] // self.hop])[0].tolist()
        return said

    def write(self, state: StreamState, codes: Tensor, active: Tensor | None) -> Tensor:
        """One position. codes: [B, codebooks] -> float64 [B, 1 + vad_heads], the id and how likely each pause is."""
        return self.write_ahead(state, codes[:, None], active, None).said[:, 0]

    def write_ahead(self, state: StreamState, codes: Tensor, active: Tensor | None, most: Tensor | None) -> Written:
        """Positions whose ids but for the last are taken to be padding, see generate/ahead.py.

        codes: [B, K, codebooks] -> float64 [B, K, 1 + vad_heads], as `write`.
        """
        temporal, pad = self.model.temporal, self.config.pad_id
        position = positions(codes, state.temporal)  # [B, K]
        text = torch.full_like(position, pad)
        text[:, 0] = torch.where(position[:, 0] == 0, self.config.temporal.text_vocab, state.token)
        x = temporal.embed(torch.cat([text[:, None], codes.transpose(1, 2)], dim=1))
        hidden = temporal(x, state.temporal, active)  # [B, K, D]
        found = self._choose(state, temporal.logits(hidden), position)  # [B, K]
        right = (found[:, :-1] == pad) & ~state.prompt.left()[:, None]
        said = torch.cat([found[..., None].double(), self.model.pauses(hidden).double()], dim=-1)
        written = Written(said, held(right, most))
        token = written.last(found)
        state.prompt.advance(token, active)
        advance(state.temporal.pos, written.count - codes.shape[1], active)
        state.token.copy_(keep(token, state.token, active))
        return written

    def _choose(self, state: StreamState, logits: Tensor, position: Tensor) -> Tensor:
        """logits: [B, K, V] -> ids [B, K]; where a prompt is left, the first is its next piece or none yet."""
        logits = torch.cat([state.prompt.restrict(logits[:, 0], self.silence)[:, None], logits[:, 1:]], dim=1)
        least = logits.topk(min(TOP_K, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
        # Without temperature the noise adds nothing, so that every slot takes the same way.
        chance = noise(state.seed[:, None].expand_as(position).flatten(), position.flatten(), logits.shape[-1])
        return (logits + state.temperature[:, None, None] * chance.view_as(logits)).argmax(-1)

    @torch.inference_mode()
    def step(self, state: StreamState, samples: Tensor, counts: list[int]) -> Tensor:
        """Encode up to `chunk` frames at once and write beside them.

        samples: [B, frames * hop] float32; counts: how many of the frames are real in each row: all of them, none (the
        row is frozen), or fewer in the last call of a stream, whose state is then spent.
        Returns float64 [B, frames, 1 + vad_heads], ids and pauses; those of a row beyond its count mean nothing.
        """
        device = state.token.device
        active = None if all(counts) else torch.tensor(counts, device=device) > 0
        codes = self.model.hear(samples.to(device)[:, None], state.codec, active)  # [B, codebooks, frames]
        ahead = guesses(self.model.temporal.norm.weight, len(codes))
        heard = codes[..., : max(counts)].transpose(1, 2)  # [B, frames, codebooks]
        return write_steps(partial(self.write_ahead, state), heard, active, ahead)

    # ------------------------------------------------------------------------------------------------- host half

    @property
    def _frame_s(self) -> float:
        return self.config.codec.frame_s

    def tail_slots(self, memo: Memo) -> int:
        """Frames of silence that bring out what is still inside the delay; as many ids in all as the reference has."""
        heard = self.lead + round(memo.limit_s * self.rate_hz)
        return max(0, (heard + tail_samples(self.config)) // self.hop - 1 - math.ceil(heard / self.hop))

    def events(self, rows: list[list[float]], memo: Memo) -> list[Event]:
        """What the next ids, each with its pauses, say."""
        found, memo.waiting = memo.waiting, []
        for token, *pauses in rows:
            if memo.position >= memo.first:
                found += self._read(int(token), memo) + self._pauses(pauses, memo)
            memo.position += 1
        return found

    def _read(self, token: int, memo: Memo) -> list[Event]:
        if token == self.config.pad_id:
            told_s = max(memo.start_s + WAIT_S, self._latest_s(memo))
            return self._close(memo) if memo.word and self._spoken_s(memo) >= told_s else []
        data = self.tokenizer.token_bytes(token)
        if not data:  # the frame before a word, or an id without a meaning here
            return self._close(memo)
        if not memo.open:
            memo.open, memo.start_s = True, self._spoken_s(memo)
        memo.paused = 0
        found = self._text(memo.utf8.feed(data), memo)
        memo.written_s = self._spoken_s(memo) + self._frame_s
        return found

    def _text(self, text: str, memo: Memo) -> list[Event]:
        if not text:
            return []
        heard = memo.position * self.hop - memo.silent
        shown = text if memo.started else text.removeprefix(" ")
        memo.started = True
        found: list[Event] = [Text(shown, self._within(heard / self.rate_hz, memo))] if shown else []
        for character in text:
            if not memo.open or character.isspace() or len(memo.word) == LONGEST_WORD:
                found += self._close(memo)
                memo.open, memo.start_s = True, self._spoken_s(memo)
            if not character.isspace():
                memo.word += character
        return found

    def _spoken_s(self, memo: Memo) -> float:
        """When that was said which is written now; before the audio it is negative."""
        return (memo.position * self.hop - memo.silent) / self.rate_hz - self.config.delay_s

    def _latest_s(self, memo: Memo) -> float:
        """Where the word that is open ends at the latest."""
        return max(memo.start_s + longest_s(memo.word), memo.written_s)

    def _within(self, time_s: float, memo: Memo) -> float:
        return min(max(time_s, 0.0), memo.limit_s)

    def _close(self, memo: Memo) -> list[Event]:
        """The word that is open ends here, or some time before."""
        end_s = min(self._spoken_s(memo), self._latest_s(memo))
        word, memo.word, memo.open = memo.word, "", False
        if not word:
            return []
        return [Word(word, self._within(memo.start_s, memo), self._within(end_s, memo))]

    def _pauses(self, pauses: list[float], memo: Memo) -> list[Event]:
        """The pauses that have become likely; each is told once, until a word is written."""
        found: list[Event] = []
        for head, probability in enumerate(pauses):
            if probability > PAUSE_FROM and not memo.paused >> head & 1:
                memo.paused |= 1 << head
                found.append(Pause(HORIZONS_S[head], probability))
        return found

    def finish(self, memo: Memo) -> list[Event]:
        """What the end of the stream completes."""
        return self._text(memo.utf8.finish(), memo) + self._close(memo)


def longest_s(word: str) -> float:
    """What a word lasts at the most, by its letters: nothing in the ids tells it where no other word follows."""
    return LEAST_S + sum(DIGIT_S if character.isdigit() else LETTER_S for character in word)


def streams(model: KyutaiStt, tokenizer: Path) -> tuple[KyutaiSttStream, KyutaiSttStream]:
    """The family for whole files and for live audio, which are heard alike.

    The model is one for inference from here on: see `pack`.
    """
    pack(model.temporal, one_row=True)
    pack(model.vad_heads)
    pack(model.codec)
    stream = KyutaiSttStream(model, SentencePiece.from_file(tokenizer))
    return stream, stream
