"""What a codec makes of mixed speech, kept in a memory-mapped cache: a language model learns from nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earful.models.mimi.config import STEPS_PER_FRAME
from earful.models.mimi.model import Mimi
from earful.models.mimi.shifted import shifted_latents
from earful.nn.linear import pack
from earful.train.augment import degrade
from earful.train.feed import batched
from earful.train.mixing import Mixer, Place

INDEX = "index.json"
SOUNDS = "sounds.npy"
SOUND_LATENCY = 4  # steps of half a frame: a sound is named once it has been heard and coded
Words = list[tuple[str, float, float]]  # word, start, end in seconds of the example


@dataclass(frozen=True)
class Recipe:
    """How mixed speech becomes examples of codes: all of one length, and each as its seed has it.

    frames: to an example; codebooks: of the codec, the first ones; lead_s: silence before the audio; room_s: behind the
    last utterance, for the text that comes late; clean: share of the examples that are not degraded; shifts: so many
    times is each of them encoded, each time from another fraction of a frame on, which makes other codes of it.
    """

    frames: int
    codebooks: int
    lead_s: float = 0.0
    room_s: float = 1.0
    clean: float = 0.3
    seed: int = 0
    shifts: int = 1


class Codes:
    """The examples of a cache folder; their codes stay on disk until they are asked for."""

    def __init__(self, folder: str | Path) -> None:
        folder = self.folder = Path(folder)
        index = _read_index(folder)
        self._parts = [np.load(_part(folder, n, "npy"), mmap_mode="r") for n in range(len(index["parts"]))]
        self._sounds = [np.load(_part(folder, n, SOUNDS), mmap_mode="r") for n in range(len(index["parts"]))]
        self._words: list[Words] = []
        for number in range(len(self._parts)):
            rows = _part(folder, number, "jsonl").read_text(encoding="utf-8").splitlines()
            self._words += [[(word, start_s, end_s) for word, start_s, end_s in json.loads(row)] for row in rows]

    def __reduce__(self) -> tuple[type[Codes], tuple[Path]]:
        return Codes, (self.folder,)  # opened again in another process; a mapping would be sent as a copy

    def __len__(self) -> int:
        return len(self._words)

    def codes(self, number: int) -> npt.NDArray[np.int64]:
        """The codes of one example: int64 [codebooks, frames]."""
        return self._row(self._parts, number)

    def sounds(self, number: int) -> npt.NDArray[np.int64]:
        """The labels of what sounded in each half of a frame, `SOUND_LATENCY` later: int64 [2 frames]."""
        return self._row(self._sounds, number)

    def words(self, number: int) -> Words:
        """What is said in one example, and when, silence before the audio included."""
        return self._words[number]

    def _row(self, parts: list[npt.NDArray[Any]], number: int) -> npt.NDArray[np.int64]:
        for part in parts:
            if number < len(part):
                row: npt.NDArray[np.int64] = part[number].astype(np.int64)
                return row
            number -= len(part)
        raise IndexError(f"expected an example below {len(self)}, got one beyond")


def build_codes(
    codec: Mimi,
    mixer: Mixer,
    recipe: Recipe,
    folder: str | Path,
    versions: int,
    device: str = "cpu",
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, of: None,
    dtype: torch.dtype = torch.float32,
) -> Codes:
    """Encode the corpus `versions` times over, mixed and degraded in another way each time, and return all there is.

    dtype: of what the encoder computes; what it makes is quantised in float32.
    Versions that the folder has already are not made again. Raises ValueError when the folder was made with another
    codec, corpus or recipe.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    index = _read_index(folder)
    about = {
        "codec": checksum(codec),
        "corpus": _corpus_checksum(mixer),
        "recipe": vars(recipe) | {"dtype": str(dtype)},
    }
    for name, value in about.items():
        if index.setdefault(name, value) != value:
            raise ValueError(f"expected codes made with this {name} in {folder}, got others: build a new folder")
    seconds = recipe.frames * codec.config.frame_s
    examples = math.ceil(mixer.corpus.hours * 3600 / seconds)
    while len(index["parts"]) < versions:
        _write_part(codec, mixer, recipe, folder, len(index["parts"]), examples, device, workers, report, dtype)
        index["parts"].append(examples * recipe.shifts)
        unfinished = folder / f".{INDEX}"
        unfinished.write_text(json.dumps(index, indent=1), encoding="utf-8")
        unfinished.replace(folder / INDEX)  # last: a part without its line here is written again
    return Codes(folder)


@dataclass(frozen=True)
class Version:
    """The examples of one version: each a pure function of its number, which counts every shift of one as another."""

    mixer: Mixer
    recipe: Recipe
    samples: int  # of an example, with the silence before it
    number: int

    def _placed(self, mixed: int) -> tuple[np.random.Generator, list[Place], float]:
        """Chance as it stands behind the arrangement, the arrangement, and its length in seconds."""
        rng = np.random.default_rng([self.recipe.seed, self.number, mixed])
        seconds = (self.samples - self.lead) / self.mixer.corpus.rate_hz
        return rng, self.mixer.arrange(rng, seconds - self.recipe.room_s), seconds

    def _heard(self, example: int) -> list[Place]:
        """Where the utterances of an example are, from the start of its codes on, silence before the audio included."""
        mixed, shift = divmod(example, self.recipe.shifts)
        frame = self.samples // self.recipe.frames
        later_s = (self.lead - shift * frame // self.recipe.shifts) / self.mixer.corpus.rate_hz
        return [replace(place, at_s=place.at_s + later_s) for place in self._placed(mixed)[1]]

    @property
    def lead(self) -> int:
        """Samples of silence."""
        return int(self.recipe.lead_s * self.mixer.corpus.rate_hz)

    def audio(self, mixed: int) -> npt.NDArray[np.float32]:
        """What is heard before any shift: float32 [samples]."""
        rng, places, seconds = self._placed(mixed)
        audio = self.mixer.mix(rng, places, seconds)
        babble = partial(self.mixer.babble, rng, seconds)
        return np.pad(degrade(rng, audio, self.mixer.corpus.rate_hz, babble, self.recipe.clean), (self.lead, 0))

    def words(self, example: int) -> Words:
        """What is said."""
        return [
            (word, max(0.0, round(place.moved(start_s), 4)), max(0.0, round(place.moved(end_s), 4)))
            for place in self._heard(example)
            for word, start_s, end_s in self.mixer.utterance(place).words
        ]

    def sounds(self, example: int, step_s: float) -> npt.NDArray[np.int64]:
        """The labels of what sounds in each step, `SOUND_LATENCY` later: int64 [steps]."""
        steps = round(self.samples / self.mixer.corpus.rate_hz / step_s)
        return self.mixer.sounds(self._heard(example), steps, step_s, SOUND_LATENCY)


@torch.inference_mode()
def _write_part(
    codec: Mimi,
    mixer: Mixer,
    recipe: Recipe,
    folder: Path,
    version: int,
    examples: int,
    device: str,
    workers: int,
    report: Callable[[int, int], None],
    dtype: torch.dtype,
) -> None:
    shifts = recipe.shifts
    made = Version(mixer, recipe, recipe.frames * codec.config.frame_samples, version)
    written = folder / f".part-{version:05d}.npy"
    shape = (examples * shifts, recipe.codebooks, recipe.frames)
    kind = np.min_scalar_type(codec.config.codebook_size - 1)
    part = np.lib.format.open_memmap(written, mode="w+", dtype=kind, shape=shape)  # type: ignore[no-untyped-call]

    def make(number: int) -> dict[str, Tensor]:
        return {"samples": torch.from_numpy(made.audio(number))}

    hearing = copy.deepcopy(codec).to(device, dtype)
    pack(hearing)
    for number, batch in enumerate(batched(make, 1, 0, examples, workers)):
        latents = shifted_latents(hearing, batch["samples"][:, None].to(device, dtype), shifts)
        codes = codec.quantizer.encode(latents.float().transpose(1, 2), recipe.codebooks)  # [shifts, Q, T]
        part[number * shifts : (number + 1) * shifts] = codes.cpu().numpy()
        report(number + 1, examples)
    part.flush()
    step_s = codec.config.frame_s / STEPS_PER_FRAME
    sounds = np.stack([made.sounds(number, step_s) for number in range(examples * shifts)])
    np.save(_part(folder, version, SOUNDS), sounds.astype(np.int8))
    rows = (json.dumps(made.words(number)) for number in range(examples * shifts))
    _part(folder, version, "jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    os.replace(written, _part(folder, version, "npy"))


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {"parts": []}


def _part(folder: Path, number: int, kind: str) -> Path:
    return folder / f"part-{number:05d}.{kind}"


def checksum(codec: Mimi) -> str:
    """Of what decides the codes; the way back is left out."""
    whole = hashlib.sha256(repr(codec.config).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        if not name.startswith(("upsample.", "decoder")) and "project_out" not in name:
            whole.update(tensor.cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()


def _corpus_checksum(mixer: Mixer) -> str:
    rows = ((u.audio.name, u.start_s, u.duration_s, u.text, u.words) for u in mixer.corpus.utterances)
    return hashlib.sha256(
        "".join(map(repr, [mixer.shares, *([mixer.cut] if mixer.cut else []), *rows])).encode()
    ).hexdigest()
