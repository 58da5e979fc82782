"""The configuration as Hugging Face's files hold it: config.json and its companions.

Source: transformers 5.23, models/speech_to_text; names and values of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, replacing, write_json
from earful.errors import CheckpointError
from earful.generate.beam import Decoding
from earful.models.s2t.config import (
    BOS,
    EOS,
    LANGUAGES,
    PAD,
    PRESETS,
    START,
    AudioConfig,
    S2tConfig,
    StackConfig,
    TextConfig,
)
from earful.models.s2t.processor import SPECIAL, vocabulary_of
from earful.text.sentencepiece import SentencePiece

PUBLISHED = PRESETS["s2t-small-librispeech-asr"]
ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "swish")
TOKENIZER = "sentencepiece.bpe.model"
EXTRACTOR = {"preprocessor_config.json": (), "processor_config.json": ("feature_extractor",)}  # by file, where it lies
# Sizes that a file may ask for. They are far beyond any model, and keep a forged config from taking memory.
BOUNDS = {
    "d_model": (4, 1 << 16),
    "encoder_layers": (1, 1 << 10),
    "decoder_layers": (1, 1 << 10),
    "encoder_attention_heads": (1, 1 << 10),
    "decoder_attention_heads": (1, 1 << 10),
    "encoder_ffn_dim": (1, 1 << 18),
    "decoder_ffn_dim": (1, 1 << 18),
    "vocab_size": (5, 1 << 20),
    "conv_channels": (2, 1 << 16),
    "max_source_positions": (1, 1 << 24),
    "max_target_positions": (1, 1 << 24),
    "input_feat_per_channel": (1, 1 << 10),
}
MOST_CONVS, MOST_KERNEL, MOST_BEAMS = 8, 63, 1 << 10


def is_hf(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "speech_to_text"


def read_hf(folder: Path, weights: Weights) -> S2tConfig:
    """From config.json and its companions, as far as they are there; raises `CheckpointError` like `from_hf`."""

    def beside(name: str, *blocks: str) -> Fields | None:
        if not (folder / name).is_file():
            return None
        fields = Fields.from_file(folder / name)
        for block in blocks:
            fields = fields.block(block, {})
        return fields

    config = Fields.from_file(folder / "config.json")
    extractor = next((found for name, blocks in EXTRACTOR.items() if (found := beside(name, *blocks))), None)
    return from_hf(config, beside("generation_config.json"), extractor, beside("tokenizer_config.json"))


def from_hf(
    config: Fields, generation: Fields | None = None, extractor: Fields | None = None, tokenizer: Fields | None = None
) -> S2tConfig:
    """From the files' contents; raises `CheckpointError` naming file and key, what was expected and what came.

    What config.json leaves out is as in transformers, which is the small model's geometry; older files keep the
    settings of the search in it. Without any the search is the published one.
    """
    config.only(
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=START,
        input_channels=1,
        is_encoder_decoder=True,
    )
    base = _sizes(PUBLISHED)
    size = {key: config.whole(key, *BOUNDS[key], base[key]) for key in BOUNDS}
    for key in ("encoder_attention_heads", "decoder_attention_heads"):
        if size["d_model"] % size[key]:
            raise config.unfit(key, f"a divisor of d_model, {size['d_model']},")
    if size["conv_channels"] % 2:
        raise config.unfit("conv_channels", "an even number")
    activation = config.values.get("activation_function", "relu")
    if activation not in ACTIVATIONS:
        raise config.unfit("activation_function", f"one of {', '.join(ACTIVATIONS)}")
    rates = {key: config.number(key, 0, 1, 0.0) for key in ("encoder_layerdrop", "decoder_layerdrop")}
    extractor = extractor or Fields({}, "preprocessor_config.json")
    normalised = extractor.flag("do_ceptral_normalize", True)
    return S2tConfig(
        dim=size["d_model"],
        encoder=StackConfig(
            size["encoder_layers"],
            size["encoder_attention_heads"],
            size["encoder_ffn_dim"],
            rates["encoder_layerdrop"],
        ),
        decoder=StackConfig(
            size["decoder_layers"],
            size["decoder_attention_heads"],
            size["decoder_ffn_dim"],
            rates["decoder_layerdrop"],
        ),
        vocab=size["vocab_size"],
        conv_channels=size["conv_channels"],
        conv_kernels=_kernels(config),
        source_frames=size["max_source_positions"],
        target_ids=size["max_target_positions"],
        audio=AudioConfig(
            rate_hz=extractor.whole("sampling_rate", 1000, 1 << 20, PUBLISHED.audio.rate_hz),
            bins=size["input_feat_per_channel"],
            means=normalised and extractor.flag("normalize_means", True),
            variances=normalised and extractor.flag("normalize_vars", True),
            dither=extractor.number("dither", 0, 1e6, 0.0),
        ),
        text=read_text(tokenizer or Fields({}, "tokenizer_config.json")),
        decoding=_decoding(config if generation is None else generation),
        first_id=_first_id(config if generation is None else generation, size["vocab_size"]),
        activation=activation,
        scaled=config.flag("scale_embedding", True),
        tied=config.flag("tie_word_embeddings", True),
        dropout=config.number("dropout", 0, 1, 0.1),
        attention_dropout=config.number("attention_dropout", 0, 1, 0.0),
        activation_dropout=config.number("activation_dropout", 0, 1, 0.0),
    )


def _kernels(config: Fields) -> tuple[int, ...]:
    """Of odd sizes: with others the length of an utterance would be another than that of its mask."""
    kernels = config.values.get("conv_kernel_sizes", list(PUBLISHED.conv_kernels))
    expected = f"1 to {MOST_CONVS} odd sizes up to {MOST_KERNEL}"
    if not isinstance(kernels, list) or not 1 <= len(kernels) <= MOST_CONVS:
        raise config.unfit("conv_kernel_sizes", expected)
    if not all(type(kernel) is int and 1 <= kernel <= MOST_KERNEL and kernel % 2 for kernel in kernels):
        raise config.unfit("conv_kernel_sizes", expected)
    if config.whole("num_conv_layers", 1, MOST_CONVS, len(kernels)) != len(kernels):
        raise config.unfit("num_conv_layers", f"{len(kernels)}, the number of conv_kernel_sizes,")
    return tuple(kernels)


def read_text(fields: Fields) -> TextConfig:
    """Of a tokenizer_config.json; raises `CheckpointError` for languages that nobody knows."""
    codes, target = fields.values.get("lang_codes"), fields.values.get("tgt_lang")
    if codes is not None and (not isinstance(codes, str) or codes not in LANGUAGES):
        raise fields.unfit("lang_codes", f"one of {', '.join(LANGUAGES)}")
    if codes is None:
        target = None  # means nothing
    elif target is not None and target not in LANGUAGES[codes]:
        raise fields.unfit("tgt_lang", f"one of {', '.join(LANGUAGES[codes])}")
    return TextConfig(codes, target, fields.flag("do_upper_case", False), fields.flag("do_lower_case", False))


def _decoding(fields: Fields) -> Decoding:
    usual = PUBLISHED.decoding
    early = fields.values.get("early_stopping", usual.early_stopping)
    if early not in (True, False, "never"):
        raise fields.unfit("early_stopping", 'true, false or "never"')
    return Decoding(
        beams=fields.whole("num_beams", 1, MOST_BEAMS, usual.beams),
        max_length=fields.whole("max_length", 2, 1 << 20, usual.max_length),
        length_penalty=fields.number("length_penalty", -100, 100, usual.length_penalty),
        early_stopping=early,
    )


def _first_id(fields: Fields, vocab: int) -> int | None:
    """Which id every text begins with, if the files say so."""
    if fields.values.get("forced_bos_token_id") is None:
        return None
    return fields.whole("forced_bos_token_id", 0, vocab - 1)


def _sizes(config: S2tConfig) -> dict[str, int]:
    return {
        "d_model": config.dim,
        "encoder_layers": config.encoder.layers,
        "decoder_layers": config.decoder.layers,
        "encoder_attention_heads": config.encoder.heads,
        "decoder_attention_heads": config.decoder.heads,
        "encoder_ffn_dim": config.encoder.mlp_dim,
        "decoder_ffn_dim": config.decoder.mlp_dim,
        "vocab_size": config.vocab,
        "conv_channels": config.conv_channels,
        "max_source_positions": config.source_frames,
        "max_target_positions": config.target_ids,
        "input_feat_per_channel": config.audio.bins,
    }


def to_hf(config: S2tConfig, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """The files beside weights and vocabulary, by name, as transformers 5.23 has them."""
    ids = {"bos_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": START}
    tokenizer: dict[str, Any] = {
        **dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL, strict=True)),
        "do_upper_case": config.text.upper,
        "do_lower_case": config.text.lower,
        "model_max_length": config.target_ids,
        "tokenizer_class": "Speech2TextTokenizer",
    }
    if config.text.language_set is not None:
        languages = LANGUAGES[config.text.language_set]
        tokenizer |= {
            "lang_codes": config.text.language_set,
            "tgt_lang": config.text.language or languages[0],
        }
    return {
        "config.json": {
            **_sizes(config),
            **ids,
            "activation_dropout": config.activation_dropout,
            "activation_function": config.activation,
            "architectures": ["Speech2TextForConditionalGeneration"],
            "attention_dropout": config.attention_dropout,
            "conv_kernel_sizes": list(config.conv_kernels),
            "decoder_layerdrop": config.decoder.layer_drop,
            "dropout": config.dropout,
            "dtype": str(dtype).removeprefix("torch."),
            "encoder_layerdrop": config.encoder.layer_drop,
            "init_std": 0.02,
            "input_channels": 1,
            "is_encoder_decoder": True,
            "model_type": "speech_to_text",
            "num_conv_layers": len(config.conv_kernels),
            "scale_embedding": config.scaled,
            "tie_word_embeddings": config.tied,
            "use_cache": True,
        },
        "generation_config.json": {
            **ids,
            "early_stopping": config.decoding.early_stopping,
            **({} if config.first_id is None else {"forced_bos_token_id": config.first_id}),
            "length_penalty": config.decoding.length_penalty,
            "max_length": config.decoding.max_length,
            "num_beams": config.decoding.beams,
        },
        "preprocessor_config.json": {
            "dither": config.audio.dither,
            "do_ceptral_normalize": config.audio.means or config.audio.variances,
            "feature_extractor_type": "Speech2TextFeatureExtractor",
            "feature_size": config.audio.bins,
            "normalize_means": config.audio.means,
            "normalize_vars": config.audio.variances,
            "num_mel_bins": config.audio.bins,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": config.audio.rate_hz,
        },
        "tokenizer_config.json": tokenizer,
    }


def write_hf(config: S2tConfig, folder: Path, dtype: torch.dtype, tokenizer: Path | None) -> None:
    """What `to_hf` gives, and the vocabulary of the file `tokenizer` with what lies beside it."""
    for name, document in to_hf(config, dtype).items():
        write_json(folder / name, document)
    if tokenizer is None:
        return
    pieces = SentencePiece.from_file(tokenizer)
    if pieces.vocab > config.vocab:
        raise CheckpointError(f"{tokenizer}: expected at most {config.vocab} pieces, got {pieces.vocab}")
    vocabulary = vocabulary_of(tokenizer, pieces)
    with replacing(folder / TOKENIZER) as temporary:
        temporary.write_bytes(pieces.to_model())
    write_json(folder / "vocab.json", vocabulary)
