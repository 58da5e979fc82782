"""What the tests of Kyutai Speech-To-Text share: a tiny family, and the plain definition of what its streams say."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from earful.events import Event, Text, Word
from earful.models.kyutai_stt.processor import KyutaiSttProcessor
from earful.models.kyutai_stt.stream import KyutaiSttStream, Memo, StreamState
from earful.testing import tiny_kyutai_stt
from earful.text.sentencepiece import SentencePiece
from tests.helpers import near_tie

HOP, RATE = 384, 4800  # of the tiny codec
FRAME_S = 0.08
# Sizes of tiny models, as `write_tiny` takes them. Both windows are much shorter than the audio of most tests.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "like 1b": {"model": {"delay_s": 0.5}},
    "like 1b with heads": {"model": {"delay_s": 0.5, "vad_heads": 4}, "codec": {"codebooks": 7}},
    "like 2.6b": {"model": {"delay_s": 2.5, "prefix_s": 1.0}},
    "wide": {"temporal": {"window": 10_000}, "codec": {"window": 10_000}},
}


class Recorded(KyutaiSttStream):
    """A family that keeps the rows of each session in its memo."""

    def open(self, state: StreamState, slot: int, **options: Any) -> Memo:
        self.opening: list[list[float]] = []
        memo = super().open(state, slot, **options)
        memo.rows = self.opening
        return memo

    def events(self, rows: list[list[float]], memo: Memo) -> list[Event]:
        getattr(memo, "rows", self.opening).extend(rows)
        return super().events(rows, memo)


@cache
def tiny_family(sizes: str = "like 1b", seed: int = 0) -> Recorded:
    """A tiny seeded model; always the same object for the same arguments."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = tiny_kyutai_stt(Path(folder), seed, SIZES[sizes])
        return Recorded(model.eval(), SentencePiece.from_file(tokenizer))


@dataclass(frozen=True)
class Clip:
    """Audio, and what the whole of it gives offline."""

    samples: np.ndarray
    ids: list[int]
    pauses: list[list[float]]
    events: list[Event]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Text))

    @property
    def words(self) -> list[Word]:
        return [event for event in self.events if isinstance(event, Word)]


def voice_like(rng: np.random.Generator, length: int) -> np.ndarray:
    """Noise that changes its loudness every 50 ms: float32 [length]."""
    loud = np.repeat(rng.uniform(0, 1, length // 240 + 1), 240)[:length]
    return (rng.standard_normal(length) * loud).astype(np.float32)


@cache
def clip(family: Recorded, length: int, which: int = 0) -> Clip:
    """One of the clips of `length` samples."""
    for attempt in count():
        samples = voice_like(np.random.default_rng([length, which, attempt]), length)
        ids, logits, pauses = offline(family, samples)
        unsure = ((torch.tensor(pauses) - 0.5).abs() < 1e-3).any() if pauses[0] else False
        if not near_tie(logits) and stable(family, samples) and not unsure:
            rows = [[id, *row] for id, row in zip(ids, pauses, strict=True)]
            return Clip(samples, ids, pauses, told(family, rows, length / RATE))
    raise AssertionError


def told(family: KyutaiSttStream, rows: list[list[float]], duration_s: float = np.inf) -> list[Event]:
    """The events of all ids at once."""
    memo = Memo(family.lead, 0, limit_s=duration_s)
    return KyutaiSttStream.events(family, rows, memo) + family.finish(memo)


@torch.inference_mode()
def offline(
    family: KyutaiSttStream, samples: np.ndarray, told_pads: int = 0
) -> tuple[list[int], torch.Tensor, list[list[float]]]:
    """The plain definition of what a stream writes: no state, no chunks, everything computed anew for every id.

    told_pads: so many ids are not chosen. Returns the ids, their logits [ids, V], and the pauses beside each of them.
    """
    model = family.model
    whole = KyutaiSttProcessor(family.config, family.tokenizer).whole([samples])
    frames = whole.shape[-1] // family.hop
    codes = model.hear(whole[..., : frames * family.hop])
    ids, rows, pauses = [], [], []
    while len(ids) < frames:
        columns = torch.cat([torch.tensor([[*ids, 0]])[:, None], codes[..., : len(ids) + 1]], dim=1)
        hidden = model.temporal(model.temporal.embed(model.inputs(columns[:, 0], columns[:, 1:])))[0, -1]
        rows.append(model.temporal.logits(hidden))
        pauses.append(model.pauses(hidden).tolist())
        ids.append(family.config.pad_id if len(ids) < told_pads else int(rows[-1].argmax()))
    return ids, torch.stack(rows), pauses


@torch.inference_mode()
def stable(family: KyutaiSttStream, samples: np.ndarray) -> bool:
    """Whether no code was chosen by so little that another order of sums would have chosen another one."""
    whole = KyutaiSttProcessor(family.config, family.tokenizer).whole([samples])
    noise = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0)) * 1e-5
    first = family.model.hear(whole)
    return all(torch.equal(first, family.model.hear(whole + sign * noise)) for sign in (1, -1))


def change_config(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(document))


def assert_same(model: torch.nn.Module, again: torch.nn.Module, **tolerance: float) -> None:
    """Vectors of the codec are sums over usage in a file, which costs their last bit."""
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, **(tolerance or {"rtol": 1e-6, "atol": 1e-7}))
