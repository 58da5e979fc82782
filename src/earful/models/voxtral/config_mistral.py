"""The configuration as Mistral's files hold it: params.json beside tekken.json.

Source: the published checkpoint, mistralai/Voxtral-Mini-4B-Realtime-2602.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, write_json
from earful.models.voxtral.config import DecoderConfig, EncoderConfig, VoxtralConfig
from earful.models.voxtral.config_files import (
    DECODER_SIZES,
    ENCODER_SIZES,
    ada_dim_of,
    agree,
    checked,
    front_end,
    log_max_of,
    rope_base_of,
    sizes,
    special_ids,
    write_tekken,
)
from earful.text.tekken import Tekken

KEYS = {
    "dim": "dim",
    "layers": "n_layers",
    "heads": "n_heads",
    "kv_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "mlp_dim": "hidden_dim",
    "window": "sliding_window",
    "vocab": "vocab_size",
}


def is_mistral(params: Mapping[str, Any]) -> bool:
    """Whether a params.json is of a streaming model; the other Voxtrals hear whole utterances."""
    inner: Any = params
    for key in ("multimodal", "whisper_model_args", "encoder_args", "audio_encoding_args", "transcription_format"):
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return bool(inner == "streaming")


def read_mistral(folder: Path, weights: Weights) -> VoxtralConfig:
    """From params.json and tekken.json; raises `CheckpointError` naming file and key, and what came instead."""
    params, tekken = Fields.from_file(folder / "params.json"), Tekken.from_file(folder / "tekken.json")
    whisper = params.block("multimodal").block("whisper_model_args")
    encoder, downsample = whisper.block("encoder_args"), whisper.block("downsample_args")
    mel = encoder.block("audio_encoding_args")
    ada_dim = ada_dim_of(weights)
    params.only(use_biases=False, causal=True, ada_rms_norm_t_cond=True, ada_rms_norm_t_cond_dim=ada_dim)
    encoder.only(use_biases=True, causal=True, pos_embed="rope", ffn_type="swiglu", norm_type="rms_norm")
    audio, mels_per_slot = front_end(tekken, log_max_of(mel))
    agree(mel, audio, sampling_rate="rate_hz", hop_length="hop", window_size="window", num_mel_bins="bins")
    ids = special_ids(tekken, filler=tekken.special_tokens.get("<pad>"))
    config = VoxtralConfig(
        EncoderConfig(
            **sizes(encoder, KEYS, ENCODER_SIZES, {}),
            mels=audio.bins,
            rope_base=rope_base_of(encoder),
            norm_eps=encoder.number("norm_eps", 0, 1),
        ),
        DecoderConfig(
            **sizes(params, KEYS, DECODER_SIZES, {}),
            rope_base=rope_base_of(params),
            norm_eps=params.number("norm_eps", 0, 1),
            ada_dim=ada_dim,
            tied=params.flag("tied_embeddings", True),
        ),
        audio,
        ids,
        mels_per_slot,
        downsample.whole("downsample_factor", 1, 1 << 10),
    )
    return checked(config, params.where, tekken)


def to_params(config: VoxtralConfig) -> dict[str, Any]:
    """The params.json of a model."""
    decoder, encoder, audio = config.decoder, config.encoder, config.audio
    mel = {
        "sampling_rate": audio.rate_hz,
        "frame_rate": audio.rate_hz / config.slot_samples,
        "num_mel_bins": audio.bins,
        "hop_length": audio.hop,
        "window_size": audio.window,
        "chunk_length_s": None,
        "global_log_mel_max": audio.log_max,
        "transcription_format": "streaming",
    }
    encoder_args = {
        "audio_encoding_args": mel,
        **{KEYS[name]: getattr(encoder, name) for name in ENCODER_SIZES},
        "vocab_size": decoder.vocab,
        "use_biases": True,
        "use_cache": False,
        "rope_theta": encoder.rope_base,
        "causal": True,
        "norm_eps": encoder.norm_eps,
        "pos_embed": "rope",
        "max_source_positions": None,
        "ffn_type": "swiglu",
        "norm_type": "rms_norm",
    }
    return {
        **{KEYS[name]: getattr(decoder, name) for name in DECODER_SIZES},
        "use_biases": False,
        "causal": True,
        "rope_theta": decoder.rope_base,
        "norm_eps": decoder.norm_eps,
        "model_parallel": 1,
        "tied_embeddings": decoder.tied,
        "model_max_length": 131072,
        "multimodal": {
            "whisper_model_args": {
                "encoder_args": encoder_args,
                "downsample_args": {"downsample_factor": config.downsample},
            }
        },
        "ada_rms_norm_t_cond": True,
        "ada_rms_norm_t_cond_dim": decoder.ada_dim,
    }


def write_mistral(config: VoxtralConfig, folder: Path, dtype: torch.dtype, tokenizer: Path | None) -> None:
    """params.json and, made from the file `tokenizer`, tekken.json; raises `CheckpointError` when it cannot write."""
    write_json(folder / "params.json", to_params(config))
    if tokenizer:
        write_tekken(config, tokenizer, folder / "tekken.json")
