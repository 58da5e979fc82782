"""The configuration as Hugging Face's files hold it: config.json and its companions.

Source: transformers 5.23, models/moshi; the published checkpoints, kmhf/hf-moshiko and kmhf/hf-moshika.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, replacing, write_json
from earful.errors import CheckpointError
from earful.models.mimi.config_hf import config_json, extractor_json
from earful.models.mimi.config_hf import from_hf as codec_from_hf
from earful.models.moshi.config import MOSHI_7B, DepthConfig, MoshiConfig, TemporalConfig
from earful.models.moshi.config_files import checked, sizes
from earful.text.sentencepiece import SentencePiece

KEYS = {
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "window": "sliding_window",
    "text_vocab": "vocab_size",
    "codebooks": "num_codebooks",  # of one voice
    "audio_vocab": "audio_vocab_size",
}
DEPTH_KEYS = {"dim": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads"}
PAD_ID, END_PAD_ID = 3, 0  # of every model
FIXED = {"hidden_act": "silu", "tie_word_embeddings": False}
# What a file says beside; nothing here reads it.
BESIDE = {"attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_spm_32k_3.model")
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def is_hf(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "moshi" and "text_card" not in config


def find_tokenizer(folder: Path) -> str:
    """The name of the tokenizer's file; the published folders have it beside the weights or leave it to Kyutai's."""
    return next((name for name in TOKENIZERS if (folder / name).is_file()), TOKENIZERS[0])


def read_hf(folder: Path, weights: Weights) -> MoshiConfig:
    """From config.json; raises `CheckpointError` like `from_hf`."""
    return from_hf(Fields.from_file(folder / "config.json"))


def from_hf(fields: Fields) -> MoshiConfig:
    """From a config.json; raises `CheckpointError` naming the key, what was expected and what came.

    What it leaves out is as in the published models.
    """
    codec = codec_from_hf(fields.block("audio_encoder_config", {}))
    defaults = {**vars(MOSHI_7B.temporal), "codebooks": MOSHI_7B.own, "audio_vocab": codec.codebook_size}
    fields.only(**FIXED)
    named = sizes(_said(fields), KEYS, list(KEYS), defaults)
    own = named.pop("codebooks")
    temporal = TemporalConfig(
        **named,
        codebooks=2 * own,
        **_widths(fields, named, MOSHI_7B.temporal),
        rope_base=_rope_base(fields),
        norm_eps=fields.number("rms_norm_eps", 0, 1, MOSHI_7B.temporal.norm_eps),
    )
    depth = fields.block("depth_decoder_config", {})  # its vocabularies and codebooks are those of the whole
    depth.only(**FIXED)
    named = sizes(_said(depth), DEPTH_KEYS, list(DEPTH_KEYS), vars(MOSHI_7B.depth))
    config = MoshiConfig(
        temporal,
        DepthConfig(
            **named,
            **_widths(depth, named, MOSHI_7B.depth),
            norm_eps=depth.number("rms_norm_eps", 0, 1, MOSHI_7B.depth.norm_eps),
            schedule=tuple(range(own)),
        ),
        codec,
        delays=delays_of(own),
        pad_id=PAD_ID,
        end_pad_id=END_PAD_ID,
    )
    return checked(config, fields.where)


def delays_of(own: int) -> tuple[int, ...]:
    """The only ones that the layout knows: all codes but the first of each voice are a frame late."""
    return (0, *(0, *[1] * (own - 1)) * 2)


def _said(fields: Fields) -> Fields:
    """Without keys whose value is null, which means the same as no key."""
    return Fields({key: value for key, value in fields.values.items() if value is not None}, fields.where)


def _widths(fields: Fields, named: Mapping[str, int], published: TemporalConfig | DepthConfig) -> dict[str, Any]:
    """Of a head, and of the inside of an MLP."""
    said = _said(fields)
    said.only(num_key_value_heads=named["heads"])
    ffn_dim = said.whole("ffn_dim", 2, 1 << 19, 2 * published.mlp_dim)
    if ffn_dim % 2:
        raise fields.unfit("ffn_dim", "an even number")
    return {"head_dim": said.whole("head_dim", 2, 1 << 10, named["dim"] // named["heads"]), "mlp_dim": ffn_dim // 2}


def _rope_base(fields: Fields) -> float:
    rope = fields.block("rope_parameters") if fields.values.get("rope_parameters") is not None else fields
    rope.only(rope_type="default")
    return rope.number("rope_theta", 1, 1e12, MOSHI_7B.temporal.rope_base)


def to_hf(config: MoshiConfig, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """The files beside weights and tokenizer, by name, as transformers 5.23 has them; for what `write_hf` writes."""
    c, d = config.temporal, config.depth
    start = {"bos_token_id": c.text_vocab, "pad_token_id": c.text_vocab}
    shared = {"audio_vocab_size": c.audio_vocab, "num_codebooks": config.own, "vocab_size": c.text_vocab}
    return {
        "config.json": {
            **BESIDE,
            **{key: getattr(c, name) for name, key in KEYS.items()},
            **_both(c),
            **shared,
            "architectures": ["MoshiForConditionalGeneration"],
            "audio_encoder_config": config_json(config.codec),
            "depth_decoder_config": {
                **BESIDE,
                **{key: getattr(d, name) for name, key in DEPTH_KEYS.items()},
                **_both(d),
                **shared,
                "input_size": c.dim,
                "max_position_embeddings": config.own + 1,
                "model_type": "moshi_depth",
                "sliding_window": config.own,
            },
            "dtype": str(dtype).removeprefix("torch."),
            "max_position_embeddings": c.window,
            "model_type": "moshi",
            "rope_parameters": {"rope_theta": c.rope_base, "rope_type": "default"},
        },
        # What Kyutai's own programs choose by.
        "generation_config.json": {
            **start,
            "depth_decoder_config": {
                "do_sample": True,
                "max_length": config.own + 1,
                "min_length": config.own + 1,
                "temperature": 0.8,
                "top_k": 250,
            },
            "do_sample": True,
            "temperature": 0.7,
            "top_k": 25,
        },
        "preprocessor_config.json": extractor_json(config.codec),
        "tokenizer_config.json": {
            **SPECIAL,
            "clean_up_tokenization_spaces": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    }


def _both(c: TemporalConfig | DepthConfig) -> dict[str, Any]:
    """What both transformers' configs say."""
    return {
        **FIXED,
        "ffn_dim": 2 * c.mlp_dim,
        "head_dim": c.head_dim,
        "num_key_value_heads": c.heads,
        "rms_norm_eps": c.norm_eps,
    }


def write_hf(config: MoshiConfig, folder: Path, dtype: torch.dtype, tokenizer: Path | None) -> None:
    """What `to_hf` gives, and tokenizer.json from the file `tokenizer`; raises `CheckpointError` when it cannot."""
    own = config.own
    unsayable = {
        f"{own} codebooks of the user": config.temporal.codebooks != 2 * own,
        f"delays of {delays_of(own)}": config.delays != delays_of(own),
        "weights of its own to every codebook": config.depth.schedule != tuple(range(own)),
        "no low-rank tables": config.depth.low_rank is not None,
        "root-mean-square norms, gates and rotary positions": not config.temporal.published,
        "root-mean-square norms over the codes": config.depth.norm != "rms",
        "no positions of codes": config.depth.sinusoid_base is not None,
        "no conditions": bool(config.conditions),
        f"the ids {PAD_ID} and {END_PAD_ID} for a frame without text": (
            (config.pad_id, config.end_pad_id) != (PAD_ID, END_PAD_ID)
        ),
    }
    for expected, wrong in unsayable.items():
        if wrong:
            raise CheckpointError(f"expected {expected}: the Hugging Face layout cannot say otherwise; got others")
    for name, document in to_hf(config, dtype).items():
        write_json(folder / name, document)
    if tokenizer:
        vocabulary = SentencePiece.from_file(tokenizer)
        with replacing(folder / "tokenizer.json") as temporary:
            temporary.write_bytes(vocabulary.to_json())
