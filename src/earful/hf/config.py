"""Configurations under the names of the documents, and what they are called in the core."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch

from earful.checkpoint.fields import Fields, shown
from earful.checkpoint.files import write_json
from earful.checkpoint.hub import fetch
from earful.models.voxtral.config import DecoderConfig, EncoderConfig, VoxtralConfig
from earful.models.voxtral.config_files import rope_base_of
from earful.models.voxtral.processor import PUBLISHED_AUDIO, PUBLISHED_IDS
from earful.registry import FAMILIES, open_checkpoint

Rope = dict[str, Any]
ADA_DIM = 32  # of the delay's conditioning; the documents have no name for it


def rope_parameters() -> Rope:
    """The published checkpoint's, in both networks. The reference's default for the encoder, 1e4, is of no model."""
    return {"rope_type": "default", "rope_theta": 1e6}


@dataclass
class Config:
    """Settings by name. Keys of a file that mean nothing here are kept and written again."""

    model_type: ClassVar[str]
    other: dict[str, Any] = field(default_factory=dict, kw_only=True, repr=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Of the content of a config.json; raises ValueError for one of another kind of model."""
        values = deepcopy(values)
        if (kind := values.pop("model_type", cls.model_type)) != cls.model_type:
            raise ValueError(f"expected a config of model_type {cls.model_type}, got {shown(kind)}")
        known = {item.name: values.pop(item.name) for item in fields(cls) if item.name in values}
        return cls(**known, other=values)

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json."""
        named = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "other"}
        plain = {name: value.to_dict() if isinstance(value, Config) else value for name, value in named.items()}
        return deepcopy({**self.other, **plain, "model_type": self.model_type})

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Self:
        """Of a folder or a hub id in any known layout; raises `CheckpointError` for what cannot be read."""
        return cls.from_dict(cls._part_of(read_config(fetch(source, revision))))

    @classmethod
    def _part_of(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The part of a whole model's config.json that is meant."""
        return values

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json; raises `CheckpointError` when it cannot."""
        write_json(Path(folder) / "config.json", self.to_dict())


C = TypeVar("C", bound=Config)


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A folder's config.json or one beside it, or what that would be where the folder is in another layout."""
    if (folder / name).is_file():
        values = dict(Fields.from_file(folder / name).values)
        if not is_foreign(name, values):
            return values
    family, layout, weights = open_checkpoint(folder)
    config = layout.read(folder, weights)
    to_hf = import_module(f"earful.models.{family}.config_hf").to_hf
    return dict(to_hf(config, torch.float32)[name])


def is_foreign(name: str, values: dict[str, Any]) -> bool:
    """Whether a file of this name and content is of another layout than Hugging Face's: Kyutai's have a config.json."""
    layouts = [pair for family in FAMILIES.values() for pair in family.load_layouts().items()]
    return any(kind != "hf" and layout.marker == name and layout.owns(values) for kind, layout in layouts)


@dataclass
class VoxtralRealtimeEncoderConfig(Config):
    model_type = "voxtral_realtime_encoder"

    vocab_size: int = 131072
    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    activation_function: str = "gelu"
    num_mel_bins: int = 128
    initializer_range: float = 0.02
    attention_dropout: float = 0.0
    hidden_act: str = "silu"
    max_position_embeddings: int = 1500
    rms_norm_eps: float = 1e-5
    rope_parameters: Rope | None = None
    sliding_window: int = 750
    head_dim: int = 64
    use_cache: bool = True

    def __post_init__(self) -> None:
        self.rope_parameters = self.rope_parameters or rope_parameters()

    @classmethod
    def _part_of(cls, values: dict[str, Any]) -> dict[str, Any]:
        return dict(values.get("audio_config", values))

    def to_core(self) -> EncoderConfig:
        """Raises ValueError for what the network does not have."""
        only(self, activation_function="gelu", hidden_act="silu", attention_dropout=0)
        return EncoderConfig(
            mels=self.num_mel_bins,
            dim=self.hidden_size,
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            kv_heads=self.num_attention_heads,
            head_dim=self.head_dim,
            mlp_dim=self.intermediate_size,
            window=window_of(self),
            rope_base=rope_base_of(Fields(self.to_dict(), type(self).__name__)),
            norm_eps=self.rms_norm_eps,
        )


@dataclass
class VoxtralRealtimeTextConfig(Config):
    model_type = "voxtral_realtime_text"

    vocab_size: int = 131072
    hidden_size: int = 3072
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    hidden_act: str = "silu"
    max_position_embeddings: int = 131072
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int = 1
    eos_token_id: int = 2
    rope_parameters: Rope | None = None
    sliding_window: int = 8192
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        self.rope_parameters = self.rope_parameters or rope_parameters()

    @classmethod
    def _part_of(cls, values: dict[str, Any]) -> dict[str, Any]:
        return dict(values.get("text_config", values))

    def to_core(self, tied: bool) -> DecoderConfig:
        """Raises ValueError for what the network does not have."""
        only(self, hidden_act="silu", attention_dropout=0)
        return DecoderConfig(
            vocab=self.vocab_size,
            dim=self.hidden_size,
            layers=self.num_hidden_layers,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            mlp_dim=self.intermediate_size,
            window=window_of(self),
            rope_base=rope_base_of(Fields(self.to_dict(), type(self).__name__)),
            norm_eps=self.rms_norm_eps,
            ada_dim=ADA_DIM,
            tied=tied,
        )


@dataclass
class VoxtralRealtimeConfig(Config):
    """Both networks and what joins them; audio_config and text_config may be given as dictionaries."""

    model_type = "voxtral_realtime"

    audio_config: VoxtralRealtimeEncoderConfig = None  # type: ignore[assignment]
    text_config: VoxtralRealtimeTextConfig = None  # type: ignore[assignment]
    projector_hidden_act: str = "gelu"
    audio_length_per_tok: int = 8
    default_num_delay_tokens: int = 6
    downsample_factor: int = 4
    tie_word_embeddings: bool = True
    use_cache: bool = True

    def __post_init__(self) -> None:
        self.audio_config = nested(self.audio_config, VoxtralRealtimeEncoderConfig)
        self.text_config = nested(self.text_config, VoxtralRealtimeTextConfig)
        self.other.pop("hidden_size", None)

    @property
    def hidden_size(self) -> int:
        return self.text_config.hidden_size

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "hidden_size": self.hidden_size}

    def to_core(self) -> VoxtralConfig:
        """With the published front end and special ids. Raises ValueError for what the network does not have."""
        only(self, projector_hidden_act="gelu", audio_length_per_tok=2 * self.downsample_factor)
        text = self.text_config
        filler = text.eos_token_id if text.pad_token_id is None else text.pad_token_id
        return VoxtralConfig(
            self.audio_config.to_core(),
            text.to_core(self.tie_word_embeddings),
            replace(PUBLISHED_AUDIO, bins=self.audio_config.num_mel_bins, delay_slots=self.default_num_delay_tokens),
            replace(PUBLISHED_IDS, bos=text.bos_token_id, eos=text.eos_token_id, filler=filler),
            self.audio_length_per_tok,
            self.downsample_factor,
        )


def nested(value: C | dict[str, Any] | None, kind: type[C]) -> C:
    return value if isinstance(value, kind) else kind.from_dict(value or {})  # type: ignore[arg-type]


def only(config: Config, **expected: object) -> None:
    for name, value in expected.items():
        if (got := getattr(config, name)) != value:
            raise ValueError(f"expected {name} to be {shown(value)}, got {shown(got)}")


def window_of(config: Any) -> int:
    if not isinstance(config.sliding_window, int):
        raise ValueError(f"expected sliding_window to be a number of steps, got {shown(config.sliding_window)}")
    return config.sliding_window


def complete_heads(config: Any) -> None:
    """What follows from other sizes where it is left out; raises ValueError for halves of a gated layer that differ."""
    if config.num_key_value_heads is None:
        config.num_key_value_heads = config.num_attention_heads
    if config.head_dim is None:
        config.head_dim = config.hidden_size // config.num_attention_heads
    if config.ffn_dim % 2:
        raise ValueError(f"expected an even ffn_dim, got {config.ffn_dim}")


def complete_rope(config: Any) -> None:
    """The rotary base under both of its names."""
    config.rope_theta = (config.rope_parameters or {}).get("rope_theta", config.rope_theta)
    config.rope_parameters = {
        "rope_type": "default",
        **(config.rope_parameters or {}),
        "rope_theta": config.rope_theta,
    }
