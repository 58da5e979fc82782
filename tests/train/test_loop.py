"""The loop: it learns, it resumes to the bit, and it keeps what it has."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from earful.errors import CheckpointError
from earful.train.loop import Batch, Schedule, Trainer


class Regression(nn.Module):
    """Learns y = x @ target; one matrix for Muon, a bias and an embedding for AdamW."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Linear(6, 5)
        self.embed = nn.Embedding(3, 5)

    def forward(self, x: Tensor, y: Tensor, kind: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        error = (self.matrix(x) + self.embed(kind) - y).float().square().mean()
        return error, {"error": error.detach()}


def examples(start: int = 0) -> Iterator[Batch]:
    target = torch.randn(6, 5, generator=torch.Generator().manual_seed(7))
    for number in itertools.count(start):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(32, 6, generator=generator)
        yield {"x": x, "y": x @ target, "kind": torch.randint(0, 3, (32,), generator=generator)}


def trainer(folder: Path, schedule: Schedule, dtype: torch.dtype = torch.float32) -> Trainer:
    torch.manual_seed(0)
    return Trainer(Regression(), schedule, folder, dtype)


def in_dtype(batches: Iterator[Batch], dtype: torch.dtype) -> Iterator[Batch]:
    return ({k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()} for batch in batches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_learns(tmp_path: Path, dtype: torch.dtype) -> None:
    one = trainer(
        tmp_path, Schedule(200, matrix_rate=0.1, other_rate=0.05, weight_decay=0, warmup=5, log_every=1), dtype
    )
    one.run(in_dtype(examples(), dtype))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 201))
    assert rows[-1]["loss"] < 0.05 * rows[0]["loss"]


@pytest.mark.parametrize("stop", [1, 7, 12])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    schedule = Schedule(20, warmup=5, save_every=stop, average=8)
    whole = trainer(tmp_path / "whole", schedule)
    whole.run(examples())

    first = trainer(tmp_path / "parts", schedule)
    broken = itertools.islice(examples(), stop)
    with pytest.raises(StopIteration):
        first.run(broken)
    second = trainer(tmp_path / "parts", schedule)
    assert second.resume()
    assert second.step == stop
    second.run(examples(stop))

    for name, weight in whole.masters.items():
        assert torch.equal(weight, second.masters[name]), name
        assert torch.equal(weight, second.weights[name]), name
        assert torch.equal(whole.learned[name], second.learned[name]), name
        assert not torch.equal(whole.learned[name], weight), name


def test_what_is_learned_is_the_mean_of_the_last_weights(tmp_path: Path) -> None:
    one = trainer(tmp_path, Schedule(20, warmup=5, average=10))
    seen = []
    for batch in itertools.islice(examples(), 10):
        one.advance(batch)
        seen.append(one.masters["matrix.weight"].clone())
    torch.testing.assert_close(one.learned["matrix.weight"], torch.stack(seen).mean(0))
    before = one.learned["matrix.weight"].clone()
    one.run(examples(10))
    assert not torch.equal(one.learned["matrix.weight"], before)


def test_a_mean_begins_where_a_run_without_one_stopped(tmp_path: Path) -> None:
    one = trainer(tmp_path, Schedule(20))
    one.run(examples())
    assert one.learned is one.masters
    again = trainer(tmp_path, Schedule(40, average=10))
    assert again.resume()
    for name, weight in one.masters.items():
        assert torch.equal(again.learned[name], weight), name


def test_ctrl_c_saves_the_last_step(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Batch]:
        yield from itertools.islice(examples(), 3)
        raise KeyboardInterrupt

    one = trainer(tmp_path, Schedule(20, save_every=100))
    with pytest.raises(KeyboardInterrupt):
        one.run(interrupted())
    again = trainer(tmp_path, Schedule(20))
    assert again.resume()
    assert again.step == 3
    assert [f.name for f in tmp_path.glob("*.safetensors")] == ["state-3.safetensors"]


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert not trainer(tmp_path, Schedule(20)).resume()


def test_the_state_of_another_model_is_refused(tmp_path: Path) -> None:
    one = trainer(tmp_path, Schedule(20))
    one.save()
    other = Trainer(nn.Sequential(nn.Linear(2, 2)), Schedule(20), tmp_path)
    with pytest.raises(CheckpointError, match="expected the state of this model, got one with 5 other weights"):
        other.resume()


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step(tmp_path: Path) -> None:
    one = trainer(tmp_path, Schedule(20))
    batch = next(examples())
    batch["y"][0] = float("nan")
    with pytest.raises(FloatingPointError, match="the loss became nan at step 0: expected a finite number"):
        one.run(iter([batch]))


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    schedule = Schedule(100, warmup=10, decay=0.4)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[0] == 0.1
    assert factors[9:61] == [1.0] * 52
    assert factors[80] == 0.5
    assert factors[100] == 0
    assert all(a <= b for a, b in itertools.pairwise(factors[:10]))
    assert all(a >= b for a, b in itertools.pairwise(factors[60:]))
    assert [schedule.auxiliary(step) for step in (0, 50, 100)] == pytest.approx([1, 0.6, 0.2])


class Averaging(nn.Module):
    """One weight that learns, one that is frozen, and a buffer that remembers what was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.frozen = nn.Linear(6, 5, bias=False), nn.Linear(6, 5)
        self.frozen.requires_grad_(False)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("constant", torch.ones(6), persistent=False)

    def forward(self, x: Tensor, y: Tensor, kind: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.mean.lerp_(x.detach().mean(0), 0.1)
        return (self.matrix(x - self.mean) + self.frozen(x) - y).square().mean(), {}


def test_buffers_are_resumed_and_what_is_frozen_stays(tmp_path: Path) -> None:
    def averaging(folder: str) -> Trainer:
        torch.manual_seed(0)
        return Trainer(Averaging(), Schedule(12, warmup=3, save_every=5), tmp_path / folder)

    whole = averaging("whole")
    before = whole.objective.frozen.weight.clone()
    whole.run(examples())
    first = averaging("parts")
    with pytest.raises(StopIteration):
        first.run(itertools.islice(examples(), 5))
    second = averaging("parts")
    assert second.resume()
    second.run(examples(5))
    assert torch.equal(whole.objective.mean, second.objective.mean)
    assert torch.equal(whole.objective.matrix.weight, second.objective.matrix.weight)
    assert torch.equal(second.objective.frozen.weight, before)
    assert set(second.masters) == {"matrix.weight"}  # and one optimiser alone had something to do
    assert len(second.optimisers) == 1
