"""The configuration of Mimi under the names of the documents."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

from earful.checkpoint.fields import Fields, shown
from earful.hf.config import Config, Rope, only
from earful.models.mimi import config as core
from earful.models.mimi.config_hf import from_hf

RATIOS = (8, 6, 5, 4)
HALVES = ("encoder_config", "decoder_config")


@dataclass
class MimiConfig(Config):
    """Sizes of a codec; the defaults are those of the published one.

    Left out, upsampling_ratios are 8, 6, 5, 4, rope_parameters of the base 10 000, head_dim and frame_rate what follows
    from the others. encoder_config or decoder_config of None: without that half, which otherwise follows from the
    sizes. Raises ValueError for codebooks that are not more than the semantic ones or of no power of two, and for
    halves with sizes of their own.
    """

    model_type = "mimi"

    sampling_rate: int = 24_000
    audio_channels: int = 1
    hidden_size: int = 512
    num_filters: int = 64
    num_residual_layers: int = 1
    upsampling_ratios: list[int] | None = None
    kernel_size: int = 7
    last_kernel_size: int = 3
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = True
    pad_mode: str = "constant"
    compress: int = 2
    trim_right_ratio: float = 1.0
    codebook_size: int = 2048
    codebook_dim: int = 256
    num_quantizers: int = 32
    use_conv_shortcut: bool = False
    vector_quantization_hidden_dimension: int = 256
    num_semantic_quantizers: int = 1
    upsample_groups: int = 512
    num_hidden_layers: int = 8
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    num_key_value_heads: int = 8
    head_dim: int | None = None
    hidden_act: str = "gelu"
    max_position_embeddings: int = 8000
    initializer_range: float = 0.02
    norm_eps: float = 1e-5
    use_cache: bool = False
    use_streaming: bool = False
    rope_parameters: Rope | None = None
    sliding_window: int = 250
    attention_dropout: float = 0.0
    layer_scale_initial_scale: float = 0.01
    attention_bias: bool = False
    tie_word_embeddings: bool = True
    frame_rate: float | None = None
    encoder_config: dict[str, Any] | None = field(default_factory=dict)
    decoder_config: dict[str, Any] | None = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.upsampling_ratios = list(self.upsampling_ratios or RATIOS)
        self.rope_parameters = self.rope_parameters or {"rope_type": "default", "rope_theta": 1e4}
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.frame_rate = self.frame_rate or self.sampling_rate / self.frame_size
        if self.num_semantic_quantizers >= self.num_quantizers:
            raise ValueError(
                f"expected num_semantic_quantizers below the {self.num_quantizers} quantizers in all, "
                f"got {self.num_semantic_quantizers}"
            )
        if self.codebook_size < 1 or self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f"expected codebook_size to be a power of 2, got {shown(self.codebook_size)}")
        for name in HALVES:
            if getattr(self, name):
                raise ValueError(f"expected {name} to be None or left out, got {shown(getattr(self, name))}")
        if self.encoder_config is self.decoder_config is None:
            raise ValueError("expected an encoder, a decoder or both, got neither")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Of the content of a config.json, old ones included; raises ValueError for one of another kind of model."""
        values = dict(values)
        if (frame_rate := values.pop("_frame_rate", None)) is not None:
            values["frame_rate"] = frame_rate
        if "rope_theta" in values:
            values["rope_parameters"] = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
        return super().from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json; of a half only that it is left out is written."""
        values = super().to_dict()
        return {name: value for name, value in values.items() if name not in HALVES or value is None}

    @property
    def frame_size(self) -> int:
        """Samples to a frame of codes."""
        return self._hop * core.STEPS_PER_FRAME

    @property
    def encodec_frame_rate(self) -> int:
        """Steps per second inside."""
        return math.ceil(self.sampling_rate / self._hop)

    @property
    def latent_stride(self) -> int:
        """Steps to a frame of codes."""
        assert self.frame_rate is not None
        return int(self.encodec_frame_rate / self.frame_rate)

    @property
    def latent_dim(self) -> int:
        return self.hidden_size

    @property
    def num_codebooks(self) -> int:
        return self.num_quantizers

    @property
    def _hop(self) -> int:
        assert self.upsampling_ratios is not None
        return math.prod(self.upsampling_ratios)

    def to_core(self) -> core.MimiConfig:
        """Raises ValueError for what the network does not have."""
        only(self, attention_dropout=0)
        return from_hf(Fields(self.to_dict(), type(self).__name__))
