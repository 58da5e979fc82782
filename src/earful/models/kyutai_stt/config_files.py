"""What the two kinds of config files have in common beside Moshi's, and what must fit together."""

from __future__ import annotations

from earful.errors import CheckpointError
from earful.models.kyutai_stt.config import KyutaiSttConfig

HORIZONS_S = (0.5, 1.0, 2.0, 3.0)  # the pause that each VAD head looks out for; nothing in a file says so
MAX_DELAY_S = 60.0


def checked(config: KyutaiSttConfig, where: str) -> KyutaiSttConfig:
    """The config, once its parts are found to fit each other."""
    temporal, codec = config.temporal, config.codec
    problems = {
        f"an even head_dim, got {temporal.head_dim}": temporal.head_dim % 2,
        f"at most the {codec.codebooks} codebooks of the codec, got {temporal.codebooks}": (
            temporal.codebooks > codec.codebooks
        ),
        f"codes of {codec.codebook_size} values as in the codec, got {temporal.audio_vocab}": (
            temporal.audio_vocab != codec.codebook_size
        ),
        "a codec that encodes, got only the other half": not codec.encodes,
        f"a codec of 1 channel, got {codec.channels}": codec.channels != 1,
        f"two different ids below {temporal.text_vocab} for a frame without text, got {config.pad_id} and "
        f"{config.word_id}": (
            config.pad_id == config.word_id or max(config.pad_id, config.word_id) >= temporal.text_vocab
        ),
        f"at most {len(HORIZONS_S)} VAD heads, got {config.vad_heads}": config.vad_heads > len(HORIZONS_S),
    }
    for expected, wrong in problems.items():
        if wrong:
            raise CheckpointError(f"{where}: expected {expected}")
    return config
