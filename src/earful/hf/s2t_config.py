"""The configuration of Speech2Text under the names of the documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from earful.checkpoint.fields import Fields
from earful.hf.config import Config
from earful.models.s2t.config import S2tConfig
from earful.models.s2t.config_hf import from_hf


@dataclass
class Speech2TextConfig(Config):
    """Sizes of the network; the defaults are those of the small published one.

    Raises ValueError for conv_kernel_sizes of another number than num_conv_layers.
    """

    model_type = "speech_to_text"

    vocab_size: int = 10000
    encoder_layers: int = 12
    encoder_ffn_dim: int = 2048
    encoder_attention_heads: int = 4
    decoder_layers: int = 6
    decoder_ffn_dim: int = 2048
    decoder_attention_heads: int = 4
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    use_cache: bool = True
    is_encoder_decoder: bool = True
    activation_function: str = "relu"
    d_model: int = 256
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    init_std: float = 0.02
    decoder_start_token_id: int = 2
    scale_embedding: bool = True
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    max_source_positions: int = 6000
    max_target_positions: int = 1024
    num_conv_layers: int = 2
    conv_kernel_sizes: Sequence[int] = (5, 5)
    conv_channels: int = 1024
    input_feat_per_channel: int = 80
    input_channels: int = 1
    tie_word_embeddings: bool = field(default=True, kw_only=True)
    output_hidden_states: bool = field(default=False, kw_only=True)
    output_attentions: bool = field(default=False, kw_only=True)
    return_dict: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        self.conv_kernel_sizes = list(self.conv_kernel_sizes)
        if len(self.conv_kernel_sizes) != self.num_conv_layers:
            raise ValueError(
                f"expected conv_kernel_sizes of {self.num_conv_layers} layers as in num_conv_layers, "
                f"got {self.conv_kernel_sizes}"
            )

    @property
    def hidden_size(self) -> int:
        return self.d_model

    @property
    def num_attention_heads(self) -> int:
        return self.encoder_attention_heads

    @property
    def num_hidden_layers(self) -> int:
        return self.encoder_layers

    def to_core(self) -> S2tConfig:
        """With the published search, unless older files say otherwise. Raises ValueError for what there is not."""
        return from_hf(Fields(self.to_dict(), type(self).__name__))
