"""The benchmark runs from end to end at tiny sizes; nothing here is about how fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.reference
def test_quick_run() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in (
        "| ids in float32, offline | equal |",
        "| ids in float32, live | equal |",
        "| text live and offline | equal |",
        "| live: ms per slot, median |",
        "| language model, bfloat16, 8 streams |",
        "| codec, float32, 1 stream |",
        "Ids equal in all three",
        "| Speech2Text tiny, random weights, float32: seconds |",
        "| features of 32 clips, ",
        "× | 1 of 1 |",
        "× | 8 of 8 |",
        "× | 32 of 32 |",
        "| whole, from samples to samples, 4 sessions |",
        "| over the codes, bfloat16, 1 session |",
        "Moshiko whole in bfloat16 has 15.7 GB. A tick reads 15.",
        "| H100 SXM | 5.0 |",
    ):
        assert line in done.stdout
