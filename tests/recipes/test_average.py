"""Averaged weights: each tensor is the mean by shares, and the folder loads like the ones that it comes from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

import earful
from earful.testing import write_tiny

SCRIPT = Path(__file__).resolve().parents[2] / "recipes" / "average.py"


def test_the_mean_of_two_models_is_a_model(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_tiny("voxtral", seed=seed, path=tmp_path / str(seed))
    shares = [f"{tmp_path / '1'}=0.25", f"{tmp_path / '2'}=0.75"]
    subprocess.run([sys.executable, SCRIPT, tmp_path / "mean", *shares], check=True)
    (name,) = (path.name for path in (tmp_path / "mean").glob("*.safetensors"))
    first, second, mean = (load_file(tmp_path / folder / name) for folder in ("1", "2", "mean"))
    assert mean.keys() == first.keys()
    assert any(not torch.equal(first[key], second[key]) for key in mean)
    for key, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.25 * first[key] + 0.75 * second[key])
    earful.load(tmp_path / "mean")


def test_shares_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, tmp_path / "mean", f"{tmp_path}=0.3", f"{tmp_path}=0.3"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr == "the shares must add up to 1, got 0.6\n"
    assert not (tmp_path / "mean").exists()


def test_another_network_is_refused(tmp_path: Path) -> None:
    shares = [f"{write_tiny(family, path=tmp_path / family)}=0.5" for family in ("kyutai_stt", "s2t")]
    refused = subprocess.run([sys.executable, SCRIPT, tmp_path / "mean", *shares], capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.endswith("expected models of the same weights, got different names\n")
    assert not (tmp_path / "mean").exists()
