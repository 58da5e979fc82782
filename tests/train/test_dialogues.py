"""Dialogues of two sides: what their files say, and that each piece is encoded as a session begins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from earful.audio.io import read_audio, write_wav
from earful.audio.wav import writing_wav
from earful.errors import AudioError
from earful.models.mimi.model import Mimi
from earful.testing import tiny_mimi
from earful.train.dialogues import UNKNOWN, encode_dialogues, read_dialogues
from tests.helpers import spoken_like

RATE_HZ, FRAME = 4_800, 384
SAMPLES = 45 * FRAME + 100  # of the first recording
WORDS = [["two", [2.0, 2.2], "SPEAKER_MAIN"], [" one ", [0.3, 0.5], "SPEAKER_MAIN"], ["no", [0.1, 0.2], "SPEAKER_01"]]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Mimi:
    return tiny_mimi(tmp_path_factory.mktemp("codec"))[0].eval()  # type: ignore[return-value]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    folder = tmp_path / "calls"
    (folder / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for name, length in (("a", SAMPLES), ("b", 20 * FRAME)):
        with writing_wav(folder / "audio" / f"{name}.wav", RATE_HZ, channels=2) as write:
            write(np.stack([spoken_like(rng, length) for _ in range(2)]))
        (folder / "audio" / f"{name}.json").write_text(json.dumps({"alignments": WORDS if name == "a" else []}))
        rows.append(json.dumps({"path": f"audio/{name}.wav", "duration": length / RATE_HZ}))
    (folder / "data.jsonl").write_text("\n".join(rows) + "\n\n")
    return folder / "data.jsonl"


def test_words_of_the_voice_in_order(manifest: Path) -> None:
    first, second = read_dialogues(manifest)
    assert first.words == (("one", 0.3, 0.5), ("two", 2.0, 2.2))
    assert second.words == ()
    assert first.source == "calls"
    assert first.audio == manifest.parent / "audio" / "a.wav"


def test_each_piece_is_encoded_from_its_beginning(
    codec: Mimi, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogues = read_dialogues(manifest)
    pieces = encode_dialogues(codec, dialogues, 20, (3, 2), tmp_path / "codes")
    assert len(pieces) == 3 + 1
    stereo = np.frombuffer(dialogues[0].audio.read_bytes()[44:], "<i2").reshape(-1, 2).T.astype(np.float32) / 32768
    for number in range(3):
        part = torch.from_numpy(stereo[:, number * 20 * FRAME : (number + 1) * 20 * FRAME].copy())
        with torch.inference_mode():
            left, right = codec.encode(part[:, None])
        whole = torch.cat([left[:3], right[:2]]).numpy()
        codes = pieces.codes(number)
        np.testing.assert_array_equal(codes[:, : whole.shape[1]], whole)
        assert codes.shape == (5, 20)
        assert (codes[:, whole.shape[1] :] == UNKNOWN).all()
    assert (pieces.codes(2) == UNKNOWN).any()
    assert [pieces.words(number) for number in (0, 2, 3)] == [[("one", 0.3, 0.5)], [], []]
    ((word, start_s, end_s),) = pieces.words(1)
    assert (word, start_s, end_s) == ("two", pytest.approx(0.4), pytest.approx(0.6))
    assert pieces.source(3) == "calls"

    monkeypatch.setattr(codec, "encode", lambda *arguments: pytest.fail("expected nothing to encode"))
    again = encode_dialogues(codec, dialogues, 20, (3, 2), tmp_path / "codes")
    np.testing.assert_array_equal(again.codes(1), pieces.codes(1))
    for frames, sides in ((21, (3, 2)), (20, (2, 3))):
        with pytest.raises(ValueError, match="expected codes made with this (frames|sides) in .*: build a new folder"):
            encode_dialogues(codec, dialogues, frames, sides, tmp_path / "codes")


def test_a_recording_of_one_side(codec: Mimi, manifest: Path, tmp_path: Path) -> None:
    path = manifest.parent / "audio" / "b.wav"
    write_wav(path, read_audio(path, RATE_HZ), RATE_HZ)
    with pytest.raises(AudioError, match=r"b\.wav: expected two channels, got 1"):
        encode_dialogues(codec, read_dialogues(manifest), 20, (3, 3), tmp_path / "codes")
    path.unlink()
    with pytest.raises(AudioError, match="expected a file, got none of that name"):
        encode_dialogues(codec, read_dialogues(manifest), 20, (3, 3), tmp_path / "codes")


@pytest.mark.parametrize(
    "row, message",
    [
        ("nonsense", r"data\.jsonl:1: expected a JSON object, got 'nonsense' \(Expecting value\)"),
        ("[1]", r"data\.jsonl:1: expected a JSON object, got '\[1\]'"),
        ('{"duration": 1}', r"data\.jsonl:1: expected the name of a file in 'path', got None"),
        ('{"path": "audio/a.wav"}', r"data\.jsonl:1: expected seconds in 'duration', got None"),
        (
            '{"path": "audio/c.wav", "duration": 1}',
            r"expected the words of audio/c\.wav in .*c\.json, got no such file",
        ),
    ],
)
def test_bad_rows(manifest: Path, row: str, message: str) -> None:
    manifest.write_text(row + "\n")
    with pytest.raises(ValueError, match=message):
        read_dialogues(manifest)


@pytest.mark.parametrize(
    "words, message",
    [
        ({"words": []}, "expected a list of .* in 'alignments', got None"),
        ({"alignments": [["one", 0.1, 0.2]]}, r"expected \[word, \[start, end\], speaker\], got \['one', 0\.1, 0\.2\]"),
        ({"alignments": [["one", [0.3, 0.2], "SPEAKER_MAIN"]]}, "expected .word, .start, end., speaker., got"),
    ],
)
def test_bad_words(manifest: Path, words: object, message: str) -> None:
    (manifest.parent / "audio" / "a.json").write_text(json.dumps(words))
    with pytest.raises(ValueError, match=r"a\.json: " + message):
        read_dialogues(manifest)
