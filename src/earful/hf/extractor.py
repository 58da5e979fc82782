"""What the feature extractors of several families share: their files, and how rows are cut and filled up."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from earful.checkpoint.fields import Fields, shown
from earful.checkpoint.files import write_json
from earful.checkpoint.hub import fetch
from earful.hf.config import read_config

FILE = "preprocessor_config.json"
WHOLE_FILE = "processor_config.json"  # where current releases of transformers write what older ones write to FILE
PADDINGS = ("longest", "max_length", "do_not_pad")


@dataclass
class Extractor:
    """Settings by name. Keys of a file that mean nothing here are kept and written again."""

    padding_side: str = field(default="right", kw_only=True)
    return_attention_mask: bool = field(default=True, kw_only=True)
    other: dict[str, Any] = field(default_factory=dict, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.padding_side not in ("left", "right"):
            raise ValueError(f"expected padding_side of 'left' or 'right', got {self.padding_side!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Of the content of a preprocessor_config.json."""
        values = deepcopy(values)
        for name in ("feature_extractor_type", "processor_class"):
            values.pop(name, None)
        known = {item.name: values.pop(item.name) for item in fields(cls) if item.name in values}
        return cls(**known, other=values)

    def to_dict(self) -> dict[str, Any]:
        """The content of a preprocessor_config.json."""
        named = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "other"}
        return deepcopy({**self.other, **named, "feature_extractor_type": type(self).__name__})

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Self:
        """Of a folder or a hub id in any known layout; raises `CheckpointError` for what cannot be read."""
        return cls.from_dict(settings(fetch(source, revision)))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write preprocessor_config.json; raises `CheckpointError` when it cannot."""
        write_json(Path(folder) / FILE, self.to_dict())


def settings(folder: Path) -> dict[str, Any]:
    """What a checkpoint folder of any layout says of its feature extractor."""
    if not (folder / FILE).is_file() and (folder / WHOLE_FILE).is_file():
        return dict(Fields.from_file(folder / WHOLE_FILE).block("feature_extractor").values)
    return read_config(folder, FILE)


def strategy_of(padding: bool | str | None) -> str:
    """The name of what `padding` asks for."""
    if padding is None or padding is True:
        return "longest"
    if padding is False:
        return "do_not_pad"
    if padding not in PADDINGS:
        raise ValueError(f"expected padding of a bool or {', '.join(PADDINGS)}, got {shown(padding)}")
    return padding


def cut_length(truncation: bool, max_length: int | None, multiple: int | None) -> int | None:
    """The most that is left of a row, None for all of it. Raises ValueError for a missing max_length."""
    if not truncation:
        return None
    if max_length is None:
        raise ValueError("expected max_length beside truncation, got none")
    return rounded(max_length, multiple)


def filled_length(longest: int, padding: bool | str, max_length: int | None, multiple: int | None) -> int | None:
    """What shorter rows are filled up to, None where they are not. Raises ValueError for a missing max_length."""
    strategy = strategy_of(padding)
    if strategy == "do_not_pad":
        return None
    if strategy == "max_length" and max_length is None:
        raise ValueError("expected max_length beside padding='max_length', got none")
    return rounded(longest if strategy == "longest" else max_length or 0, multiple)


def rounded(length: int, multiple: int | None) -> int:
    """Up to a multiple."""
    return length if multiple is None else -(-length // multiple) * multiple
