"""Sizes of a Speech2Text model, in our own names."""

from __future__ import annotations

from dataclasses import dataclass

from earful.generate.beam import Decoding


@dataclass(frozen=True)
class StackConfig:
    """One half of the network, encoder or decoder."""

    layers: int
    heads: int
    mlp_dim: int
    layer_drop: float = 0.0  # how often a whole layer is left out in training


@dataclass(frozen=True)
class AudioConfig:
    """The filter bank in front of the network, and what is done to it."""

    rate_hz: int
    bins: int
    means: bool = True  # each feature has mean 0 over an utterance
    variances: bool = True  # and variance 1
    dither: float = 0.0


@dataclass(frozen=True)
class TextConfig:
    """What stands between the text and its pieces."""

    language_set: str | None = None  # a name in `LANGUAGES`
    language: str | None = None  # which of them is written where none is chosen; None: the first one
    upper: bool = False  # text is written in capitals
    lower: bool = False  # text is read in small letters


SEARCH = Decoding()  # as published


@dataclass(frozen=True)
class S2tConfig:
    dim: int
    encoder: StackConfig
    decoder: StackConfig
    vocab: int
    conv_channels: int
    conv_kernels: tuple[int, ...]  # of each convolution, all of stride 2
    source_frames: int  # features that the model was meant for at most; nothing here ends there
    target_ids: int  # ids that it was meant for at most
    audio: AudioConfig
    text: TextConfig
    decoding: Decoding = SEARCH
    first_id: int | None = None  # that texts begin with where no language is chosen
    activation: str = "relu"
    scaled: bool = True  # what enters either half is multiplied by the root of `dim`
    tied: bool = True  # the output head is the embedding
    dropout: float = 0.0  # these three in training
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0

    @property
    def scale(self) -> float:
        return self.dim**0.5 if self.scaled else 1.0


# Ids that the position tables depend on: in every published model, and in nothing else that would work.
BOS, PAD, EOS, UNK = range(4)
START = EOS

# Languages of the published multilingual models, in the order of their ids.
LANGUAGES = {"mustc": ("pt", "fr", "ru", "nl", "ro", "it", "es", "de")}


def preset(
    dim: int, heads: int, mlp_dim: int, dropout: float, vocab: int = 10_000, language_set: str | None = None
) -> S2tConfig:
    """One of the published sizes, which differ in little else."""
    return S2tConfig(
        dim=dim,
        encoder=StackConfig(12, heads, mlp_dim),
        decoder=StackConfig(6, heads, mlp_dim),
        vocab=vocab,
        conv_channels=1024,
        conv_kernels=(5, 5),
        source_frames=6000,
        target_ids=1024,
        audio=AudioConfig(16_000, 80),
        text=TextConfig(language_set),
        dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
    )


PRESETS = {
    "s2t-small-librispeech-asr": preset(256, 4, 2048, 0.1),
    "s2t-medium-librispeech-asr": preset(512, 8, 2048, 0.15),
    "s2t-large-librispeech-asr": preset(1024, 16, 4096, 0.2),
    "s2t-small-mustc-en-fr-st": preset(256, 4, 2048, 0.1, vocab=8_000),
    "s2t-medium-mustc-multilingual-st": preset(512, 8, 2048, 0.15, language_set="mustc"),
}
