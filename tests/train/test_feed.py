"""Batches that other processes make."""

import subprocess
import sys

import pytest
import torch

from earful.train.feed import feed

PROGRAM = """
import torch
from earful.train.feed import feed

def example(number):
    return {"number": torch.tensor(number)}

if __name__ == "__main__":
    next(feed(example, 2, 0, 1000, 1))
    batches = feed(example, 2, 0, 1000, 1)
    print(next(batches)["number"].tolist(), flush=True)
    raise KeyboardInterrupt
"""


def example(number: int) -> dict[str, torch.Tensor]:
    return {"number": torch.tensor(number)}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_run_goes_on_with_the_next_batch(workers: int) -> None:
    whole = [batch["number"].tolist() for batch in feed(example, 2, 0, 4, workers)]
    assert whole == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [batch["number"].tolist() for batch in feed(example, 2, 3, 4, workers)] == whole[3:]


def test_a_program_that_ends_with_an_error_ends_its_workers(tmp_path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    ended = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "[0, 1]\n"
    assert "KeyboardInterrupt" in ended.stderr


def test_a_worker_is_silent_when_nobody_takes_what_it_hands_over() -> None:
    """As when Ctrl-C comes in the middle of that: the error comes up in a thread that has nobody to tell."""
    program = "import sys; from earful.train.feed import _ignore_stops as begin; begin(0)"
    for error in ("EOFError", "ConnectionResetError", "RuntimeError"):
        program += f"; sys.excepthook({error}, {error}('{error} here'), None)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stderr == "RuntimeError: RuntimeError here\n"
