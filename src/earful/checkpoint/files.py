"""Safetensors folders: headers checked before memory is taken, tensors read one by one, files replaced whole.

Pickled weights are not opened here, because opening one can run code: `earful convert` reads them as data (pickled.py).
Source: the safetensors format, https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from earful.checkpoint.fields import Fields, shown
from earful.errors import CheckpointError

MAX_HEADER_BYTES = 16 << 20  # a published file of 711 tensors needs 0.1 MB
MAX_TENSOR_DIMS = 8
MAX_SHARD_BYTES = 5_000_000_000  # as transformers splits
METADATA = {"format": "pt"}  # transformers refuses a file without it
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
OLD_WEIGHTS = "pytorch_model.bin"  # as transformers once wrote
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Entry:
    """One tensor in a safetensors file, and where in the file its bytes begin."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """The tensor on the CPU, in memory of its own: a file that changes later does not change it."""
        data = torch.empty(self.nbytes, dtype=torch.uint8)
        with _reading(self.path) as file:
            file.seek(self.start)
            got = file.readinto(data.numpy())
        if got != self.nbytes:
            raise CheckpointError(f"{self.path}: expected {self.nbytes} bytes at {self.start}, got {got}")
        return data.view(self.dtype).view(self.shape)


class Weights(Mapping[str, Entry]):
    """The tensors of one checkpoint, by name; nothing of them is in memory until `read`."""

    def __init__(self, entries: Mapping[str, Entry], where: str) -> None:
        self.entries, self.where = entries, where

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; raises `CheckpointError` where the checkpoint has none of that name."""
        if name not in self.entries:
            raise CheckpointError(f"{self.where}: expected a tensor {name}, got none of that name")
        return self.entries[name].shape

    def read(self, name: str) -> Tensor:
        return self.entries[name].read()


def open_weights(folder: str | Path, stem: str = "model") -> Weights:
    """The weights in `folder`: STEM.safetensors, or the shards that STEM.safetensors.index.json lists.

    Only headers are read. Raises `CheckpointError` where they are absent, damaged, forged or lack a shard.
    """
    folder = Path(folder)
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return Weights(read_header(single), str(single))
    if index.is_file():
        return Weights(_read_shards(index), str(index))
    pickles = [name for name in found(folder) if name.endswith(PICKLES)]
    expected = f"{folder}: expected {single.name} or {index.name}"
    if pickles:
        raise CheckpointError(
            f"{expected}, got only {some(pickles)}: pickled weights can run code and are not opened; "
            f"`earful convert {folder} TARGET` reads them as data and writes safetensors"
        )
    raise CheckpointError(
        f"{expected}, got {some(found(folder))} (of a repository with pickled weights only, "
        "`earful convert NAME TARGET` makes safetensors)"
    )


def has_weights(folder: Path, stem: str) -> bool:
    """Whether `open_weights` would find something to open."""
    return any((folder / f"{stem}.safetensors{end}").is_file() for end in ("", ".index.json"))


def read_header(path: Path) -> dict[str, Entry]:
    """What a safetensors file says it holds, once all of it is found to be true of the file's size.

    Raises `CheckpointError` for a header that is too large, unreadable or of unknown types, and for tensors that
    overlap, leave gaps, lie outside the file or have another size than their shape.
    """
    listed, data, size = _listed(path)
    listed.pop("__metadata__", None)
    entries = {name: entry_of(path, name, about, data) for name, about in listed.items()}
    end = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if entry.start != end:
            what = "a gap" if entry.start > end else "an overlap"
            raise CheckpointError(f"{path}: expected tensor {shown(name)} at byte {end}, got {entry.start}, {what}")
        end += entry.nbytes
    if end != size:
        raise CheckpointError(f"{path}: expected {end} bytes for {len(entries)} tensors, got {size}")
    return entries


def read_metadata(path: Path) -> Fields:
    """What a safetensors file says beside its tensors, all of it as text; raises `CheckpointError` for no such file."""
    return Fields(_listed(path)[0].get("__metadata__", {}), f"{path}: metadata")


def _listed(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header as it is, where the tensors begin, and the size of the file."""
    with _reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 0 < length <= min(size - 8, MAX_HEADER_BYTES):
            most = min(max(size - 8, 0), MAX_HEADER_BYTES)
            raise CheckpointError(f"{path}: expected a safetensors header of 1 to {most} bytes, got {length}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a safetensors header in JSON, got: {error}") from error
    return dict(Fields(header, f"{path}: header").values), 8 + length, size


def entry_of(path: Path, name: str, about: object, data: int) -> Entry:
    """What a header says of one tensor, whose offsets count from the byte `data`; raises `CheckpointError`."""
    fields = Fields(about, f"{path}: {shown(name)}")
    dtype, shape, offsets = map(fields.values.get, ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise fields.unfit("dtype", f"one of {' '.join(DTYPES)}")
    if not _is_sizes(shape) or len(shape) > MAX_TENSOR_DIMS:
        raise fields.unfit("shape", f"at most {MAX_TENSOR_DIMS} sizes")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise fields.unfit("data_offsets", "a beginning and an end")
    entry = Entry(path, DTYPES[dtype], tuple(shape), data + offsets[0])
    if offsets[1] - offsets[0] != entry.nbytes:
        raise fields.unfit("data_offsets", f"{entry.nbytes} bytes apart, the size of {list(shape)} in {dtype}")
    return entry


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 48 for size in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("the same key twice")
    return table


def _read_shards(index: Path) -> dict[str, Entry]:
    listed = Fields.from_file(index).block("weight_map")
    entries: dict[str, Entry] = {}
    for file in sorted({str(name) for name in listed.values.values()}):
        if Path(file).name != file or not file.endswith(".safetensors"):  # nothing outside the folder
            raise CheckpointError(f"{index}: expected names of safetensors files, got {shown(file)}")
        inside = read_header(index.parent / file)
        here = {name for name, home in listed.values.items() if home == file}
        if here != inside.keys():
            raise CheckpointError(
                f"{index}: expected {file} to hold the {len(here)} tensors listed for it, got others: "
                f"{some(here ^ inside.keys())}"
            )
        entries |= inside
    return entries


def save_weights(
    folder: str | Path,
    tensors: Iterable[tuple[str, Tensor]],
    stem: str = "model",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors as STEM.safetensors, or as shards with an index where they exceed `max_shard_bytes`.

    The files get their names only when all bytes are on the disk; an older save under the same stem is then removed.
    At most one shard is held in memory beside the tensors. Raises `CheckpointError` when it cannot write.
    """
    folder = Path(folder)
    parts: list[tuple[Path, list[str]]] = []
    total = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for shard in _shards(tensors, max_shard_bytes):
            parts.append((folder / f".{stem}-{len(parts)}.{os.getpid()}.tmp", list(shard)))
            total += sum(tensor.nbytes for tensor in shard.values())
            save_file(shard, parts[-1][0], METADATA)
            _sync(parts[-1][0])
        count = len(parts)
        names = [f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
        if count == 1:
            names = [f"{stem}.safetensors"]
        for (part, _), name in zip(parts, names, strict=True):
            part.replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {stem}.safetensors in {folder}: {_reason(error)}") from error
    finally:
        for part, _ in parts:
            part.unlink(missing_ok=True)
    if count > 1:
        weight_map = {key: name for (_, keys), name in zip(parts, names, strict=True) for key in keys}
        names.append(f"{stem}.safetensors.index.json")
        write_json(
            folder / names[-1], {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        )
    ours = re.compile(re.escape(stem) + r"(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
    for old in folder.iterdir():
        if ours.fullmatch(old.name) and old.name not in names:
            old.unlink()


def _shards(tensors: Iterable[tuple[str, Tensor]], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    filled = 0
    for name, tensor in tensors:
        if shard and filled + tensor.nbytes > max_bytes:
            yield shard
            shard, filled = {}, 0
        shard[name] = tensor.detach().cpu().contiguous()
        filled += tensor.nbytes
    yield shard


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file, on the CPU; raises `CheckpointError` like `read_header`."""
    return {name: entry.read() for name, entry in read_header(Path(path)).items()}


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = METADATA) -> None:
    """Write one safetensors file, whole or not at all; raises `CheckpointError` when it cannot be written."""
    with replacing(Path(path)) as temporary:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, temporary, dict(metadata))


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file, whole or not at all; raises `CheckpointError` when it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: it takes its place when the block ends well, and is removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until the bytes are on the disk: some file systems tell only then that they do not fit."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path}: expected a readable file, got: {_reason(error)}") from error


def found(folder: Path) -> list[str]:
    """The names in a folder, sorted; raises `CheckpointError` where it cannot be listed."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: expected a checkpoint folder, got: {_reason(error)}") from error


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of some names and how many more there are, for a message."""
    ordered = sorted(names)
    cut = [name if name.isprintable() and len(name) < 250 else shown(name) for name in ordered[:most]]
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(cut) + more if cut else "nothing"


def old_weights(folder: Path) -> Path | None:
    """The pickled weights that transformers once wrote, if they are there."""
    path = folder / OLD_WEIGHTS
    return path if path.is_file() else None
