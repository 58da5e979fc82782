"""Spoken dialogues for training: two sides with the words of one, and what a codec makes of both, in a cache."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from earful.audio.io import open_stereo
from earful.models.mimi.model import Mimi
from earful.train.codes import Words, checksum

MAIN = "SPEAKER_MAIN"  # whose words are written
INDEX = "index.json"
CHUNK_FRAMES = 16  # to a call of the codec
UNKNOWN = -1  # a code of a frame behind the end


@dataclass(frozen=True)
class Dialogue:
    """A recording with the voice to learn on the left and the user on the right; times in seconds."""

    audio: Path
    duration_s: float
    words: tuple[tuple[str, float, float], ...]  # of the voice: word, start, end
    source: str = ""  # the folder of the manifest


def read_dialogues(path: str | Path) -> list[Dialogue]:
    """The dialogues of a JSON-lines manifest, in order.

    A row has `path`, a file of two channels relative to the manifest, and its `duration` in seconds. Beside the audio
    lies a .json of the same name with `alignments` [[word, [start, end], speaker], ...]: those of SPEAKER_MAIN are
    taken. Raises ValueError naming the file and the line.
    Source: Kyutai's moshi-finetune, whose files these are.
    """
    path = Path(path)
    with path.open(encoding="utf-8") as lines:
        return [_dialogue(line, path, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _dialogue(line: str, manifest: Path, where: str) -> Dialogue:
    row = _object(line, where)
    name, duration_s = row.get("path"), row.get("duration")
    if not isinstance(name, str):
        raise ValueError(f"{where}: expected the name of a file in 'path', got {name!r}")
    if isinstance(duration_s, bool) or not isinstance(duration_s, int | float) or not 0 < duration_s < math.inf:
        raise ValueError(f"{where}: expected seconds in 'duration', got {duration_s!r}")
    audio = manifest.parent / name
    beside = audio.with_suffix(".json")
    if not beside.is_file():
        raise ValueError(f"{where}: expected the words of {name} in {beside}, got no such file")
    listed = _object(beside.read_text(encoding="utf-8"), str(beside)).get("alignments")
    if not isinstance(listed, list):
        raise ValueError(f"{beside}: expected a list of [word, [start, end], speaker] in 'alignments', got {listed!r}")
    words = [word for speaker, word in (_word(item, str(beside)) for item in listed) if speaker == MAIN]
    in_order = tuple(sorted(words, key=lambda word: word[1]))
    return Dialogue(audio, float(duration_s), in_order, manifest.absolute().parent.name)


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: expected a JSON object, got {text.strip()[:40]!r} ({error.msg})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected a JSON object, got {text.strip()[:40]!r}")
    return found


def _word(item: object, where: str) -> tuple[str, tuple[str, float, float]]:
    """The speaker, and what is said."""
    match item:
        case [str(word), [float() | int() as start_s, float() | int() as end_s], str(speaker)] if 0 <= start_s <= end_s:
            return speaker, (word.strip(), float(start_s), float(end_s))
    raise ValueError(f"{where}: expected [word, [start, end], speaker], got {item!r}")


class Pieces:
    """Dialogues cut into pieces of one length; their codes stay on disk until they are asked for."""

    def __init__(self, dialogues: Sequence[Dialogue], files: Sequence[Path], frame_s: float) -> None:
        self._made = (dialogues, files, frame_s)
        self.frame_s = frame_s
        self._codes = [np.load(file, mmap_mode="r") for file in files]  # [pieces, codebooks, frames] each
        self._places = [(n, piece) for n, codes in enumerate(self._codes) for piece in range(len(codes))]
        self._dialogues = dialogues

    def __reduce__(self) -> tuple[type[Pieces], tuple[Sequence[Dialogue], Sequence[Path], float]]:
        return Pieces, self._made  # opened again in another process; a mapping would be sent as a copy

    def __len__(self) -> int:
        return len(self._places)

    def source(self, number: int) -> str:
        """The folder of the manifest that a piece is from."""
        return self._dialogues[self._places[number][0]].source

    def codes(self, number: int) -> npt.NDArray[np.int64]:
        """int64 [codebooks, frames], the voice's and then the user's; UNKNOWN behind the end."""
        dialogue, piece = self._places[number]
        codes: npt.NDArray[np.int64] = self._codes[dialogue][piece].astype(np.int64)
        return codes

    def words(self, number: int) -> Words:
        """The words that begin in a piece; times in seconds from its beginning."""
        dialogue, piece = self._places[number]
        length_s = self._codes[dialogue].shape[-1] * self.frame_s
        words = self._dialogues[dialogue].words
        begin_s = piece * length_s
        return [(w, start - begin_s, end - begin_s) for w, start, end in words if 0 <= start - begin_s < length_s]


@torch.inference_mode()
def encode_dialogues(
    codec: Mimi,
    dialogues: Sequence[Dialogue],
    frames: int,
    sides: tuple[int, int],
    folder: str | Path,
    device: str = "cpu",
) -> Pieces:
    """Cut dialogues into pieces of so many frames and encode each from its beginning, as a session begins.

    sides: codebooks of the voice and of the user. Files that the folder has already are not encoded again. Raises
    ValueError when it was made with another codec, another length or other sides, AudioError for what cannot be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"codec": checksum(codec), "frames": frames, "sides": list(sides)}
    index = folder / INDEX
    if not index.exists():
        index.write_text(json.dumps(about, indent=1), encoding="utf-8")
    known = json.loads(index.read_text(encoding="utf-8"))
    for name, value in about.items():
        if known.get(name) != value:
            raise ValueError(f"expected codes made with this {name} in {folder}, got others: build a new folder")
    files = []
    for dialogue in dialogues:
        files.append(folder / f"{_identity(dialogue.audio)}.npy")
        if not files[-1].exists():
            pieces = [_encoded(codec, samples, frames, sides, device) for samples in _cut(codec, dialogue, frames)]
            unfinished = folder / ".part"
            with unfinished.open("wb") as file:
                np.save(file, np.stack(pieces))
            unfinished.replace(files[-1])
    return Pieces(dialogues, files, codec.config.frame_s)


def _identity(audio: Path) -> str:
    """Of a file as it is now; a missing one is the decoder's to complain of."""
    found = audio.stat() if audio.exists() else None
    whole = f"{audio.resolve()} {found and (found.st_size, found.st_mtime_ns)}"
    return hashlib.sha256(whole.encode()).hexdigest()[:24]


def _cut(codec: Mimi, dialogue: Dialogue, frames: int) -> Iterator[npt.NDArray[np.float32]]:
    """Both sides [2, N], so many frames at a time; the last piece is shorter."""
    length = frames * codec.config.frame_samples
    waiting, count = list[npt.NDArray[np.float32]](), 0
    for block in open_stereo(dialogue.audio, codec.config.rate_hz):
        waiting.append(block)
        count += block.shape[1]
        while count >= length:
            whole = np.concatenate(waiting, axis=1)
            yield whole[:, :length]
            waiting, count = [whole[:, length:]], count - length
    if count:
        yield np.concatenate(waiting, axis=1)


def _encoded(
    codec: Mimi, samples: npt.NDArray[np.float32], frames: int, sides: tuple[int, int], device: str
) -> npt.NDArray[np.int32]:
    """samples: [2, N] -> the codes of both sides one below the other, [codebooks, frames]."""
    whole = torch.from_numpy(np.pad(samples, ((0, 0), (0, -samples.shape[1] % codec.config.frame_samples))))
    state = codec.init_encode_state(2, CHUNK_FRAMES)
    parts = whole[:, None].split(CHUNK_FRAMES * codec.config.frame_samples, dim=-1)
    codes = torch.cat([codec.encode(part.to(device), max(sides), state).cpu() for part in parts], dim=-1)
    both = torch.cat([codes[0, : sides[0]], codes[1, : sides[1]]]).numpy().astype(np.int32)
    return np.pad(both, ((0, 0), (0, frames - both.shape[1])), constant_values=UNKNOWN)
