"""Bad input: one clear line on standard error, or clean text; never a traceback, never a wrong success."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from earful.api import SpeechModel
from earful.audio.io import read_audio, write_wav
from earful.stream.engine import Engine
from tests.audio.test_io import encode, riff
from tests.cli.conftest import DEMO
from tests.helpers import full_disk

TONE = (0.4 * np.sin(2 * np.pi * 440 * np.arange(96_000) / 96_000)).astype("<f4")


def one_line(ran, *parts):
    assert ran.code == 1
    assert len(ran.complaints) == 1
    assert ran.err.startswith("earful: ")
    for part in parts:
        assert part in ran.err


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.wav", b"", "expected audio, got an empty file"),
        ("text.mp3", b"This is no recording.\n" * 50, "expected audio or video, got"),
        ("cut.mp4", encode("a.m4a")[:9000], "expected a whole MP4 file, got one without a readable index"),
        ("head.wav", riff(b"", 1, 16), "expected audio, got nothing that can be decoded"),
    ],
    ids=["empty", "text", "MP4 without its index", "WAV without samples"],
)
def test_a_file_that_is_no_recording(earful, tiny, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    for chosen in ("txt", "json", "vtt"):
        ran = earful("transcribe", path, "--model", tiny, "--format", chosen)
        one_line(ran, str(path), message)
        assert ran.out == ""
    ran = earful("transcribe", path, "--model", tiny, "--output", tmp_path / "out")
    one_line(ran, str(path), message)
    assert list((tmp_path / "out").iterdir()) == []
    one_line(earful("listen", "--from", path, "--fast", "--model", tiny), str(path), message)


@pytest.mark.parametrize(
    "name, content, seconds",
    [
        ("eight.wav", riff(np.repeat(TONE, 8).tobytes(), 3, 32, rate=96_000, channels=8), 1.0),
        ("mp3.wav", encode("a.mp3"), 1.0),
        ("short.wav", riff(b"\x10\x01" * 160, 1, 16), 0.01),
    ],
    ids=["8 channels of float at 96 kHz", "MP3 by the name of WAV", "10 ms"],
)
def test_an_unusual_recording_is_a_recording(earful, tiny, tmp_path, name, content, seconds):
    path = tmp_path / name
    path.write_bytes(content)
    ran = earful("transcribe", path, "--model", tiny, "--format", "json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["duration_s"] == pytest.approx(seconds, abs=0.06)


def test_of_a_truncated_mp4_what_is_left_is_written(earful, tiny, tmp_path):
    path = tmp_path / "cut.mp4"
    whole = encode("start.mp4", 4.0)
    path.write_bytes(whole[: len(whole) * 2 // 3])
    ran = earful("transcribe", path, "--model", tiny, "--format", "json")
    one_line(ran, str(path), "expected a whole file, got one that breaks off at 2.")
    assert 2.0 < json.loads(ran.out)["duration_s"] < 3.5


@pytest.mark.parametrize("batch", [1, 3])
def test_a_missing_file_among_good_ones(earful, tiny, noise, tmp_path, batch):
    missing = tmp_path / "missing.wav"
    good = earful("transcribe", noise[0], noise[1], "--model", tiny)
    assert (good.code, good.err) == (0, "")
    assert good.out.count("\n") >= 2
    ran = earful("transcribe", noise[0], missing, noise[1], "--model", tiny, "--batch", batch)
    assert ran.code == 1
    assert ran.out == good.out
    assert ran.complaints == [
        f"earful: {missing}: expected a file, got none of that name",
        f"earful: 1 of 3 failed: {missing}",
    ]


def test_digital_silence_gives_no_text(earful, tmp_path):
    path = tmp_path / "silence.wav"
    write_wav(path, np.zeros(16_000 * 6, np.float32), 16_000)
    for arguments in (["transcribe", path], ["listen", "--from", path, "--fast"]):
        ran = earful(*arguments)
        assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_an_empty_folder_has_nothing_to_transcribe(earful, tmp_path):
    ran = earful("transcribe", tmp_path)
    assert ran.code == 2
    assert f"expected audio or video in {tmp_path}, got none" in ran.err
    assert len(ran.complaints) == 1


@pytest.fixture
def broken(tiny, tmp_path):
    """A copy of the tiny checkpoint to break."""
    return Path(shutil.copytree(tiny, tmp_path / "broken"))


def test_a_folder_without_a_config(earful, broken, noise):
    (broken / "params.json").unlink()
    one_line(earful("transcribe", noise[0], "--model", broken), str(broken), "params.json", "got consolidated")
    (broken / "params.json").write_text("{")
    one_line(earful("transcribe", noise[0], "--model", broken), str(broken / "params.json"))


def test_no_such_folder(earful, tmp_path, noise):
    ran = earful("transcribe", noise[0], "--model", tmp_path / "nowhere")
    one_line(ran, "nowhere: expected a checkpoint folder or a hub id like org/name, got no such folder")


@pytest.mark.parametrize("how", ["missing", "extra", "misshapen"])
def test_a_tensor_that_does_not_fit(earful, broken, noise, how):
    path = broken / "consolidated.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("layers.1.attention.wq.weight"))
    if how == "missing":
        del tensors[name]
    elif how == "extra":
        name = "surplus.weight"
        tensors[name] = tensors[next(iter(tensors))].clone()
    else:
        tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, path)
    for arguments in (["transcribe", noise[0], "--model", broken], ["convert", broken, broken.parent / "target"]):
        one_line(earful(*arguments), "expected", name)
    assert not (broken.parent / "target").exists()


@pytest.mark.parametrize(
    "header",
    [
        (1 << 60).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"{]",
        (77).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[99999999999,9],"data_offsets":[0,3599999999964]}}'[:77],
        b"\x80\x04",
    ],
    ids=["longer than the file", "no JSON", "larger than the file", "shorter than its length"],
)
def test_a_forged_header(earful, broken, noise, header):
    path = broken / "consolidated.safetensors"
    path.write_bytes(header)
    one_line(earful("transcribe", noise[0], "--model", broken), str(path), "expected", "got")


def test_a_config_of_a_milliard_layers(earful, broken, noise):
    path = broken / "params.json"
    for part in ("decoder", "encoder"):
        config = json.loads(path.read_text())
        if part == "decoder":
            config["n_layers"] = 10**9
        else:
            config["multimodal"]["whisper_model_args"]["encoder_args"]["n_layers"] = 10**9
        (broken / "params.json").write_text(json.dumps(config))
        one_line(earful("transcribe", noise[0], "--model", broken), "n_layers", "1000000000")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["transcribe", "a.wav", "--loud"], "No such option: --loud"),
        (["whisper"], "No such command 'whisper'"),
        (["transcribe"], "Missing argument"),
        (["transcribe", DEMO, "--format", "doc"], "expected txt, srt, vtt, tsv, json, jsonl, got 'doc'"),
        (["transcribe", DEMO, "--format", "txt,srt"], "expected --output FOLDER for 2 formats, got none"),
        (["transcribe", DEMO, "--batch", "0"], "--batch"),
        (["listen", "--fast"], "expected --from FILE beside --fast, got none"),
        (["listen", "--from", DEMO, "--format", "srt"], "expected txt or jsonl, got 'srt'"),
    ],
)
def test_misuse(earful, arguments, message):
    ran = earful(*arguments)
    assert ran.code == 2
    assert len(ran.complaints) == 1
    assert message in ran.err
    assert ran.out == ""


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--dtype", "int3", "expected a dtype of float32, bfloat16, float16, got int3"),
        ("--device", "toaster", "expected a device of this machine such as cpu or cuda, got toaster"),
        ("--delay", "0.1", "delay"),
        ("--delay", "99", "delay"),
        ("--delay", "nan", "delay"),
    ],
)
def test_an_option_that_the_model_does_not_have(earful, tiny, noise, option, value, message):
    one_line(earful("transcribe", noise[0], "--model", tiny, option, value), message)
    one_line(earful("listen", "--from", noise[0], "--fast", "--model", tiny, option, value), message)


def test_a_full_disk_leaves_no_half_file(earful, tiny, noise, tmp_path):
    out = tmp_path / "out"
    assert earful("transcribe", noise[1], "--model", tiny, "--format", "json", "--output", out).code == 0
    before = (out / "noise1.json").read_bytes()
    assert len(before) > 200
    with full_disk(200):
        ran = earful("transcribe", *noise, "--model", tiny, "--format", "json", "--output", out)
    assert ran.code == 1
    assert [line.partition(": ")[2] for line in ran.complaints] == [
        *(f"cannot write {out}/{path.stem}.json: File too large" for path in noise),
        f"3 of 3 failed: {', '.join(map(str, noise))}",
    ]
    assert [path.name for path in out.iterdir()] == ["noise1.json"]
    assert (out / "noise1.json").read_bytes() == before


def test_a_checkpoint_that_does_not_fit_on_the_disk(earful, tiny, tmp_path):
    with full_disk(50_000):
        ran = earful("convert", tiny, tmp_path / "target")
    one_line(ran, "cannot write model.safetensors", str(tmp_path))
    assert not any(path.name.endswith("safetensors") for path in (tmp_path / "target").iterdir())


def test_an_output_that_is_no_folder(earful, tiny, noise):
    one_line(earful("transcribe", noise[0], "--model", tiny, "--output", noise[1]), f"{noise[1]}: File exists")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["transcribe", "listen"])
def test_standard_output_on_a_full_disk(earful, tiny, noise, monkeypatch, command):
    file = [noise[0]] if command == "transcribe" else ["--from", noise[0], "--fast", "--format", "jsonl"]
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(full, write_through=True))
        ran = earful(command, *file, "--model", tiny)
        sys.stdout.detach()
    one_line(ran, "No space left on device")


def interrupt(monkeypatch, steps):
    """Ctrl-C in the step after so many."""
    step, left = Engine.step, iter(range(steps))

    def stepped(engine):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(engine)

    monkeypatch.setattr(Engine, "step", stepped)


@pytest.mark.parametrize("to_files", [False, True])
def test_ctrl_c_gives_what_was_heard_so_far(earful, tiny, tmp_path, monkeypatch, to_files):
    long = tmp_path / "long.wav"
    write_wav(long, np.tile(read_audio(DEMO, 16_000), 12), 16_000)
    chosen = ["--output", tmp_path / "out"] if to_files else []
    whole = earful("transcribe", DEMO, long, DEMO, "--model", tiny, *chosen)
    texts = [(tmp_path / "out" / f"{name}.txt").read_text() for name in ("demo", "long")] if to_files else [whole.out]
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    interrupt(monkeypatch, 3)
    ran = earful("transcribe", DEMO, long, "--model", tiny, *chosen)
    assert ran.code == 130
    assert len(ran.complaints) == 1
    assert f"{long}: stopped after " in ran.err
    if to_files:
        assert (tmp_path / "out" / "demo.txt").read_text() == texts[0]
        part = (tmp_path / "out" / "long.txt").read_text()
        assert part
        assert texts[1].startswith(part.split("\n")[0])
        assert len(part) < len(texts[1])
    else:
        assert ran.out.split("\n")[:-2] == whole.out.split("\n")[: len(ran.out.split("\n")) - 2]
        assert 0 < len(ran.out) < len(whole.out)


@pytest.mark.parametrize("where", [SpeechModel, Engine])
def test_ctrl_c_before_anything_was_heard(earful, tiny, noise, monkeypatch, where):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, "__init__", interrupted)
    ran = earful("transcribe", noise[0], "--model", tiny)
    assert (ran.code, ran.out, ran.err) == (130, "", "earful: stopped\n")


@pytest.fixture
def start():
    """Starts `earful ARGUMENTS` as a process of its own, which the test's end ends if need be."""
    environment = {**os.environ, "PYTHONPATH": str(DEMO.parents[2])}
    running = []

    def called(*arguments, stdout):
        command = [sys.executable, "-m", "earful", *map(str, arguments)]
        running.append(subprocess.Popen(command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield called
    for one in running:
        with one:
            one.kill()


def test_real_signals_and_pipes(start, tiny, noise, tmp_path):
    """Ctrl-C, `kill`, a reader that leaves, and a full disk; at once, because a process takes seconds to start."""
    long = tmp_path / "long.wav"
    write_wav(long, np.tile(read_audio(DEMO, 16_000), 400), 16_000)
    stopped, ended = (start("transcribe", noise[0], long, "--model", tiny, stdout=subprocess.PIPE) for _ in range(2))
    left = start("transcribe", noise[0], "--model", tiny, stdout=subprocess.PIPE)
    left.stdout.close()
    with open(os.devnull if not Path("/dev/full").exists() else "/dev/full", "w") as file:
        full = start("transcribe", noise[0], "--model", tiny, stdout=file)
    for one, sent in ((stopped, signal.SIGINT), (ended, signal.SIGTERM)):
        first = one.stdout.readline()
        one.send_signal(sent)
        errors = one.communicate()[1]
        assert first.strip()
        assert one.returncode == 130
        assert [line.startswith("earful: ") and "stopped" in line for line in errors.splitlines()] == [True], errors
    assert (left.stderr.read(), left.wait()) == ("", 1)
    if Path("/dev/full").exists():
        assert (full.communicate()[1], full.returncode) == ("earful: No space left on device\n", 1)
