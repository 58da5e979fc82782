"""The configuration as Hugging Face's files hold it: config.json and its companions beside tekken.json.

Source: transformers 5.23, models/voxtral_realtime; the published checkpoint, mistralai/Voxtral-Mini-4B-Realtime-2602.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, write_json
from earful.errors import CheckpointError
from earful.models.voxtral.config import AudioConfig, DecoderConfig, EncoderConfig, VoxtralConfig
from earful.models.voxtral.config_files import (
    BOUNDS,
    DECODER_SIZES,
    ENCODER_SIZES,
    NORM_EPS,
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
    "mels": "num_mel_bins",
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_dim": "intermediate_size",
    "window": "sliding_window",
    "vocab": "vocab_size",
}
# What a config.json of Hugging Face's means by a key that it leaves out.
ENCODER_DEFAULTS = {"mels": 128, "dim": 1280, "layers": 32, "heads": 32, "head_dim": 64, "mlp_dim": 5120, "window": 750}
DECODER_DEFAULTS = {
    "vocab": 131072,
    "dim": 3072,
    "layers": 26,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "mlp_dim": 9216,
    "window": 8192,
}
# What both networks say beside their sizes; nothing here reads it.
NETWORK = {"attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "use_cache": True}


def is_hf(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "voxtral_realtime"


def read_hf(folder: Path, weights: Weights) -> VoxtralConfig:
    """From config.json, tekken.json and, where there are any, the others; raises `CheckpointError` like `from_hf`."""
    config, tekken = Fields.from_file(folder / "config.json"), Tekken.from_file(folder / "tekken.json")
    processor = Fields({}, "processor_config.json")
    if (folder / "processor_config.json").is_file():
        processor = Fields.from_file(folder / "processor_config.json").block("feature_extractor", {})
    elif (folder / "preprocessor_config.json").is_file():
        processor = Fields.from_file(folder / "preprocessor_config.json")
    generation = Fields({}, "generation_config.json")
    if (folder / "generation_config.json").is_file():
        generation = Fields.from_file(folder / "generation_config.json")
    return from_hf(config, generation, processor, tekken, ada_dim_of(weights))


def from_hf(config: Fields, generation: Fields, processor: Fields, tekken: Tekken, ada_dim: int) -> VoxtralConfig:
    """From the files' contents; raises `CheckpointError` naming file and key, what was expected and what came."""
    encoder, decoder = config.block("audio_config", {}), config.block("text_config", {})
    encoder.only(activation_function="gelu", hidden_act="silu")
    decoder.only(hidden_act="silu")
    config.only(projector_hidden_act="gelu")
    audio, mels_per_slot = front_end(tekken, log_max_of(processor))
    config.only(audio_length_per_tok=mels_per_slot)
    agree(processor, audio, sampling_rate="rate_hz", hop_length="hop", feature_size="bins")
    agree(processor, audio, n_fft="window", win_length="window")
    # The reference takes the encoder's num_key_value_heads for another name of num_attention_heads.
    heads = encoder.whole("num_attention_heads", *BOUNDS["heads"], ENCODER_DEFAULTS["heads"])
    encoder.only(num_key_value_heads=heads)
    result = VoxtralConfig(
        EncoderConfig(
            **sizes(encoder, KEYS, ("mels", *ENCODER_SIZES), ENCODER_DEFAULTS | {"kv_heads": heads}),
            rope_base=rope_base_of(encoder),
            norm_eps=encoder.number("rms_norm_eps", 0, 1, NORM_EPS),
        ),
        DecoderConfig(
            **sizes(decoder, KEYS, DECODER_SIZES, DECODER_DEFAULTS),
            rope_base=rope_base_of(decoder),
            norm_eps=decoder.number("rms_norm_eps", 0, 1, NORM_EPS),
            ada_dim=ada_dim,
            tied=config.flag("tie_word_embeddings", True),
        ),
        audio,
        special_ids(tekken, _id(generation, "eos_token_id", tekken), _id(generation, "pad_token_id", tekken)),
        mels_per_slot,
        config.whole("downsample_factor", 1, 1 << 10, 4),
    )
    return checked(result, config.where, tekken)


def _id(fields: Fields, key: str, tekken: Tekken) -> int | None:
    return None if fields.values.get(key) is None else fields.whole(key, 0, tekken.vocab - 1)


def to_hf(config: VoxtralConfig, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """The files beside weights and tokenizer, by name, as transformers 5.23 has them.

    Raises `CheckpointError` for a model that they cannot describe.
    """
    audio = config.audio
    return {
        "config.json": {
            "architectures": ["VoxtralRealtimeForConditionalGeneration"],
            "audio_config": _audio_config(config),
            "audio_length_per_tok": config.mels_per_slot,
            "default_num_delay_tokens": audio.delay_slots,
            "downsample_factor": config.downsample,
            "dtype": str(dtype).removeprefix("torch."),
            "hidden_size": config.decoder.dim,
            "model_type": "voxtral_realtime",
            "projector_hidden_act": "gelu",
            "text_config": _text_config(config),
            "tie_word_embeddings": config.decoder.tied,
            "use_cache": True,
        },
        "generation_config.json": {
            "bos_token_id": config.ids.bos,
            "eos_token_id": config.ids.eos,
            "pad_token_id": config.ids.filler,
        },
        "processor_config.json": processor_json(audio),
    }


def processor_json(audio: AudioConfig) -> dict[str, Any]:
    """The processor_config.json of a front end, as transformers 5.23 has it."""
    return {
        "feature_extractor": {
            "feature_extractor_type": "VoxtralRealtimeFeatureExtractor",
            "feature_size": audio.bins,
            "global_log_mel_max": audio.log_max,
            "hop_length": audio.hop,
            "n_fft": audio.window,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": audio.rate_hz,
            "win_length": audio.window,
        },
        "processor_class": "VoxtralRealtimeProcessor",
    }


def _audio_config(config: VoxtralConfig) -> dict[str, Any]:
    encoder = config.encoder
    if encoder.heads != encoder.kv_heads:
        raise CheckpointError(
            f"expected an encoder of {encoder.heads} key heads, as many as query heads: the Hugging Face layout cannot "
            f"say otherwise; got {encoder.kv_heads}"
        )
    return {
        **NETWORK,
        **{KEYS[name]: getattr(encoder, name) for name in ("mels", *ENCODER_SIZES) if name != "kv_heads"},
        "activation_function": "gelu",
        "max_position_embeddings": 1500,
        "model_type": "voxtral_realtime_encoder",
        "rms_norm_eps": encoder.norm_eps,
        "rope_parameters": {"rope_theta": encoder.rope_base, "rope_type": "default"},
        "vocab_size": config.decoder.vocab,
    }


def _text_config(config: VoxtralConfig) -> dict[str, Any]:
    decoder = config.decoder
    return {
        **NETWORK,
        **{KEYS[name]: getattr(decoder, name) for name in DECODER_SIZES},
        "bos_token_id": config.ids.bos,
        "eos_token_id": config.ids.eos,
        "max_position_embeddings": 131072,
        "model_type": "voxtral_realtime_text",
        "pad_token_id": None,
        "rms_norm_eps": decoder.norm_eps,
        "rope_parameters": {"rope_theta": decoder.rope_base, "rope_type": "default"},
        "tie_word_embeddings": decoder.tied,
    }


def write_hf(config: VoxtralConfig, folder: Path, dtype: torch.dtype, tokenizer: Path | None) -> None:
    """What `to_hf` gives and, made from the file `tokenizer`, tekken.json; raises `CheckpointError` when it cannot."""
    for name, document in to_hf(config, dtype).items():
        write_json(folder / name, document)
    if tokenizer:
        write_tekken(config, tokenizer, folder / "tekken.json")
