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

from earful.registry import FAMILIES
from earful.train.s2t import PRESETS, S2tRun
from earful.train.score import Reference

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


def test_the_trained_model_meets_its_aim_in_ten_minutes_of_held_out_speech(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(RECIPE / "ten_minutes.py"))
    sets = [
        ROOT / "recipes/builtin-en/evaluation" / name / "manifest.jsonl" for name in ("heldout", "heldout-everyday")
    ]
    script["main"](str(RECIPE / "model"), sets)
    lines = capsys.readouterr().out.splitlines()
    counted = next(i for i, line in enumerate(lines) if re.fullmatch(r"\d+ s, \d+ clips, \d+ segments", line))
    seconds, clips, segments = map(int, re.findall(r"\d+", lines[counted]))
    assert 590 <= seconds <= 600
    assert 140 <= clips <= segments
    # The page has 10, 20 and 0.3; a word or a step more is what processors differ in, since the model is bfloat16.
    errors = dict(re.findall(r"(\w+): ([\d.]+) % of", "\n".join(lines)))
    assert float(errors["everyday"]) <= 11
    assert float(errors["all"]) <= 20
    as_heard = next(line for line in lines if "as it is heard" in line)
    assert float(re.findall(r"worst ([\d.]+) s", as_heard)[0]) <= 0.34


def test_which_words_of_a_clip_end_a_segment() -> None:
    script = runpy.run_path(str(RECIPE / "ten_minutes.py"))
    text = "turn off the lights in the hall"
    clip = script["Clip"](Reference(Path(), text, "everyday", None), [(0.0, 0.0)] * 7)

    def lasts(*texts: str) -> list[list[int]]:
        return [list(words) for words in script["said_last"](clip, list(texts))]

    assert lasts(text) == [[6]]
    assert lasts("turn of the lights", "in the hall") == [[3], [6]]
    assert lasts("turn off the", "in the hall") == [[2, 3], [6]]
    assert lasts("turn off the lights", "in") == [[3], [4, 5, 6]]
    assert lasts("turn off the lights please", "in the hall") == [[3], [6]]
