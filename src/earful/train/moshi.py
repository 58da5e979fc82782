"""Trains Moshi on dialogues of two sides: what the voice writes and says, while it hears both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from earful import registry
from earful.checkpoint.hub import fetch
from earful.errors import CheckpointError
from earful.models.moshi.config import MoshiConfig
from earful.models.moshi.model import Moshi
from earful.text.sentencepiece import SentencePiece
from earful.train.dialogues import Pieces, encode_dialogues, read_dialogues
from earful.train.feed import feed, moved
from earful.train.loop import Schedule, Trainer
from earful.train.lora import Lora, save_lora
from earful.train.objectives import MoshiObjective
from earful.train.targets import interleaved

WARMUP = 0.05  # share of the steps in which the rate rises; it falls over all others


@dataclass(frozen=True)
class MoshiRun:
    """What to train, on what, and how long.

    start: a checkpoint folder or hub id. manifests: of dialogues, see `read_dialogues`. codes: where what the codec
    makes of them is kept, by default in the run's folder. shares: how much is drawn from each manifest's folder, by its
    name; as many pieces as each has if empty. seconds: to a piece; batch: pieces in a step.
    pad_weight: of frames without text in the loss; first_weight: of the first code of a frame, what is said.
    lora: rank of the changes to learn in the place of all weights, and merge: whether they become part of these or stay
    a file of their own. checkpointing: a step keeps less in memory and computes more.
    average: steps whose mean of the weights is written, see Schedule; 0 for the last ones.
    """

    start: str
    manifests: Sequence[Path]
    folder: Path
    steps: int
    codes: Path | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    batch: int = 8
    seconds: float = 100.0
    pad_weight: float = 0.5
    first_weight: float = 1.0
    lora: int | None = None
    merge: bool = True
    checkpointing: bool = False
    other_rate: float = 1e-4
    average: int = 0
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16
    workers: int = 1


def train_moshi(run: MoshiRun, report: Callable[[dict[str, float]], None] = lambda _: None) -> Path:
    """Train, going on from what the run's folder holds, and write FOLDER/model. Returns that folder.

    The layout is that of the checkpoint that it began with, Kyutai's for changes in a file of their own. Raises
    CheckpointError for a start that cannot be used, ValueError for bad manifests and AudioError for bad recordings.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    start = fetch(run.start)
    model, tokenizer = registry.load_model(start, dtype=torch.float32)
    if not isinstance(model, Moshi) or tokenizer is None:
        raise CheckpointError(f"{run.start}: expected a Moshi model, got {type(model).__name__}")
    config = model.to(run.device).config
    dialogues = [dialogue for manifest in run.manifests for dialogue in read_dialogues(manifest)]
    sides = (config.own, config.temporal.codebooks - config.own)
    frames = round(run.seconds / config.codec.frame_s)
    pieces = encode_dialogues(model.codec, dialogues, frames, sides, run.codes or run.folder / "codes", run.device)
    objective = MoshiObjective(model, run.pad_weight, run.first_weight).to(run.device)
    lora = None if run.lora is None else Lora(objective, run.lora, run.seed)
    if run.checkpointing:
        recompute([*model.temporal.layers, model.depth])
    schedule = Schedule(
        run.steps,
        other_rate=run.other_rate,
        warmup=max(1, round(WARMUP * run.steps)),
        decay=1 - WARMUP,
        muon=False,
        average=run.average,
    )
    trainer = Trainer(objective, schedule, run.folder, run.dtype)
    trainer.resume()
    examples = Examples(pieces, config, SentencePiece.from_file(tokenizer).encode, run.shares)
    source = feed(partial(examples.example, run.seed), run.batch, trainer.step, run.steps, run.workers)
    trainer.run((moved(batch, run.device, run.dtype) for batch in source), report)

    objective.float().load_state_dict(trainer.learned, strict=lora is None)
    pairs = lora.pairs() if lora else {}
    if lora and run.merge:
        lora.merge()
    elif lora:
        lora.drop()
    objective.to(run.dtype)
    folder = run.folder / "model"
    if lora and not run.merge:
        save_lora(model, pairs, folder, tokenizer)
    else:
        registry.save_model(model, folder, registry.recognise(start)[1], tokenizer)
    return folder


def recompute(modules: Iterable[nn.Module]) -> None:
    """Of these modules keep only what goes in, and compute the rest again on the way back."""
    for module in modules:
        once: Any = module.forward
        module.forward = partial(checkpoint, once, use_reentrant=False)


class Examples:
    """Pieces of dialogues with the text beside them; number `index` of the stream `seed` is always the same."""

    def __init__(
        self,
        pieces: Pieces,
        config: MoshiConfig,
        encode: Callable[[str], list[int]],
        shares: Mapping[str, float] | None = None,
    ) -> None:
        """Raises ValueError for shares of other folders than the pieces are from, and where there are none."""
        if not len(pieces):
            raise ValueError("expected manifests with some dialogues, got none")
        self.pieces, self.config = pieces, config
        self._encode = encode
        sources = [pieces.source(number) for number in range(len(pieces))]
        shares = shares or {source: sources.count(source) for source in set(sources)}
        if set(shares) != set(sources):
            raise ValueError(f"expected shares of {sorted(set(sources))}, got shares of {sorted(shares)}")
        chances = np.array([shares[source] / sources.count(source) for source in sources])
        self._chances = chances / chances.sum()

    def example(self, seed: int, index: int) -> dict[str, Tensor]:
        """What the objective takes, without the batch dimension."""
        rng = np.random.default_rng([seed, index])
        return {"ids": self.ids(int(rng.choice(len(self.pieces), p=self._chances)))}

    def ids(self, number: int) -> Tensor:
        """One piece: int64 [1 + codebooks, frames], text, the voice's codes, the user's; -1 behind its end."""
        c = self.config
        codes = self.pieces.codes(number)
        words = [(start_s, self._encode(word)) for word, start_s, _ in self.pieces.words(number)]
        text = interleaved(words, codes.shape[1], 0.0, c.codec.frame_s, c.pad_id, c.end_pad_id)
        text[codes[0] < 0] = -1
        return torch.from_numpy(np.concatenate([text[None], codes]))
