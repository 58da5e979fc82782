"""Trains a Voxtral Realtime model on word-timed speech, from nothing or from a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from earful.audio.mel import log_mel
from earful.models.voxtral.config import VoxtralConfig
from earful.models.voxtral.model import VoxtralRealtime
from earful.train.loop import Batch, Schedule, Trainer
from earful.train.objectives import VoxtralObjective
from earful.train.packing import Example, Packer
from earful.train.targets import LABELS

EMBED_STD = 0.05


def initialise(model: VoxtralRealtime, seed: int) -> None:
    """Random weights to train from: blocks begin as identities, and the embeddings small, since they are the head."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            module.reset_parameters()
    nn.init.normal_(model.decoder.embed.weight, std=EMBED_STD)
    for name, weight in model.named_parameters():
        if name.endswith(("attn.o.weight", "mlp.down.weight", "ada.up.weight")):
            nn.init.zeros_(weight)


def features(config: VoxtralConfig, example: Example) -> dict[str, Tensor]:
    """An example as the tensors that the objective takes, without the batch dimension."""
    a = config.audio
    before, after = a.window // 2, max(0, a.window - a.hop - a.window // 2)
    whole = np.pad(example.samples, (a.left_slots * config.slot_samples + before, after))
    mel = log_mel(torch.from_numpy(whole)[None], a.rate_hz, a.hop, a.window, a.bins, a.log_max, center=False)[0]
    return {
        "mel": mel,
        "tokens": torch.from_numpy(example.tokens),
        "labels": torch.from_numpy(example.labels),
        "delay": torch.tensor(example.delay_slots),
        "phonemes": torch.from_numpy(example.phonemes),
        "early": torch.from_numpy(example.early),
    }


class Examples(Dataset[dict[str, Tensor]]):
    """The examples `first`, `first + 1`, ... of the stream `seed`."""

    def __init__(self, packer: Packer, seed: int, first: int, count: int) -> None:
        self.packer, self.seed, self.first, self.count = packer, seed, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return features(self.packer.config, self.packer.example(self.seed, self.first + index))


def batches(
    packer: Packer,
    size: int,
    seed: int,
    step: int,
    steps: int,
    auxiliary_weight: Callable[[int], float],
    workers: int = 1,
) -> Iterator[Batch]:
    """The batches of steps `step` to `steps`, the same ones whether or not a run was interrupted."""
    examples = Examples(packer, seed, step * size, (steps - step) * size)
    ahead = 4 if workers else None
    loader = DataLoader(examples, size, num_workers=workers, prefetch_factor=ahead, worker_init_fn=_ignore_ctrl_c)
    for number, batch in enumerate(loader, step):
        yield {**batch, "auxiliary_weight": auxiliary_weight(number)}


def _ignore_ctrl_c(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, but a worker that dies of it would break the saving of the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def train(
    model: VoxtralRealtime,
    packer: Packer,
    schedule: Schedule,
    folder: str | Path,
    *,
    batch: int,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    workers: int = 1,
    auxiliary_until: float = 0.6,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> Trainer:
    """Train `model` in place, going on from what `folder` holds.

    auxiliary_until: the share of the run over which the auxiliary losses fade.
    """
    objective = VoxtralObjective(model, LABELS).to(device)
    trainer = Trainer(objective, schedule, folder, dtype)
    trainer.resume()

    def auxiliary_weight(step: int) -> float:
        return max(0.1, 1 - step / (schedule.steps * auxiliary_until))

    source = batches(packer, batch, seed, trainer.step, schedule.steps, auxiliary_weight, workers)
    moved = ({k: _moved(v, device, dtype) for k, v in b.items()} for b in source)
    trainer.run(moved, report)
    return trainer


def _moved(value: Tensor | float, device: str, dtype: torch.dtype) -> Tensor | float:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else None)
