"""Features and what carries them to the model, under the names of the documents."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earful.checkpoint.hub import fetch
from earful.models.voxtral.config import AudioConfig
from earful.models.voxtral.processor import VoxtralProcessor, mel, to_float

Clip = npt.NDArray[Any]
TENSOR_TYPES = ("pt", "np", None)


class BatchFeature(UserDict[str, Any]):
    """A dictionary whose entries are attributes too.

    tensor_type: "pt" or "np" makes tensors or arrays of all values, None leaves them; raises ValueError for others.
    """

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: str | None = None) -> None:
        super().__init__(data or {})
        if tensor_type not in TENSOR_TYPES:
            raise ValueError(f"expected return_tensors of 'pt', 'np' or None, got {tensor_type!r}")
        if tensor_type:
            make = torch.as_tensor if tensor_type == "pt" else np.asarray
            self.data = {key: make(value) for key, value in self.data.items()}

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:  # before __init__, copy and pickle look for names too
            raise AttributeError(name)
        return self.data[name]

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the tensors as `Tensor.to` does, types being changed of floats only. Changes and returns this object."""
        # The arguments are read by moving a float; others get the device alone.
        device = torch.empty(0).to(*args, **kwargs).device
        named = bool(args and not isinstance(args[0], torch.dtype)) or kwargs.get("device") is not None

        def move(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.is_floating_point():
                return value.to(*args, **kwargs)
            return value.to(device, non_blocking=kwargs.get("non_blocking", False)) if named else value

        self.data = {key: move(value) for key, value in self.data.items()}
        return self


class VoxtralRealtimeFeatureExtractor:
    """Log-mel features.

    n_fft: the size of the Fourier transform and its window, which the published checkpoint has at 400; win_length is
    only passed on. global_log_mel_max: the loudest log10 power, None for the loudest of the batch.
    """

    model_input_names = ("input_features", "attention_mask")

    def __init__(
        self,
        feature_size: int = 128,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        n_fft: int = 400,
        win_length: int = 400,
        padding_value: float = 0.0,
        global_log_mel_max: float | None = 1.5,
    ) -> None:
        if padding_value != 0:
            raise ValueError(f"expected padding_value to be 0.0, got {padding_value}")
        self.feature_size = feature_size
        self.sampling_rate = sampling_rate
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.win_length = win_length
        self.padding_value = padding_value
        self.global_log_mel_max = global_log_mel_max

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Self:
        """Of a folder or a hub id in any known layout; raises `CheckpointError` for what cannot be read."""
        return cls.of(VoxtralProcessor.from_folder(fetch(source, revision)).audio)

    @classmethod
    def of(cls, audio: AudioConfig) -> Self:
        """The same front end under the documents' names."""
        return cls(audio.bins, audio.rate_hz, audio.hop, audio.window, audio.window, global_log_mel_max=audio.log_max)

    def __call__(
        self,
        raw_speech: Any,
        *,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        padding: bool | str = True,
        center: bool = True,
    ) -> BatchFeature:
        """Features [B, feature_size, F] of one clip or a list of them, the shorter ones followed by silence.

        raw_speech: arrays, tensors or lists of floats in -1..1, or arrays of int16. center: whole signals; otherwise
        pieces of one, whose last frame is dropped. Raises ValueError for another rate, shape or type.
        """
        require_rate(sampling_rate, self.sampling_rate)
        require_padding(padding)
        audio = AudioConfig(
            rate_hz=self.sampling_rate,
            hop=self.hop_length,
            window=self.n_fft,
            bins=self.feature_size,
            log_max=self.global_log_mel_max,
            left_slots=0,
            delay_slots=1,
        )
        features = mel([to_float(clip) for clip in clips_of(raw_speech)], audio, center)
        return BatchFeature({"input_features": features}, return_tensors)


def clips_of(audio: Any) -> list[Clip]:
    """One clip or several, in any of the forms that the documents allow, as a list of arrays."""
    if isinstance(audio, (list, tuple)) and audio and not np.isscalar(audio[0]):
        return [_array(clip) for clip in audio]
    clip = _array(audio)
    return list(clip) if clip.ndim == 2 else [clip]


def _array(clip: Tensor | Clip | Sequence[float]) -> Clip:
    if isinstance(clip, Tensor):
        return clip.detach().cpu().numpy()
    return np.asarray(clip)


def require_rate(got: int | None, expected: int) -> None:
    if got is not None and got != expected:
        raise ValueError(f"expected audio at {expected} Hz, got {got} Hz: resample it first")


def require_padding(padding: bool | str) -> None:
    if padding not in (True, "longest"):
        raise ValueError(f"expected padding of True or 'longest', got {padding!r}")
