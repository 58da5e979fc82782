"""`earful models`, `doctor`, `convert`, `eval` and `train`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch

import earful as library
from earful import api
from earful.audio.io import write_wav
from earful.checkpoint.files import load_tensors
from earful.cli.models import EXTRAS, PUBLISHED
from earful.testing import write_tiny
from tests.cli.conftest import DEMO

RATE_HZ = 16_000


def test_models_says_what_is_here(earful):
    ran = earful("models")
    assert (ran.code, ran.err) == (0, "")
    assert str(api.BUILTIN) in ran.out
    for name in PUBLISHED:
        assert f"--model {name} fetches it" in ran.out


def test_models_finds_what_was_downloaded(earful, hub):
    ran = earful("models")
    assert "fetches it" not in ran.out
    assert f"{os.environ['HF_HOME']}/hub/models--mistralai--" in ran.out


def test_no_command_is_a_question_for_help(earful):
    assert earful().out == earful("--help").out
    for command in ("transcribe", "listen", "models", "convert", "doctor", "train", "eval"):
        assert command in earful().out
        assert earful(command, "--help").code == 0
    assert earful("--version").out == f"earful {library.__version__}\n"


def test_doctor_tries_everything(earful):
    ran = earful("doctor")
    assert (ran.code, ran.err) == (0, "")
    rows = dict(re.findall(r"^ *(?:ok|missing) (.+?): (.*)$", ran.out, re.MULTILINE))
    assert len(rows) == len(ran.out.splitlines())
    assert rows.keys() >= {"python", "torch", "downloads", "built-in model", *(f"extra {name}" for name in EXTRAS)}
    assert re.match(r"heard [1-9]\d* words in 3\.\d s of demo.flac", rows["built-in model"])


def test_doctor_names_a_broken_built_in_model(earful, monkeypatch, tmp_path):
    monkeypatch.setattr(api, "BUILTIN", tmp_path)
    ran = earful("doctor")
    assert ran.code == 1
    (line,) = [line for line in ran.out.splitlines() if "broken" in line]
    assert str(tmp_path) in line
    assert line.endswith("-> install earful again")


def test_doctor_says_how_to_get_an_extra(earful, monkeypatch):
    monkeypatch.setitem(EXTRAS, "mic", ("no_such_sound_library",))
    monkeypatch.setitem(sys.modules, "sounddevice", sound := types.ModuleType("sounddevice"))
    sound.__spec__ = types.SimpleNamespace(name="sounddevice")  # what find_spec looks at
    sound.PortAudioError = KeyError
    sound.query_devices = lambda: [{"name": "[red] headset", "max_input_channels": 2}]
    ran = earful("doctor")
    assert ran.code == 0  # transcription works without
    assert "missing extra mic: no_such_sound_library not installed -> pip install 'earful[mic]'\n" in ran.out
    assert "ok microphone: [red] headset\n" in ran.out


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_convert_there_and_back(earful, tiny, noise, tmp_path):
    there, back = tmp_path / "hf", tmp_path / "back"
    ran = earful("convert", tiny, there, "--layout", "hf")
    assert (ran.code, ran.out, ran.err) == (0, f"{there}: hf layout, 58 640 parameters\n", "")
    assert earful("convert", there, back, "--layout", "mistral").code == 0
    assert folder_bytes(back)["consolidated.safetensors"] == folder_bytes(tiny)["consolidated.safetensors"]
    assert (there / "config.json").exists()
    said = [earful("transcribe", noise[0], "--model", folder).out for folder in (tiny, there, back)]
    assert said[0] == said[1] == said[2]


def test_convert_to_half_the_size(earful, tiny, tmp_path):
    assert earful("convert", tiny, tmp_path / "half", "--layout", "mistral", "--dtype", "bfloat16").code == 0
    size = (tiny / "consolidated.safetensors").stat().st_size
    assert (tmp_path / "half" / "consolidated.safetensors").stat().st_size < 0.6 * size


@pytest.mark.parametrize(
    "options, message",
    [
        (["--layout", "onnx"], "expected a layout of hf, mistral, got onnx"),
        (["--dtype", "int3"], "expected a dtype of float32, bfloat16, float16, got 'int3'"),
    ],
)
def test_convert_to_what_is_not_known(earful, tiny, tmp_path, options, message):
    ran = earful("convert", tiny, tmp_path / "target", *options)
    assert (ran.code, ran.err) == (1, f"earful: {message}\n")
    assert not (tmp_path / "target").exists()


def test_convert_overwrites_nothing(earful, tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    ran = earful("convert", tiny, tmp_path)
    assert (ran.code, ran.err) == (
        1,
        f"earful: {tmp_path}: expected a new or empty folder, got one with files in it\n",
    )
    assert folder_bytes(tmp_path) == {"notes.txt": b"mine"}
    ran = earful("convert", tiny, tmp_path / "notes.txt")
    assert (ran.code, len(ran.complaints)) == (1, 1)


def old(folder):
    """The folder as it was before there was safetensors; what it held is returned."""
    tensors = load_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    return tensors


def test_convert_pickled_weights(earful, noise, tmp_path):
    folder, target = write_tiny("s2t", path=tmp_path / "old"), tmp_path / "new"
    said = earful("transcribe", noise[0], "--model", folder).out
    tensors = old(folder)
    refused = earful("transcribe", noise[0], "--model", folder)
    assert refused.code == 1
    assert (
        f"got only pytorch_model.bin: pickled weights can run code and are not opened; `earful convert {folder} TARGET`"
        in refused.err
    )
    ran = earful("convert", folder, target)
    assert (ran.code, ran.out) == (0, f"{target}: hf layout, 30 292 parameters\n")
    (warning,) = ran.complaints
    assert warning.startswith(f"earful: {folder}/pytorch_model.bin: pickled weights can run code where other programs")
    assert warning.endswith(f"use {target} instead")
    again = load_tensors(target / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    assert earful("transcribe", noise[0], "--model", target).out == said != ""


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.makedirs, (str(self.path),)


@pytest.mark.parametrize("new", [False, True])
def test_convert_runs_nothing(earful, tmp_path, new):
    folder, evil = write_tiny("s2t", path=tmp_path / "old"), tmp_path / "evil"
    tensors = old(folder)
    for content in (tensors | {"more": Payload(evil)}, Payload(evil), {"model": tensors, "args": Payload(evil)}):
        torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)
        ran = earful("convert", folder, tmp_path / "target")
        assert (ran.code, ran.out, len(ran.complaints)) == (1, "", 1)
        assert ran.err.endswith("pytorch_model.bin: expected nothing but tensors, got the name 'os makedirs'\n")
        assert not evil.exists()
        assert not (tmp_path / "target").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)  # what another program would do
    assert evil.exists()


@pytest.fixture
def references(tmp_path):
    shutil.copy(DEMO, tmp_path / "demo.flac")
    heard = library.load().transcribe(DEMO).text
    rows = [
        {"audio": "demo.flac", "text": heard, "kind": "same", "speaker": "a"},
        {"audio": "demo.flac", "text": f"{heard} and one more", "kind": "longer", "speaker": "b"},
        {"audio": "lost.flac", "text": "nobody", "kind": "lost"},
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, len(heard.split())


def test_eval_counts_errors_by_kind(earful, references):
    path, words = references
    ran = earful("eval", path, "--json", "--batch", 2)
    assert ran.code == 0
    assert ran.complaints == ["earful: 1 of 3 recordings are not there and are left out"]
    rows = {row["kind"]: row for row in map(json.loads, ran.out.splitlines())}
    assert rows.keys() == {"same", "longer", "all"}
    assert (rows["same"]["wer"], rows["same"]["words"]) == (0, words)
    assert rows["longer"]["errors"] == 3
    assert rows["longer"]["wer"] == pytest.approx(3 / (words + 3), abs=1e-4)
    assert (rows["all"]["utterances"], rows["all"]["speakers"]) == (2, 2)


def test_eval_draws_a_table_and_shows_texts(earful, references):
    path, words = references
    out = earful("eval", path, "--texts").out
    assert re.search(rf"same +0\.0 % +{words} +1 +1", out)
    assert re.search(r"^longer\t.* and one more\t", out, re.MULTILINE)


def test_eval_of_nothing(earful, tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"audio": "lost.flac", "text": "nobody"}\n')
    ran = earful("eval", path)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"earful: {path}: expected recordings such as {tmp_path}/lost.flac, got none of them\n"
    ran = earful("eval", tmp_path / "none.jsonl")
    assert (ran.code, len(ran.complaints)) == (1, 1)


def test_eval_without_its_extra(earful, references, monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    ran = earful("eval", references[0])
    assert ran.code == 1
    assert "jiwer" in ran.complaints[-1]
    assert "earful doctor says how" in ran.complaints[-1]


@pytest.fixture
def tones(tmp_path):
    """A manifest of two words, a low tone and a high one."""
    folder = tmp_path / "tones"
    folder.mkdir()
    tone = {w: 0.4 * np.sin(2 * np.pi * hz * np.arange(4800) / RATE_HZ) for w, hz in (("low", 300), ("high", 1800))}
    quiet = np.zeros(3200)
    samples = np.concatenate([quiet, tone["low"], quiet, tone["high"], quiet]).astype(np.float32)
    write_wav(folder / "a.wav", samples, RATE_HZ)
    words = [["low", 0.2, 0.5], ["high", 0.7, 1.0]]
    row = {"audio": "a.wav", "start": 0.0, "duration": 1.2, "text": "low high", "words": words}
    (folder / "manifest.jsonl").write_text((json.dumps(row) + "\n") * 4)
    return folder / "manifest.jsonl"


def arguments(tones, start, output, steps):
    options = ["--start", start, "--output", output, "--steps", steps, "--batch", 2, "--seconds", 2, "--workers", 0]
    return ["train", tones, *options, "--dtype", "float32", "--delay", "3=1"]


def test_train_writes_a_model_and_its_curves(earful, tiny, noise, tones, tmp_path):
    run = tmp_path / "run"
    ran = earful(*arguments(tones, tiny, run, 2))
    assert (ran.code, ran.out, ran.err) == (0, f"{run / 'model'}\n", "")
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert earful("transcribe", noise[0], "--model", run / "model").code == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dtype", "int8"], "expected bfloat16 or float32, got 'int8'"),
        (["--share", "all"], "expected NAME=PART, got 'all'"),
        (["--delay", "x=1"], "expected NAME=PART, got 'x=1'"),
        (["--delay", "3=-1"], "expected NAME=PART, got '3=-1'"),
        (["--steps", "0"], "--steps"),
    ],
)
def test_train_misused(earful, tiny, tones, tmp_path, options, message):
    ran = earful(*arguments(tones, tiny, tmp_path / "run", 2), *options)
    assert (ran.code, len(ran.complaints)) == (2, 1)
    assert message in ran.err


def test_train_on_what_is_not_there(earful, tiny, tones, tmp_path):
    for manifest, start in [(tmp_path / "none.jsonl", tiny), (tones, tmp_path / "nowhere")]:
        ran = earful(*arguments(manifest, start, tmp_path / "run", 2))
        assert (ran.code, len(ran.complaints)) == (1, 1)


def test_ctrl_c_saves_a_run_and_the_same_command_goes_on(earful, tiny, tones, tmp_path):
    run = tmp_path / "run"
    command = [str(argument) for argument in arguments(tones, tiny, run, 1_000_000)]
    environment = {**os.environ, "PYTHONPATH": str(DEMO.parents[2])}
    process = subprocess.Popen([sys.executable, "-m", "earful", *command], env=environment, stderr=subprocess.PIPE)
    with process:
        while not (run / "log.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1].decode()
    assert (process.returncode, errors) == (130, "earful: stopped: the same command goes on from what is saved\n")
    saved = json.loads((run / "state.json").read_text())["step"]
    assert saved > 0
    command[command.index("1000000")] = str(saved + 2)
    assert earful(*command).code == 0
    assert json.loads((run / "state.json").read_text())["step"] == saved + 2
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
