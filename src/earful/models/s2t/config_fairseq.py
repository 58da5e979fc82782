"""What fairseq keeps beside the weights of its old checkpoints: a folder with one .pt, its SentencePiece .model and, if
there is one, the dictionary of the same name, .txt.

Such folders are only read, and only to be converted: a .pt is a pickle (checkpoint/pickled.py).
Source: fairseq's s2t_transformer and its released checkpoints; key names as its converter to transformers reads them.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, found, some
from earful.checkpoint.pickled import Pickled
from earful.errors import CheckpointError
from earful.models.s2t.config import LANGUAGES, S2tConfig
from earful.models.s2t.config_hf import from_hf
from earful.models.s2t.processor import vocabulary_of
from earful.text.sentencepiece import SentencePiece

SAME = (  # what transformers calls as fairseq does
    *("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop"),
    *("max_source_positions", "max_target_positions", "input_channels"),
)


def find_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in a folder of fairseq's, None where it is another folder or holds several."""
    names = found(folder)
    checkpoints = [name for name in names if name.endswith(".pt")]
    has_pieces = any(name.endswith(".model") for name in names)
    return folder / checkpoints[0] if has_pieces and len(checkpoints) == 1 else None


def find_stem(folder: Path) -> str | None:
    path = find_checkpoint(folder)
    return path.stem if path else None


def find_pieces(folder: Path) -> str:
    """The name of the SentencePiece model; raises `CheckpointError` where it is not the only one."""
    names = [name for name in found(folder) if name.endswith(".model")]
    if len(names) != 1:
        raise CheckpointError(f"{folder}: expected one SentencePiece .model, got {some(names)}")
    return names[0]


def read_fairseq(folder: Path, weights: Weights) -> S2tConfig:
    """Sizes are those of the tensors; the rest is in the settings. Raises `CheckpointError` for what we do not have."""
    settings = Fields(weights.settings if isinstance(weights, Pickled) else {}, weights.where)
    settings.only(
        encoder_normalize_before=True,
        decoder_normalize_before=True,
        decoder_learned_pos=False,
        layernorm_embedding=False,
        no_token_positional_embeddings=False,
        adaptive_softmax_cutoff=None,
    )
    convolutions = [weights.shape(name) for name in _numbered(weights, "encoder.subsample.conv_layers.{}.weight")]
    encoder = _numbered(weights, "encoder.transformer_layers.{}.fc1.weight")
    decoder = _numbered(weights, "decoder.layers.{}.fc1.weight")
    if not (convolutions and encoder and decoder) or {len(shape) for shape in convolutions} != {3}:
        raise CheckpointError(f"{weights.where}: expected the tensors of s2t_transformer, got {some(weights)}")
    vocab, dim = weights.shape("decoder.embed_tokens.weight")
    tied = "decoder.output_projection.weight" not in weights
    config: dict[str, Any] = {
        "d_model": dim,
        "vocab_size": vocab,
        "encoder_layers": len(encoder),
        "decoder_layers": len(decoder),
        "encoder_ffn_dim": weights.shape(encoder[0])[0],
        "decoder_ffn_dim": weights.shape(decoder[0])[0],
        "conv_channels": convolutions[0][0],
        "conv_kernel_sizes": [kernel for _, _, kernel in convolutions],
        "input_feat_per_channel": convolutions[0][1],
        "scale_embedding": not settings.flag("no_scale_embedding", False),
        "tie_word_embeddings": settings.flag("share_decoder_input_output_embed", tied),
        "activation_function": settings.values.get("activation_fn", "relu"),
    }
    for key in ("encoder_attention_heads", "decoder_attention_heads"):
        config[key] = settings.whole(key, 1, dim)
    config |= {key: settings.values[key] for key in SAME if key in settings}
    return from_hf(
        Fields(config, weights.where), Fields({}, weights.where), tokenizer=Fields(_languages(folder), str(folder))
    )


def _numbered(weights: Weights, pattern: str) -> list[str]:
    """The names of this pattern from 0 on."""
    names: list[str] = []
    for number in count():
        if (name := pattern.format(number)) not in weights:
            return names
        names.append(name)
    raise AssertionError


def _languages(folder: Path) -> dict[str, str]:
    """The set of languages that the dictionary has a tag for, as Hugging Face's files name it."""
    tokenizer = folder / find_pieces(folder)
    known = vocabulary_of(tokenizer, SentencePiece.from_file(tokenizer))
    names = [name for name, languages in LANGUAGES.items() if all(f"<lang:{code}>" in known for code in languages)]
    return {"lang_codes": names[0]} if names else {}
