"""`earful listen`: the same text as `transcribe`, while it is said."""

from __future__ import annotations

import contextlib
import json
import types

import numpy as np
import pytest
from rich.console import Console

from earful.audio.io import read_audio
from earful.cli import listen as module
from earful.cli.listen import LINE_CHARACTERS, SHOWN_CHARACTERS, Captions, _Lines, played
from earful.events import Text, Word
from tests.cli.conftest import DEMO


def test_a_file_played_fast_says_what_transcribe_says(earful):
    ran = earful("listen", "--from", DEMO, "--fast")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.split() == earful("transcribe", DEMO).out.split()
    assert ran.out.split()


def test_events_are_lines_of_json(earful, tiny, noise):
    ran = earful("listen", "--from", noise[0], "--fast", "--format", "jsonl", "--model", tiny)
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert {event["type"] for event in events} == {"text", "word"}
    words = [event for event in events if event["type"] == "word"]
    assert all(list(word) == ["type", "text", "start_s", "end_s"] for word in words)
    assert [word["start_s"] for word in words] == sorted(word["start_s"] for word in words)
    text = "".join(event["text"] for event in events if event["type"] == "text")
    assert "".join(text.split()) == "".join(word["text"] for word in words)


def test_a_file_is_played_at_the_pace_of_speech(monkeypatch):
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    samples = read_audio(DEMO, 16_000)
    got = 0
    for number, block in enumerate(played(str(DEMO), 16_000, fast=False)):
        got += len(block)
        assert now[0] == pytest.approx(100 + max(got / 16_000, 0.7 if number >= 3 else 0))
        if number == 2:  # a listener that takes its time is waited for, and what was lost is caught up with
            now[0] = 100.7
    assert got == len(samples)
    slept.clear()
    np.testing.assert_array_equal(np.concatenate(list(played(str(DEMO), 16_000, fast=True))), samples)
    assert slept == []


def words(*texts, gap_s=0.1):
    return [Word(text, i * (0.3 + gap_s), i * (0.3 + gap_s) + 0.3) for i, text in enumerate(texts)]


def test_a_pipe_gets_a_line_for_each_stretch_of_speech(capsys):
    with _Lines() as show:
        show(words("one", "two"))
        assert capsys.readouterr().out == ""
        show([Text("x", 1.0), Word("three", 2.5, 2.8)])
        assert capsys.readouterr().out == "one two\n"
    assert capsys.readouterr().out == "three\n"


def test_speech_without_a_pause_is_not_kept_back_for_ever(capsys):
    with _Lines() as show:
        show(words(*["word"] * 1000))
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines) == " ".join(["word"] * 1000)
    assert max(map(len, lines)) <= LINE_CHARACTERS


def rendered(captions):
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    with contextlib.closing(console.file):
        console.print(captions.picture())
    return console.export_text(styles=True)


def test_the_picture_shows_what_was_said_and_how_it_stands():
    captions = Captions("tiny", 0.48)
    captions.heard(np.full(16_000, 0.5, np.float32), 16_000, 1.25)
    captions.take([Text("old", 0.2)])
    captions.heard(np.zeros(32_000, np.float32), 16_000, 3.0)
    captions.take([Text(" new", 2.9)])
    shown = rendered(captions)
    assert "old" in shown
    assert "\x1b[1;36m new" in shown
    assert "00:03  tiny  delay 0.48 s  behind 0 ms" in shown
    captions.finished = True
    assert "\x1b[1;36m" not in rendered(captions)
    assert "done" in rendered(captions)


def test_the_level_is_drawn():
    captions = Captions("tiny", None)
    captions.heard(np.zeros(1280, np.float32), 16_000, 0.0)
    assert "▁" not in rendered(captions)
    captions.heard(np.ones(1280, np.float32), 16_000, 0.5)
    assert "▁▂▃▄▅▆▇█" in rendered(captions)
    assert "behind 340 ms" in rendered(captions)


def test_hours_of_speech_are_forgotten():
    captions = Captions("tiny", None)
    for number in range(3000):
        captions.heard(np.zeros(1280, np.float32), 16_000, 0.0)
        captions.take([Text(f" word{number}", 0.0), Word(f"word{number}", number, number + 0.5)])
    assert len(captions.text) == SHOWN_CHARACTERS
    assert captions.text.endswith(" word2999")
    sizes = [len(value) for value in vars(captions).values() if hasattr(value, "__len__")]
    assert max(sizes) == SHOWN_CHARACTERS
    assert rendered(captions).count("\n") <= SHOWN_CHARACTERS // 100 + 3


@pytest.mark.parametrize("ends", ["silence", "Ctrl-C"])
def test_the_microphone_is_heard_to_the_end(earful, tiny, noise, monkeypatch, ends):
    asked = []

    @contextlib.contextmanager
    def microphone(rate_hz, block_s, device):
        asked.append((rate_hz, block_s, device))
        yield blocks(rate_hz)

    def blocks(rate_hz):
        yield from played(str(noise[0]), rate_hz, fast=True)
        if ends == "Ctrl-C":
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "microphone", microphone)
    ran = earful("listen", "--model", tiny, "--microphone", "headset", "--format", "jsonl")
    assert (ran.code, ran.err) == (0, "")
    assert asked == [(16_000, 0.08, "headset")]
    assert ran.out == earful("listen", "--from", noise[0], "--fast", "--model", tiny, "--format", "jsonl").out


def test_ctrl_c_in_a_file_is_no_success(earful, tiny, noise, monkeypatch):
    def interrupted(source, rate_hz, fast):
        yield from played(source, rate_hz, fast)
        raise KeyboardInterrupt

    whole = earful("listen", "--from", noise[0], "--fast", "--model", tiny)
    monkeypatch.setattr(module, "played", interrupted)
    ran = earful("listen", "--from", noise[0], "--fast", "--model", tiny)
    assert (ran.code, ran.out) == (130, whole.out)


def test_without_a_microphone(earful, tiny, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sounddevice", None)
    ran = earful("listen", "--model", tiny)
    assert ran.code == 1
    assert len(ran.complaints) == 1
    assert "pip install 'earful[mic]'" in ran.err


def test_captions_on_a_terminal(earful, tiny, noise, monkeypatch):
    monkeypatch.setattr(type(module.sys.stdout), "isatty", lambda self: True)
    ran = earful("listen", "--from", noise[0], "--fast", "--model", tiny)
    assert ran.code == 0
    assert "00:03  tiny" in ran.out
    assert "done" in ran.out
