"""Trains Speech2Text on utterances and their texts, from nothing or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful import registry
from earful.audio.fbank import HOP_S, frame_count
from earful.checkpoint.hub import fetch
from earful.errors import CheckpointError
from earful.models.s2t.config import (
    LANGUAGES,
    PAD,
    START,
    UNK,
    AudioConfig,
    S2tConfig,
    StackConfig,
    TextConfig,
)
from earful.models.s2t.model import Speech2Text
from earful.models.s2t.processor import S2tText, hear
from earful.text.sentencepiece import SentencePiece
from earful.text.unigram import train_pieces
from earful.train.augment import MASKED, degrade, mask_spectrogram
from earful.train.data import Corpus, build_cache
from earful.train.feed import feed, moved
from earful.train.loop import Batch, Schedule, Trainer
from earful.train.mixing import Mixer, Place
from earful.train.objectives import IGNORED, S2tObjective

# Networks to train from nothing, without what the vocabulary decides. recipes/s2t-small-en says why.
PRESETS = {
    "s2t-small-en": S2tConfig(
        dim=256,
        encoder=StackConfig(8, 4, 1024),
        decoder=StackConfig(2, 4, 1024),
        vocab=0,
        conv_channels=512,
        conv_kernels=(5, 5, 3),
        source_frames=6000,
        target_ids=1024,
        audio=AudioConfig(16_000, 80),
        text=TextConfig(),
        dropout=0.0,
    )
}
EMBED_STD = 0.02
LENGTHS, IDS = 12, 8  # so many lengths of examples, texts of multiples of so many ids: few shapes are faster
SHORTEST = 0.25  # of the utterances may be too long for the shortest examples
LEAD_S, TRAIL_S = 0.3, 0.3  # silence around what is said, at most


@dataclass(frozen=True)
class S2tRun:
    """What to train, on what, and how long.

    start: a checkpoint folder or hub id to fine-tune, or the name of a preset. tokenizer: a SentencePiece file with the
    four special pieces of Speech2Text, for a preset; without one, one of `pieces` is made from the transcripts.
    languages: a set in `LANGUAGES`, for a preset that writes several, each manifest row with its `language`.
    audio: where decoded audio is kept, by default in the run's folder.
    batch, seconds: a step hears batch * seconds of audio, in examples of up to so many seconds, all about as long.
    clean: share of the examples that are not degraded, masked: of those whose spectrogram is masked; cut: share of the
    utterances of which a few words are heard; hidden: share of the ids that the decoder does not read; smoothing: how
    much of a label is spread over all pieces.
    recipe: "house" (Muon, a rate that falls linearly at the end) or "published" (Adam, inverse square root).
    average: steps whose mean of the weights is written, see Schedule; 0 for the last ones.
    """

    start: str
    manifests: Sequence[Path]
    folder: Path
    steps: int
    tokenizer: Path | None = None
    pieces: int = 500
    languages: str | None = None
    audio: Path | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    clean: float = 0.3
    masked: float = MASKED
    cut: float = 0.0
    hidden: float = 0.0
    batch: int = 5
    seconds: float = 20.0
    smoothing: float = 0.1
    recipe: str = "house"
    matrix_rate: float = Schedule.matrix_rate
    other_rate: float = Schedule.other_rate
    average: int = 0
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16
    workers: int = 1


def train_s2t(run: S2tRun, report: Callable[[dict[str, float]], None] = lambda _: None) -> Path:
    """Train, going on from what the run's folder holds, and write FOLDER/model in Hugging Face's layout; returns that.

    Raises CheckpointError for a start that cannot be used and ValueError for bad manifests and settings.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    schedule = schedule_of(run)
    model, corpus, tokenizer = _start(run)
    text = S2tText.from_file(tokenizer, model.config.text)
    mixer = Mixer(corpus, run.shares or None, run.cut)
    hiding = Hiding(run.clean, run.masked, run.hidden)
    examples = Examples(mixer, model.config, text, run.batch * run.seconds, run.seconds, hiding)
    objective = S2tObjective(model.train(), sounds_per_step(model.config), run.smoothing).to(run.device)
    trainer = Trainer(objective, schedule, run.folder, run.dtype)
    trainer.resume()
    source = batches(examples, run.seed, trainer.step, schedule, run.workers)
    trainer.run((moved(batch, run.device, run.dtype) for batch in source), report)
    trained = {name.removeprefix("model."): w for name, w in trainer.learned.items() if name.startswith("model.")}
    model.float().load_state_dict(trained)
    registry.save_model(model.to(run.dtype), run.folder / "model", "hf", tokenizer)
    return run.folder / "model"


def schedule_of(run: S2tRun) -> Schedule:
    """Raises ValueError for a recipe that is not known."""
    if run.recipe == "house":
        return Schedule(run.steps, run.matrix_rate, run.other_rate, average=run.average)
    if run.recipe != "published":
        raise ValueError(f"expected a recipe of house or published, got {run.recipe!r}")
    warmup = max(1, min(10_000, run.steps // 10))
    return Schedule(
        run.steps,
        other_rate=run.other_rate,
        warmup=warmup,
        clip=10.0,
        inverse_root=True,
        muon=False,
        weight_decay=0.0,
        average=run.average,
    )


def _start(run: S2tRun) -> tuple[Speech2Text, Corpus, Path]:
    """The network to train in float32, what it learns from, and its tokenizer's file."""
    audio = run.audio or run.folder / "audio"
    if run.languages is not None and (run.start not in PRESETS or run.languages not in LANGUAGES):
        expected = " or ".join(LANGUAGES) if run.start in PRESETS else "none for a checkpoint, which has its own"
        raise ValueError(f"expected languages of {expected}, got {run.languages}")
    if run.start in PRESETS:
        corpus = build_cache(run.manifests, audio, PRESETS[run.start].audio.rate_hz)
        tokenizer = run.tokenizer or run.folder / "tokenizer.model"
        if not tokenizer.exists():
            tags = [f"<lang:{language}>" for language in LANGUAGES[run.languages]] if run.languages else []
            train_pieces((utterance.text for utterance in corpus.utterances), run.pieces, tokenizer, tags)
        vocab = SentencePiece.from_file(tokenizer).vocab
        model = Speech2Text(replace(PRESETS[run.start], vocab=vocab, text=TextConfig(run.languages)))
        initialise(model, run.seed)
        return model, corpus, tokenizer
    loaded, path = registry.load_model(fetch(run.start), dtype=torch.float32)
    if not isinstance(loaded, Speech2Text) or path is None:
        raise CheckpointError(f"{run.start}: expected a Speech2Text model, got {type(loaded).__name__}")
    return loaded, build_cache(run.manifests, audio, loaded.config.audio.rate_hz), path


@torch.no_grad()
def initialise(model: Speech2Text, seed: int) -> None:
    """Random weights to train from: blocks begin as identities, and the embeddings small, since they are the head."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.LayerNorm):
            module.reset_parameters()
    for name, weight in model.named_parameters():
        if name.endswith(("attn.o.weight", "cross.o.weight", "mlp.down.weight")):
            nn.init.zeros_(weight)
    nn.init.normal_(model.decoder.embed.weight, std=EMBED_STD)
    model.decoder.embed.weight[PAD] = 0


def encoder_steps(frames: int, config: S2tConfig) -> int:
    """What the convolutions leave of so many frames."""
    for _ in config.conv_kernels:
        frames = (frames - 1) // 2 + 1
    return frames


def sounds_per_step(config: S2tConfig) -> int:
    """How many sounds a step of the encoder names: one to 40 ms."""
    return 1 << max(0, len(config.conv_kernels) - 2)


@dataclass(frozen=True)
class Hiding:
    """What is made harder: shares, as of `S2tRun`."""

    clean: float
    masked: float
    hidden: float


class Examples:
    """Batches of mixed utterances; number `index` of the stream `seed` is always the same.

    All examples of a batch are about as long, and the next batch's are of another length, so that hardly anything is
    padding. Raises ValueError for audio at another rate than the model's, and for a model of several languages where
    an utterance is in none of them.
    """

    def __init__(
        self, mixer: Mixer, config: S2tConfig, text: S2tText, total_s: float, seconds: float, hiding: Hiding
    ) -> None:
        """total_s: of a batch; seconds: of the longest examples."""
        if mixer.corpus.rate_hz != config.audio.rate_hz:
            raise ValueError(f"expected a corpus at {config.audio.rate_hz} Hz, got one at {mixer.corpus.rate_hz} Hz")
        others = {str(utterance.language) for utterance in mixer.corpus.utterances} - text.language_ids.keys()
        if text.language_ids and others:
            known = ", ".join(text.language_ids)
            raise ValueError(f"expected a language of {known} in each row, got {', '.join(sorted(others))}")
        self.mixer, self.config, self.text, self.hiding = mixer, config, text, hiding
        self.total_s = total_s
        shortest = float(np.quantile([utterance.duration_s for utterance in mixer.corpus.utterances], SHORTEST))
        self.lengths_s = np.geomspace(min(shortest, seconds), seconds, LENGTHS)

    def batch(self, seed: int, index: int) -> dict[str, Tensor]:
        """What the objective takes but for the weight of its auxiliary losses."""
        rng = np.random.default_rng([seed, index])
        length_s = float(rng.choice(self.lengths_s))
        rows = [self._example(rng, length_s) for _ in range(max(1, round(self.total_s / length_s)))]
        clips, texts, sounds = zip(*rows, strict=True)
        rate_hz = self.config.audio.rate_hz
        frames, longest = frame_count(round(length_s * rate_hz), rate_hz), max(map(len, texts))
        features, lengths = hear(clips, self.config.audio)
        for one, count in zip(features, lengths.tolist(), strict=True):
            heard = mask_spectrogram(rng, one[:count].T.numpy(), HOP_S, self.hiding.masked)
            one[:count] = torch.from_numpy(heard).T
        ids, labels = zip(*(self._asked(rng, text, rounded(longest)) for text in texts), strict=True)
        count = encoder_steps(frames, self.config) * sounds_per_step(self.config)
        named = [F.pad(torch.from_numpy(row), (0, count - len(row)), value=IGNORED) for row in sounds]
        return {
            "features": F.pad(features, (0, 0, 0, frames - features.shape[1])),
            "lengths": lengths,
            "ids": torch.stack(ids),
            "labels": torch.stack(labels),
            "sounds": torch.stack(named),
        }

    def _example(
        self, rng: np.random.Generator, length_s: float
    ) -> tuple[npt.NDArray[np.float32], list[int], npt.NDArray[np.int64]]:
        """Samples [N], the ids to write, and the sounds of each encoder step."""
        mixer, rate_hz = self.mixer, self.mixer.corpus.rate_hz
        places = mixer.fill(rng, rng.uniform(0, min(LEAD_S, length_s / 4)), length_s)
        utterances = [mixer.utterance(place) for place in places]
        seconds = min(length_s, places[-1].end_s + rng.uniform(0, TRAIL_S)) if places else length_s
        babble = partial(mixer.babble, rng, seconds)
        samples = degrade(rng, mixer.mix(rng, places, seconds), rate_hz, babble, self.hiding.clean)
        language = utterances[0].language if utterances and self.text.language_ids else None
        ids = self.text.encode(" ".join(utterance.text for utterance in utterances), language)
        steps = encoder_steps(frame_count(len(samples), rate_hz), self.config)
        return samples, ids, self._sounds(places, steps * sounds_per_step(self.config))

    def _asked(self, rng: np.random.Generator, text: list[int], length: int) -> tuple[Tensor, Tensor]:
        """What the decoder reads and what is to follow, [length] each; which language to write is not learned."""
        ids, labels = torch.full((length,), PAD), torch.full((length,), IGNORED)
        unread = torch.from_numpy(rng.random(len(text) - 1) < self.hiding.hidden)
        if self.text.language_ids:
            unread[:1] = False
        ids[0] = START
        ids[1 : len(text)] = torch.tensor(text[:-1]).masked_fill(unread, UNK)
        labels[: len(text)] = torch.tensor(text)
        if self.text.language_ids:
            labels[0] = IGNORED
        return ids, labels

    def _sounds(self, places: Sequence[Place], count: int) -> npt.NDArray[np.int64]:
        sound_s = HOP_S * 2 ** len(self.config.conv_kernels) / sounds_per_step(self.config)
        return self.mixer.sounds(places, count, sound_s, latency=0)


def rounded(length: int) -> int:
    """Up to a multiple of so many ids, so that few shapes occur."""
    return -(-length // IDS) * IDS


def batches(examples: Examples, seed: int, step: int, schedule: Schedule, workers: int) -> Iterator[Batch]:
    """The batches from step `step` on, the same ones whether or not a run was interrupted.

    Torch's own chance, which drops out activations, is set anew for each.
    """
    for number, batch in enumerate(feed(partial(examples.batch, seed), 1, step, schedule.steps, workers), step):
        torch.manual_seed(seed << 32 | number)
        yield {**{name: value[0] for name, value in batch.items()}, "auxiliary_weight": schedule.auxiliary(number)}
