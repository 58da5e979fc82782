"""Waveforms in batches, as codecs take them, under the names of the documents."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from earful.audio.frames import as_samples
from earful.checkpoint.fields import shown
from earful.errors import AudioError
from earful.hf.extractor import Extractor, strategy_of
from earful.hf.features import TENSOR_TYPES, BatchFeature, require_rate

Samples = npt.NDArray[np.float32]


@dataclass
class EncodecFeatureExtractor(Extractor):
    """Clips of one rate as one batch. return_attention_mask means nothing here: whether there is one, padding decides.

    feature_size: channels; a clip is [N] where there is one and [channels, N] where there are more. chunk_length_s,
    overlap: for models that work in chunks; clips are then padded, or cut, to a whole number of these.
    """

    model_input_names: ClassVar[tuple[str, ...]] = ("input_values", "padding_mask")

    feature_size: int = 1
    sampling_rate: int = 24000
    padding_value: float = 0.0
    chunk_length_s: float | None = None
    overlap: float | None = None

    @property
    def chunk_length(self) -> int | None:
        """Samples in a chunk."""
        return None if self.chunk_length_s is None else int(self.chunk_length_s * self.sampling_rate)

    @property
    def chunk_stride(self) -> int | None:
        """Samples from the start of a chunk to the start of the next."""
        if self.chunk_length is None or self.overlap is None:
            return None
        return max(1, int((1.0 - self.overlap) * self.chunk_length))

    def __call__(
        self,
        raw_audio: Any,
        padding: bool | str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """input_values [B, channels, N] of one clip or a list; with padding also padding_mask [B, N], 1 where real.

        raw_audio: arrays, tensors or lists of floats in -1..1, or arrays of int16. padding: True (which None means) or
        "longest", "max_length", or False or "do_not_pad". truncation: cut what is longer than max_length. Without
        return_tensors ("pt" or "np") the values are a list of arrays, which may differ in length.
        Warns where no sampling_rate is given. Raises ValueError for another one, for clips of another shape, padding
        together with truncation, a missing max_length, and for tensors of clips that differ in length.
        """
        if sampling_rate is None:
            warnings.warn(f"expected sampling_rate beside the audio, got none: {self.sampling_rate} Hz?", stacklevel=2)
        require_rate(sampling_rate, self.sampling_rate)
        if padding and truncation:
            raise ValueError("expected padding or truncation, got both")
        if return_tensors not in TENSOR_TYPES:
            raise ValueError(f"expected return_tensors of 'pt', 'np' or None, got {return_tensors!r}")
        clips = [self._checked(clip) for clip in clips_of(raw_audio)]
        strategy = strategy_of(padding)
        if max_length is None and self.chunk_stride is not None and (truncation or padding is not False):
            max_length = self._whole_chunks([clip.shape[-1] for clip in clips], truncation)
            strategy = "longest" if truncation else "max_length"
        if max_length is None and (truncation or strategy == "max_length"):
            raise ValueError("expected max_length beside truncation or padding='max_length', got none")
        if truncation:
            clips = [clip[..., :max_length] for clip in clips]
        masks = [np.ones(clip.shape[-1], np.int32) for clip in clips]
        if strategy == "longest":
            max_length = max(clip.shape[-1] for clip in clips)
        if strategy != "do_not_pad":
            assert max_length is not None
            clips = [self._padded(clip, max_length, self.padding_value) for clip in clips]
            masks = [self._padded(mask, max_length, 0) for mask in masks]
        return batch_of(clips, None if padding is False else masks, return_tensors)

    def _checked(self, clip: npt.NDArray[Any]) -> Samples:
        expected = 1 if self.feature_size == 1 else 2
        if clip.ndim != expected or (expected == 2 and len(clip) != self.feature_size):
            shape = "[N]" if expected == 1 else f"[{self.feature_size}, N]"
            raise AudioError(f"expected audio of shape {shape}, got {list(clip.shape)}")
        flat = clip.reshape(-1)
        return as_samples(flat / np.float32(32768) if clip.dtype == np.int16 else flat).reshape(clip.shape)

    def _whole_chunks(self, lengths: Sequence[int], truncation: bool) -> int:
        stride, length = self.chunk_stride, self.chunk_length
        assert stride is not None
        assert length is not None
        steps = min(lengths) // stride if truncation else -(-max(lengths) // stride)
        return (steps - 1) * stride + length

    def _padded(self, clip: npt.NDArray[Any], least: int, value: float) -> npt.NDArray[Any]:
        missing = max(0, least - clip.shape[-1])
        sides = (0, missing) if self.padding_side == "right" else (missing, 0)
        return np.pad(clip, [(0, 0)] * (clip.ndim - 1) + [sides], constant_values=value)


def clips_of(audio: Any) -> list[npt.NDArray[Any]]:
    """One clip or a list of them as a list of arrays."""
    if isinstance(audio, (list, tuple)):
        if not audio:
            raise ValueError("expected a clip or a list of clips, got an empty list")
        if isinstance(audio[0], (list, tuple, np.ndarray, Tensor)):
            return [_array(clip) for clip in audio]
    return [_array(audio)]


def _array(clip: Any) -> npt.NDArray[Any]:
    if isinstance(clip, Tensor):
        return clip.detach().cpu().numpy()
    return clip if isinstance(clip, np.ndarray) else np.asarray(clip, np.float32)


def batch_of(clips: list[Samples], masks: list[npt.NDArray[Any]] | None, return_tensors: str | None) -> BatchFeature:
    """Clips [N] or [channels, N] and their masks [N] under the names of the documents."""
    lengths = sorted({clip.shape[-1] for clip in clips})
    if return_tensors and len(lengths) > 1:
        raise ValueError(f"expected clips of one length to make a tensor, got {shown(lengths)}: ask for padding")
    values: list[npt.NDArray[Any]] = [np.atleast_2d(clip) for clip in clips]
    batch: dict[str, Any] = {"input_values": np.stack(values) if return_tensors else values}
    if masks is not None:
        batch["padding_mask"] = np.stack(masks) if len(lengths) == 1 else masks
    return BatchFeature(batch, return_tensors)
