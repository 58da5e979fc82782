"""`earful transcribe`: what is written, where, under which name and in which order."""

from __future__ import annotations

import io
import json
import shutil
import sys

import pytest

import earful as library
from earful.cli.files import expand, stems
from earful.stream.transcript import FORMATS
from earful.testing import write_tiny
from tests.cli.conftest import DEMO


@pytest.fixture(scope="module")
def transcripts(tiny, noise):
    return library.load(tiny).transcribe(noise)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_what_the_library_writes(earful, tiny, noise, transcripts, name):
    ran = earful("transcribe", noise[0], "--model", tiny, "--format", name)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == FORMATS[name](transcripts[0])
    assert transcripts[0].words


def test_json_holds_the_whole_transcript(earful, tiny, noise, transcripts):
    content = json.loads(earful("transcribe", noise[0], "--model", tiny, "--format", "json").out)
    whole = transcripts[0]
    assert (content["text"], content["language"]) == (whole.text, None)
    assert content["duration_s"] == 3.0
    words = [word for segment in content["segments"] for word in segment["words"]]
    assert [(w["text"], w["start_s"], w["end_s"]) for w in words] == [
        (w.text, pytest.approx(w.start_s, abs=6e-4), pytest.approx(w.end_s, abs=6e-4)) for w in whole.words
    ]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_several_files_are_printed_in_order(earful, tiny, noise, transcripts, batch):
    ran = earful("transcribe", *noise, "--model", tiny, "--batch", batch, "--format", "srt")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "".join(transcript.to_srt() for transcript in transcripts)


def test_files_of_all_formats_go_to_a_folder(earful, tiny, noise, transcripts, tmp_path):
    out = tmp_path / "new" / "out"
    ran = earful("transcribe", *noise, "--model", tiny, "-f", ",".join(FORMATS), "-o", out, "--batch", 2)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    written = {path.name: path.read_text() for path in out.iterdir()}
    assert written == {
        f"{path.stem}.{name}": write(transcript)
        for path, transcript in zip(noise, transcripts, strict=True)
        for name, write in FORMATS.items()
    }


def test_a_folder_stands_for_the_recordings_in_it(earful, tiny, noise, transcripts, tmp_path):
    inside = tmp_path / "day" / "hour"
    inside.mkdir(parents=True)
    (tmp_path / "day" / "notes.txt").write_text("no recording")
    shutil.copy(noise[1], tmp_path / "day" / "z.WAV")
    shutil.copy(noise[0], inside / "a.wav")
    assert expand([str(tmp_path), str(inside / "a.wav")]) == [str(inside / "a.wav"), str(tmp_path / "day" / "z.WAV")]
    ran = earful("transcribe", tmp_path, "--model", tiny)
    assert (ran.code, ran.out) == (0, transcripts[0].to_txt() + transcripts[1].to_txt())


@pytest.mark.parametrize(
    "sources, expected",
    [
        (["a/x.wav", "b/y.mp3", "-"], ["x", "y", "stdin"]),
        (["x.wav", "x.mp3"], ["x.wav", "x.mp3"]),
        (["a/x.wav", "b/x.wav"], ["x.wav", "x.wav-2"]),
        (["a/x.wav", "b/x.wav", "c/x.wav-2.mp3"], ["x.wav", "x.wav-2", "x.wav-2-2"]),
        (["talk.part.1.wav", "talk.part.2.wav"], ["talk.part.1", "talk.part.2"]),
    ],
)
def test_every_output_has_a_name_of_its_own(sources, expected):
    assert stems(sources) == expected


def test_the_same_name_in_two_folders_overwrites_nothing(earful, tiny, noise, transcripts, tmp_path):
    paths = [tmp_path / folder / "x.wav" for folder in "ab"]
    for path, recording in zip(paths, noise, strict=False):
        path.parent.mkdir()
        shutil.copy(recording, path)
    assert earful("transcribe", *paths, "--model", tiny, "--output", tmp_path / "out").code == 0
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {"x.wav.txt": transcripts[0].to_txt(), "x.wav-2.txt": transcripts[1].to_txt()}


def test_standard_input(earful, tiny, noise, transcripts, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(noise[0].read_bytes())))
    assert earful("transcribe", "-", "--model", tiny).out == transcripts[0].to_txt()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    ran = earful("transcribe", "-", "--model", tiny)
    assert (ran.code, ran.out) == (1, "")
    assert "expected audio, got an empty file" in ran.err


def test_a_line_for_each_word(earful, tiny, noise, transcripts):
    ran = earful("transcribe", noise[0], "--model", tiny, "--words")
    lines = [line.split(maxsplit=2) for line in ran.out.splitlines()]
    assert [(float(start), float(end)) for start, end, *_ in lines] == [
        (pytest.approx(word.start_s, abs=0.006), pytest.approx(word.end_s, abs=0.006)) for word in transcripts[0].words
    ]
    ran = earful("transcribe", noise[0], "--model", tiny, "--words", "--format", "vtt")
    assert ran.out == transcripts[0].by_word().to_vtt()


def test_a_delay_of_choice(earful, tiny, noise, transcripts):
    expected = library.load(tiny).transcribe(noise[0], delay_s=0.8)
    assert expected.text != transcripts[0].text
    assert earful("transcribe", noise[0], "--model", tiny, "--delay", "0.8").out == expected.to_txt()


def test_both_layouts_say_the_same(earful, tiny, noise, transcripts, tmp_path):
    other = write_tiny("voxtral", layout="hf", path=tmp_path / "hf")
    assert earful("transcribe", noise[0], "--model", other).out == transcripts[0].to_txt()


def test_the_built_in_model_hears_the_demo(earful):
    content = json.loads(earful("transcribe", DEMO, "--format", "json").out)
    assert content["language"] == "en"
    assert len(content["text"].split()) >= 4
    assert "door" in content["text"]


def test_on_a_terminal_text_is_written_as_it_comes(earful, tiny, noise, transcripts, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    ran = earful("transcribe", noise[0], "--model", tiny)
    assert (ran.out, ran.err) == (transcripts[0].text + "\n", "")


def test_a_progress_bar_does_not_swallow_the_text_for_a_pipe(earful, tiny, noise, transcripts, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ran = earful("transcribe", *noise[:2], "--model", tiny)
    assert ran.out == transcripts[0].to_txt() + transcripts[1].to_txt()
    assert "100%" in ran.err
