"""JSON objects read field by field, every value bounded before anything is built from it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from earful.errors import CheckpointError

MAX_JSON_BYTES = 16 << 20  # published indexes of weights have up to 8 MB, configs a few kB


class Fields:
    """A JSON object whose values are taken by key, type and range.

    `where` names the object in error messages. An absent key takes its default, and is required without one.
    Every method raises `CheckpointError` with what was expected and what came.
    """

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{where}: expected an object, got {shown(values)}")
        self.values: Mapping[str, Any] = values
        self.where = where

    @classmethod
    def from_file(cls, path: Path) -> Fields:
        return cls(read_json(path), str(path))

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number from `least` to `most`."""
        value = self._take(key, default, f"a whole number of {least} to {most}")
        if type(value) is not int or not least <= value <= most:  # not isinstance: True is no size
            raise self.unfit(key, f"a whole number of {least} to {most}")
        return value

    def number(self, key: str, least: float, most: float, default: float | None = None) -> float:
        """A finite number from `least` to `most`."""
        value = self._take(key, default, f"a number of {least:g} to {most:g}")
        if type(value) not in (int, float) or not least <= value <= most:  # NaN is refused too
            raise self.unfit(key, f"a number of {least:g} to {most:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key, default, "true or false")
        if not isinstance(value, bool):
            raise self.unfit(key, "true or false")
        return value

    def text(self, key: str) -> str:
        value = self._take(key, None, "text")
        if not isinstance(value, str):
            raise self.unfit(key, "text")
        return value

    def block(self, key: str, default: Mapping[str, Any] | None = None) -> Fields:
        """An object inside this one."""
        return Fields(self._take(key, default, "an object"), f"{self.where}: {key}")

    def only(self, **expected: object) -> None:
        """Refuse a value other than the expected one, which is also what an absent key means."""
        for key, value in expected.items():
            if key in self.values and self.values[key] != value:
                raise self.unfit(key, json.dumps(value))

    def one_of(self, key: str, names: Collection[str]) -> str:
        """One of some names; an absent key means the first."""
        value = self.values.get(key, next(iter(names)))
        if not isinstance(value, str) or value not in names:
            raise self.unfit(key, f"one of {', '.join(names)}")
        return value

    def unfit(self, key: str, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: expected {key} to be {expected}, got {shown(self.values.get(key))}")

    def _take(self, key: str, default: Any, expected: str) -> Any:
        if key in self.values:
            return self.values[key]
        if default is None:
            raise CheckpointError(f"{self.where}: expected {key}, {expected}, got no such key")
        return default


def read_json(path: Path, most_bytes: int = MAX_JSON_BYTES) -> Any:
    """The document in a JSON file; raises `CheckpointError` naming the file where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: expected a readable file, got: {error.strerror}") from error
    if len(data) > most_bytes:
        raise CheckpointError(f"{path}: expected at most {most_bytes} bytes of JSON, got more")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, a number too long, nesting too deep
        raise CheckpointError(f"{path}: expected JSON, got: {error}") from error


def shown(value: object) -> str:
    """A value as it may stand in a message: one line, cut where it is long."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
