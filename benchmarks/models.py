"""The checkpoints that are measured: random weights at published proportions, written as a real folder."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import torch

from earful import registry
from earful.models.voxtral.config import AudioConfig, DecoderConfig, EncoderConfig, VoxtralConfig
from earful.models.voxtral.config_files import special_ids
from earful.models.voxtral.model import VoxtralRealtime
from earful.testing import random_weights
from earful.text.bpe import tiny_tekken
from earful.text.tekken import Tekken

ROPE_BASE, NORM_EPS = 1e6, 1e-5
# About the published shares: encoder 22 %, decoder 67 %, embedding 9 %.
LARGE = (
    EncoderConfig(128, 640, 12, 10, 10, 64, 2560, 750, ROPE_BASE, NORM_EPS),
    DecoderConfig(20_480, 1280, 11, 10, 2, 128, 3840, 8192, ROPE_BASE, NORM_EPS, 32),
)
SMALL = (
    EncoderConfig(128, 64, 2, 2, 2, 32, 128, 50, ROPE_BASE, NORM_EPS),
    DecoderConfig(1024, 64, 2, 2, 1, 32, 128, 100, ROPE_BASE, NORM_EPS, 32),
)


def write_random(folder: Path, quick: bool) -> VoxtralRealtime:
    """Write a random model in Hugging Face's layout, bfloat16; returns it."""
    encoder, decoder = SMALL if quick else LARGE
    folder.mkdir(parents=True, exist_ok=True)
    audio = AudioConfig(16_000, 160, 400, 128, 1.5, left_slots=32, delay_slots=6)
    tekken = padded_tekken(audio, decoder.vocab)
    tekken.save(folder / "tekken.source.json")
    ids = special_ids(tekken, filler=tekken.special_id("<pad>"))
    model = registry.FAMILIES["voxtral"].build(VoxtralConfig(encoder, decoder, audio, ids, 8, 4))
    model.load_state_dict(random_weights(model, 0), assign=True)
    assert isinstance(model, VoxtralRealtime)
    registry.save_model(model.to(torch.bfloat16), folder, "hf", folder / "tekken.source.json")
    return model


def padded_tekken(audio: AudioConfig, vocab: int) -> Tekken:
    """The tiny tokenizer with as many more pieces as a vocabulary needs; what they say does not matter here."""
    document = tiny_tekken(audio.hop, audio.window, audio.bins, audio.left_slots, audio.delay_slots).to_json()
    pieces, special = document["vocab"], document["config"]["default_num_special_tokens"]
    for number in range(len(pieces), vocab - special):
        text = f" w{number}"
        pieces.append({"rank": number, "token_bytes": b64encode(text.encode()).decode(), "token_str": text})
    document["config"] |= {"default_vocab_size": vocab, "num_vocab_tokens": len(pieces)}
    return Tekken.from_json(document)
