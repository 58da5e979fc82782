"""`earful listen`: the same text as `transcribe`, while it is said."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from rich.console import Console

import earful as library
from earful.audio.io import read_audio, write_wav
from earful.cli import listen as module
from earful.cli.captions import PAUSE_S, Captions
from earful.cli.interrupts import held
from earful.cli.listen import played
from earful.events import Text, Word
from earful.stream.transcript import SEGMENT_WIDTH
from tests.cli.conftest import DEMO


def test_a_file_played_fast_says_what_transcribe_says(earful):
    ran = earful("listen", "--from", DEMO, "--fast")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == earful("transcribe", DEMO).out
    assert ran.out.split()


def test_a_line_for_each_word(earful, tiny, noise):
    ran = earful("listen", "--from", noise[0], "--fast", "--words", "--model", tiny)
    assert (ran.code, ran.out) == (0, earful("transcribe", noise[0], "--words", "--model", tiny).out)
    assert ran.out.count("\n") > 3


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


SLOT = np.zeros(1280, np.float32)  # 80 ms


def say(captions, *texts):
    """Words that come in a slot each, and the lines that are done by them."""
    lines = []
    for text in texts:
        captions.heard(SLOT, 16_000, 0.0)
        word = Word(text, captions.heard_s - 0.08, captions.heard_s)
        lines += captions.take([Text(f" {text}", captions.heard_s), word])
    return lines


def test_a_line_is_done_when_a_pause_has_lasted():
    captions = Captions("tiny", None)
    assert say(captions, "one", "two") == []
    paused, lines = 0, []
    while not lines:
        captions.heard(SLOT, 16_000, 0.0)
        lines = captions.take([])
        paused += 1
    assert lines == ["one two"]
    assert paused * 0.08 == pytest.approx(PAUSE_S, abs=0.09)
    assert say(captions, "three") == []
    assert captions.take([], last=True) == ["three"]
    assert captions.take([], last=True) == []


def test_speech_without_a_pause_is_not_kept_back_for_ever():
    captions = Captions("tiny", None)
    lines = say(captions, *["word"] * 1000)
    kept = captions.growing.text.strip()
    assert " ".join([*lines, kept]) == " ".join(["word"] * 1000)
    assert max(map(len, [*lines, kept])) <= SEGMENT_WIDTH


def rendered(captions):
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    with contextlib.closing(console.file):
        console.print(captions.picture())
    return console.export_text(styles=True)


def test_the_picture_shows_what_is_being_said_and_how_it_stands():
    captions = Captions("tiny", 0.48)
    captions.heard(np.full(16_000, 0.5, np.float32), 16_000, 1.25)
    captions.take([Text("old", 0.2)])
    captions.heard(np.zeros(16_000, np.float32), 16_000, 2.0)
    captions.take([Text(" new", 1.9)])
    captions.heard(np.zeros(8_000, np.float32), 16_000, 2.34)
    shown = rendered(captions)
    assert "old" in shown
    assert "\x1b[1;36m new" in shown
    assert "00:02  tiny  delay 480 ms  behind 0 ms" in shown
    captions.heard(np.zeros(16_000, np.float32), 16_000, 4.25)
    captions.take([Text("er", 3.5)])
    shown = rendered(captions)
    assert "old new" in shown
    assert "\x1b[1;36mer" in shown
    assert "behind 750 ms" in shown
    captions.take([], last=True)
    assert "old" not in rendered(captions)


def test_what_need_not_keep_up_is_not_behind():
    captions = Captions("tiny", None, fast=True)
    captions.heard(np.zeros(16_000, np.float32), 16_000, 0.05)
    assert "00:01  tiny  20.0 × real time" in rendered(captions)


def test_the_level_is_drawn():
    captions = Captions("tiny", None)
    captions.heard(np.zeros(1280, np.float32), 16_000, 0.0)
    assert "▁" not in rendered(captions)
    captions.heard(np.ones(1280, np.float32), 16_000, 0.5)
    assert "▁▂▃▄▅▆▇█" in rendered(captions)
    assert "behind 340 ms" in rendered(captions)


def test_hours_of_speech_are_forgotten():
    captions = Captions("tiny", None)
    say(captions, *(f"word{number}" for number in range(3000)))
    assert captions.growing.text.endswith(" word2999")
    assert len(captions.growing.text) <= SEGMENT_WIDTH + 10
    assert len(captions.growing.words) < 20
    assert len(captions.arrivals) < 20


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
    assert "× real time" in ran.out


def press_ctrl_c(done, times):
    with held():
        for number in range(times):
            signal.raise_signal(signal.SIGINT)
            done.append(number)


def test_ctrl_c_lets_the_step_of_the_model_end():
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c(done := [], times=1)
    assert done == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c(done := [], times=3)
    assert done == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_was_heard_before_the_file_broke_off_is_written(earful, tiny, noise, tmp_path):
    path = tmp_path / "cut.wav"
    whole = noise[0].read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    ran = earful("listen", "--from", path, "--fast", "--model", tiny)
    assert ran.code == 1
    assert len(ran.complaints) == 1
    assert "expected a whole file, got one that breaks off at" in ran.err
    assert ran.out == earful("transcribe", path, "--model", tiny).out
    assert ran.out


def test_a_real_ctrl_c_writes_what_is_still_inside_the_delay(tiny, noise, tmp_path):
    """At the pace of speech, in a process of its own: everything up to the last block that was heard."""
    long = tmp_path / "long.wav"
    write_wav(long, np.tile(read_audio(noise[0], 16_000), 20), 16_000)
    command = [sys.executable, "-m", "earful", "listen", "--from", long, "--format", "jsonl", "--model", tiny]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        first = running.stdout.readline()
        running.send_signal(signal.SIGINT)
        rest, errors = running.communicate()
    assert (running.returncode, errors) == (130, "")
    events = [json.loads(line) for line in [first, *rest.splitlines()]]
    said = "".join(event["text"] for event in events if event["type"] == "text")
    assert "".join(said.split()) == "".join(event["text"] for event in events if event["type"] == "word")
    assert library.load(tiny).transcribe(noise[0]).text.startswith(events[0]["text"])
    assert events[-1]["type"] == "word"  # which the end of the stream completes
    assert events[-1]["end_s"] < 20
