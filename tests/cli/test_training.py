"""`earful train` for the families that hear through codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from earful.audio.io import write_wav
from earful.audio.wav import writing_wav
from earful.testing import tiny_s2t, write_tiny
from tests.helpers import assert_means_are_written

RATE_HZ = 4_800  # of tiny codecs


@pytest.fixture
def tones(tmp_path):
    folder = tmp_path / "tones"
    folder.mkdir()
    samples = (0.3 * np.sin(np.arange(4 * RATE_HZ) / 3)).astype(np.float32)
    write_wav(folder / "a.wav", samples, RATE_HZ)
    words = [["low", 0.2, 0.5], ["high", 0.7, 1.0]]
    rows = [{"audio": "a.wav", "start": s, "duration": 1.3, "text": "low high", "words": words} for s in (0, 1.3, 2.6)]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "manifest.jsonl"


@pytest.fixture
def train(earful, tones, tmp_path):
    def run(family, start, *options):
        common = ["--steps", 2, "--batch", 2, "--seconds", 1.6, "--workers", 0, "--audio", tmp_path / "audio"]
        output = tmp_path / f"run-{family}"
        return earful("train", tones, "--family", family, "--start", start, "--output", output, *common, *options)

    return run


def test_a_codec_and_then_a_recogniser(earful, train, tones, tmp_path, monkeypatch):
    from earful.train import kyutai_stt

    sizes = {"dim": 32, "layers": 1, "heads": 2, "head_dim": 16, "mlp_dim": 40, "window": 10}
    monkeypatch.setitem(kyutai_stt.PRESETS, "kyutai-small", sizes)
    codec = tmp_path / "run-mimi" / "model"
    ran = train("mimi", write_tiny("mimi", path=tmp_path / "tiny"))
    assert (ran.code, ran.out, ran.err) == (0, f"{codec}\n", "")
    model = tmp_path / "run-kyutai_stt" / "model"
    options = ["--codec", codec, "--versions", 1, "--delay-s", 0.4, "--dtype", "float32"]
    ran = train("kyutai_stt", "kyutai-small", *options, "--tokenizer", tokenizer(tmp_path))
    assert (ran.code, ran.out, ran.err) == (0, f"{model}\n", "")
    for output in (codec.parent, model.parent):
        assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert earful("transcribe", tones.parent / "a.wav", "--model", model).code == 0


def tokenizer(folder):
    from earful.testing import tiny_sentencepiece

    tiny_sentencepiece().save(folder / "tokenizer.model")
    return folder / "tokenizer.model"


@pytest.mark.parametrize("family", ["voxtral", "kyutai_stt", "s2t"])
def test_the_mean_of_the_weights_is_written(train, tmp_path, family):
    start = write_tiny(family, "mistral" if family == "voxtral" else "hf", path=tmp_path / "start")
    options = [] if family == "s2t" else ["--versions", 1] if family == "kyutai_stt" else ["--delay", "3=1"]
    assert train(family, start, *options, "--average", 2, "--other-rate", 0.5).code == 0
    assert_means_are_written(tmp_path / f"run-{family}")


def test_low_rank_changes_in_a_file_of_their_own(earful, train, tones, tmp_path):
    start = write_tiny("kyutai_stt", "kyutai", path=tmp_path / "start")
    ran = train("kyutai_stt", start, "--versions", 1, "--lora", 2, "--no-merge", "--dtype", "float32")
    assert ran.code == 0
    model = tmp_path / "run-kyutai_stt" / "model"
    assert (model / "lora.safetensors").is_file()
    assert earful("transcribe", tones.parent / "a.wav", "--model", model).code == 0


def test_utterances_in_another_language(earful, tmp_path, monkeypatch):
    from earful.train import s2t

    config = tiny_s2t(tmp_path)[0].config
    monkeypatch.setitem(s2t.PRESETS, "s2t-small-en", config)
    samples = (0.3 * np.sin(np.arange(16_000) / 3)).astype(np.float32)
    write_wav(tmp_path / "a.wav", samples, 16_000)
    row = {"audio": "a.wav", "start": 0, "duration": 1.0, "text": "guten tag", "language": "de", "words": []}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    options = [
        "--start",
        "s2t-small-en",
        "--languages",
        "mustc",
        "--pieces",
        24,
        "--smoothing",
        0.2,
        "--recipe",
        "published",
    ]
    common = ["--steps", 2, "--batch", 2, "--seconds", 1.5, "--workers", 0, "--output", tmp_path / "run"]
    ran = earful("train", tmp_path / "manifest.jsonl", "--family", "s2t", *common, *options)
    model = tmp_path / "run" / "model"
    assert (ran.code, ran.out, ran.err) == (0, f"{model}\n", "")
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert earful("translate", tmp_path / "a.wav", "--to", "de", "--model", model).code == 0


def test_a_voice_from_a_dialogue(earful, tmp_path):
    rng = np.random.default_rng(0)
    with writing_wav(tmp_path / "a.wav", RATE_HZ, channels=2) as write:
        write(0.2 * rng.standard_normal((2, 2 * RATE_HZ)).astype(np.float32))
    (tmp_path / "a.json").write_text(json.dumps({"alignments": [["dog", [0.3, 0.6], "SPEAKER_MAIN"]]}))
    (tmp_path / "data.jsonl").write_text(json.dumps({"path": "a.wav", "duration": 2.0}) + "\n")
    start = write_tiny("moshi", path=tmp_path / "start")
    options = ["--codes", tmp_path / "codes", "--first-weight", 100, "--lora", 2, "--checkpointing"]
    common = [
        "--steps",
        2,
        "--batch",
        2,
        "--seconds",
        0.8,
        "--workers",
        0,
        "--start",
        start,
        "--output",
        tmp_path / "run",
    ]
    ran = earful("train", tmp_path / "data.jsonl", "--family", "moshi", *common, *options)
    model = tmp_path / "run" / "model"
    assert (ran.code, ran.out, ran.err) == (0, f"{model}\n", "")
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "codes").glob("*.npy"))) == 1
    target = tmp_path / "answer.wav"
    assert earful("talk", "--from", tmp_path / "a.wav", "--to", target, "--model", model).code == 0


@pytest.mark.parametrize(
    "family, options, message",
    [
        ("s3t", [], "expected one of voxtral, kyutai_stt, mimi, s2t, moshi, got 's3t'"),
        ("mimi", ["--lora", "2"], "--lora: expected no such option for mimi, got one"),
        ("mimi", ["--hidden", "0.1"], "--hidden: expected no such option for mimi, got one"),
        ("kyutai_stt", ["--delay", "3=1"], "--delay: expected no such option for kyutai_stt, got one"),
        ("moshi", [], "--audio: expected no such option for moshi, got one"),
        ("voxtral", ["--pad-weight", "1"], "--pad-weight: expected no such option for voxtral, got one"),
    ],
)
def test_misused(train, family, options, message):
    ran = train(family, "nowhere", *options)
    assert (ran.code, len(ran.complaints)) == (2, 1)
    assert message in ran.err


def test_a_start_of_another_family(train, tmp_path):
    start = write_tiny("mimi", path=tmp_path / "tiny")
    ran = train("kyutai_stt", start)
    assert (ran.code, len(ran.complaints)) == (1, 1)
    assert "expected a Kyutai Speech-To-Text model, got Mimi" in ran.err


def test_a_run_in_the_background_that_is_killed_goes_on_where_it_was(tones, tmp_path):
    """As a scheduler ends a job: every process gets the signal, in a shell that has Ctrl-C ignored."""
    run, start = tmp_path / "run", write_tiny("mimi", path=tmp_path / "tiny")
    command = [sys.executable, "-m", "earful", "train", tones, "--family", "mimi", "--start", start, "--output", run]
    command += ["--steps", 100_000, "--batch", 2, "--seconds", 1.6, "--workers", 1]
    background = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True, **background) as training:
        try:
            while not (run / "log.jsonl").exists() and training.poll() is None:
                time.sleep(0.05)
            os.killpg(training.pid, signal.SIGTERM)
            errors = training.communicate(timeout=60)[1]
        finally:
            training.kill()
    assert (training.returncode, errors) == (130, "earful: stopped: the same command goes on from what is saved\n")
    assert json.loads((run / "state.json").read_text())["step"] >= 10
