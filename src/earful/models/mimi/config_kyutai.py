"""The configuration as Kyutai's files hold it: mostly not at all, for the published model is what they mean.

Source: Kyutai's moshi 0.2.13, models/loaders.py, whose dictionary a mimi_config.json is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, found, read_header, write_json
from earful.errors import CheckpointError
from earful.models.mimi.config import MIMI, MimiConfig
from earful.models.mimi.config_files import checked, ratios_of, require, sizes

CONFIG = "mimi_config.json"
SEANET = {
    "channels": "channels",
    "filters": "n_filters",
    "residual_layers": "n_residual_layers",
    "kernel": "kernel_size",
    "residual_kernel": "residual_kernel_size",
    "last_kernel": "last_kernel_size",
    "dilation_base": "dilation_base",
    "compress": "compress",
    "dim": "dimension",
}
TRANSFORMER = {"layers": "num_layers", "heads": "num_heads", "mlp_dim": "dim_feedforward", "window": "context"}
QUANTIZER = {"codebooks": "n_q", "codebook_size": "bins", "codebook_dim": "dimension"}
# What is the same in every model that is read here.
FIXED_SEANET = {
    "activation": "ELU",
    "causal": True,
    "disable_norm_outer_blocks": 0,
    "norm": "none",
    "pad_mode": "constant",
    "true_skip": True,
}
FIXED_TRANSFORMER = {
    "causal": True,
    "conv_layout": True,
    "gating": "none",
    "norm": "layer_norm",
    "positional_embedding": "rope",
}
NORM_EPS = 1e-5  # of every model


def find_kyutai(folder: Path) -> str | None:
    """The stem of the file with a codec's weights in it, whatever its name: the tensors tell."""
    for name in found(folder):
        if name.endswith(".safetensors") and "quantizer.rvq_first.input_proj.weight" in read_header(folder / name):
            return name.removesuffix(".safetensors")
    return None


def read_kyutai(folder: Path, weights: Weights) -> MimiConfig:
    """From mimi_config.json, without which it is the published model."""
    return from_kyutai(Fields.from_file(folder / CONFIG)) if (folder / CONFIG).is_file() else MIMI


def from_kyutai(fields: Fields) -> MimiConfig:
    """From the contents of a file; raises `CheckpointError` naming the key, and what came instead."""
    seanet, transformer, quantizer = map(fields.block, ("seanet", "transformer", "quantizer"))
    seanet.only(**FIXED_SEANET)
    transformer.only(**FIXED_TRANSFORMER)
    named = {
        **sizes(fields, {"rate_hz": "sample_rate"}, {}),
        **sizes(seanet, SEANET, {}),
        **sizes(transformer, TRANSFORMER, {}),
        **sizes(quantizer, QUANTIZER, {}),
        **sizes(quantizer, {"semantic_codebooks": "n_q_semantic"}, {"semantic_codebooks": 1}),
    }
    dim, heads = named["dim"], named["heads"]
    transformer.only(d_model=dim, input_dimension=dim, output_dimensions=[dim])
    quantizer.only(input_dimension=dim, output_dimension=dim)
    if dim % heads:
        raise CheckpointError(f"{transformer.where}: expected heads that divide a width of {dim}, got {heads}")
    config = MimiConfig(
        **named,
        ratios=ratios_of(seanet, "ratios"),
        head_dim=dim // heads,
        rope_base=transformer.number("max_period", 1, 1e12),
        norm_eps=NORM_EPS,
    )
    fields.only(channels=config.channels, frame_rate=config.frame_rate_hz)
    return checked(config, fields.where)


def mimi_config(config: MimiConfig) -> dict[str, Any]:
    """The mimi_config.json of a model; raises `CheckpointError` for one that it cannot describe."""
    require(config, "Kyutai", norm_eps=NORM_EPS, head_dim=config.dim // config.heads, encodes=True, decodes=True)
    width = {"input_dimension": config.dim}
    return {
        "sample_rate": config.rate_hz,
        "channels": config.channels,
        "frame_rate": config.frame_rate_hz,
        "seanet": {
            **FIXED_SEANET,
            **{key: getattr(config, name) for name, key in SEANET.items()},
            "ratios": list(config.ratios),
        },
        "quantizer": {
            **{key: getattr(config, name) for name, key in QUANTIZER.items()},
            **width,
            "output_dimension": config.dim,
            "n_q_semantic": config.semantic_codebooks,
        },
        "transformer": {
            **FIXED_TRANSFORMER,
            **{key: getattr(config, name) for name, key in TRANSFORMER.items()},
            **width,
            "d_model": config.dim,
            "layer_scale": 0.01,  # where training began
            "max_period": config.rope_base,
            "output_dimensions": [config.dim],
        },
    }


def write_kyutai(config: MimiConfig, folder: Path, dtype: torch.dtype, tokenizer: Path | None) -> None:
    """Raises `CheckpointError` when it cannot."""
    write_json(folder / CONFIG, mimi_config(config))
