"""Sizes of a Kyutai Speech-To-Text model, in our own names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from earful.models.mimi.config import MIMI, MimiConfig
from earful.models.moshi.config import TemporalConfig


@dataclass(frozen=True)
class KyutaiSttConfig:
    """A language model over frames of 80 ms, the codec through which it hears, and how its text lies in time."""

    temporal: TemporalConfig
    codec: MimiConfig
    vad_heads: int  # each says how likely the speaker pauses for so long; 0 where the checkpoint has none
    vad_classes: int  # that such a head tells apart; the first one is the pause
    pad_id: int  # nothing to write in this frame
    word_id: int  # nothing either, and a word begins in the next one
    delay_s: float  # the text of a moment is written so much later
    prefix_s: float  # silence before the audio


ONE_B = KyutaiSttConfig(
    TemporalConfig(
        dim=2048, layers=16, heads=16, head_dim=128, mlp_dim=5632, window=750, rope_base=1e5, norm_eps=1e-8,
        text_vocab=8000, codebooks=32, audio_vocab=2048,
    ),
    MIMI, vad_heads=0, vad_classes=0, pad_id=3, word_id=0, delay_s=0.5, prefix_s=0.0,
)  # fmt: skip
# The published models.
PRESETS = {
    "stt-1b-en_fr": ONE_B,
    "stt-1b-en_fr-candle": replace(ONE_B, vad_heads=4, vad_classes=6),
    "stt-2.6b-en": replace(
        ONE_B,
        temporal=replace(ONE_B.temporal, layers=48, heads=32, head_dim=64, window=375, text_vocab=4000),
        delay_s=2.5,
        prefix_s=1.0,
    ),
}
