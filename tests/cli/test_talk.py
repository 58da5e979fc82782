"""`earful talk`: what it answers a file and a microphone, and what is left when it is stopped."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import time
import wave

import numpy as np
import pytest

import earful as library
from earful import Audio, Text
from earful.audio.io import open_audio, open_stereo, read_audio, write_wav
from earful.audio.speaker import Speaker
from earful.cli import talk as module
from earful.cli.captions import PAUSE_S
from earful.cli.talk import ADVICE, Conversation, Lines
from earful.models.moshi.stream import Chance
from earful.stream.session import Session
from earful.stream.transcript import SEGMENT_WIDTH
from earful.testing import write_tiny
from tests.cli.test_bad_input import one_line
from tests.helpers import spoken_like

RATE_HZ, FRAME = 4_800, 384


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny("moshi", "kyutai", path=tmp_path_factory.mktemp("talk") / "tiny-talker")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """2.1 s, no whole number of frames."""
    path = tmp_path_factory.mktemp("said") / "said.wav"
    write_wav(path, spoken_like(np.random.default_rng(0), round(2.1 * RATE_HZ)), RATE_HZ)
    return path


def answer(folder, said, **options):
    """What the library answers: samples and text."""
    with library.load(folder).stream(**options) as session:
        events = session.feed(read_audio(said, RATE_HZ)) + session.finish()
    text = "".join(event.text for event in events if isinstance(event, Text))
    return np.concatenate([event.samples for event in events if isinstance(event, Audio)]), text


def same_sound(path, samples):
    """To a level of 16 bits: sums in another order round another way."""
    np.testing.assert_allclose(read_audio(path, RATE_HZ), np.clip(samples, -1, 1), atol=1.01 / 32768)


def test_a_file_is_answered_as_the_library_does(earful, folder, said, tmp_path):
    voice, text = answer(folder, said)
    target, transcript = tmp_path / "new" / "a.wav", tmp_path / "a.txt"
    ran = earful("talk", "--from", said, "--to", target, "--transcript", transcript, "--model", folder)
    assert (ran.code, ran.err) == (0, "")
    same_sound(target, voice)
    assert len(voice) == len(read_audio(said, RATE_HZ))
    assert transcript.read_text("utf-8") == text + "\n"
    assert "".join(ran.out.split()) == "".join(text.split()) != ""


def test_what_a_session_may_choose(earful, folder, said, tmp_path):
    chance = Chance(temperature=1.5, top_k=9, text_temperature=2.0, text_top_k=50, seed=7)
    voice, text = answer(folder, said, chance=chance, prompt="one dog")
    options = ["--temperature", 1.5, "--top-k", 9, "--text-temperature", 2, "--text-top-k", 50, "--seed", 7]
    common = ["--from", said, "--model", folder, "--transcript", tmp_path / "a.txt"]
    assert earful("talk", *common, "--to", tmp_path / "a.wav", *options, "--prompt", "one dog").code == 0
    same_sound(tmp_path / "a.wav", voice)
    assert (tmp_path / "a.txt").read_text("utf-8") == text + "\n"
    assert text != answer(folder, said)[1]


def test_both_sides(earful, folder, said, tmp_path):
    ran = earful("talk", "--from", said, "--to", tmp_path / "a.wav", "--stereo", "--model", folder)
    assert ran.code == 0
    left, right = np.concatenate(list(open_stereo(tmp_path / "a.wav", RATE_HZ)), axis=1)
    np.testing.assert_allclose(left, np.clip(answer(folder, said)[0], -1, 1), atol=1.01 / 32768)
    np.testing.assert_array_equal(right, read_audio(said, RATE_HZ))


def test_pipes(earful, folder, said, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(said.read_bytes())))
        patch.setattr(sys, "stdout", io.TextIOWrapper(got := io.BytesIO()))
        ran = earful("talk", "--from", "-", "--to", "-", "--model", folder)
        sys.stdout.flush()
        (tmp_path / "a.wav").write_bytes(got.getvalue())  # no text stands between the samples
    assert ran.code == 0
    same_sound(tmp_path / "a.wav", answer(folder, said)[0])


def test_a_long_talk_is_not_held(folder, said, monkeypatch):
    """Of what was heard and said nothing stays: a minute of parts, after each of which nothing more waits."""
    session, parts = library.load(folder).stream(), []
    talked = Conversation(session, "tiny", parts.append, True, None, quiet=True)
    samples = np.resize(read_audio(said, RATE_HZ), 12 * RATE_HZ)
    for block in module.pieces(iter([samples]), RATE_HZ):
        assert len(block) == FRAME
        talked.hear(block, 0.0, talked.print_lines)
        assert (len(parts), parts.pop().shape, len(talked._heard)) == (1, (2, FRAME), 0)
        assert len(talked.lines.text) <= SEGMENT_WIDTH


def test_lines_end_at_pauses_and_where_they_are_full():
    lines, done = Lines(), []
    for number in range(30):
        done += lines.take([Text(f" word{number}", 0.0)], number * 0.08, False)
    assert [len(line) for line in done] == [80, 83]
    assert lines.take([], 29 * 0.08 + PAUSE_S - 0.01, False) == []
    done += lines.take([], 29 * 0.08 + PAUSE_S + 0.01, False)
    assert " ".join(done) == " ".join(f"word{number}" for number in range(30))
    assert lines.take([Text("x" * 100, 0.0)], 5.0, False) == ["x" * SEGMENT_WIDTH]
    assert lines.take([Text(" y", 0.0)], 5.0, True) == ["x" * (100 - SEGMENT_WIDTH) + " y"]
    assert lines.take([], 5.0, True) == []


def interrupt(monkeypatch, calls, times=1):
    """So many times Ctrl-C in the call after so many."""
    feed, left = Session.feed, iter(range(calls))

    def fed(session, block):
        if next(left, None) is None:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return feed(session, block)

    monkeypatch.setattr(Session, "feed", fed)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_what_was_said(earful, folder, said, tmp_path, monkeypatch, times):
    voice, text = answer(folder, said)
    interrupt(monkeypatch, 10, times)
    options = ["--to", tmp_path / "a.wav", "--transcript", tmp_path / "a.txt"]
    ran = earful("talk", "--from", said, "--model", folder, *options)
    blocks = [len(block) for block in module.pieces(open_audio(said, RATE_HZ), RATE_HZ)]
    heard = sum(blocks[: 11 if times == 1 else 10])  # the second one does not wait for the step
    assert (ran.code, ran.err) == (130, f"earful: {said}: stopped after {heard / RATE_HZ:.1f} s\n")
    got = read_audio(tmp_path / "a.wav", RATE_HZ)
    assert len(got) == (heard if times == 1 else heard // FRAME * FRAME)
    same_sound(tmp_path / "a.wav", voice[: len(got)])
    written = (tmp_path / "a.txt").read_text("utf-8").removesuffix("\n")
    assert text.startswith(written.rstrip("\ufffd"))


def test_a_killed_process_leaves_a_file_that_can_be_played(folder, said, tmp_path):
    long, target = tmp_path / "long.wav", tmp_path / "a.wav"
    write_wav(long, np.tile(read_audio(said, RATE_HZ), 200), RATE_HZ)
    command = [sys.executable, "-m", "earful", "talk", "--from", long, "--to", target, "--model", folder]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not (target.exists() and target.stat().st_size > 44 + 2 * FRAME):
            assert running.poll() is None
            time.sleep(0.05)
        running.kill()
    with wave.open(str(target)) as file:
        frames = file.getnframes()
        assert frames >= FRAME
        assert len(file.readframes(frames)) == 2 * frames


def test_of_a_file_that_breaks_off_the_beginning_is_answered(earful, folder, said, tmp_path):
    cut = tmp_path / "cut.wav"
    whole = said.read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    ran = earful("talk", "--from", cut, "--to", tmp_path / "a.wav", "--model", folder)
    one_line(ran, str(cut), "expected a whole file, got one that breaks off at 1.40 s")
    got = read_audio(tmp_path / "a.wav", RATE_HZ)
    assert len(got) == pytest.approx(1.4 * RATE_HZ, abs=FRAME)
    exact = len(got) // FRAME * FRAME
    same_sound_start = answer(folder, said)[0][:exact]
    np.testing.assert_allclose(got[:exact], np.clip(same_sound_start, -1, 1), atol=1.01 / 32768)


@pytest.fixture
def devices(monkeypatch, said):
    """A microphone that plays a file and is then left, and a speaker that keeps what is said."""
    opened = []

    @contextlib.contextmanager
    def microphone(rate_hz, block_s, device):
        opened.append((rate_hz, block_s, device))
        yield blocks(rate_hz)

    def blocks(rate_hz):
        yield from module.pieces(iter([read_audio(said, rate_hz)]), rate_hz)
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def speaker(rate_hz, device):
        opened.append(Speaker(rate_hz))
        opened.append((rate_hz, device))
        yield opened[0]

    monkeypatch.setattr(module, "microphone", microphone)
    monkeypatch.setattr(module, "speaker", speaker)
    return opened


def test_at_the_microphone(earful, folder, said, devices, tmp_path):
    options = ["--microphone", "headset", "--speaker", "3", "--to", tmp_path / "a.wav", "--stereo"]
    ran = earful("talk", "--model", folder, *options)
    assert (ran.code, ran.err) == (0, f"earful: {ADVICE}; Ctrl-C ends\n")
    speaker, *rest = devices
    assert rest == [(RATE_HZ, "3"), (RATE_HZ, 0.08, "headset")]
    voice, text = answer(folder, said)
    np.testing.assert_allclose(speaker.take(round(speaker.waiting_s * RATE_HZ)), voice, atol=1e-4)
    left, right = np.concatenate(list(open_stereo(tmp_path / "a.wav", RATE_HZ)), axis=1)
    np.testing.assert_allclose(left, np.clip(voice, -1, 1), atol=1.01 / 32768)
    np.testing.assert_array_equal(right, read_audio(said, RATE_HZ))
    assert "".join(ran.out.split()) == "".join(text.split())


def test_levels_and_latency_on_a_terminal(earful, folder, devices, monkeypatch):
    pictures = []
    picture = Conversation.picture
    monkeypatch.setattr(Conversation, "picture", lambda self: pictures.append(picture(self)) or pictures[-1])
    monkeypatch.setattr(type(module.sys.stdout), "isatty", lambda self: True)
    assert earful("talk", "--model", folder).code == 0
    states = [str(shown.renderables[1]) for shown in pictures]
    assert all(state.startswith("you ") and "tiny-talker " in state for state in states)
    assert "▁▂" in states[-1]
    assert "00:02" in states[-1]
    assert states[-1].endswith(" ms")
    latency_ms = int(states[-1].split()[-2])
    assert latency_ms >= 2_000  # this speaker plays nothing


def test_without_devices(earful, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    one_line(earful("talk", "--model", folder), "pip install 'earful[mic]'")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--from", "SAID"], "expected --to FILE beside --from, got none"),
        (["--stereo"], "expected --to FILE beside --stereo, got none"),
        (["--from", "SAID", "--to", "SAID"], "--to: expected another file than that of --from"),
        (["--from", "SAID", "--to", "OUT", "--condition", "loud"], "--condition: expected NAME=VALUE, got 'loud'"),
    ],
)
def test_misused(earful, folder, said, tmp_path, options, message):
    places = {"SAID": said, "OUT": tmp_path / "a.wav"}
    before = said.read_bytes()
    ran = earful("talk", "--model", folder, *(places.get(option, option) for option in options))
    assert (ran.code, len(ran.complaints)) == (2, 1)
    assert message in ran.err
    assert said.read_bytes() == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--temperature", "-1"], "expected a temperature of at least 0, got -1.0"),
        (["--top-k", "0"], "expected top_k of 1 to 512, got 0"),
        (["--guidance", "2"], "expected a guidance of 1 for a model without conditions, got 2.0"),
        (["--condition", "mood=good"], "expected conditions of no name, got 'mood'"),
        (["--prompt", "one dog " * 500], "expected a prompt of at most"),
        (["--device", "nowhere"], "expected a device of this machine"),
        (["--to", "FOLDER"], "expected the name of a file to write, got a folder"),
        (["--from", "nowhere.wav"], "nowhere.wav: expected a file, got none of that name"),
    ],
)
def test_bad_input_is_one_line(earful, folder, said, tmp_path, options, message):
    options = [tmp_path if option == "FOLDER" else option for option in options]
    common = ["--model", folder, "--from", said, "--to", tmp_path / "a.wav"]
    one_line(earful("talk", *common, *options), message)
    assert list(tmp_path.iterdir()) == []


def test_models_that_do_not_talk(earful, tiny, said, tmp_path):
    common = ["--from", said, "--to", tmp_path / "a.wav"]
    one_line(
        earful("talk", *common, "--model", tiny),
        f"{tiny}: expected a model that talks, got one that writes text (voxtral)",
    )
    codec = write_tiny("mimi", path=tmp_path / "codec")
    one_line(earful("talk", *common, "--model", codec), "got a codec")
    assert not (tmp_path / "a.wav").exists()
