"""Word error rates against references."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earful.api import SpeechModel
from earful.audio.frames import Samples
from earful.audio.io import read_audio
from earful.errors import EarfulError

PLACES = ("speaker", "voice")  # where a row may name who speaks


@dataclass(frozen=True)
class Reference:
    """One recording, or a part of one, and what is said in it."""

    audio: Path
    text: str
    kind: str
    speaker: str | None
    start_s: float = 0.0
    duration_s: float | None = None  # None: to the end


@dataclass(frozen=True)
class Score:
    """Of one kind of recordings: the word error rate is errors / words."""

    kind: str
    words: int
    errors: int
    utterances: int
    speakers: int  # that are named

    @property
    def wer(self) -> float:
        return self.errors / max(1, self.words)


def read_references(manifest: Path, audio: Path | None = None) -> list[Reference]:
    """Rows {"audio" or "file", "text"}, and "start", "duration", "kind", "package", "voice" or "speaker" where known.

    audio: the folder that file names count from, by default the manifest's; files of a package lie below its name.
    Raises EarfulError naming file and line of a bad row.
    """
    rows = []
    folder = audio or manifest.parent
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EarfulError(f"{manifest}: expected a manifest of references, got: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            row: dict[str, Any] = json.loads(line)
            name = row.get("audio") or row["file"]
            speaker = next((str(row[place]) for place in PLACES if place in row), None)
            duration = row.get("duration")
            rows.append(
                Reference(
                    folder / row.get("package", "") / name,
                    str(row["text"]),
                    str(row.get("kind", "all")),
                    speaker,
                    float(row.get("start", 0.0)),
                    None if duration is None else float(duration),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EarfulError(
                f"{manifest}:{number}: expected an object with audio and text, got {line[:60]!r}"
            ) from error
    if not rows:
        raise EarfulError(f"{manifest}: expected references, got none")
    return rows


def hypotheses(
    model: SpeechModel, references: Sequence[Reference], batch: int, delay_s: float | None
) -> Iterator[tuple[int, str]]:
    """The text that the model writes for each reference, in any order. Raises AudioError for what cannot be read."""
    samples: dict[Path, Samples] = {}
    for reference in references:
        if reference.audio not in samples:
            samples[reference.audio] = read_audio(reference.audio, model.rate_hz)

    def cut(reference: Reference) -> Samples:
        whole, first = samples[reference.audio], round(reference.start_s * model.rate_hz)
        if reference.duration_s is None:
            return whole[first:]
        return whole[first : first + round(reference.duration_s * model.rate_hz)]

    order = sorted(range(len(references)), key=lambda i: len(cut(references[i])))  # rows of a batch end together
    for place, outcome in model.outcomes([cut(references[i]) for i in order], batch=batch, delay_s=delay_s):
        yield order[place], outcome.transcript.text


def scores(references: Sequence[Reference], texts: Sequence[str]) -> list[Score]:
    """Errors by kind, over texts in lower case through Whisper's English normaliser, and of all together at the end."""
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    normalise = EnglishTextNormalizer()
    found = []
    kinds = dict.fromkeys(reference.kind for reference in references if reference.kind != "all")
    for kind in [*kinds, "all"]:
        chosen = [i for i, r in enumerate(references) if kind in (r.kind, "all")]
        pairs = [(normalise(references[i].text.lower()), normalise(texts[i].lower())) for i in chosen]
        said = [(reference, text) for reference, text in pairs if reference]
        errors = sum(len(text.split()) for reference, text in pairs if not reference)  # heard where nothing was said
        if said:
            result = jiwer.process_words([reference for reference, _ in said], [text for _, text in said])
            errors += result.substitutions + result.deletions + result.insertions
        speakers = {references[i].speaker for i in chosen} - {None}
        found.append(Score(kind, sum(len(r.split()) for r, _ in said), errors, len(chosen), len(speakers)))
    return found
