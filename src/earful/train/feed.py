"""Numbered examples as batches, made ahead in other processes."""

from __future__ import annotations

import atexit
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from weakref import ref

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from earful.train.loop import Batch

Example = dict[str, Tensor]


class Numbered(Dataset[Example]):
    """The examples `first`, `first + 1`, ... of what `make` gives by number."""

    def __init__(self, make: Callable[[int], Example], first: int, count: int) -> None:
        self.make, self.first, self.count = make, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return self.make(self.first + index)


def feed(make: Callable[[int], Example], size: int, step: int, steps: int, workers: int) -> Iterator[Batch]:
    """The batches of steps `step` to `steps`, the same ones whether or not a run was interrupted.

    make: example by number, all of the same shapes; size: of a batch; workers: processes that make examples.
    """
    yield from batched(make, size, step * size, (steps - step) * size, workers)


def batched(make: Callable[[int], Example], size: int, first: int, count: int, workers: int) -> Iterator[Batch]:
    """Batches of so many examples, from number `first` on."""
    examples, ahead = Numbered(make, first, count), 4 if workers else None
    loader = DataLoader(examples, size, num_workers=workers, prefetch_factor=ahead, worker_init_fn=_ignore_stops)
    batches = (batch for batch in loader)
    atexit.register(_close, ref(batches))
    return batches


def moved(batch: Batch, device: str, dtype: torch.dtype) -> Batch:
    """A batch on a device, its floats in `dtype`; what is no tensor is left alone."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def _close(batches: ref[Generator[Batch]]) -> None:
    """End the workers of batches that a traceback or a variable still refers to when the program ends, which would wait
    for ever for processes that ignore being told to end."""
    if (still_there := batches()) is not None:
        still_there.close()


def _ignore_stops(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, and what a scheduler sends every process of a job; a worker that dies
    of it would break the saving of the run. Whoever saves ends the workers, perhaps in the middle of taking a batch,
    which is no worker's error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    usual = sys.excepthook
    sys.excepthook = lambda kind, error, trace: isinstance(error, EOFError | OSError) or usual(kind, error, trace)
