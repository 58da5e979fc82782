"""The recipe of the small Speech2Text: its commands are ones that exist, and its sizes those of the network."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from earful.api import BUILTIN
from earful.registry import FAMILIES
from earful.train.s2t import PRESETS, S2tRun

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "s2t-small-en"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "dumb", "COLUMNS": "200"}


def test_its_commands_take_their_options() -> None:
    commands = (RECIPE / "run.sh").read_text() + (RECIPE / "README.md").read_text()
    subprocess.run(["sh", "-n", RECIPE / "run.sh"], check=True)
    trained = re.findall(r"^earful train .*(?:\\\n.*)*", commands, re.MULTILINE)
    assert len(trained) == 2
    help_command = [sys.executable, "-m", "earful", "train", "--help"]
    shown = subprocess.run(help_command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout
    for option in {option for command in trained for option in re.findall(r"--[a-z-]+", command)}:
        assert f"{option} " in shown, option


def test_its_page_has_the_size_of_the_network() -> None:
    pieces = S2tRun("", [], Path(), 1).pieces
    model = FAMILIES["s2t"].build(replace(PRESETS["s2t-small-en"], vocab=pieces))
    count = sum(weight.numel() for weight in model.parameters())
    assert f"| parameters | {count / 1e6:.1f} M" in (RECIPE / "README.md").read_text()


def test_ten_minutes_are_scored_with_the_times_of_their_segments(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(RECIPE / "ten_minutes.py"))
    script["main"].__globals__["LENGTH_S"] = 12.0
    script["main"](str(BUILTIN), [ROOT / "recipes/builtin-en/evaluation/heldout-everyday/manifest.jsonl"])
    first, *scores, labelled, heard = capsys.readouterr().out.splitlines()
    seconds, clips, segments = map(int, re.findall(r"\d+", first))
    assert 6 <= seconds <= 12
    assert 2 <= clips <= 12
    assert segments >= clips / 2
    assert [re.sub(r"[\d.]+", "N", line) for line in scores] == ["everyday: N % of N words", "all: N % of N words"]
    for ends in (labelled, heard):
        assert float(re.findall(r"([\d.]+) % within", ends)[0]) >= 50
