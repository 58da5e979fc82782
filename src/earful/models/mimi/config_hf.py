"""The configuration as Hugging Face's files hold it.

Source: transformers 5.23, models/mimi; the published checkpoint, kyutai/mimi.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, write_json
from earful.models.mimi.config import MIMI, MimiConfig
from earful.models.mimi.config_files import checked, published, ratios_of, require, sizes

KEYS = {
    "rate_hz": "sampling_rate",
    "channels": "audio_channels",
    "filters": "num_filters",
    "residual_layers": "num_residual_layers",
    "kernel": "kernel_size",
    "residual_kernel": "residual_kernel_size",
    "last_kernel": "last_kernel_size",
    "dilation_base": "dilation_growth_rate",
    "compress": "compress",
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "window": "sliding_window",
    "codebooks": "num_quantizers",
    "semantic_codebooks": "num_semantic_quantizers",
    "codebook_size": "codebook_size",
    "codebook_dim": "codebook_dim",
}
RATIOS = "upsampling_ratios"
# What is the same in every model that is read here.
FIXED = {
    "attention_bias": False,
    "hidden_act": "gelu",
    "pad_mode": "constant",
    "trim_right_ratio": 1.0,
    "use_causal_conv": True,
    "use_conv_shortcut": False,
}
# What a file says beside; nothing here reads it.
BESIDE = {
    "_frame_rate": None,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "layer_scale_initial_scale": 0.01,
    "max_position_embeddings": 8000,
    "tie_word_embeddings": True,
    "use_cache": False,
    "use_streaming": False,
}


def is_hf(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "mimi"


def read_hf(folder: Path, weights: Weights) -> MimiConfig:
    """From config.json; raises `CheckpointError` like `from_hf`."""
    return from_hf(Fields.from_file(folder / "config.json"))


def from_hf(fields: Fields) -> MimiConfig:
    """From a config.json, or the part of one; raises `CheckpointError` naming the key, and what came instead."""
    fields.only(**FIXED)
    config = MimiConfig(
        **sizes(fields, KEYS, published(list(KEYS))),
        ratios=MIMI.ratios
        if fields.values.get("upsampling_ratios") is None
        else ratios_of(fields, "upsampling_ratios"),
        head_dim=0,
        rope_base=_rope_base(fields),
        norm_eps=fields.number("norm_eps", 0, 1, MIMI.norm_eps),
        # A half that is left out is null; one that is there goes without saying.
        encodes=fields.values.get("encoder_config", {}) is not None,
        decodes=fields.values.get("decoder_config", {}) is not None,
    )
    head_dim = config.dim // config.heads
    if fields.values.get("head_dim") is not None:
        head_dim = fields.whole("head_dim", 2, 1 << 10)
    fields.only(
        num_key_value_heads=config.heads,
        upsample_groups=config.dim,
        vector_quantization_hidden_dimension=config.codebook_dim,
    )
    for key in ("frame_rate", "_frame_rate"):
        if fields.values.get(key) is not None:
            fields.only(**{key: config.frame_rate_hz})
    return checked(replace(config, head_dim=head_dim), fields.where)


def _rope_base(fields: Fields) -> float:
    rope = fields.block("rope_parameters") if fields.values.get("rope_parameters") is not None else fields
    rope.only(rope_type="default")
    return rope.number("rope_theta", 1, 1e12, MIMI.rope_base)


def config_json(config: MimiConfig, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The config.json of a model, as transformers 5.23 has it; raises `CheckpointError` for one that it cannot be."""
    require(config, "Hugging Face", codebook_size=1 << (config.codebook_size.bit_length() - 1))
    document = {
        **FIXED,
        **BESIDE,
        **{key: getattr(config, name) for name, key in KEYS.items()},
        "architectures": ["MimiModel"],
        "dtype": str(dtype).removeprefix("torch."),
        "head_dim": config.head_dim,
        "model_type": "mimi",
        "norm_eps": config.norm_eps,
        "num_key_value_heads": config.heads,
        "rope_parameters": {"rope_theta": config.rope_base, "rope_type": "default"},
        "upsample_groups": config.dim,
        RATIOS: list(config.ratios),
        "vector_quantization_hidden_dimension": config.codebook_dim,
    }
    absent = {"encoder_config": config.encodes, "decoder_config": config.decodes}
    return document | {key: None for key, there in absent.items() if not there}


def extractor_json(config: MimiConfig) -> dict[str, Any]:
    """The preprocessor_config.json of a model."""
    return {
        "chunk_length_s": None,
        "feature_extractor_type": "EncodecFeatureExtractor",
        "feature_size": config.channels,
        "overlap": None,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": config.rate_hz,
    }


def to_hf(config: MimiConfig, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """The files beside the weights, by name; raises `CheckpointError` like `config_json`."""
    return {"config.json": config_json(config, dtype), "preprocessor_config.json": extractor_json(config)}


def write_hf(config: MimiConfig, folder: Path, dtype: torch.dtype, tokenizer: Path | None) -> None:
    """What `to_hf` gives; raises `CheckpointError` when it cannot."""
    for name, document in to_hf(config, dtype).items():
        write_json(folder / name, document)
