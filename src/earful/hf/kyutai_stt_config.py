"""The configuration of Kyutai Speech-To-Text under the names of the documents."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field, replace
from typing import Any

from earful.hf.config import Config, Rope, complete_heads, complete_rope, nested, only, window_of
from earful.hf.mimi_config import MimiConfig
from earful.models.kyutai_stt.config import PRESETS, KyutaiSttConfig
from earful.models.moshi.config import TemporalConfig

PUBLISHED = PRESETS["stt-2.6b-en"]


@dataclass
class KyutaiSpeechToTextConfig(Config):
    """Sizes of the language model, and of the codec in it; the defaults are those of stt-2.6b-en.

    Left out, num_key_value_heads are as many as num_attention_heads, and head_dim is hidden_size divided by these.
    ffn_dim counts both halves of the gated layer: raises ValueError for an odd one. rope_parameters hold rope_theta
    under its newer name; audio_encoder_config is another name of codec_config, which may be given as a dictionary.
    bos_token_id: where it is no text id, as in the published files, the model's own start id is meant.
    """

    model_type = "kyutai_speech_to_text"

    codebook_vocab_size: int = 2049
    vocab_size: int = 4001
    hidden_size: int = 2048
    num_hidden_layers: int = 48
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 750
    rope_theta: float = 100000.0
    hidden_act: str = "silu"
    head_dim: int | None = None
    initializer_range: float = 0.02
    use_cache: bool = True
    sliding_window: int = 375
    attention_dropout: float = 0.0
    ffn_dim: int = 11264
    rms_norm_eps: float = 1e-8
    num_codebooks: int = 32
    audio_bos_token_id: int | None = 2048
    audio_pad_token_id: int | None = 69569
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 3
    bos_token_id: int | None = 48000
    codec_config: MimiConfig = None  # type: ignore[assignment]
    eos_token_id: int | list[int] | None = field(default=None, kw_only=True)
    rope_parameters: Rope | None = field(default=None, kw_only=True)
    output_hidden_states: bool = field(default=False, kw_only=True)
    output_attentions: bool = field(default=False, kw_only=True)
    return_dict: bool = field(default=True, kw_only=True)
    audio_encoder_config: InitVar[MimiConfig | dict[str, Any] | None] = field(default=None, kw_only=True)

    def __post_init__(self, audio_encoder_config: MimiConfig | dict[str, Any] | None) -> None:
        if self.codec_config is not None and audio_encoder_config is not None:
            raise ValueError("expected codec_config or its other name audio_encoder_config, got both")
        self.codec_config = nested(self.codec_config or audio_encoder_config, MimiConfig)
        complete_heads(self)
        complete_rope(self)
        self.other.pop("frame_size", None)

    @property
    def frame_size(self) -> int:
        """Samples to a frame of codes."""
        return self.codec_config.frame_size

    @property
    def start_ids(self) -> tuple[int, int]:
        """The text id and the code of the first position: the last row of each table where the config names none."""
        text, code = self.bos_token_id, self.audio_bos_token_id
        return (
            self.vocab_size - 1 if text is None or text >= self.vocab_size else text,
            self.codebook_vocab_size - 1 if code is None else code,
        )

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "frame_size": self.frame_size}

    def to_core(self) -> KyutaiSttConfig:
        """With the delay of the published model. Raises ValueError for what the network does not have."""
        pad = PUBLISHED.pad_id if self.pad_token_id is None else self.pad_token_id
        return replace(PUBLISHED, temporal=self.to_temporal(), codec=self.codec_config.to_core(), pad_id=pad)

    def to_temporal(self) -> TemporalConfig:
        """Of the language model alone. Raises ValueError for what the network does not have."""
        only(self, hidden_act="silu", attention_dropout=0, tie_word_embeddings=False)
        only(self, num_key_value_heads=self.num_attention_heads)
        rope = self.rope_parameters or {}
        if rope.get("rope_type") != "default":
            raise ValueError(f"expected a rope_type of default, got {rope.get('rope_type')}")
        assert self.head_dim is not None
        return TemporalConfig(
            dim=self.hidden_size,
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            head_dim=self.head_dim,
            mlp_dim=self.ffn_dim // 2,
            window=window_of(self),
            rope_base=float(self.rope_theta),
            norm_eps=self.rms_norm_eps,
            text_vocab=self.vocab_size - 1,
            codebooks=self.num_codebooks,
            audio_vocab=self.codebook_vocab_size - 1,
        )
