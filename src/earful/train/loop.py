"""The training loop: mixed precision with float32 masters, Muon and AdamW, exact resumption."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from earful.checkpoint.files import load_tensors, save_tensors
from earful.errors import CheckpointError

Batch = dict[str, Any]
LEAST = 0.2  # weight of an auxiliary loss at the end: two that had faded early cost much


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: the rate rises, stays, and falls linearly to nothing over the last `decay` of steps.

    inverse_root: in the place of that it falls as one over the root of the step (Vaswani et al. 2017).
    muon: the matrices inside the blocks are Muon's; otherwise all weights are AdamW's.
    average: what is learned is the mean of the weights over about so many of the last steps, older ones fading; with 0
    the last weights. Small batches throw these about: the mean is better long before the rate has fallen (Polyak and
    Juditsky 1992).
    """

    steps: int
    matrix_rate: float = 0.02  # Muon, for the matrices inside the blocks
    other_rate: float = 2e-3  # AdamW, for embeddings, norms, biases and convolutions
    weight_decay: float = 0.05
    warmup: int = 100
    decay: float = 0.35
    clip: float = 1.0
    save_every: int = 200
    log_every: int = 10
    inverse_root: bool = False
    muon: bool = True
    average: int = 0

    def factor(self, step: int) -> float:
        if self.inverse_root:
            return min((step + 1) / self.warmup, math.sqrt(self.warmup / (step + 1)))
        falling = max(1, round(self.steps * self.decay))
        return max(0.0, min(1.0, (step + 1) / self.warmup, (self.steps - step) / falling))

    def auxiliary(self, step: int) -> float:
        """Weight of the losses that help to begin: from 1 to LEAST over the run."""
        return 1 - (1 - LEAST) * step / self.steps


NO_MATRICES = ("embed", "head", "lora_", "project_")  # in names of tables, outputs and narrow maps: these are AdamW's


def is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and not any(part in name for part in NO_MATRICES)


class Trainer:
    """Trains `objective` (a module that returns a loss and its parts) from an endless source of batches.

    The module computes in `dtype`; the optimisers see float32 masters of those of its weights that require gradients,
    which are copied back after each step. All that a run needs to go on exactly where it stopped, buffers that are
    learned included, is in FOLDER/state.safetensors and FOLDER/state.json.
    """

    def __init__(
        self, objective: nn.Module, schedule: Schedule, folder: str | Path, dtype: torch.dtype = torch.float32
    ) -> None:
        self.schedule, self.folder = schedule, Path(folder)
        self.step = 0
        self.masters = {n: p.detach().float().clone() for n, p in objective.named_parameters() if p.requires_grad}
        self.objective = objective.to(dtype)
        self.means = {n: w.clone() for n, w in self.masters.items()} if schedule.average else {}
        weights = dict(objective.named_parameters())
        self.weights = {name: weights[name] for name in self.masters}
        self.buffers = {n: b for n, b in objective.named_buffers() if n in objective.state_dict()}
        for_muon = {name for name, p in self.masters.items() if schedule.muon and is_matrix(name, p)}
        matrices = [p for name, p in self.masters.items() if name in for_muon]
        others = [p for name, p in self.masters.items() if name not in for_muon]
        self.optimisers: list[torch.optim.Optimizer] = []
        self.rates: list[float] = []
        if matrices:  # an optimiser refuses to have nothing to do
            muon = torch.optim.Muon(matrices, lr=schedule.matrix_rate, weight_decay=schedule.weight_decay)
            self.optimisers.append(muon)
            self.rates.append(schedule.matrix_rate)
        if others:
            adam = torch.optim.AdamW(others, lr=schedule.other_rate, betas=(0.9, 0.98), weight_decay=0.0)
            self.optimisers.append(adam)
            self.rates.append(schedule.other_rate)

    @property
    def learned(self) -> dict[str, Tensor]:
        """The weights to keep of the run, in float32."""
        return self.means or self.masters

    def run(self, batches: Iterator[Batch], report: Callable[[dict[str, float]], None] = lambda _: None) -> None:
        """Train until the schedule ends; saves on the way, at the end and on Ctrl-C. `batches` begin at `self.step`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        saved = self.step
        try:
            while self.step < self.schedule.steps:
                began = time.monotonic()
                parts = self.advance(next(batches))
                if self.step % self.schedule.log_every == 0 or self.step == self.schedule.steps:
                    row = {"step": self.step, "seconds": time.monotonic() - began, **parts}
                    with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                        log.write(json.dumps(row) + "\n")
                    report(row)
                if self.step % self.schedule.save_every == 0:
                    self.save()
                    saved = self.step
        finally:
            if self.step > saved:
                self.save()

    def advance(self, batch: Batch) -> dict[str, float]:
        """One step. Returns the loss, its parts, the gradient's norm and the rate's factor."""
        factor = self.schedule.factor(self.step)
        # Written-out attention is the fastest on CPUs where gradients are needed; elsewhere the default order stands.
        slow_device = next(iter(self.weights.values())).device.type == "cpu"
        with sdpa_kernel([SDPBackend.MATH] if slow_device else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            loss, parts = self.objective(**batch)
            loss.backward()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss became {loss.item()} at step {self.step}: expected a finite number")
        for name, weight in self.weights.items():
            self.masters[name].grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        norm = nn.utils.clip_grad_norm_(self.masters.values(), self.schedule.clip)
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.masters[name])
            for name, mean in self.means.items():
                mean.lerp_(self.masters[name], 1 / min(self.step + 1, self.schedule.average))
        self.step += 1
        values = {name: float(value) for name, value in parts.items()}
        return {"loss": loss.item(), "gradient": float(norm), "factor": factor, **values}

    def save(self) -> None:
        tensors = {f"weight.{n}": p for n, p in self.masters.items()}
        tensors |= {f"mean.{n}": p for n, p in self.means.items()}
        tensors |= {f"buffer.{n}": b for n, b in self.buffers.items()}
        scalars: dict[str, float] = {}
        for i, optimiser in enumerate(self.optimisers):
            for key, moments in optimiser.state_dict()["state"].items():
                for name, value in moments.items():
                    if isinstance(value, Tensor) and value.ndim:
                        tensors[f"optimiser.{i}.{key}.{name}"] = value
                    else:
                        scalars[f"{i}.{key}.{name}"] = float(value)
        save_tensors(self.folder / f"state-{self.step}.safetensors", tensors)
        about = {"step": self.step, "schedule": asdict(self.schedule), "scalars": scalars}
        temporary = self.folder / "state.json.part"
        temporary.write_text(json.dumps(about), encoding="utf-8")
        temporary.replace(self.folder / "state.json")  # from here on the new state is the one to resume
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != f"state-{self.step}.safetensors":
                old.unlink()

    def resume(self) -> bool:
        """Take up the state saved in the folder, if there is one. Returns whether there was."""
        file = self.folder / "state.json"
        if not file.exists():
            return False
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        tensors = load_tensors(self.folder / f"state-{about['step']}.safetensors")
        names = {name for name in tensors if name.startswith(("weight.", "buffer."))}
        expected = {f"weight.{n}" for n in self.masters} | {f"buffer.{n}" for n in self.buffers}
        if names != expected:
            others = len(names ^ expected)
            raise CheckpointError(
                f"{self.folder}: expected the state of this model, got one with {others} other weights"
            )
        self.step = about["step"]
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(tensors[f"weight.{name}"])
                self.weights[name].copy_(master)
            for name, mean in self.means.items():  # a run that had none begins them here
                mean.copy_(tensors.get(f"mean.{name}", tensors[f"weight.{name}"]))
            for name, buffer in self.buffers.items():
                buffer.copy_(tensors[f"buffer.{name}"])
        for i, optimiser in enumerate(self.optimisers):
            state = optimiser.state_dict()
            state["state"] = _moments(i, tensors, about["scalars"])
            optimiser.load_state_dict(state)
        return True


def _moments(number: int, tensors: dict[str, Tensor], scalars: dict[str, float]) -> dict[int, dict[str, Tensor]]:
    """The per-parameter state of one optimiser, out of the flat names of a saved run."""
    found: dict[int, dict[str, Tensor]] = {}
    prefix = f"optimiser.{number}."
    for name, value in tensors.items():
        if name.startswith(prefix):
            key, moment = name.removeprefix(prefix).split(".")
            found.setdefault(int(key), {})[moment] = value
    for name, scalar in scalars.items():
        which, key, moment = name.split(".")
        if int(which) == number:
            found.setdefault(int(key), {})[moment] = torch.tensor(scalar)
    return found
