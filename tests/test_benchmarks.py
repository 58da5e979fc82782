"""The benchmark runs from end to end at tiny sizes; nothing here is about how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.reference
def test_quick_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--minutes", "0.05", "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "voxtral.json").read_text())
    assert result["float32"]["equal"]
    assert result["earful"]["streams_like_offline"]
    assert result["builtin"]["streams_like_offline"]
    assert min(result[who]["steps"] for who in ("earful", "transformers", "builtin")) > 20
    assert (tmp_path / "voxtral.md").read_text().strip() == done.stdout.strip()
    assert "| offline, ms per 80 ms of audio |" in done.stdout
