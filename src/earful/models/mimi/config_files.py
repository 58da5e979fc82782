"""What both kinds of config files have in common: bounds, and what must fit together.

Every size is bounded before anything is built from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from typing import Any

from earful.checkpoint.fields import Fields, shown
from earful.errors import CheckpointError
from earful.models.mimi.config import MIMI, MimiConfig

# Sizes that a file may ask for. They are far beyond any model, and keep a forged config from taking memory.
BOUNDS = {
    "rate_hz": (1_000, 384_000),
    "channels": (1, 8),
    "filters": (1, 1 << 12),
    "residual_layers": (1, 4),
    "kernel": (1, 1 << 8),
    "residual_kernel": (1, 1 << 8),
    "last_kernel": (1, 1 << 8),
    "dilation_base": (1, 8),
    "compress": (1, 1 << 8),
    "dim": (2, 1 << 16),
    "layers": (1, 1 << 8),
    "heads": (1, 1 << 10),
    "head_dim": (2, 1 << 10),
    "mlp_dim": (1, 1 << 18),
    "window": (1, 1 << 16),
    "codebooks": (2, 1 << 10),
    "semantic_codebooks": (1, 1 << 10),
    "codebook_size": (2, 1 << 20),
    "codebook_dim": (1, 1 << 16),
}
MAX_HOP = 1 << 16


def sizes(fields: Fields, keys: Mapping[str, str], defaults: Mapping[str, int]) -> dict[str, Any]:
    """Whole numbers by our names, which `keys` translates."""
    return {name: fields.whole(key, *BOUNDS[name], defaults.get(name)) for name, key in keys.items()}


def ratios_of(fields: Fields, key: str) -> tuple[int, ...]:
    ratios: Any = fields.values.get(key)
    listed = isinstance(ratios, (list, tuple)) and all(type(ratio) is int and ratio >= 1 for ratio in ratios)
    if not listed or not 1 <= len(ratios) <= 8 or math.prod(ratios) > MAX_HOP:
        raise fields.unfit(key, f"1 to 8 whole numbers with a product of at most {MAX_HOP}")
    return tuple(ratios)


def checked(config: MimiConfig, where: str) -> MimiConfig:
    """The config, once its parts are found to fit each other."""
    c = config
    wrong = {
        f"an even head_dim, got {c.head_dim}": c.head_dim % 2,
        f"fewer than {c.codebooks} semantic codebooks, got {c.semantic_codebooks}": c.semantic_codebooks >= c.codebooks,
        f"a compress that divides {c.filters} filters, got {c.compress}": c.filters % c.compress,
        "a codec that encodes or decodes, got neither": not (c.encodes or c.decodes),
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise CheckpointError(f"{where}: expected {what}")
    return config


def require(config: MimiConfig, layout: str, **expected: Any) -> None:
    """Refuse to write what a layout has no word for."""
    for name, value in expected.items():
        if getattr(config, name) != value:
            raise CheckpointError(
                f"expected {name} to be {shown(value)}: the {layout} layout cannot say otherwise; "
                f"got {shown(getattr(config, name))}"
            )


def published(names: Sequence[str]) -> dict[str, Any]:
    """Sizes of the published model, which is what a file means by a key that it leaves out."""
    return {field.name: getattr(MIMI, field.name) for field in fields_of(MIMI) if field.name in names}
