"""Word-timed speech for training: the manifest, and a memory-mapped cache of its decoded audio."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from earful.audio.io import read_audio

INDEX = "index.json"


@dataclass(frozen=True)
class Utterance:
    """One utterance of a manifest; all times in seconds from its own beginning."""

    audio: Path
    start_s: float  # where it begins in the audio file
    duration_s: float
    text: str
    words: tuple[tuple[str, float, float], ...]  # word, start, end
    phonemes: str | None = None
    frames: tuple[int, ...] | None = None  # units of 25 ms: leading silence, each phoneme character, trailing silence
    source: str = ""  # the folder of the manifest
    language: str | None = None  # of the text, where the manifest says so

    def count(self, rate_hz: int) -> int:
        """Length in samples."""
        return round(self.duration_s * rate_hz)


def read_manifest(path: str | Path) -> list[Utterance]:
    """The utterances of a JSON-lines manifest, in order.

    A row has `audio` (a file, relative to the manifest), `start` and `duration` in seconds, `text` and `words`
    [[word, start, end], ...]; it may have `phonemes` and `frames`, and the `language` of the text. Other keys are left
    alone.
    Raises ValueError naming the file and the line.
    """
    path = Path(path)
    with path.open(encoding="utf-8") as lines:
        return [_utterance(line, path, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _utterance(line: str, manifest: Path, where: str) -> Utterance:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: expected a JSON object, got {line.strip()[:40]!r} ({error.msg})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, got {line.strip()[:40]!r}")
    duration_s = _number(row, "duration", where)
    phonemes, frames = row.get("phonemes"), row.get("frames")
    if phonemes is not None and not isinstance(phonemes, str):
        raise ValueError(f"{where}: expected phonemes as a string, got {phonemes!r}")
    if (phonemes is None) != (frames is None):
        raise ValueError(f"{where}: expected phonemes and frames together, got only one of them")
    if phonemes is not None and (
        not isinstance(frames, list)
        or not all(type(n) is int and n >= 0 for n in frames)
        or len(frames) != len(phonemes) + 2
    ):
        raise ValueError(f"{where}: expected {len(phonemes) + 2} whole numbers in frames, got {str(frames)[:60]}")
    if duration_s <= 0:
        raise ValueError(f"{where}: expected a duration above 0 s, got {duration_s}")
    return Utterance(
        audio=(manifest.parent / _string(row, "audio", where)).absolute(),
        start_s=_number(row, "start", where),
        duration_s=duration_s,
        text=_string(row, "text", where),
        words=_words(row.get("words"), duration_s, where),
        phonemes=phonemes,
        frames=None if frames is None else tuple(frames),
        source=manifest.absolute().parent.name,
        language=_string(row, "language", where) if "language" in row else None,
    )


def _string(row: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(row.get(key), str):
        raise ValueError(f"{where}: expected a string in {key!r}, got {row.get(key)!r}")
    return str(row[key])


def _number(row: dict[str, Any], key: str, where: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{where}: expected seconds in {key!r}, got {value!r}")
    return float(value)


def _words(value: object, duration_s: float, where: str) -> tuple[tuple[str, float, float], ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list of [word, start, end] in 'words', got {value!r}")
    words, latest = [], 0.0
    for item in value:
        match item:
            case [str(word), float() | int() as start_s, float() | int() as end_s] if word.strip():
                words.append((word.strip(), float(start_s), float(end_s)))
            case _:
                raise ValueError(f"{where}: expected [word, start, end], got {item!r}")
        if not latest <= start_s <= end_s <= duration_s + 0.05:
            raise ValueError(
                f"{where}: expected times in order and within {duration_s} s, got {item!r} after a word at {latest} s"
            )
        latest = float(start_s)
    return tuple(words)


class Corpus:
    """The utterances of a cache folder, or those of some audio files; their audio stays on disk until it is asked for.

    Raises ValueError when the folder holds no cache.
    """

    def __init__(self, folder: str | Path, files: Collection[Path] | None = None) -> None:
        folder = self.folder = Path(folder)
        self.files = files
        index = _read_index(folder)
        if not index["parts"]:
            raise ValueError(f"expected a cache of audio in {folder}, got nothing there: build it first")
        self.rate_hz = int(index["rate_hz"])
        self.utterances: list[Utterance] = []
        self._parts: list[npt.NDArray[np.int16]] = []
        self._spans: list[tuple[int, int, int]] = []  # part, first sample, end
        for number in range(len(index["parts"])):
            self._parts.append(np.load(_part(folder, number, "npy"), mmap_mode="r"))
            first = 0
            with _part(folder, number, "jsonl").open(encoding="utf-8") as rows:
                for utterance in map(_from_row, rows):
                    end = first + utterance.count(self.rate_hz)
                    if files is None or utterance.audio in files:
                        self.utterances.append(utterance)
                        self._spans.append((number, first, end))
                    first = end

    def __reduce__(self) -> tuple[type[Corpus], tuple[Path, Collection[Path] | None]]:
        return Corpus, (
            self.folder,
            self.files,
        )  # opened again in another process; a mapping would be sent as a copy of the audio

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def hours(self) -> float:
        return sum(u.duration_s for u in self.utterances) / 3600

    def samples(self, number: int) -> npt.NDArray[np.float32]:
        """The audio of one utterance, float32 [N] at `rate_hz`."""
        part, first, end = self._spans[number]
        return self._parts[part][first:end].astype(np.float32) * np.float32(1 / 32768)


def build_cache(
    manifests: Iterable[str | Path], folder: str | Path, rate_hz: int = 16_000, processes: int = 2
) -> Corpus:
    """Decodes what is new in the manifests into `folder` and returns what they name, whatever else is there.

    Audio is kept as int16 in parts that never change once written, so that a run that reads the folder is not
    disturbed while it grows. Audio files that the folder has already are not read again, whichever manifest names them.
    Raises ValueError when the rows of such a file have changed, or the folder was made at another rate.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    index = _read_index(folder)
    if index.setdefault("rate_hz", rate_hz) != rate_hz:
        raise ValueError(f"expected a cache at {rate_hz} Hz in {folder}, got one at {index['rate_hz']} Hz")
    known = {audio: checksum for part in index["parts"] for audio, checksum in part.items()}
    files: dict[Path, list[Utterance]] = {}
    for manifest in manifests:
        for utterance in read_manifest(manifest):
            files.setdefault(utterance.audio, []).append(utterance)
    new = {}
    for audio, utterances in files.items():
        checksum = hashlib.sha256("".join(map(_to_row, utterances)).encode()).hexdigest()
        if known.get(str(audio), checksum) != checksum:
            raise ValueError(f"expected the rows of {audio} as they were cached, got others: build a new folder")
        if str(audio) not in known:
            new[audio] = checksum
    if new:
        _write_part(folder, len(index["parts"]), {audio: files[audio] for audio in new}, rate_hz, processes)
        index["parts"].append({str(audio): checksum for audio, checksum in new.items()})
        unfinished = folder / f".{INDEX}"
        unfinished.write_text(json.dumps(index, indent=1), encoding="utf-8")
        unfinished.replace(folder / INDEX)  # last: a part without its line here is written again
    return Corpus(folder, frozenset(files))


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {"parts": []}


def _part(folder: Path, number: int, kind: str) -> Path:
    return folder / f"part-{number:05d}.{kind}"


def _to_row(utterance: Utterance) -> str:
    row = {**vars(utterance), "audio": str(utterance.audio)}
    if utterance.language is None:
        del row["language"]
    return json.dumps(row, ensure_ascii=False) + "\n"


def _from_row(line: str) -> Utterance:
    row = json.loads(line)
    row["audio"] = Path(row["audio"])
    row["words"] = tuple((word, start_s, end_s) for word, start_s, end_s in row["words"])
    row["frames"] = None if row["frames"] is None else tuple(row["frames"])
    return Utterance(**row)


def _write_part(folder: Path, number: int, files: dict[Path, list[Utterance]], rate_hz: int, processes: int) -> None:
    total = sum(u.count(rate_hz) for utterances in files.values() for u in utterances)
    samples = folder / f".part-{number:05d}.npy"
    np.lib.format.open_memmap(samples, mode="w+", dtype=np.int16, shape=(total,))  # type: ignore[no-untyped-call]
    work, first = [], 0
    for audio, utterances in files.items():
        work.append((samples, first, audio, utterances, rate_hz))
        first += sum(u.count(rate_hz) for u in utterances)
    if processes > 1 and len(work) > 1:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_decode, work, chunksize=4))
    else:
        for item in work:
            _decode(item)
    rows = "".join(_to_row(u) for utterances in files.values() for u in utterances)
    _part(folder, number, "jsonl").write_text(rows, encoding="utf-8")
    os.replace(samples, _part(folder, number, "npy"))


def _decode(item: tuple[Path, int, Path, Sequence[Utterance], int]) -> None:
    """Writes the utterances of one audio file one behind the other into the part, from sample `first` on."""
    samples, first, audio, utterances, rate_hz = item
    decoded = read_audio(audio, rate_hz)
    part = np.load(samples, mmap_mode="r+")
    for utterance in utterances:
        start, count = round(utterance.start_s * rate_hz), utterance.count(rate_hz)
        one = decoded[start : start + count]
        if len(one) < count - rate_hz // 20:
            raise ValueError(
                f"{audio}: expected an utterance of {utterance.duration_s} s at {utterance.start_s} s, "
                f"got {len(decoded) / rate_hz:.3f} s of audio"
            )
        part[first : first + len(one)] = np.clip(np.round(one * 32768), -32768, 32767).astype(np.int16)
        first += count
    part.flush()
