"""`earful transcribe`: what is written, where, under which name and in which order."""

from __future__ import annotations

import io
import json
import shutil
import sys

import numpy as np
import pytest

import earful as library
from earful.audio.io import read_audio, write_wav
from earful.cli import files, main
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
def test_several_files_are_printed_in_order_under_their_names(earful, tiny, noise, transcripts, batch):
    ran = earful("transcribe", *noise, "--model", tiny, "--batch", batch)
    assert (ran.code, ran.err) == (0, "")
    said = zip(noise, transcripts, strict=True)
    assert ran.out == "".join(f"==> {path} <==\n{transcript.to_txt()}" for path, transcript in said)


@pytest.mark.parametrize("name", ["json", "jsonl"])
def test_objects_of_several_files_tell_which(earful, tiny, noise, transcripts, name):
    ran = earful("transcribe", *noise, "--model", tiny, "--format", name)
    rows = [json.loads(line) for line in ran.out.splitlines()]
    documents = [t.to_json() if name == "json" else t.to_jsonl() for t in transcripts]
    parts = [[text] if name == "json" else text.splitlines() for text in documents]
    expected = [
        {"file": str(path), **json.loads(part)} for path, lines in zip(noise, parts, strict=True) for part in lines
    ]
    assert rows == expected


@pytest.mark.parametrize("name", ["srt", "vtt", "tsv"])
def test_subtitles_of_several_films_are_not_mixed(earful, noise, name):
    ran = earful("transcribe", *noise, "--format", name)
    assert (ran.code, ran.out) == (2, "")
    assert f"expected --output FOLDER for 3 files in {name}, got none" in ran.err


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
    (tmp_path / "day" / "._z.wav").write_bytes(b"what some systems keep beside a file")
    paths = [str(inside / "a.wav"), str(tmp_path / "day" / "z.WAV")]
    assert expand([str(tmp_path), str(inside / ".." / "hour" / "a.wav")]) == paths
    ran = earful("transcribe", tmp_path, "--model", tiny)
    said = [f"==> {file} <==\n{transcript.to_txt()}" for file, transcript in zip(paths, transcripts, strict=False)]
    assert (ran.code, ran.out) == (0, "".join(said))


@pytest.mark.parametrize(
    "sources, expected",
    [
        (["a/x.wav", "b/y.mp3", "-"], ["x", "y", "stdin"]),
        (["x.wav", "x.mp3"], ["x.wav", "x.mp3"]),
        (["a/x.wav", "b/x.wav", "-"], ["a/x", "b/x", "stdin"]),
        (["a/b/x.wav", "a/c/X.wav", "a/c/y.wav"], ["b/x", "c/X", "c/y"]),
        (["a/x.wav", "b/x.wav", "b/x.mp3"], ["a/x.wav", "b/x.wav", "b/x.mp3"]),
        (["x.wav", "x.mp3", "x.wav.mp3"], ["x.wav", "x.mp3", "x.wav.mp3"]),
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
    for folder, transcript in zip("ab", transcripts, strict=False):
        assert (tmp_path / "out" / folder / "x.txt").read_text() == transcript.to_txt()


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
    assert content["text"].startswith("he ")  # was not an ill disposed young man: the part that the model gets


def test_text_of_one_file_is_written_as_it_comes(earful, tiny, noise, tmp_path, monkeypatch):
    """Before the end of the file is heard."""
    long = tmp_path / "long.wav"
    write_wav(long, np.concatenate([read_audio(path, 16_000) for path in noise * 2]), 16_000)
    printed = []
    monkeypatch.setattr(files, "_print_lines", lambda segments: printed.append([s.line for s in segments]))
    assert earful("transcribe", long, "--model", tiny).code == 0
    whole = library.load(tiny).transcribe(long)
    assert [line for lines in printed for line in lines] == [segment.line for segment in whole.segments]
    assert any(printed[:-1])


def test_a_progress_bar_does_not_swallow_the_text_for_a_pipe(earful, tiny, noise, transcripts, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ran = earful("transcribe", *noise[:2], "--model", tiny)
    said = zip(noise[:2], transcripts[:2], strict=True)
    assert ran.out == "".join(f"==> {path} <==\n{transcript.to_txt()}" for path, transcript in said)
    assert "1/2 noise0.wav" in ran.err
    ran = earful("transcribe", noise[0], "--model", tiny)
    assert ran.out == transcripts[0].to_txt()


def test_a_pipe_gets_utf_8_whatever_the_locale(tiny, noise, transcripts, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(got := io.BytesIO(), encoding="ascii"))
    for hook in ("excepthook", "unraisablehook"):  # which the program sets for good
        monkeypatch.setattr(sys, hook, getattr(sys, hook))
    monkeypatch.setattr(sys, "argv", ["earful", "transcribe", str(noise[0]), "--model", str(tiny)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert got.getvalue().decode() == transcripts[0].to_txt()
    assert not transcripts[0].to_txt().isascii()


def test_odd_names_are_printed_on_one_line(earful, tiny, noise, tmp_path):
    odd = tmp_path / "[red]\nbell\a\udcff.wav"
    shutil.copy(noise[1], odd)
    ran = earful("transcribe", odd, noise[1], "--model", tiny)
    assert ran.code == 0
    assert ran.out.startswith(f"==> {tmp_path}/[red]\\nbell\\x07\\udcff.wav <==\n")
