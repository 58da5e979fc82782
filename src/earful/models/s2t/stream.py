"""Speech2Text on long audio: it is collected, cut at pauses, and each piece is answered whole.

The encoder hears an utterance to its end before anything is written, so nothing can come while it is spoken: text comes
at pauses and at the end. Live sessions and files go through the same cuts and have the same text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earful.audio import fbank
from earful.audio.pauses import FRAME_S, Cutter, Pauses, Piece
from earful.events import Event, Text, Word
from earful.generate.beam import Decoding, Hypothesis, search
from earful.models.s2t.align import word_edges
from earful.models.s2t.config import EOS, START, S2tConfig
from earful.models.s2t.model import Memory, Speech2Text
from earful.models.s2t.processor import S2tText, hear
from earful.nn.linear import pack

HOP_S = 0.1  # audio is handed on in these steps
CHUNK = 10
SILENCE_S, NEAR_S = 0.1, 0.2  # silence in a piece is between two words where one was seen to end so near
Clip = npt.NDArray[np.floating[Any]]


@dataclass
class Memo:
    """What is remembered of one session."""

    cutter: Cutter
    language: int | None  # the id that every text begins with
    decoding: Decoding
    align: bool  # words have the times at which the model looked, and not by their letters
    heard: int = 0  # samples
    started: bool = False  # some text has been written
    limit_s: float = math.inf  # the length of the audio, once it is known


@dataclass(frozen=True)
class Answer:
    """What was written of a piece, and where in its samples each word is, in seconds, if that was asked for."""

    text: str
    edges: Sequence[tuple[float, float]] | None = None


class S2tStream:
    """Everything about this family that the engine needs; holds no stream itself."""

    def __init__(self, model: Speech2Text, text: S2tText) -> None:
        self.model, self.text = model, text
        self.config: S2tConfig = model.config
        self.rate_hz = self.config.audio.rate_hz
        self.hop = round(HOP_S * self.rate_hz)
        self.before = self.after = self.lead = 0
        self.chunk = CHUNK
        self.delay_s = None  # it depends on when the speaker pauses
        self.languages = tuple(text.language_ids)
        self.step_s = fbank.HOP_S * 2 ** len(self.config.conv_kernels)  # of the encoder

    def init_state(self, batch: int) -> list[Tensor]:
        """Nothing is kept on the device between pieces."""
        return []

    def open(
        self,
        state: list[Tensor],
        slot: int,
        delay_s: float | None = None,
        language: str | None = None,
        decoding: Decoding | None = None,
        pauses: Pauses | None = None,
        align: bool | None = None,
    ) -> Memo:
        """Begin a session.

        language: what a model of several writes, None for its usual one; decoding: how texts are searched for, None for
        the checkpoint's way; pauses: where speech is cut; align: take the times of words from where the model looked,
        None to do so unless a language of several is written, which may have its words in another order.
        Raises ValueError for a delay, which cannot be chosen, and for a language that the model does not write.
        """
        if delay_s is not None:
            raise ValueError(f"expected no delay, since text comes at pauses, got {delay_s} s")
        how = decoding or self.config.decoding
        first = self.config.first_id if language is None else None
        first = self.text.language_id(language) if first is None else first
        return Memo(Cutter(self.rate_hz, pauses), first, how, first is None if align is None else align)

    def step(self, state: list[Tensor], samples: Tensor, counts: list[int]) -> Tensor:
        """Samples [B, hops * hop] by hop: [B, hops, hop]."""
        return samples.reshape(len(samples), -1, self.hop)

    def events(self, hops: list[list[float]], memo: Memo) -> list[Event]:
        """What the next samples complete; those behind the end of the audio are not heard."""
        samples = np.array(hops, np.float32).ravel()
        if memo.limit_s < math.inf:
            samples = samples[: max(0, round(memo.limit_s * self.rate_hz) - memo.heard)]
        memo.heard += len(samples)
        return self._answered(memo.cutter.feed(samples), memo)

    def tail_slots(self, memo: Memo) -> int:
        """One, which nobody hears: a session's last call is made only if there is audio for it."""
        return 1

    def finish(self, memo: Memo) -> list[Event]:
        """What the end of the audio completes."""
        return self._answered(memo.cutter.finish(), memo)

    def _answered(self, pieces: Sequence[Piece], memo: Memo) -> list[Event]:
        answers = self.answer(pieces, [memo] * len(pieces))
        return [
            event for piece, answer in zip(pieces, answers, strict=True) for event in self.told(answer, piece, memo)
        ]

    def answer(self, pieces: Sequence[Piece], memos: Sequence[Memo]) -> list[Answer]:
        """The text of each piece, whatever else is in the batch; all are searched for in the same way."""
        if not pieces:
            return []
        memory = self._remember([piece.samples for piece in pieces])
        found = self._search(memory, [memo.language for memo in memos], memos[0].decoding)
        answers = []
        for row, (best, *_) in enumerate(found):
            edges = None
            if memos[row].align:
                steps = word_edges(self.model, memory, row, best.ids, self.text.words(best.ids))
                edges = [(begin * self.step_s, end * self.step_s) for begin, end in steps]
            answers.append(Answer(self.text.decode(best.ids), edges))
        return answers

    def hypotheses(
        self, clips: Sequence[Clip], languages: Sequence[int | None], how: Decoding | None = None
    ) -> list[list[Hypothesis]]:
        """The best texts of clips [N], one of which is at least a frame long, best first, with their scores."""
        return self._search(self._remember(clips), languages, how or self.config.decoding)

    @torch.inference_mode()
    def _remember(self, clips: Sequence[Clip]) -> Memory:
        weight = self.model.decoder.norm.weight
        features, lengths = hear(clips, self.config.audio)
        return self.model.hear(features.to(weight.device, weight.dtype), lengths.to(weight.device), alone=True)

    def _search(self, memory: Memory, languages: Sequence[int | None], how: Decoding) -> list[list[Hypothesis]]:
        state = self.model.decoder.init_state(len(languages) * how.beams)
        return search(self.model.step, state, memory, START, EOS, how, list(languages))

    def told(self, answer: Answer, piece: Piece, memo: Memo) -> list[Event]:
        """The events of one piece. Its words share its time by their letters, unless it is known when they are."""
        words = answer.text.split()
        if not words:
            return []
        written = (" " if memo.started else "") + answer.text
        memo.started = True
        edges = _shared(words, piece) if answer.edges is None else _seen(answer.edges, piece)
        heard_s = min(memo.heard / self.rate_hz, memo.limit_s)
        return [Text(written, heard_s), *(Word(word, *edge) for word, edge in zip(words, edges, strict=True))]


def _shared(words: Sequence[str], piece: Piece) -> list[tuple[float, float]]:
    """Start and end of each word: what is spoken of a piece, shared by their letters."""
    letters = np.array(list(accumulate(map(len, words), initial=0)))
    moments = np.linspace(piece.start_s, piece.end_s, 1 + len(piece.spoken))
    spoken = np.concatenate([[0], np.cumsum(piece.spoken)])
    edges = np.interp(letters / letters[-1] * spoken[-1], spoken, moments).tolist()
    return list(pairwise(edges))


def _seen(looked: Sequence[tuple[float, float]], piece: Piece) -> list[tuple[float, float]]:
    """Start and end of each word, where they are known in the samples of a piece.

    The first begins and the last ends with the speech; silences between words that meet next to one belong to none.
    """
    moments = np.clip(np.add(looked, piece.first_s), piece.start_s, piece.end_s)
    moments[0, 0], moments[-1, 1] = piece.start_s, piece.end_s
    edges = [(begin_s, end_s) for begin_s, end_s in moments.tolist()]
    silent = np.concatenate([[False], ~piece.spoken, [False]])
    for first, last in np.flatnonzero(np.diff(silent)).reshape(-1, 2):
        begin_s, end_s = (piece.start_s + frame * FRAME_S for frame in (first, last))
        meet_s = np.array([end for _, end in edges[:-1]])
        away_s = np.maximum(np.maximum(begin_s - meet_s, meet_s - end_s), 0)
        if end_s - begin_s < SILENCE_S or not len(meet_s) or away_s.min() > NEAR_S:
            continue
        word = int(away_s.argmin())
        before, after = edges[word], edges[word + 1]
        if before[0] < begin_s and end_s < after[1]:
            edges[word : word + 2] = [(before[0], begin_s), (end_s, after[1])]
    return edges


def streams(model: Speech2Text, tokenizer: Path) -> tuple[S2tStream, S2tStream]:
    """The family for whole files and for live audio, which are the same.

    The model is one for inference from here on: see `pack`.
    """
    decoder = model.decoder
    if decoder.head is None:  # a layer like others
        vocab, dim = decoder.embed.weight.shape
        decoder.head = torch.nn.Linear(dim, vocab, bias=False, device="meta")
        decoder.head.weight = decoder.embed.weight
    pack(model)
    family = S2tStream(model, S2tText.from_file(tokenizer, model.config.text))
    return family, family
