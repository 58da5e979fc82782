"""The configuration as Hugging Face's files hold it: config.json and its companions.

Source: transformers 5.23, models/kyutai_speech_to_text; the published checkpoint, kyutai/stt-2.6b-en-trfs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, replacing, write_json
from earful.errors import CheckpointError
from earful.models.kyutai_stt.config import PRESETS, KyutaiSttConfig
from earful.models.kyutai_stt.config_files import MAX_DELAY_S, checked
from earful.models.mimi.config_hf import config_json, extractor_json
from earful.models.mimi.config_hf import from_hf as codec_from_hf
from earful.models.moshi.config import TemporalConfig
from earful.models.moshi.config_files import sizes
from earful.text.sentencepiece import SentencePiece

KEYS = {
    "dim": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "window": "sliding_window",
    "codebooks": "num_codebooks",
    "text_vocab": "vocab_size",  # with the initial id
    "audio_vocab": "codebook_vocab_size",  # with the initial id
}
WITH_INITIAL = ("text_vocab", "audio_vocab")
WORD_ID = 0  # of every model
# What both files say beside; nothing here reads it.
BESIDE = {"attention_dropout": 0.0, "initializer_range": 0.02, "max_position_embeddings": 750, "use_cache": True}
SETTINGS = {"processor_config.json": ("feature_extractor",), "preprocessor_config.json": ()}  # by file, where they lie
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def is_hf(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "kyutai_speech_to_text"


def read_hf(folder: Path, weights: Weights) -> KyutaiSttConfig:
    """From config.json and the settings of the feature extractor; raises `CheckpointError` like `from_hf`."""
    extractor = Fields({}, "preprocessor_config.json")
    for name, blocks in SETTINGS.items():
        if (folder / name).is_file():
            extractor = Fields.from_file(folder / name)
            for block in blocks:
                extractor = extractor.block(block, {})
            break
    return from_hf(Fields.from_file(folder / "config.json"), extractor)


def from_hf(config: Fields, extractor: Fields) -> KyutaiSttConfig:
    """From the files' contents; raises `CheckpointError` naming file and key, what was expected and what came.

    What config.json leaves out is as in stt-2.6b-en; without settings of the extractor there is no delay.
    """
    published = PRESETS["stt-2.6b-en"].temporal
    defaults = vars(published)
    config.only(hidden_act="silu", tie_word_embeddings=False)
    plain = [name for name in KEYS if name not in WITH_INITIAL]
    named = sizes(config, KEYS, plain, defaults) | sizes(config, KEYS, WITH_INITIAL, defaults, more=1)
    config.only(num_key_value_heads=named["heads"], audio_bos_token_id=named["audio_vocab"])
    head_dim = named["dim"] // named["heads"]
    if config.values.get("head_dim") is not None:
        head_dim = config.whole("head_dim", 2, 1 << 10)
    ffn_dim = config.whole("ffn_dim", 2, 1 << 19, 2 * published.mlp_dim)
    if ffn_dim % 2:
        raise config.unfit("ffn_dim", "an even number")
    codec = codec_from_hf(config.block("codec_config", {}))
    extractor.only(sampling_rate=codec.rate_hz)
    result = KyutaiSttConfig(
        TemporalConfig(
            **named,
            head_dim=head_dim,
            mlp_dim=ffn_dim // 2,
            rope_base=_rope_base(config, published.rope_base),
            norm_eps=config.number("rms_norm_eps", 0, 1, published.norm_eps),
        ),
        codec,
        vad_heads=0,
        vad_classes=0,
        pad_id=config.whole("pad_token_id", 0, 1 << 20, 3),
        word_id=WORD_ID,
        delay_s=_seconds(extractor, "audio_delay_seconds"),
        prefix_s=_seconds(extractor, "audio_silence_prefix_seconds"),
    )
    return checked(result, config.where)


def _seconds(extractor: Fields, key: str) -> float:
    return 0.0 if extractor.values.get(key) is None else extractor.number(key, 0, MAX_DELAY_S)


def _rope_base(fields: Fields, default: float) -> float:
    rope = fields.block("rope_parameters") if fields.values.get("rope_parameters") is not None else fields
    rope.only(rope_type="default")
    return rope.number("rope_theta", 1, 1e12, default)


def to_hf(config: KyutaiSttConfig, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """The files beside weights and tokenizer, by name, as transformers 5.23 has them.

    The start ids are those that the model was trained with. VAD heads and another word_id cannot be said.
    """
    c = config.temporal
    start = {"bos_token_id": c.text_vocab, "pad_token_id": config.pad_id}
    return {
        "config.json": {
            **BESIDE,
            **{key: getattr(c, name) + (name in WITH_INITIAL) for name, key in KEYS.items()},
            **start,
            "architectures": ["KyutaiSpeechToTextForConditionalGeneration"],
            "audio_bos_token_id": c.audio_vocab,
            "audio_pad_token_id": c.text_vocab + 1 + c.codebooks * (c.audio_vocab + 1),
            "codec_config": config_json(config.codec),
            "dtype": str(dtype).removeprefix("torch."),
            "eos_token_id": None,
            "ffn_dim": 2 * c.mlp_dim,
            "frame_size": config.codec.frame_samples,
            "head_dim": c.head_dim,
            "hidden_act": "silu",
            "model_type": "kyutai_speech_to_text",
            "num_key_value_heads": c.heads,
            "rms_norm_eps": c.norm_eps,
            "rope_parameters": {"rope_theta": c.rope_base, "rope_type": "default"},
            "tie_word_embeddings": False,
        },
        "generation_config.json": start,
        "preprocessor_config.json": {
            **extractor_json(config.codec),
            "audio_delay_seconds": config.delay_s,
            "audio_silence_prefix_seconds": config.prefix_s,
            "feature_extractor_type": "KyutaiSpeechToTextFeatureExtractor",
            "processor_class": "KyutaiSpeechToTextProcessor",
        },
        "tokenizer_config.json": {
            **SPECIAL,
            "clean_up_tokenization_spaces": False,
            "processor_class": "KyutaiSpeechToTextProcessor",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    }


def write_hf(config: KyutaiSttConfig, folder: Path, dtype: torch.dtype, tokenizer: Path | None) -> None:
    """What `to_hf` gives, and tokenizer.json from the file `tokenizer`; raises `CheckpointError` when it cannot."""
    if config.vad_heads or config.word_id != WORD_ID:
        raise CheckpointError(
            f"expected no VAD heads and word_id {WORD_ID}: the Hugging Face layout cannot say otherwise; got "
            f"{config.vad_heads} heads and word_id {config.word_id}"
        )
    if not config.temporal.published:
        raise CheckpointError(
            "expected root-mean-square norms, gates and rotary positions: the Hugging Face layout cannot say "
            "otherwise; got others"
        )
    for name, document in to_hf(config, dtype).items():
        write_json(folder / name, document)
    if tokenizer:
        vocabulary = SentencePiece.from_file(tokenizer)
        with replacing(folder / "tokenizer.json") as temporary:
            temporary.write_bytes(vocabulary.to_json())
