"""Scoring: references are read as they are written, and errors counted by hand come out the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

import earful
from earful.audio.io import write_wav
from earful.errors import EarfulError
from earful.testing import write_tiny
from earful.train.score import Reference, hypotheses, read_references, scores
from tests.helpers import spoken_like


def manifest(folder, *rows):
    path = folder / "manifest.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_rows_of_every_form(tmp_path):
    path = manifest(
        tmp_path,
        {"audio": "a.wav", "text": "one"},
        {"file": "b.wav", "text": "two", "kind": "digits", "voice": "v", "start": 1.5, "duration": 2},
        {"file": "c.wav", "text": "three", "package": "words", "speaker": 7},
    )
    assert read_references(path) == [
        Reference(tmp_path / "a.wav", "one", "all", None),
        Reference(tmp_path / "b.wav", "two", "digits", "v", 1.5, 2.0),
        Reference(tmp_path / "words" / "c.wav", "three", "all", "7"),
    ]
    assert read_references(path, tmp_path / "there")[2].audio == tmp_path / "there" / "words" / "c.wav"


@pytest.mark.parametrize(
    "row", ['{"text": "no audio"}', '{"audio": "a.wav"}', "[]", "{", "", '{"audio": 3, "text": "x"}']
)
def test_a_bad_row_is_named(tmp_path, row):
    path = manifest(tmp_path, {"audio": "a.wav", "text": "one"}, row)
    with pytest.raises(EarfulError, match="manifest.jsonl:2: expected an object with audio and text, got"):
        read_references(path)


def test_a_manifest_that_is_not_there_or_empty(tmp_path):
    with pytest.raises(EarfulError, match="expected a manifest of references, got"):
        read_references(tmp_path / "none.jsonl")
    with pytest.raises(EarfulError, match="expected references, got none"):
        read_references(manifest(tmp_path))


def reference(text, kind="all", speaker=None):
    return Reference(None, text, kind, speaker)


def test_errors_are_counted_by_kind_and_over_all():
    references = [
        reference("The colour, of 2 doors.", "read", "a"),
        reference("one two three", "digits", "b"),
        reference("four", "digits", "b"),
    ]
    # read: the same after normalisation. digits: one substitution and one deletion, one insertion.
    texts = ["the color of two doors", "one too", "four five"]
    found = {score.kind: score for score in scores(references, texts)}
    assert list(found) == ["read", "digits", "all"]
    assert (found["read"].words, found["read"].errors, found["read"].speakers) == (5, 0, 1)
    assert (found["digits"].utterances, found["digits"].speakers) == (2, 1)
    assert found["digits"].errors >= 2
    assert found["all"].errors == found["digits"].errors
    assert found["all"].words == found["read"].words + found["digits"].words
    assert found["all"].wer == found["all"].errors / found["all"].words
    assert found["all"].speakers == 2


def test_words_are_counted_exactly():
    said = [reference("a cat sat on the mat"), reference("a dog ran far away from home")]
    (score,) = scores(said, ["a cat sat the big mat", "a dog ran far away from home"])
    assert (score.kind, score.words, score.errors, score.utterances, score.speakers) == ("all", 13, 2, 2, 0)


def test_text_written_in_silence_counts_against_the_model():
    (silence,) = scores([reference("")], ["there was nothing"])
    assert (silence.words, silence.errors) == (0, 3)
    assert silence.wer == 3
    (both,) = scores([reference(""), reference("cat")], ["", "cat"])
    assert (both.words, both.errors) == (1, 0)


def test_a_kind_by_the_name_of_all_is_listed_once():
    found = scores([reference("cat", "all"), reference("dog", "animals")], ["cat", "dig"])
    assert [(score.kind, score.words, score.errors) for score in found] == [("animals", 1, 1), ("all", 2, 1)]


@pytest.mark.parametrize("batch", [1, 2])
def test_hypotheses_are_the_transcripts_of_the_parts(tmp_path, batch):
    model = earful.load(write_tiny("voxtral", layout="mistral", path=tmp_path / "model"))
    samples = (np.rint(spoken_like(np.random.default_rng(0), 80_000) * 0.3 * 32768) / 32768).astype(np.float32)
    samples = np.clip(samples, -1, 32767 / 32768)
    write_wav(tmp_path / "a.wav", samples, 16_000)
    cuts = [(0.0, None), (1.0, 2.0), (2.5, None)]
    references = [Reference(tmp_path / "a.wav", "x", "all", None, *cut) for cut in cuts]
    written = dict(hypotheses(model, references, batch, None))
    parts = [samples, samples[16_000:48_000], samples[40_000:]]
    assert [written[i] for i in range(3)] == [model.transcribe(part).text for part in parts]
    assert len(set(written.values())) == 3
