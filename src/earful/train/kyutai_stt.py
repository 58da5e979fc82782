"""Trains Kyutai Speech-To-Text on the codes of word-timed speech, from nothing or from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful import registry
from earful.checkpoint.hub import fetch
from earful.errors import CheckpointError
from earful.models.kyutai_stt.config import KyutaiSttConfig
from earful.models.kyutai_stt.config_files import checked
from earful.models.kyutai_stt.model import KyutaiStt
from earful.models.mimi.config import STEPS_PER_FRAME, MimiConfig
from earful.models.mimi.model import Mimi
from earful.models.moshi.config import TemporalConfig
from earful.text.sentencepiece import SentencePiece
from earful.text.unigram import PAD, train_unigram
from earful.train.codes import Codes, Recipe, Words, build_codes
from earful.train.data import Corpus, build_cache
from earful.train.feed import feed, moved
from earful.train.loop import Schedule, Trainer
from earful.train.lora import Lora, save_lora
from earful.train.mixing import Mixer
from earful.train.objectives import KyutaiSttObjective
from earful.train.targets import interleaved

# Networks to train from nothing: the sizes that codec and vocabulary do not decide. recipes/kyutai-small says why.
PRESETS: dict[str, dict[str, Any]] = {
    "kyutai-small": {"dim": 256, "layers": 6, "heads": 4, "head_dim": 64, "mlp_dim": 704, "window": 125},
}
ROPE_BASE, NORM_EPS = 1e5, 1e-8  # of every model
WORD = 0  # the id of the frame before a word
HEARD_STD, EMBED_STD, HEAD_STD = 0.3, 0.1, 0.02
HIDDEN_FRAMES = 6  # the longest gap in what is heard
UNKNOWN = -1  # a code, or an id, that adds nothing to what goes in
COARSE = 0.5  # share of the examples of which only the first few codebooks are heard
PAUSE_S = 0.4  # of silence, where an example may be cut
AFTER_S = 1.0  # room behind the delay for the last word of an example


@dataclass(frozen=True)
class KyutaiSttRun:
    """What to train, on what, and how long.

    start: a checkpoint folder or hub id to fine-tune, or the name of a preset, which needs a `codec`: the folder of a
    Mimi. tokenizer: a SentencePiece file for a preset; without one, one of `pieces` is made from the transcripts.
    delay_s: how much later than its start a word is written, for a preset. audio, codes: where decoded audio and its
    codes are kept, by default in the run's folder. versions: so many times is the corpus mixed and encoded; shifts: and
    each time so many times over, from other fractions of a frame on, which costs a seventh as much.
    seconds: of audio in an example, by default half as much again as the window: a model that has never seen more than
    its window falls silent once that is full.
    clean: share of the examples that are not degraded; cut: share of the utterances of which a few words are heard;
    hidden: share of the frames that are not heard, and of the ids that are not read; with 0, all codebooks of all
    examples are heard too.
    pad_weight: of frames without text in the loss. lora: rank of the changes to learn in the place of all weights, and
    merge: whether they become part of these or stay a file of their own.
    average: steps whose mean of the weights is written, see Schedule; 0 for the last ones.
    """

    start: str
    manifests: Sequence[Path]
    folder: Path
    steps: int
    codec: Path | None = None
    tokenizer: Path | None = None
    pieces: int = 1000
    delay_s: float = 1.2
    audio: Path | None = None
    codes: Path | None = None
    versions: int = 4
    shifts: int = 4
    shares: Mapping[str, float] = field(default_factory=dict)
    clean: float = 0.3
    cut: float = 0.0
    hidden: float = 0.1
    batch: int = 16
    seconds: float | None = None
    pad_weight: float = 0.5
    lora: int | None = None
    merge: bool = True
    matrix_rate: float = Schedule.matrix_rate
    other_rate: float = Schedule.other_rate
    average: int = 0
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16
    workers: int = 1


def train_kyutai_stt(run: KyutaiSttRun, report: Callable[[dict[str, float]], None] = lambda _: None) -> Path:
    """Train, going on from what the run's folder holds, and write FOLDER/model. Returns that folder.

    The layout is that of the checkpoint that it began with, Hugging Face's for a preset, Kyutai's for changes in a file
    of their own. Raises CheckpointError for a start that cannot be used and ValueError for bad manifests.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    model, corpus, layout, tokenizer = _start(run)
    config = model.to(run.device).config
    frames = example_frames(run.seconds, config)
    room_s = config.delay_s + AFTER_S
    recipe = Recipe(frames, config.temporal.codebooks, config.prefix_s, room_s, run.clean, run.seed, run.shifts)
    folder = run.codes or run.folder / "codes"
    mixer = Mixer(corpus, run.shares or None, run.cut)
    codes = build_codes(model.codec, mixer, recipe, folder, run.versions, run.device, run.workers, dtype=run.dtype)
    lora = None if run.lora is None else Lora(model.temporal, run.lora, run.seed)
    objective = KyutaiSttObjective(model, run.pad_weight, run.start in PRESETS).to(run.device)
    schedule = Schedule(run.steps, matrix_rate=run.matrix_rate, other_rate=run.other_rate, average=run.average)
    trainer = Trainer(objective, schedule, run.folder, run.dtype)
    trainer.resume()
    examples = Examples(codes, config, SentencePiece.from_file(tokenizer).encode, run.hidden)
    source = feed(partial(examples.example, run.seed), run.batch, trainer.step, run.steps, run.workers)
    batches = ({**batch, "sound_weight": schedule.auxiliary(n)} for n, batch in enumerate(source, trainer.step))
    trainer.run((moved(batch, run.device, run.dtype) for batch in batches), report)

    own = "temporal."
    trained = {name.removeprefix(own): weight for name, weight in trainer.learned.items() if name.startswith(own)}
    model.temporal.float().load_state_dict(trained, strict=lora is None)
    pairs = lora.pairs() if lora else {}
    if lora and run.merge:
        lora.merge()
    elif lora:
        lora.drop()
    model.temporal.to(run.dtype)
    model.vad_heads.to(run.dtype)
    if lora and not run.merge:
        save_lora(model, pairs, run.folder / "model", tokenizer)
    else:
        registry.save_model(model, run.folder / "model", layout, tokenizer)
    return run.folder / "model"


def _start(run: KyutaiSttRun) -> tuple[KyutaiStt, Corpus, str, Path]:
    """The network to train in float32, what it learns from, the layout to write, and its tokenizer's file."""
    audio = run.audio or run.folder / "audio"
    if run.start in PRESETS:
        if run.codec is None:
            raise CheckpointError(f"expected a codec to train {run.start} from nothing with, got none")
        codec, _ = registry.load_model(fetch(run.codec), dtype=torch.float32)
        if not isinstance(codec, Mimi):
            raise CheckpointError(f"{run.codec}: expected a Mimi codec, got {type(codec).__name__}")
        corpus = build_cache(run.manifests, audio, codec.config.rate_hz)
        tokenizer = run.tokenizer or run.folder / "tokenizer.model"
        if not tokenizer.exists():
            train_unigram((utterance.text for utterance in corpus.utterances), run.pieces, tokenizer)
        config = preset(run.start, codec.config, SentencePiece.from_file(tokenizer).vocab, run.delay_s)
        model = KyutaiStt(config)
        model.codec.load_state_dict(codec.state_dict())
        initialise(model, run.seed)
        return model, corpus, "hf", tokenizer
    folder = fetch(run.start)
    loaded, path = registry.load_model(folder, dtype=torch.float32)
    if not isinstance(loaded, KyutaiStt) or path is None:
        raise CheckpointError(f"{run.start}: expected a Kyutai Speech-To-Text model, got {type(loaded).__name__}")
    _, layout = registry.recognise(folder)
    return loaded, build_cache(run.manifests, audio, loaded.config.codec.rate_hz), layout, path


def example_frames(seconds: float | None, config: KyutaiSttConfig) -> int:
    """The length of an example, by default half as much again as the window."""
    return math.ceil(1.5 * config.temporal.window) if seconds is None else round(seconds / config.codec.frame_s)


def preset(name: str, codec: MimiConfig, vocab: int, delay_s: float) -> KyutaiSttConfig:
    """A named network over a codec and a vocabulary."""
    temporal = TemporalConfig(
        **PRESETS[name],
        rope_base=ROPE_BASE,
        norm_eps=NORM_EPS,
        text_vocab=vocab,
        codebooks=codec.codebooks,
        audio_vocab=codec.codebook_size,
    )
    config = KyutaiSttConfig(
        temporal, codec, vad_heads=0, vad_classes=0, pad_id=PAD, word_id=WORD, delay_s=delay_s, prefix_s=0.0
    )
    return checked(config, name)


@torch.no_grad()
def initialise(model: KyutaiStt, seed: int) -> None:
    """Random weights to train from: blocks begin as identities, and what is heard as the codec's own vectors.

    The embeddings of a frame's codes add up to a random projection of what they stand for, so that codes which sound
    alike begin alike.
    """
    torch.manual_seed(seed)
    temporal, quantizer = model.temporal, model.codec.quantizer
    for module in temporal.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    for name, weight in temporal.named_parameters():
        if name.endswith(("attn.o.weight", "mlp.down.weight")):
            nn.init.zeros_(weight)
    nn.init.normal_(temporal.text_embed.weight, std=EMBED_STD)
    nn.init.normal_(temporal.text_head.weight, std=HEAD_STD)
    projection = torch.randn(model.config.codec.dim, model.config.temporal.dim)
    vectors = [
        part.project_out(book.embedding) @ projection
        for part in (quantizer.semantic, quantizer.acoustic)
        for book in part.codebooks
    ][: len(temporal.audio_embeds)]
    loudness = torch.stack([of_one.square().mean() for of_one in vectors]).sum().sqrt().clamp(min=1e-6)
    for table, of_one in zip(temporal.audio_embeds, vectors, strict=True):
        table.weight.copy_(F.pad(of_one * (HEARD_STD / loudness), (0, 0, 0, 1)))  # type: ignore[operator]


def pauses(words: Words, frame_s: float) -> list[int]:
    """The frames in the middle of each moment of PAUSE_S or more in which nobody speaks."""
    gaps = ((end_s, start_s) for (_, _, end_s), (_, start_s, _) in pairwise(words))
    return [round((end_s + start_s) / 2 / frame_s) for end_s, start_s in gaps if start_s - end_s >= PAUSE_S]


class Examples:
    """Codes and the text beside them, put together anew from what lies between pauses, so that no text is learned by
    heart; number `index` of the stream `seed` is always the same."""

    def __init__(
        self, codes: Codes, config: KyutaiSttConfig, encode: Callable[[str], list[int]], hidden: float
    ) -> None:
        self.codes, self.config, self.hidden = codes, config, hidden
        self._encode = encode
        self._pieces: dict[str, list[int]] = {}

    def example(self, seed: int, index: int) -> dict[str, Tensor]:
        """What the objective takes, without the batch dimension."""
        rng, c = np.random.default_rng([seed, index]), self.config
        codes, sounds, words = self._put_together(rng)
        frames = codes.shape[1]
        text = interleaved(
            [(start_s, self._written_as(word)) for word, start_s in words],
            frames, c.delay_s, c.codec.frame_s, c.pad_id, c.word_id,
        )  # fmt: skip
        read = text.copy()
        if self.hidden:
            for _ in range(rng.poisson(self.hidden * frames / ((1 + HIDDEN_FRAMES) / 2))):
                first = int(rng.integers(frames))
                codes[:, first : first + int(rng.integers(1, HIDDEN_FRAMES + 1))] = UNKNOWN
            read[rng.random(frames) < self.hidden] = UNKNOWN
            if rng.random() < COARSE:
                codes[int(rng.integers(c.codec.semantic_codebooks, len(codes))) :] = UNKNOWN
        made = {"text": read, "codes": codes, "labels": text, "sounds": sounds}
        return {name: torch.from_numpy(value) for name, value in made.items()}

    def _put_together(
        self, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[tuple[str, float]]]:
        """Codes [codebooks, frames] of parts of several examples, the sounds [2 frames] and the words in them, these
        with their starts."""
        frame_s, parts, heard, words, filled = self.config.codec.frame_s, [], [], [], 0
        while True:
            number = int(rng.integers(len(self.codes)))
            codes, said = self.codes.codes(number), self.codes.words(number)
            frames = codes.shape[1]
            edges = [0, *pauses(said, frame_s), frames]
            k = int(rng.integers(len(edges) - 1))
            first, last = edges[k], min(edges[k + 1], edges[k] + frames - filled)
            parts.append(codes[:, first:last])
            heard.append(self.codes.sounds(number)[STEPS_PER_FRAME * first : STEPS_PER_FRAME * last])
            shift_s = (filled - first) * frame_s
            words += [(word, start_s + shift_s) for word, start_s, _ in said if first <= start_s / frame_s < last]
            filled += last - first
            if filled == frames:
                return np.concatenate(parts, axis=1), np.concatenate(heard), words

    def _written_as(self, word: str) -> list[int]:
        if word not in self._pieces:
            self._pieces[word] = self._encode(word)
        return self._pieces[word]
