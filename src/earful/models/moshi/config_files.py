"""What the two kinds of config files have in common: bounds, and what must fit together.

Every size is bounded before anything is built from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from earful.checkpoint.fields import Fields
from earful.errors import CheckpointError
from earful.models.moshi.config import MoshiConfig

# Sizes that a file may ask for. They are far beyond any model, and keep a forged config from taking memory.
BOUNDS = {
    "dim": (2, 1 << 16),
    "layers": (1, 1 << 10),
    "heads": (1, 1 << 10),
    "head_dim": (2, 1 << 10),
    "mlp_dim": (1, 1 << 18),
    "window": (1, 1 << 20),
    "text_vocab": (4, 1 << 20),
    "codebooks": (1, 1 << 10),
    "audio_vocab": (2, 1 << 20),
    "low_rank": (1, 1 << 16),
}
MAX_DELAY_FRAMES = 1 << 8


def sizes(
    fields: Fields, keys: Mapping[str, str], wanted: Sequence[str], defaults: Mapping[str, int], more: int = 0
) -> dict[str, Any]:
    """Whole numbers by our names. more: by how much a file's counts are larger."""
    result = {}
    for name in wanted:
        least, most = BOUNDS[name]
        default = defaults[name] + more if name in defaults else None
        result[name] = fields.whole(keys[name], least + more, most + more, default) - more
    return result


def checked(config: MoshiConfig, where: str) -> MoshiConfig:
    """The config, once its parts are found to fit each other."""
    temporal, codec = config.temporal, config.codec
    user = temporal.codebooks - config.own
    problems = {
        f"an even head_dim, got {temporal.head_dim}": temporal.head_dim % 2,
        f"codebooks of a user beside the voice's {config.own}, got {temporal.codebooks} in all": user < 1,
        f"at most the {codec.codebooks} codebooks of the codec, got {config.own} of the voice and {user} of the user": (
            max(config.own, user) > codec.codebooks
        ),
        f"codes of {codec.codebook_size} values as in the codec, got {temporal.audio_vocab}": (
            temporal.audio_vocab != codec.codebook_size
        ),
        "a codec that encodes and decodes, got only one half": not (codec.encodes and codec.decodes),
        f"a codec of 1 channel, got {codec.channels}": codec.channels != 1,
        f"two different ids below {temporal.text_vocab} for a frame without text, got {config.pad_id} and "
        f"{config.end_pad_id}": (
            config.pad_id == config.end_pad_id or max(config.pad_id, config.end_pad_id) >= temporal.text_vocab
        ),
    }
    for expected, wrong in problems.items():
        if wrong:
            raise CheckpointError(f"{where}: expected {expected}")
    return config
