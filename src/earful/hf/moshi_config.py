"""The configurations of Moshi under the names of the documents."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Self

from earful.checkpoint.fields import Fields
from earful.hf.config import Config, Rope, complete_heads, complete_rope, nested, only
from earful.hf.mimi_config import MimiConfig
from earful.models.moshi.config import MOSHI_7B, DepthConfig, TemporalConfig
from earful.models.moshi.config import MoshiConfig as Core
from earful.models.moshi.config_hf import from_hf

GENERATION = "generation_config.json"  # how ids are chosen, and in its block CHOICE how codes are
CHOICE = "depth_decoder_config"


@dataclass
class MoshiDepthConfig(Config):
    """Sizes of the depth decoder; the defaults are the published ones.

    What is left out follows from the rest as in `MoshiConfig`.
    """

    model_type = "moshi_depth"

    vocab_size: int = 32000
    hidden_size: int = 1024
    input_size: int = 4096
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    audio_vocab_size: int = 2048
    max_position_embeddings: int = 9
    hidden_act: str = "silu"
    head_dim: int | None = None
    initializer_range: float = 0.02
    use_cache: bool = True
    sliding_window: int = 8
    attention_dropout: float = 0.0
    ffn_dim: int = 5632
    rms_norm_eps: float = 1e-8
    num_codebooks: int = 8
    tie_word_embeddings: bool = False
    output_hidden_states: bool = field(default=False, kw_only=True)
    output_attentions: bool = field(default=False, kw_only=True)
    return_dict: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        complete_heads(self)

    @classmethod
    def _part_of(cls, values: dict[str, Any]) -> dict[str, Any]:
        return dict(values.get("depth_decoder_config", values))

    def to_core(self) -> tuple[DepthConfig, TemporalConfig]:
        """Of the depth decoder alone, and of a model around it; raises ValueError for what the network has not."""
        only(self, hidden_act="silu", attention_dropout=0, tie_word_embeddings=False)
        only(self, num_key_value_heads=self.num_attention_heads)
        assert self.head_dim is not None
        depth = DepthConfig(
            dim=self.hidden_size,
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            head_dim=self.head_dim,
            mlp_dim=self.ffn_dim // 2,
            norm_eps=self.rms_norm_eps,
            schedule=tuple(range(self.num_codebooks)),
        )
        beside = replace(
            MOSHI_7B.temporal, dim=self.input_size, text_vocab=self.vocab_size, audio_vocab=self.audio_vocab_size
        )
        return depth, beside


@dataclass
class MoshiConfig(Config):
    """Sizes of the whole model; the defaults are those of moshiko, codec and depth decoder included.

    Left out, num_key_value_heads are as many as num_attention_heads, head_dim is hidden_size divided by these, and
    audio_vocab_size that of the codec. ffn_dim counts both halves of the gated layer: raises ValueError for an odd one.
    rope_parameters hold rope_theta under its newer name. audio_encoder_config and depth_decoder_config, for which the
    page also says depth__config, may be given as dictionaries; one of the latter takes from here what must agree.
    Raises ValueError for more codebooks than the codec has.
    """

    model_type = "moshi"

    vocab_size: int = 32000
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    audio_vocab_size: int | None = None
    max_position_embeddings: int = 3000
    rope_theta: float = 10000.0
    hidden_act: str = "silu"
    head_dim: int | None = None
    initializer_range: float = 0.02
    use_cache: bool = True
    sliding_window: int = 3000
    attention_dropout: float = 0.0
    ffn_dim: int = 22528
    rms_norm_eps: float = 1e-8
    num_codebooks: int = 8
    tie_word_embeddings: bool = False
    audio_encoder_config: MimiConfig = field(default=None, kw_only=True)  # type: ignore[assignment]
    depth_decoder_config: MoshiDepthConfig = field(default=None, kw_only=True)  # type: ignore[assignment]
    rope_parameters: Rope | None = field(default=None, kw_only=True)
    output_hidden_states: bool = field(default=False, kw_only=True)
    output_attentions: bool = field(default=False, kw_only=True)
    return_dict: bool = field(default=True, kw_only=True)
    depth__config: InitVar[MoshiDepthConfig | dict[str, Any] | None] = field(default=None, kw_only=True)

    def __post_init__(self, depth__config: MoshiDepthConfig | dict[str, Any] | None) -> None:
        if self.depth_decoder_config is not None and depth__config is not None:
            raise ValueError("expected depth_decoder_config or its other name depth__config, got both")
        complete_heads(self)
        complete_rope(self)
        self.audio_encoder_config = nested(self.audio_encoder_config, MimiConfig)
        if self.audio_vocab_size is None:
            self.audio_vocab_size = self.audio_encoder_config.codebook_size
        if self.num_codebooks > self.audio_encoder_config.num_codebooks:
            raise ValueError(
                f"expected num_codebooks of at most the {self.audio_encoder_config.num_codebooks} of the codec, "
                f"got {self.num_codebooks}"
            )
        depth: Any = self.depth_decoder_config or depth__config or {}
        if isinstance(depth, dict):
            depth = {**depth, **self._shared()}
        self.depth_decoder_config = nested(depth, MoshiDepthConfig)

    def _shared(self) -> dict[str, Any]:
        """What the depth decoder must have in common with the rest."""
        return {
            "audio_vocab_size": self.audio_vocab_size,
            "input_size": self.hidden_size,
            "vocab_size": self.vocab_size,
            "num_codebooks": self.num_codebooks,
        }

    @classmethod
    def from_audio_encoder_config(cls, audio_encoder_config: MimiConfig, **kwargs: Any) -> Self:
        """Around this codec; the other arguments are those of the class."""
        return cls(audio_encoder_config=nested(audio_encoder_config.to_dict(), MimiConfig), **kwargs)

    @property
    def sampling_rate(self) -> int:
        return self.audio_encoder_config.sampling_rate

    def to_core(self) -> Core:
        """Raises ValueError for what the network does not have."""
        only(self, attention_dropout=0)
        only(self.depth_decoder_config, attention_dropout=0, **self._shared())
        return from_hf(Fields(self.to_dict(), type(self).__name__))

    def to_temporal(self) -> TemporalConfig:
        """Of the text decoder alone, which takes no codes. Raises ValueError for what the network does not have."""
        return replace(self.to_core().temporal, codebooks=0)
