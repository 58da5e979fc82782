"""Trains a Voxtral Realtime model on word-timed speech, from nothing or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from earful.audio.mel import log_mel, mel_edges
from earful.models.voxtral.config import SpecialIds, VoxtralConfig
from earful.models.voxtral.model import VoxtralRealtime
from earful.train.augment import mask_spectrogram, warp_spectrogram
from earful.train.feed import feed, moved
from earful.train.loop import Batch, Schedule, Trainer
from earful.train.objectives import VoxtralObjective
from earful.train.packing import Example, Packer
from earful.train.targets import LABELS

EMBED_STD = 0.05
MASKS = 1  # the generator of an example's masks is another one than that of its audio
MISREAD = 0.1  # of the pieces that stand before what is to be written: others than were said


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


def misread(rng: np.random.Generator, tokens: npt.NDArray[np.int64], ids: SpecialIds) -> npt.NDArray[np.int64]:
    """Tokens [T] with a share of the pieces exchanged for others of the example.

    The decoder then learns to hear rather than to go on by heart, and to recover from its own mistakes.
    Source: scheduled sampling (Bengio et al. 2015), with chance in the place of the model.
    """
    at = np.flatnonzero(~np.isin(tokens, (ids.bos, ids.eos, ids.blank, ids.word)))
    wrong = at[rng.random(len(at)) < MISREAD]
    changed = tokens.copy()
    changed[wrong] = rng.choice(tokens[at], len(wrong)) if len(wrong) else 0
    return changed


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


def batches(
    packer: Packer,
    size: int,
    seed: int,
    step: int,
    schedule: Schedule,
    workers: int = 1,
) -> Iterator[Batch]:
    """The batches from step `step` on, the same ones whether or not a run was interrupted."""

    audio = packer.config.audio
    peaks_hz = mel_edges(audio.rate_hz, audio.bins)[1:-1].numpy()

    def make(number: int) -> dict[str, Tensor]:
        made, rng = features(packer.config, packer.example(seed, number)), np.random.default_rng([seed, number, MASKS])
        mel = warp_spectrogram(rng, made["mel"].numpy(), peaks_hz)
        masked = mask_spectrogram(rng, mel, audio.hop / audio.rate_hz)
        tokens = misread(rng, made["tokens"].numpy(), packer.config.ids)
        return {**made, "mel": torch.from_numpy(masked), "tokens": torch.from_numpy(tokens)}

    for number, batch in enumerate(feed(make, size, step, schedule.steps, workers), step):
        yield {**batch, "auxiliary_weight": schedule.auxiliary(number)}


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
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> Trainer:
    """Train `model` in place, going on from what `folder` holds."""
    objective = VoxtralObjective(model, LABELS).to(device)
    trainer = Trainer(objective, schedule, folder, dtype)
    trainer.resume()

    source = batches(packer, batch, seed, trainer.step, schedule, workers)
    trainer.run((moved(batch, device, dtype) for batch in source), report)
    return trainer
