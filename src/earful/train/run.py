"""A training run from manifests to a checkpoint folder, with its curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from earful import registry
from earful.checkpoint.hub import fetch
from earful.errors import CheckpointError
from earful.models.voxtral.config import PRESETS, VoxtralConfig
from earful.models.voxtral.config_files import CONV_STRIDE, LOG_MAX, checked, front_end, special_ids
from earful.models.voxtral.model import VoxtralRealtime
from earful.text.tekken import Tekken
from earful.train.augment import CLEAN
from earful.train.data import build_cache
from earful.train.loop import Schedule, Trainer
from earful.train.packing import Packer
from earful.train.voxtral import initialise, train

DELAYS = {delay: 1.0 for delay in range(1, 31)}  # in slots: 80 ms to 2.4 s, as the published model was trained


@dataclass(frozen=True)
class Run:
    """What to train, on what, and how long.

    start: a checkpoint folder or hub id to fine-tune, or the name of a preset to train from nothing with `tokenizer`.
    audio: where decoded audio is kept, by default in the run's folder.
    shares: how much is drawn from each manifest's folder, by its name; as many utterances as each has if empty.
    delays: slots -> share. clean: share of the examples that are not degraded; cut: share of the utterances of which a
    few words are heard. seconds: of audio in an example; batch: examples in a step.
    average: steps whose mean of the weights is written, see Schedule; 0 for the last ones.
    """

    start: str
    manifests: Sequence[Path]
    folder: Path
    steps: int
    tokenizer: Path | None = None
    audio: Path | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    delays: Mapping[int, float] = field(default_factory=lambda: DELAYS)
    clean: float = CLEAN
    cut: float = 0.0
    batch: int = 8
    seconds: float = 12.0
    matrix_rate: float = Schedule.matrix_rate
    other_rate: float = Schedule.other_rate
    average: int = 0
    phoneme_latency: int = 3
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16
    workers: int = 1


def train_run(run: Run, report: Callable[[dict[str, float]], None] = lambda _: None) -> Path:
    """Train, going on from what the run's folder holds, and write FOLDER/model. Returns that folder.

    Raises CheckpointError for a start that cannot be used and ValueError for manifests that cannot be read.
    """
    model, tokenizer = starting_model(run)
    corpus = build_cache(run.manifests, run.audio or run.folder / "audio", model.config.audio.rate_hz)
    slots = model.config.audio.left_slots + round(run.seconds / model.config.slot_s)
    encode = Tekken.from_file(tokenizer).encode
    packer = Packer(
        corpus, model.config, encode, slots, run.delays, run.phoneme_latency, run.shares or None, run.clean, run.cut
    )
    schedule = Schedule(run.steps, matrix_rate=run.matrix_rate, other_rate=run.other_rate, average=run.average)
    trainer = train(
        model,
        packer,
        schedule,
        run.folder,
        batch=run.batch,
        seed=run.seed,
        dtype=run.dtype,
        device=run.device,
        workers=run.workers,
        report=report,
    )
    export(model, trainer, tokenizer, run.folder / "model")
    return run.folder / "model"


def starting_model(run: Run) -> tuple[VoxtralRealtime, Path]:
    """The network to train, in float32, and its tokenizer's file."""
    if run.start in PRESETS:
        if run.tokenizer is None:
            raise CheckpointError(f"expected a tokenizer file to train {run.start} from nothing with, got none")
        tekken = Tekken.from_file(run.tokenizer)
        model = VoxtralRealtime(preset(run.start, tekken))
        initialise(model, run.seed)
        return model, run.tokenizer
    loaded, tokenizer = registry.load_model(fetch(run.start), dtype=torch.float32)
    if not isinstance(loaded, VoxtralRealtime):
        raise CheckpointError(f"{run.start}: expected a Voxtral Realtime model, got {type(loaded).__name__}")
    assert tokenizer is not None
    return loaded.train(), tokenizer


def preset(name: str, tekken: Tekken) -> VoxtralConfig:
    """A named network with the front end and the vocabulary of a tokenizer file."""
    audio, mels_per_slot = front_end(tekken, LOG_MAX)
    encoder, decoder = PRESETS[name]
    ids = special_ids(tekken, filler=tekken.special_tokens.get("<pad>"))
    config = VoxtralConfig(
        encoder, replace(decoder, vocab=tekken.vocab), audio, ids, mels_per_slot, mels_per_slot // CONV_STRIDE
    )
    return checked(config, name, tekken)


def export(model: VoxtralRealtime, trainer: Trainer, tokenizer: Path, folder: Path) -> None:
    """Write the model with the trainer's weights as a checkpoint folder in Mistral's layout, in bfloat16."""
    weights = {name.removeprefix("model."): w for name, w in trainer.learned.items() if name.startswith("model.")}
    model.float().load_state_dict(weights)
    folder.mkdir(parents=True, exist_ok=True)
    registry.save_model(model.bfloat16(), folder, "mistral", tokenizer)


# What a picture shows of a run's log, and how it is called there.
CURVES = {
    "text": "text loss (nats per token)",
    "ctc": "loss of the encoder's own text (nats per token)",
    "words": "loss of words alone (nats per token)",
    "words_accuracy": "words (share of ids)",
    "phoneme_accuracy": "phoneme accuracy (share of frames)",
    "wave": "waveform (share of its size)",
    "mel": "log-mel difference (nats)",
    "commitment": "commitment loss",
    "sound_accuracy": "sounds (share of steps)",
    "codes_used": "codes used (share)",
    "codes": "loss of codes (nats per code)",
    "codes_accuracy": "codes (share)",
}


def draw_curves(folder: Path, path: Path) -> None:
    """A picture of a run: its losses and accuracies, and the WER where FOLDER/wer.jsonl has it."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = _rows(folder / "log.jsonl")
    scores = _rows(folder / "wer.jsonl") if (folder / "wer.jsonl").exists() else []
    figure, axes = pyplot.subplots(1, 2 if scores else 1, figsize=(11, 4), layout="constrained", squeeze=False)
    steps, left = [row["step"] for row in rows], axes[0, 0]
    for name, label in CURVES.items():
        if name in rows[-1]:
            left.plot(steps, [row[name] for row in rows], label=label)
    left.set(xlabel="step", ylim=(0, 3))
    left.legend()
    if scores:
        right = axes[0, 1]
        for kind in sorted({kind for row in scores for kind in row if kind != "step"}):
            known = [row for row in scores if kind in row]
            right.plot([row["step"] for row in known], [row[kind] for row in known], "o-", label=kind)
        right.set(xlabel="step", ylabel="word error rate (%)", ylim=(0, 110))
        right.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _rows(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
