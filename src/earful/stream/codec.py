"""A live codec, one way or the other: chunks of any length in, whole frames out. Several streams share one model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from earful.audio.frames import Framer
from earful.models.mimi.model import Mimi

CHUNK = 16  # frames to a call at most; more of them wait for each other

Codes = npt.NDArray[np.integer[Any]]


class EncodeStream:
    """Samples to codes. Chunks of any length give the codes of the whole at once."""

    def __init__(self, model: Mimi, codebooks: int | None = None) -> None:
        """codebooks: of the codes, None for all. Raises ValueError for a number that the model does not have."""
        self._model, self._codebooks = model, model.codebooks_of(codebooks)
        self._framer = Framer(model.config.frame_samples, before=0, after=0)
        self._state = model.init_encode_state(1, CHUNK)

    def feed(self, samples: npt.NDArray[np.floating[Any]]) -> Codes:
        """samples: [N] mono float at the model's rate, any N -> codes int64 [Q, T] of the frames that are whole now.

        Raises AudioError for anything else, StreamClosed after `finish`.
        """
        self._framer.feed(samples)
        return self._encode()

    def finish(self) -> Codes:
        """The end of the audio: the last frame, which zeros fill up, if it was begun. int64 [Q, 0 or 1]."""
        self._framer.finish(0)
        return self._encode()

    @torch.inference_mode()
    def _encode(self) -> Codes:
        device = self._state.transformer.pos.device
        codes = [np.zeros((self._codebooks, 0), np.int64)]
        while ready := min(self._framer.ready, CHUNK):
            samples = torch.from_numpy(self._framer.take(ready)).to(device)
            codes.append(self._model.encode(samples[None, None], self._codebooks, self._state)[0].cpu().numpy())
        return np.concatenate(codes, axis=1)


class DecodeStream:
    """Codes to samples. Chunks of any length give the samples of the whole at once; nothing is held back."""

    def __init__(self, model: Mimi) -> None:
        self._model = model
        self._state = model.init_decode_state(1, CHUNK)

    @torch.inference_mode()
    def feed(self, codes: Codes) -> npt.NDArray[np.float32]:
        """codes: integers [Q, T] of the first Q codebooks, any T -> float32 [T * frame_samples].

        Raises ValueError for codes that the model does not have.
        """
        config = self._model.config
        if codes.ndim != 2 or codes.dtype.kind not in "iu" or not 1 <= len(codes) <= config.codebooks:
            raise ValueError(
                f"expected integers [1 to {config.codebooks} codebooks, frames], got {codes.dtype} {list(codes.shape)}"
            )
        if codes.size and not 0 <= codes.min() <= codes.max() < config.codebook_size:
            raise ValueError(f"expected codes of 0 to {config.codebook_size - 1}, got {codes.min()} to {codes.max()}")
        device = self._state.transformer.pos.device
        samples = [np.zeros(0, np.float32)]
        for begin in range(0, codes.shape[1], CHUNK):
            part = torch.from_numpy(codes[None, :, begin : begin + CHUNK].astype(np.int64)).to(device)
            samples.append(self._model.decode(part, self._state)[0, 0].cpu().numpy())
        return np.concatenate(samples)
