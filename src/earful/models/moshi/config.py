"""Sizes of Moshi's networks, in our own names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TemporalConfig:
    """The transformer over time: one frame of 80 ms to a position, one text id and some audio codes in each.

    Every table has one row more than its vocabulary: the id behind the last one is what stands at the first position.
    """

    dim: int
    layers: int
    heads: int
    head_dim: int
    mlp_dim: int  # inner width behind the gate
    window: int  # positions that a position sees, itself included
    rope_base: float
    norm_eps: float
    text_vocab: int  # text ids, the initial one not counted
    codebooks: int  # audio codes that go in with each text id
    audio_vocab: int  # values of a code, the initial one not counted
