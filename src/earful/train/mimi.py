"""Trains a Mimi codec on speech, from nothing or from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from earful import registry
from earful.checkpoint.hub import fetch
from earful.errors import CheckpointError
from earful.models.mimi.config import MIMI, STEPS_PER_FRAME, MimiConfig
from earful.models.mimi.model import Mimi
from earful.nn.rvq import Codebook
from earful.train.augment import degrade
from earful.train.data import build_cache
from earful.train.feed import feed, moved
from earful.train.loop import Batch, Schedule, Trainer
from earful.train.mixing import Mixer
from earful.train.objectives import MimiObjective
from earful.train.targets import phoneme_labels, phoneme_spans

# Networks to train from nothing; recipes/kyutai-small says why these sizes.
PRESETS = {
    "mimi-small": replace(
        MIMI, filters=16, dim=128, layers=2, heads=4, head_dim=32, mlp_dim=512, window=50, codebooks=16,
        semantic_codebooks=4, codebook_size=512, codebook_dim=64,
    ),
}  # fmt: skip
SOUND_LATENCY = 2  # steps: codes name a sound once all of it has been heard
ALL_KEPT = 0.5  # share of the examples of which all codebooks are heard; of the others some number
GAIN = 1.2  # of random convolutions: ELU makes what is negative smaller
LOUDNESS = 0.1  # of speech, root mean square
OUTSIDE_S = 0.5  # of silence that a crop may begin before its utterance, or end behind it


@dataclass(frozen=True)
class MimiRun:
    """What codec to train, on what, and how long.

    start: a checkpoint folder or hub id to go on from, or the name of a preset. audio: where decoded audio is kept,
    by default in the run's folder. seconds: of audio in an example, rounded to whole frames; batch: examples in a step.
    clean: share of the examples that are not degraded; decoded: share of them that become audio again, which costs more
    than to hear them. sound_weight: of the loss on the names of sounds, which only
    speech with phonemes has.
    """

    start: str
    manifests: Sequence[Path]
    folder: Path
    steps: int
    audio: Path | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    clean: float = 0.5
    decoded: float = 0.25
    batch: int = 16
    seconds: float = 2.56
    matrix_rate: float = 0.01
    other_rate: float = 3e-3
    mel_weight: float = 2.0
    sound_weight: float = 1.0
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16
    workers: int = 1


def train_mimi(run: MimiRun, report: Callable[[dict[str, float]], None] = lambda _: None) -> Path:
    """Train, going on from what the run's folder holds, and write FOLDER/model in Hugging Face's layout.

    Returns that folder. Raises CheckpointError for a start that cannot be used and ValueError for bad manifests.
    """
    model = starting_codec(run.start, run.seed)
    corpus = build_cache(run.manifests, run.audio or run.folder / "audio", model.config.rate_hz)
    crops = Crops(Mixer(corpus, run.shares or None), model.config, run.seconds, run.clean)
    schedule = Schedule(run.steps, matrix_rate=run.matrix_rate, other_rate=run.other_rate)
    torch.manual_seed(run.seed)  # for the head that names sounds
    objective = MimiObjective(model, run.dtype).to(run.device)
    trainer = Trainer(objective, schedule, run.folder)
    trainer.resume()
    source = batches(crops, run, trainer.step)
    trainer.run((moved(batch, run.device, torch.float32) for batch in source), report)
    registry.save_model(model, run.folder / "model", "hf")
    return run.folder / "model"


def starting_codec(start: str, seed: int) -> Mimi:
    """The codec to train: a preset with random weights, or that of a checkpoint."""
    if start in PRESETS:
        model = Mimi(PRESETS[start])
        initialise(model, seed)
        return model.train()
    loaded, _ = registry.load_model(fetch(start), dtype=torch.float32)
    if not isinstance(loaded, Mimi):
        raise CheckpointError(f"{start}: expected a Mimi codec, got {type(loaded).__name__}")
    return loaded.train()


@torch.no_grad()
def initialise(model: Mimi, seed: int) -> None:
    """Random weights to train from: transformer blocks begin as identities, codebooks with the first batch.

    Convolutions keep the size of what goes through them, so that speech reaches the codes and is not lost in biases:
    it comes in at about a tenth and goes out so.
    """
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
        elif isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            heard = module.in_channels // module.groups * module.kernel_size[0]
            if isinstance(module, nn.ConvTranspose1d):
                heard //= module.stride[0]
            nn.init.normal_(module.weight, std=GAIN / math.sqrt(heard))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Codebook):
            module.usage.zero_()
    for name, weight in model.named_parameters():
        if name.endswith(("attn.o.weight", "mlp.down.weight")):
            nn.init.zeros_(weight)
        elif name == "encoder.first.conv.weight":
            weight.div_(LOUDNESS)
        elif name == "decoder.last.conv.weight":
            weight.mul_(LOUDNESS)


class Crops:
    """Pieces of utterances of one length; number `index` of the stream `seed` is always the same."""

    def __init__(self, mixer: Mixer, config: MimiConfig, seconds: float, clean: float) -> None:
        self.mixer, self.config, self.clean = mixer, config, clean
        self.frames = max(1, round(seconds / config.frame_s))

    def example(self, seed: int, index: int) -> dict[str, Tensor]:
        """What the objective takes, without the batch dimension."""
        c, corpus = self.config, self.mixer.corpus
        rng = np.random.default_rng([seed, index])
        number = self.mixer.draw(rng)
        utterance, whole = corpus.utterances[number], corpus.samples(number)
        count, outside = self.frames * c.frame_samples, round(OUTSIDE_S * c.rate_hz)
        first = int(rng.integers(-outside, max(1, len(whole) + outside - count)))
        samples = np.zeros(count, np.float32)
        kept = whole[max(0, first) : first + count]
        samples[max(0, -first) : max(0, -first) + len(kept)] = kept
        samples = degrade(rng, samples, c.rate_hz, partial(self.mixer.babble, rng, count / c.rate_hz), self.clean)
        starts, labels = phoneme_spans(utterance)
        first_s, step_s = first / c.rate_hz, c.frame_s / STEPS_PER_FRAME
        places = [(-first_s, utterance.duration_s - first_s)]
        steps = self.frames * STEPS_PER_FRAME
        sounds = phoneme_labels([(starts - first_s, labels)], places, steps, step_s, SOUND_LATENCY)
        heard = c.codebooks if rng.random() < ALL_KEPT else int(rng.integers(c.semantic_codebooks, c.codebooks + 1))
        return {
            "samples": torch.from_numpy(samples)[None],
            "kept": torch.tensor(heard),
            "sounds": torch.from_numpy(sounds),
        }


def batches(crops: Crops, run: MimiRun, step: int) -> Iterator[Batch]:
    """The batches from step `step` on."""
    make = partial(crops.example, run.seed)
    always = {
        "mel_weight": run.mel_weight,
        "sound_weight": run.sound_weight,
        "decoded": max(1, round(run.batch * run.decoded)),
    }
    for number, batch in enumerate(feed(make, run.batch, step, run.steps, run.workers), step):
        yield {**batch, **always, "chance": number}
