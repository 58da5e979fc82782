"""Samples of any chunking, re-cut into whole hops: the one place where a stream has an uneven edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from earful.errors import AudioError, StreamClosed

Samples = npt.NDArray[np.float32]


def as_samples(x: Any) -> Samples:
    """Check that `x` is mono audio and return it as float32, without a copy where it is float32 already.

    x: float32 or float64 [N].
    Raises AudioError for another type or shape, and for NaN or infinity.
    """
    if not isinstance(x, np.ndarray):
        raise AudioError(f"expected mono float32 samples as a numpy array, got {type(x).__name__}")
    if x.dtype not in (np.float32, np.float64):
        hint = " (divide 16-bit samples by 32768)" if x.dtype == np.int16 else ""
        raise AudioError(f"expected mono float32 samples, got {x.dtype}{hint}")
    if x.ndim != 1:
        raise AudioError(f"expected mono float32 samples of shape [N], got shape {list(x.shape)}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is refused below
        samples = x.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise AudioError(f"expected finite samples, got {samples[~np.isfinite(samples)][0]}")
    return samples


class Framer:
    """Cut one stream into whole hops, each block with some samples of context on either side.

    Hop i covers samples [hop * i, hop * (i + 1)). A block of hops i .. i + k - 1 is
    [hop * i - before, hop * (i + k) + after): what lies before the first sample is zeros, and a hop is ready as soon
    as the last sample of its block is there. `after` may be negative: then the end of a hop is not waited for.
    Costs amortised constant time per sample; holds what was fed and not taken, and `before` samples more.
    Raises ValueError unless hop >= 1, before >= 0, after > -hop and after >= -before.
    """

    def __init__(self, hop: int, before: int, after: int) -> None:
        if hop < 1 or before < 0 or after <= -hop or after < -before:
            raise ValueError(
                f"expected hop >= 1, before >= 0, after > -hop and >= -before, got {hop}, {before}, {after}"
            )
        self.hop = hop
        self.before = before
        self.after = after
        self._buffer = np.zeros(before, np.float32)
        self._start = 0  # where the next block begins in the buffer
        self._end = before
        self._fed = 0
        self._finished = False

    @property
    def ready(self) -> int:
        """How many whole hops can be taken now."""
        return max(0, self._end - self._start - self.before - self.after) // self.hop

    def feed(self, samples: npt.NDArray[np.floating[Any]]) -> None:
        """Add samples to the end of the stream.

        samples: float32 or float64 [N], N >= 0.
        Raises AudioError as `as_samples` does, and then nothing is added; StreamClosed after `finish`.
        """
        if self._finished:
            raise StreamClosed("expected a stream that is still open, got samples after finish()")
        samples = as_samples(samples)
        self._fed += len(samples)
        self._append(samples)

    def take(self, hops: int) -> Samples:
        """Remove the next hops and return them with their context: float32 [hops * hop + before + after].

        Raises ValueError unless 1 <= hops <= ready.
        """
        if not 1 <= hops <= self.ready:
            raise ValueError(f"expected 1 to {self.ready} hops, which are ready, got {hops}")
        length = hops * self.hop + self.before + self.after
        block = self._buffer[self._start : self._start + length].copy()
        self._start += hops * self.hop
        if 4 * (self._end - self._start) < len(self._buffer):
            self._move(2 * (self._end - self._start))
        return block

    def finish(self, hops_of_silence: int) -> None:
        """End the stream: zeros up to a whole hop, then so many hops of zeros, then the zeros that `after` asks for.

        A stream of N samples gives ceil(N / hop) + hops_of_silence hops in all.
        Raises StreamClosed when called twice.
        """
        if self._finished:
            raise StreamClosed("expected a stream that is still open, got a second finish()")
        if hops_of_silence < 0:
            raise ValueError(f"expected hops_of_silence >= 0, got {hops_of_silence}")
        self._finished = True
        self._append(np.zeros(-self._fed % self.hop + hops_of_silence * self.hop + max(0, self.after), np.float32))

    def _append(self, samples: Samples) -> None:
        if self._end + len(samples) > len(self._buffer):
            self._move(2 * (self._end - self._start + len(samples)))
        self._buffer[self._end : self._end + len(samples)] = samples
        self._end += len(samples)

    def _move(self, capacity: int) -> None:
        """Bring what is held to the front of a new buffer; doubling and quartering keep this rare."""
        held = self._buffer[self._start : self._end]
        self._buffer = np.empty(capacity, np.float32)
        self._buffer[: len(held)] = held
        self._start, self._end = 0, len(held)
