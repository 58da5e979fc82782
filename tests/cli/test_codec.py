"""`earful codec`: what is written and printed, pipes, and what is left when something goes wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import earful as library
from earful.audio.io import read_audio, write_wav
from earful.checkpoint.codes import read_codes
from earful.cli import codec as module
from earful.stream.codec import DecodeStream, EncodeStream
from earful.testing import write_tiny
from tests.cli.test_bad_input import one_line
from tests.helpers import full_disk, spoken_like


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny("mimi", path=tmp_path_factory.mktemp("codec") / "tiny-codec")


@pytest.fixture(scope="module")
def codec(folder):
    return library.load(folder)


@pytest.fixture(scope="module")
def talk(tmp_path_factory, codec):
    """20.1 s: more than a block of the reader, and no whole number of frames."""
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    samples = spoken_like(np.random.default_rng(0), round(20.1 * codec.rate_hz))
    write_wav(path, samples, codec.rate_hz)
    return path


@pytest.fixture(scope="module")
def codes(codec, talk):
    return codec.encode(talk)


@pytest.fixture
def encoded(earful, folder, talk, tmp_path):
    path = tmp_path / "talk.safetensors"
    assert earful("codec", "encode", talk, path, "--model", folder).code == 0
    return path


def test_codes_are_what_the_library_makes(earful, folder, codec, talk, codes, tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    ran = earful("codec", "encode", talk, path, "--model", folder)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{path}: 20.10 s, 252 frames of 6 codes, 0.375 kbit/s\n"
    stored = load_file(path)["codes"]
    assert stored.dtype == torch.int16
    np.testing.assert_array_equal(stored.numpy(), codes)
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["earful_codes"])
    assert len(said.pop("vectors")) == 16
    assert said == {
        "samples": 96_480,
        "rate_hz": 4_800,
        "frame_samples": 384,
        "codebook_size": 32,
        "model": "tiny-codec",  # not where it lies on this machine
    }


def test_audio_is_what_the_library_makes(earful, folder, codec, codes, encoded, tmp_path):
    ran = earful("codec", "decode", encoded, tmp_path / "a.wav", "--model", folder)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{tmp_path}/a.wav: 20.10 s, 252 frames of 6 codes, 0.375 kbit/s\n"
    write_wav(tmp_path / "b.wav", codec.decode(codes)[:96_480], codec.rate_hz)
    assert_same_sound(tmp_path / "a.wav", tmp_path / "b.wav", codec)


def assert_same_sound(here, there, codec):
    """To a level of 16 bits: sums in another order round another way."""
    ours, theirs = (read_audio(path, codec.rate_hz) for path in (here, there))
    np.testing.assert_allclose(ours, theirs, atol=1.01 / 32768)


@pytest.mark.parametrize("codebooks", [1, 4, None])
def test_there_and_back(earful, folder, codec, talk, codes, tmp_path, codebooks):
    chosen = ["--codebooks", codebooks] if codebooks else []
    ran = earful("codec", "roundtrip", talk, tmp_path / "a.wav", "--model", folder, *chosen)
    assert ran.code == 0
    count = codebooks or 6
    decoded = codec.decode(codes[:count])[:96_480]
    heard = read_audio(talk, codec.rate_hz)
    ratio = 10 * np.log10(np.square(heard).sum() / np.square(heard - decoded).sum())
    rate = f"{count * 0.0625:.4g} kbit/s"
    assert (
        ran.out == f"{tmp_path}/a.wav: 20.10 s, 252 frames of {count} codes, {rate}, {ratio:.1f} dB signal to noise\n"
    )
    write_wav(tmp_path / "b.wav", decoded, codec.rate_hz)
    assert_same_sound(tmp_path / "a.wav", tmp_path / "b.wav", codec)
    measured = earful("codec", "roundtrip", talk, "--model", folder, *chosen)
    assert measured.out == ran.out.replace(f"{tmp_path}/a.wav", str(talk))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav"]


def test_silence_has_no_ratio(earful, folder, codec, tmp_path):
    write_wav(tmp_path / "silence.wav", np.zeros(1_000, np.float32), codec.rate_hz)
    ran = earful("codec", "roundtrip", tmp_path / "silence.wav", "--model", folder)
    assert (ran.code, ran.out.rpartition(", ")[2]) == (0, "silence\n")


def test_equal_sound_has_no_noise():
    measured = module.Fidelity()
    measured.hear(np.ones(5, np.float32))
    assert len(measured.compare(np.ones(3, np.float32))) == 3
    assert len(measured.compare(np.ones(3, np.float32))) == 2  # there is nothing to compare the last one with
    assert str(measured) == "no noise"


def test_hours_are_not_held(earful, folder, codec, talk, encoded, tmp_path, monkeypatch):
    """No array of the length of the file is handed from one part to another."""
    longest = {}

    def watch(kind, name, place):
        method = getattr(kind, name)

        def watched(self, array):
            result = method(self, array)
            longest[place] = max(longest.get(place, 0), array.shape[-1], result.shape[-1])
            return result

        monkeypatch.setattr(kind, name, watched)

    watch(EncodeStream, "feed", "encode")
    watch(DecodeStream, "feed", "decode")
    watch(module.Fidelity, "compare", "compare")
    assert earful("codec", "roundtrip", talk, tmp_path / "a.wav", "--model", folder).code == 0
    assert longest["encode"] < 96_480 / 4
    assert longest["compare"] < 96_480 / 4
    longest.clear()
    assert earful("codec", "decode", encoded, tmp_path / "a.wav", "--model", folder).code == 0
    assert longest == {"decode": module.BATCH * codec.frame_samples}


@pytest.fixture
def pipes(monkeypatch):
    """Runs with these bytes on standard input; returns what it did and the bytes of standard output."""

    def call(earful, content, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(got := io.BytesIO()))
            ran = earful(*arguments)
            sys.stdout.flush()
            return ran, got.getvalue()

    return call


def test_pipes(earful, folder, codec, talk, encoded, pipes, tmp_path):
    model = ["--model", folder]
    ran, content = pipes(earful, talk.read_bytes(), "codec", "encode", "-", "-", *model)
    assert (ran.code, ran.err) == (0, "standard output: 20.10 s, 252 frames of 6 codes, 0.375 kbit/s\n")
    assert content == encoded.read_bytes()
    ran, sound = pipes(earful, content, "codec", "decode", "-", "-", *model)
    assert ran.code == 0
    assert earful("codec", "decode", encoded, tmp_path / "a.wav", *model).code == 0
    assert sound == (tmp_path / "a.wav").read_bytes()  # the header too: the length is known before the end
    ran, sound = pipes(earful, talk.read_bytes(), "codec", "roundtrip", "-", "-", *model)
    assert "signal to noise" in ran.err
    (tmp_path / "b.wav").write_bytes(sound)
    assert_same_sound(tmp_path / "b.wav", tmp_path / "a.wav", codec)
    ran, line = pipes(earful, talk.read_bytes(), "codec", "roundtrip", "-", *model)
    assert (ran.code, ran.err) == (0, "")
    assert line.startswith(b"standard input: 20.10 s")
    ran, content = pipes(earful, b"no codes", "codec", "decode", "-", "-", *model)
    one_line(ran, "standard input: expected a safetensors header")
    assert content == b""


def test_pipes_with_a_name(earful, folder, talk, encoded, tmp_path):
    """As a shell makes them; nor may a device be replaced by a file, which as root it could be."""
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    assert earful("codec", "encode", talk, pipe, "--model", folder).code == 0
    reader.join()
    assert got == [encoded.read_bytes()]
    writer = threading.Thread(target=lambda: pipe.write_bytes(got[0]))
    writer.start()
    assert earful("codec", "decode", pipe, tmp_path / "a.wav", "--model", folder).code == 0
    writer.join()
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "pipe", "talk.safetensors"]


@pytest.mark.parametrize("command", ["encode", "decode", "roundtrip"])
def test_a_target_that_cannot_be_is_found_out_at_once(earful, talk, encoded, tmp_path, monkeypatch, command):
    monkeypatch.setattr(module, "open_codec", lambda *arguments: pytest.fail("expected an error before"))
    source = encoded if command == "decode" else talk
    one_line(
        earful("codec", command, source, tmp_path), f"{tmp_path}: expected the name of a file to write, got a folder"
    )
    one_line(earful("codec", command, source, talk / "a.wav"), f"{talk}: ")


@pytest.mark.parametrize("command", ["encode", "decode", "roundtrip"])
def test_no_noise_on_a_terminal(earful, talk, monkeypatch, command):
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    ran = earful("codec", command, talk, "-")
    assert (ran.code, ran.out) == (2, "")
    assert "expected a file or a pipe for -, got a terminal" in ran.err


def test_codes_of_another_codec(earful, folder, encoded, tmp_path):
    other = write_tiny("mimi", path=tmp_path / "other", seed=1)
    ran = earful("codec", "decode", encoded, tmp_path / "a.wav", "--model", other)
    one_line(ran, f"{encoded}: expected codes of {other}, got codes of another codec, tiny-codec")
    kyutai = write_tiny("mimi", "kyutai", path=tmp_path / "kyutai")
    assert earful("codec", "decode", encoded, tmp_path / "b.wav", "--model", kyutai).code == 0
    assert not (tmp_path / "a.wav").exists()


def test_codes_that_the_codec_does_not_have(earful, folder, encoded, tmp_path):
    with safe_open(encoded, "pt") as file:
        said = file.metadata()
    save_file({"codes": torch.full((6, 252), 32, dtype=torch.int16)}, encoded, said)
    one_line(
        earful("codec", "decode", encoded, tmp_path / "a.wav", "--model", folder), "expected codes of 0 to 31, got 32"
    )
    save_file({"codes": torch.zeros((7, 252), dtype=torch.int16)}, encoded, said)
    one_line(earful("codec", "decode", encoded, tmp_path / "a.wav", "--model", folder), "1 to 6 codebooks", "[7, 16]")
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize("command", ["encode", "roundtrip"])
def test_what_cannot_be_encoded(earful, folder, tiny, talk, tmp_path, command):
    target = tmp_path / "out"
    text = tmp_path / "text.wav"
    text.write_text("This is no recording.\n" * 50)
    one_line(earful("codec", command, text, target, "--model", folder), str(text), "expected audio or video, got")
    one_line(earful("codec", command, tmp_path / "no.wav", target, "--model", folder), "expected a file, got none")
    one_line(earful("codec", command, talk, target, "--model", folder, "--codebooks", 7), "1 to 6 codebooks, got 7")
    one_line(
        earful("codec", command, talk, target, "--model", tiny), f"{tiny}: expected a codec, got a model that writes"
    )
    one_line(earful("codec", command, talk, target), "kyutai/mimi: expected the network or a cached copy")
    assert earful("codec", command, talk, target, "--codebooks", 0).code == 2
    assert not target.exists()


def test_a_codec_writes_no_text(earful, folder, talk):
    one_line(earful("transcribe", talk, "--model", folder), "expected a model that writes text, got a codec")


@pytest.fixture
def cut(talk, tmp_path):
    """A recording that breaks off at two thirds."""
    path = tmp_path / "cut.wav"
    whole = talk.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    return path


def test_of_a_file_that_breaks_off_the_beginning_is_kept(earful, folder, cut, codes, tmp_path):
    ran = earful("codec", "encode", cut, tmp_path / "a.safetensors", "--model", folder)
    one_line(ran, str(cut), "expected a whole file, got one that breaks off at 13.40 s")
    got, said = read_codes(tmp_path / "a.safetensors")
    whole = said.samples // 384
    assert whole > 160
    np.testing.assert_array_equal(got[:, :whole], codes[:, :whole])
    ran = earful("codec", "roundtrip", cut, tmp_path / "a.wav", "--model", folder)
    one_line(ran, "expected a whole file")
    assert len(read_audio(tmp_path / "a.wav", 4_800)) == said.samples


def interrupt(monkeypatch, kind, calls, times=1):
    """So many times Ctrl-C in the call after so many."""
    feed, left = kind.feed, iter(range(calls))

    def fed(stream, array):
        if next(left, None) is None:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return feed(stream, array)

    monkeypatch.setattr(kind, "feed", fed)


def test_ctrl_c_keeps_the_codes_so_far(earful, folder, talk, codes, tmp_path, monkeypatch):
    interrupt(monkeypatch, EncodeStream, 3)
    ran = earful("codec", "encode", talk, tmp_path / "a.safetensors", "--model", folder)
    assert ran.code == 130
    got, said = read_codes(tmp_path / "a.safetensors")
    assert ran.err == f"earful: {talk}: stopped after {said.samples / 4_800:.1f} s\n"
    whole = said.samples // 384
    assert 3 < whole < 200
    np.testing.assert_array_equal(got[:, :whole], codes[:, :whole])


@pytest.mark.parametrize("command, kind", [("decode", DecodeStream), ("roundtrip", EncodeStream)])
def test_ctrl_c_keeps_the_sound_so_far(earful, folder, talk, encoded, tmp_path, monkeypatch, command, kind):
    source = encoded if command == "decode" else talk
    assert earful("codec", command, source, tmp_path / "whole.wav", "--model", folder).code == 0
    interrupt(monkeypatch, kind, 3)
    ran = earful("codec", command, source, tmp_path / "a.wav", "--model", folder)
    assert ran.code == 130
    assert len(ran.complaints) == 1
    got, whole = ((tmp_path / name).read_bytes()[44:] for name in ("a.wav", "whole.wav"))
    assert 3 * 384 * 2 < len(got) < len(whole)
    exact = len(got) // 768 * 768
    assert got[:exact] == whole[:exact]
    assert f"stopped after {len(got) / 2 / 4_800:.1f} s" in ran.err


def test_a_second_ctrl_c_gives_the_part_up_but_not_what_was_before(
    earful, folder, codec, talk, codes, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        interrupt(patch, EncodeStream, 3, times=2)
        ran = earful("codec", "encode", talk, tmp_path / "a.safetensors", "--model", folder)
    assert ran.code == 130
    got, said = read_codes(tmp_path / "a.safetensors")
    frames, rest = divmod(said.samples, 384)
    a_second = 4_800 // 384 + 1  # what a file comes in at a time
    assert (frames, rest) == (got.shape[1], 0)
    assert 3 * module.BATCH <= frames < 3 * (module.BATCH + a_second)
    np.testing.assert_array_equal(got, codes[:, :frames])
    interrupt(monkeypatch, EncodeStream, 3, times=2)
    ran = earful("codec", "roundtrip", talk, tmp_path / "a.wav", "--model", folder)
    assert (ran.code, len(ran.complaints)) == (130, 1)
    write_wav(tmp_path / "b.wav", codec.decode(got), codec.rate_hz)
    assert_same_sound(tmp_path / "a.wav", tmp_path / "b.wav", codec)


@pytest.mark.parametrize("command", ["encode", "decode", "roundtrip"])
def test_ctrl_c_before_anything_was_heard(earful, folder, talk, encoded, tmp_path, monkeypatch, command):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    for kind in (EncodeStream, DecodeStream):
        monkeypatch.setattr(kind, "__init__", interrupted)
    ran = earful("codec", command, encoded if command == "decode" else talk, tmp_path / "a", "--model", folder)
    assert (ran.code, ran.out, ran.err) == (130, "", "earful: stopped\n")
    assert not (tmp_path / "a").exists()


def test_a_real_ctrl_c_at_a_pipe_that_goes_on(folder, talk, codes, tmp_path):
    target = tmp_path / "a.safetensors"
    command = [sys.executable, "-m", "earful", "codec", "encode", "-", target, "--model", folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        running.stdin.write(talk.read_bytes())  # more than a pipe holds: when all of it is taken, most of it is heard
        running.stdin.flush()
        running.send_signal(signal.SIGINT)
        out, errors = running.communicate()
    assert running.returncode == 130, errors
    assert errors.decode().startswith("earful: standard input: stopped after ")
    got, said = read_codes(target)
    whole = said.samples // 384
    np.testing.assert_array_equal(got[:, :whole], codes[:, :whole])
    assert out.decode().startswith(f"{target}: {said.samples / 4_800:.2f} s")


def test_a_full_disk_leaves_the_old_file(earful, folder, talk, encoded, tmp_path):
    old = encoded.read_bytes()
    (tmp_path / "a.wav").write_bytes(b"old")
    with full_disk(1_000):
        one_line(earful("codec", "encode", talk, encoded, "--model", folder), f"cannot write {encoded}")
        for command, source in (("decode", encoded), ("roundtrip", talk)):
            ran = earful("codec", command, source, tmp_path / "a.wav", "--model", folder)
            one_line(ran, f"{tmp_path}/a.wav: expected to write a WAV file, got File too large")
    assert encoded.read_bytes() == old
    assert (tmp_path / "a.wav").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "talk.safetensors"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["codec"], "Missing command"),
        (["codec", "shrink"], "No such command 'shrink'"),
        (["codec", "encode", "a.wav"], "Missing argument 'target'"),
        (["codec", "decode", "a", "b", "--codebooks", "3"], "No such option: --codebooks"),
    ],
)
def test_misuse(earful, arguments, message):
    ran = earful(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.complaints) == 1
    assert message in ran.err
