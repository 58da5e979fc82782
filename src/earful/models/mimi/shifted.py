"""One recording heard from several fractions of a frame on, whose codes differ: material to train on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from earful.models.mimi.config import STEPS_PER_FRAME
from earful.models.mimi.model import Mimi


def shifted_latents(codec: Mimi, samples: Tensor, shifts: int) -> Tensor:
    """The latents of samples [B, channels, N] and of what is left of them from each further fraction of a frame on:
    [shifts B, D, T]. What costs most, the convolutions near the samples, is computed once.

    Raises ValueError where no step of the encoder's last stage begins at each of the fractions.
    """
    *stages, last = codec.encoder.stages
    steps = STEPS_PER_FRAME * codec.config.ratios[0]  # of the last stage to a frame
    if steps % shifts:
        raise ValueError(f"expected a number of shifts that divides {steps}, got {shifts}")
    x = codec.encoder.first(F.pad(samples, (0, codec.config.frame_samples)))
    for stage in stages:
        x = stage(x, None, None)
    x = torch.cat([x[..., shift : shift + x.shape[-1] - steps] for shift in range(0, steps, steps // shifts)])
    x = codec.encoder.last(F.elu(last(x, None, None)))
    return codec.downsample(codec.encoder_transformer(x))  # type: ignore[no-any-return]
