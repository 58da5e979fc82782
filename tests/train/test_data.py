"""The manifest and the cache of decoded audio."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from earful.audio.io import write_wav
from earful.errors import AudioError
from earful.train.data import Corpus, build_cache, read_manifest

RATE_HZ = 16_000
ROW = {
    "audio": "a.wav",
    "start": 0.25,
    "duration": 1.0,
    "text": "to it",
    "words": [["to", 0.1, 0.3], ["it", 0.4, 0.8]],
    "phonemes": "tə ˈɪt.",
    "frames": [4, 2, 6, 4, 2, 6, 8, 4, 4],
    "voice": "not read",
}


def write_corpus(folder: Path, name: str, seed: int = 0, rows: int = 2) -> Path:
    """A manifest over one file of noise; the utterances stand a quarter of a second apart."""
    folder.mkdir(exist_ok=True)
    audio = np.random.default_rng(seed).uniform(-0.9, 0.9, round((1.25 * rows + 0.25) * RATE_HZ)).astype(np.float32)
    write_wav(folder / f"{name}.wav", audio, RATE_HZ)
    lines = [json.dumps({**ROW, "audio": f"{name}.wav", "start": 0.25 + 1.25 * i}) for i in range(rows)]
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return manifest


def expected_audio(seed: int, row: int, rows: int = 2) -> np.ndarray:
    audio = np.random.default_rng(seed).uniform(-0.9, 0.9, round((1.25 * rows + 0.25) * RATE_HZ))
    return audio[round((0.25 + 1.25 * row) * RATE_HZ) :][:RATE_HZ].astype(np.float32)


def test_manifest_rows_are_read_with_their_times(tmp_path):
    first, second = read_manifest(write_corpus(tmp_path / "some", "a"))
    assert first.audio == tmp_path / "some" / "a.wav"
    assert (first.start_s, first.duration_s, second.start_s) == (0.25, 1.0, 1.5)
    assert first.words == (("to", 0.1, 0.3), ("it", 0.4, 0.8))
    assert first.phonemes == "tə ˈɪt."
    assert first.frames == (4, 2, 6, 4, 2, 6, 8, 4, 4)
    assert first.source == "some"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"audio": 3}, "expected a string in 'audio', got 3"),
        ({"start": -1}, "expected seconds in 'start', got -1"),
        ({"duration": 0}, "expected a duration above 0 s"),
        ({"duration": "1"}, "expected seconds in 'duration', got '1'"),
        ({"words": None}, "expected a list of"),
        ({"words": [["to", 0.1]]}, r"expected \[word, start, end\], got \['to', 0.1\]"),
        ({"words": [["to", 0.3, 0.1]]}, "expected times in order"),
        ({"words": [["to", 0.5, 0.6], ["it", 0.1, 0.2]]}, "expected times in order"),
        ({"words": [["to", 0.5, 1.6]]}, "within 1.0 s"),
        ({"frames": [1, 2]}, "expected 9 whole numbers in frames"),
        ({"phonemes": None}, "phonemes and frames together"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, change, message):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps(ROW) + "\n\n" + json.dumps({**ROW, **change}), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(manifest)
    assert str(caught.value).startswith(f"{manifest}:3: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["{", "[]", "3"])
def test_a_line_that_is_no_object_is_refused(tmp_path, line):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest\.jsonl:1: expected a JSON object"):
        read_manifest(manifest)


def test_the_cache_holds_each_utterance_sample_for_sample(tmp_path):
    manifests = [write_corpus(tmp_path, "a", seed=1), write_corpus(tmp_path, "b", seed=2)]
    build_cache(manifests, tmp_path / "cache", processes=1)
    corpus = Corpus(tmp_path / "cache")
    assert len(corpus) == 4
    assert corpus.hours == pytest.approx(4 / 3600)
    for number, (seed, row) in enumerate([(1, 0), (1, 1), (2, 0), (2, 1)]):
        np.testing.assert_allclose(corpus.samples(number), expected_audio(seed, row), atol=2 / 32768)
    assert corpus.utterances[2] == read_manifest(manifests[1])[0]


def test_the_cache_grows_without_touching_what_is_there(tmp_path):
    first = write_corpus(tmp_path, "a", seed=1)
    build_cache([first], tmp_path / "cache", processes=1)
    before = (tmp_path / "cache" / "part-00000.npy").stat().st_mtime_ns
    second = tmp_path / "all.jsonl"  # another manifest that names the first file again
    others = [write_corpus(tmp_path, name, seed).read_text() for name, seed in (("b", 2), ("c", 3))]
    second.write_text(first.read_text() + "".join(others), encoding="utf-8")
    (tmp_path / "a.wav").unlink()  # so it cannot be decoded a second time
    corpus = build_cache([second], tmp_path / "cache", processes=2)
    assert len(corpus) == 6
    assert (tmp_path / "cache" / "part-00000.npy").stat().st_mtime_ns == before
    np.testing.assert_allclose(corpus.samples(3), expected_audio(2, 1), atol=2 / 32768)
    np.testing.assert_allclose(corpus.samples(4), expected_audio(3, 0), atol=2 / 32768)
    assert len(build_cache([second], tmp_path / "cache")) == 6


def test_a_run_hears_what_its_manifests_name_and_nothing_else_of_the_cache(tmp_path):
    first, second = (write_corpus(tmp_path, name, seed) for name, seed in (("a", 1), ("b", 2)))
    build_cache([first], tmp_path / "cache", processes=1)
    corpus = build_cache([second], tmp_path / "cache", processes=1)
    assert [u.audio.name for u in corpus.utterances] == ["b.wav", "b.wav"]
    again = pickle.loads(pickle.dumps(corpus))  # as a worker gets it
    assert len(again) == 2
    for one in (corpus, again):
        np.testing.assert_allclose(one.samples(1), expected_audio(2, 1), atol=2 / 32768)
    assert len(Corpus(tmp_path / "cache")) == 4


def test_a_build_that_was_interrupted_is_done_again(tmp_path):
    manifest = write_corpus(tmp_path, "a", seed=1)
    audio = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError):
        build_cache([manifest], tmp_path / "cache", processes=1)
    with pytest.raises(ValueError, match="expected a cache of audio in"):
        Corpus(tmp_path / "cache")
    (tmp_path / "a.wav").write_bytes(audio)
    assert len(build_cache([manifest], tmp_path / "cache", processes=1)) == 2


def test_changed_rows_rates_and_short_audio_are_refused(tmp_path):
    manifest = write_corpus(tmp_path, "a")
    build_cache([manifest], tmp_path / "cache", processes=1)
    with pytest.raises(ValueError, match="expected a cache at 8000 Hz"):
        build_cache([manifest], tmp_path / "cache", rate_hz=8000, processes=1)
    manifest.write_text(manifest.read_text().replace("to it", "to eat"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected the rows of .*a\.wav as they were cached"):
        build_cache([manifest], tmp_path / "cache", processes=1)
    manifest.write_text(manifest.read_text().replace('"start": 1.5', '"start": 2.5'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected an utterance of 1\.0 s at 2\.5 s, got 2\.750 s"):
        build_cache([manifest], tmp_path / "other", processes=1)
