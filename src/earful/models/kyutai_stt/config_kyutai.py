"""The configuration as Kyutai's files hold it: config.json, which also names the files of weights and tokenizer.

Source: the published checkpoints, kyutai/stt-1b-en_fr, its -candle twin and kyutai/stt-2.6b-en; moshi 0.2.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, write_json
from earful.models.kyutai_stt.config import KyutaiSttConfig
from earful.models.kyutai_stt.config_files import HORIZONS_S, MAX_DELAY_S, checked
from earful.models.moshi.config_kyutai import codec_json, codec_of, temporal_json, temporal_of, write_beside

# What is the same in every model that is read here, and what a file means by a key that it leaves out.
FIXED = {"cross_attention": False, "dep_q": 0}
# What a file says of a depth model that is not there.
DEPTH = {
    "depformer_dim": 1024,
    "depformer_dim_feedforward": None,
    "depformer_multi_linear": True,
    "depformer_num_heads": 16,
    "depformer_num_layers": 6,
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
}
HEAD = re.compile(r"extra_heads\.(0|[1-9][0-9]*)\.weight")


def is_kyutai(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a model that only listens; Moshi itself has a depth model that speaks."""
    return config.get("model_type") == "stt" or (config.get("dep_q") == 0 and "text_card" in config)


def read_kyutai(folder: Path, weights: Weights) -> KyutaiSttConfig:
    """From config.json; raises `CheckpointError` naming file and key, and what came instead."""
    fields = Fields.from_file(folder / "config.json")
    fields.only(**FIXED)
    temporal = temporal_of(fields)
    if fields.values.get("conditioners"):  # without any, a fuser has nothing to do
        raise fields.unfit("conditioners", "none")
    channels = temporal.codebooks + 1
    if fields.values.get("delays", [0] * channels) != [0] * channels:
        raise fields.unfit("delays", f"{channels} zeros")
    stt = fields.block("stt_config", {})
    vad_heads, vad_classes = heads_of(fields, weights)
    config = KyutaiSttConfig(
        temporal,
        codec_of(folder, fields),
        vad_heads,
        vad_classes,
        pad_id=fields.whole("existing_text_padding_id", 0, 1 << 20, 3),
        word_id=fields.whole("existing_text_end_padding_id", 0, 1 << 20, 0),
        # What Kyutai's own programs take where a file says nothing.
        delay_s=stt.number("audio_delay_seconds", 0, MAX_DELAY_S, 5.0),
        prefix_s=stt.number("audio_silence_prefix_seconds", 0, MAX_DELAY_S, 1.0),
    )
    return checked(config, fields.where)


def heads_of(fields: Fields, weights: Weights) -> tuple[int, int]:
    """The number of VAD heads and of their classes: the tensors tell, as published files have no key for them."""
    heads = [name for name in weights if HEAD.fullmatch(name)]
    if fields.values.get("extra_heads_num_heads") is not None:
        fields.whole("extra_heads_num_heads", 0, len(HORIZONS_S))
        fields.only(extra_heads_num_heads=len(heads))
    return len(heads), weights.shape(heads[0])[0] if heads else 0


def to_kyutai(config: KyutaiSttConfig) -> dict[str, Any]:
    """The config.json of a model; raises `CheckpointError` for one that it cannot describe."""
    document = {
        **temporal_json(config.temporal),
        **FIXED,
        **DEPTH,
        "conditioners": {},
        "delays": [0] * (config.temporal.codebooks + 1),
        "existing_text_end_padding_id": config.word_id,
        "existing_text_padding_id": config.pad_id,
        "fuser": None,
        "lm_gen_config": {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 50},
        **codec_json(config.codec),
        "model_type": "stt",
        "stt_config": {
            "audio_delay_seconds": config.delay_s,
            "audio_silence_prefix_seconds": config.prefix_s,
        },
    }
    if config.vad_heads:
        document |= {"extra_heads_num_heads": config.vad_heads, "extra_heads_dim": config.vad_classes}
    return document


def write_kyutai(config: KyutaiSttConfig, folder: Path, dtype: torch.dtype, tokenizer: Path | None) -> None:
    """config.json and what `write_beside` writes; raises `CheckpointError` for a model that it cannot describe."""
    write_json(folder / "config.json", to_kyutai(config))
    write_beside(config.codec, folder, tokenizer)
