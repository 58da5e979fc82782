"""Random checkpoints in Hugging Face's layout, so that both libraries load the same weights from one folder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F

from earful.models.voxtral.config import AudioConfig, DecoderConfig, EncoderConfig, VoxtralConfig
from earful.models.voxtral.config_files import special_ids
from earful.registry import FAMILIES, save_model
from earful.testing import random_weights
from earful.text.bpe import tiny_tekken
from earful.text.tekken import Tekken


@dataclass(frozen=True)
class Sizes:
    """What the published 4 B model is scaled down in; everything else is as published."""

    encoder_dim: int
    encoder_layers: int
    heads: int  # of the encoder, 64 wide: 1.6 times the width, as published
    dim: int
    layers: int
    kv_heads: int  # of the decoder, 128 wide, 4 query heads to each: 4/3 of the width, as published
    vocab: int


# The hidden layers are 4 and 3 times the width and the windows 750 frames and 8192 slots, as published. Of the
# parameters 31 % are the encoder's (published: 22 %) and 6 % the embedding (published: 9 %).
BIG = Sizes(encoder_dim=640, encoder_layers=12, heads=16, dim=1152, layers=11, kv_heads=3, vocab=16_384)
TINY = Sizes(encoder_dim=40, encoder_layers=2, heads=1, dim=96, layers=2, kv_heads=1, vocab=400)


def config(sizes: Sizes, tekken: Tekken) -> VoxtralConfig:
    common = {"rope_base": 1e6, "norm_eps": 1e-5}
    return VoxtralConfig(
        EncoderConfig(
            mels=128,
            dim=sizes.encoder_dim,
            layers=sizes.encoder_layers,
            heads=sizes.heads,
            kv_heads=sizes.heads,
            head_dim=64,
            mlp_dim=4 * sizes.encoder_dim,
            window=750,
            **common,
        ),
        DecoderConfig(
            vocab=sizes.vocab,
            dim=sizes.dim,
            layers=sizes.layers,
            heads=4 * sizes.kv_heads,
            kv_heads=sizes.kv_heads,
            head_dim=128,
            mlp_dim=3 * sizes.dim,
            window=8192,
            ada_dim=32,
            **common,
        ),
        AudioConfig(rate_hz=16_000, hop=160, window=400, bins=128, log_max=1.5, left_slots=32, delay_slots=6),
        special_ids(tekken, filler=tekken.special_id("<pad>")),
        mels_per_slot=8,
        downsample=4,
    )


def write(folder: Path, sizes: Sizes, dtype: torch.dtype = torch.bfloat16) -> int:
    """Write a checkpoint of seeded random weights; returns its number of parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    tekken = tokenizer(sizes.vocab)
    tekken.save(folder / "tekken.json")
    model = FAMILIES["voxtral"].build(config(sizes, tekken))
    weights = random_weights(model, seed=1)  # with 0 two ids lie within 1e-5, where rounding decides
    # No id is written all the time for the length of its embedding, and the end of text never.
    embedding = F.normalize(weights["decoder.embed.weight"])
    embedding[tekken.special_id("</s>")] = 0
    weights["decoder.embed.weight"] = 2 * embedding
    model.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, assign=True)
    save_model(model, folder, "hf", folder / "tekken.json")
    return sum(weight.numel() for weight in weights.values())


def tokenizer(vocab: int) -> Tekken:
    """Any tokenizer of this size: behind the single bytes, pieces of three letters."""
    tiny = tiny_tekken(hop=160, window=400, bins=128, left_slots=32, delay_slots=6)
    letters = product(b" abcdefghijklmnopqrstuvwxyz", repeat=3)
    pieces = [*tiny.pieces[:256], *(bytes(piece) for piece in letters)]
    document = tiny.to_json()
    header = {key: value for key, value in document.items() if key != "vocab"}
    header["config"] = {**header["config"], "default_vocab_size": vocab}
    return Tekken(header, pieces)
