"""Signals that end inside a frame, as transformers takes them.

Elsewhere here, and in Kyutai's code, zeros behind the samples fill up the last frame. In transformers each convolution
fills up its own last window instead, so that the codes of that frame can differ; those before it are the same.
Source: transformers 5.23, models/mimi.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from earful.models.mimi.model import EncoderStage, Mimi


def encode_ragged(model: Mimi, samples: Tensor, codebooks: int) -> Tensor:
    """samples: [B, channels, N] of any N > 0 -> codes int64 [B, codebooks, ceil(N / frame_samples)]."""
    if not (model.config.encodes and samples.shape[-1] % model.config.frame_samples):
        return model.encode(samples, codebooks)  # which a codec that only decodes refuses
    x = model.encoder.first(samples)
    for stage in model.encoder.stages:
        assert isinstance(stage, EncoderStage)
        for block in stage.residuals:
            x = block(x, None, None)
        x = stage.resample(filled(F.elu(x), stage.resample.stride))
    x = model.encoder_transformer(model.encoder.last(F.elu(x)))
    latents = model.downsample(filled(x, model.downsample.stride, "replicate"))  # [B, D, T]
    return model.quantizer.encode(latents.transpose(1, 2), codebooks)


def filled(x: Tensor, stride: int, mode: str = "constant") -> Tensor:
    """x: [B, C, T] -> T up to the next multiple of the stride."""
    return F.pad(x, (0, -x.shape[-1] % stride), mode)
