"""The recipe of the small pair: its commands are ones that exist, and its curve is drawn from a run's folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from earful.audio.io import write_wav
from earful.testing import write_tiny

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "kyutai-small"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "dumb", "COLUMNS": "200"}


def test_its_commands_take_their_options() -> None:
    commands = (RECIPE / "run.sh").read_text() + (RECIPE / "README.md").read_text()
    subprocess.run(["sh", "-n", RECIPE / "run.sh"], check=True)
    trained = re.findall(r"^earful train .*(?:\\\n.*)*", commands, re.MULTILINE)
    assert len(trained) == 3
    help_command = [sys.executable, "-m", "earful", "train", "--help"]
    shown = subprocess.run(help_command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout
    for option in {option for command in trained for option in re.findall(r"--[a-z-]+", command)}:
        assert f"{option} " in shown, option


def test_the_curve_of_a_run(tmp_path: Path) -> None:
    write_tiny("kyutai_stt", path=tmp_path / "run" / "model")
    (tmp_path / "run" / "state.json").write_text('{"step": 7}')
    row = {"step": 7, "loss": 2.0, "text": 2.0, "words": 3.0, "words_accuracy": 0.1}
    (tmp_path / "run" / "log.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "heldout").mkdir()
    write_wav(tmp_path / "heldout" / "a.wav", np.zeros(4800, np.float32), 4800)
    manifest = tmp_path / "heldout" / "manifest.jsonl"
    manifest.write_text('{"audio": "a.wav", "text": "one two"}\n')
    subprocess.run([sys.executable, RECIPE / "curve.py", tmp_path / "run", manifest], check=True, env=ENVIRONMENT)
    (scored,) = map(json.loads, (tmp_path / "run" / "wer.jsonl").read_text().splitlines())
    assert scored["step"] == 7
    assert scored["heldout"] > 0
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_three_ways_of_writing_are_compared(tmp_path: Path) -> None:
    write_tiny("kyutai_stt", path=tmp_path / "model")
    noise = 0.1 * np.random.default_rng(0).standard_normal(12_000).astype(np.float32)
    write_wav(tmp_path / "a.wav", noise, 4800)
    rows = [{"audio": "a.wav", "text": "one"}, {"audio": "a.wav", "start": 0.5, "duration": 1.0, "text": "two"}]
    (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = [sys.executable, RECIPE / "same_text.py", tmp_path / "model", tmp_path / "manifest.jsonl"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout
    found = re.fullmatch(r"2 of 2 clips alike, (\d+) words\n", shown)
    assert found
    assert int(found[1]) > 3


def test_the_trained_pair_hears_what_its_page_says_whole_live_and_by_generate() -> None:
    everyday = ROOT / "recipes/builtin-en/evaluation/heldout-everyday/manifest.jsonl"
    command = [sys.executable, "-m", "earful", "eval", everyday, "--model", RECIPE / "model"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout
    row = re.search(r"all +([\d.]+) % +639", shown)
    page = re.search(r"WER (\d+) % of 639", (RECIPE / "README.md").read_text())
    assert row
    assert page
    assert abs(float(row[1]) - float(page[1])) < 2  # bfloat16, which processors round differently
    command = [sys.executable, RECIPE / "same_text.py", RECIPE / "model", everyday, "20"]
    alike = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout
    assert alike.startswith("20 of 20 clips alike")
