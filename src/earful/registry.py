"""Which families there are, how a checkpoint folder is recognised, and how it becomes a model and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from earful.checkpoint import table
from earful.checkpoint.fields import read_json, shown
from earful.checkpoint.files import MAX_SHARD_BYTES, Weights, found, has_weights, open_weights, save_weights, some
from earful.checkpoint.pickled import open_pickled
from earful.checkpoint.table import Layout
from earful.errors import CheckpointError


@dataclass(frozen=True)
class Family:
    """Where a family lives. Its modules are imported when a checkpoint of it is met."""

    layouts: str  # a module with LAYOUTS: name -> Layout
    model: str  # module:class; the class is built from the config that a layout reads, and keeps it as `config`
    streams: str | None  # module:function; (model, path of the tokenizer) -> what the engine needs offline, and live
    wide: tuple[str, ...] = ()  # names of parameters that begin so are float32, whatever the type of the others

    def load_layouts(self) -> Mapping[str, Layout[Any]]:
        return import_module(self.layouts).LAYOUTS  # type: ignore[no-any-return]

    def build(self, config: Any) -> nn.Module:
        """The network without memory for its weights."""
        with torch.device("meta"), _Unset():
            return _imported(self.model)(config)  # type: ignore[no-any-return]

    def load_streams(self) -> Callable[[nn.Module, Path], tuple[Any, Any]]:
        assert self.streams is not None
        return _imported(self.streams)  # type: ignore[no-any-return]


class _Unset(TorchFunctionMode):
    """Draws no weights: on a meta device they say nothing, and torch loads its compiler for them, for a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return None if getattr(func, "__module__", "") == nn.init.__name__ else func(*args, **(kwargs or {}))


def _imported(path: str) -> Any:
    module, name = path.split(":")
    return getattr(import_module(module), name)


FAMILIES = {
    "voxtral": Family(
        layouts="earful.models.voxtral.layouts",
        model="earful.models.voxtral.model:VoxtralRealtime",
        streams="earful.models.voxtral.stream:streams",
    ),
    "kyutai_stt": Family(
        layouts="earful.models.kyutai_stt.layouts",
        model="earful.models.kyutai_stt.model:KyutaiStt",
        streams="earful.models.kyutai_stt.stream:streams",
        wide=("codec.",),
    ),
    "s2t": Family(
        layouts="earful.models.s2t.layouts",
        model="earful.models.s2t.model:Speech2Text",
        streams="earful.models.s2t.stream:streams",
    ),
    "moshi": Family(
        layouts="earful.models.moshi.layouts",
        model="earful.models.moshi.model:Moshi",
        streams="earful.models.moshi.stream:streams",
        wide=("codec.", "conditions."),
    ),
    "mimi": Family(  # behind those that hear through it: its files lie in their folders too
        layouts="earful.models.mimi.layouts",
        model="earful.models.mimi.model:Mimi",
        streams=None,  # a codec, which writes no text
    ),
}


def recognise(folder: str | Path) -> tuple[str, str]:
    """The family and the layout of a checkpoint folder; raises `CheckpointError` that says what was found.

    A folder that holds the same model in two layouts is of the one whose weights are there, the first one if both are.
    """
    folder = Path(folder)
    names = found(folder)
    known = [(family, name, layout) for family in FAMILIES for name, layout in FAMILIES[family].load_layouts().items()]
    marked = [(family, name, layout, layout.marker) for family, name, layout in known if layout.marker]
    documents = {marker: read_json(folder / marker) for *_, marker in marked if marker in names}
    fitting = [
        (not has_weights(folder, layout.stem), family, name)
        for family, name, layout, marker in marked
        if isinstance(document := documents.get(marker), Mapping) and layout.owns(document)
    ]
    if fitting:
        _, family, layout_name = min(fitting, key=lambda row: row[0])
        return family, layout_name
    for family, name, layout in known:
        if layout.find and layout.find(folder):
            return family, name
    got = f"{some(documents)} of another model" if documents else some(names, most=8)
    for document in documents.values():
        if isinstance(document, Mapping) and "model_type" in document:
            got += f" (model_type {shown(document['model_type'])})"
    expected = sorted({f"{marker} of {' or '.join(_families(marker))}" for *_, marker in marked})
    raise CheckpointError(f"{folder}: expected {' or '.join(expected)}, got {got}")


def _families(marker: str) -> list[str]:
    """Those that have a layout which is known by this file."""
    return [name for name in FAMILIES if marker in {of.marker for of in FAMILIES[name].load_layouts().values()}]


def open_checkpoint(folder: str | Path, pickled: bool = False) -> tuple[str, Layout[Any], Weights]:
    """The family, the layout and the weights of a folder; raises `CheckpointError` for what cannot be opened.

    pickled: whether weights are opened that lie in a pickle, see checkpoint/pickled.py.
    """
    folder = Path(folder)
    family, name = recognise(folder)
    layout = FAMILIES[family].load_layouts()[name]
    if layout.open:
        return family, layout, layout.open(folder)
    stem = (layout.find and layout.find(folder)) or layout.stem
    if pickled and not has_weights(folder, stem) and (old := layout.old(folder)):
        return family, layout, open_pickled(old)
    return family, layout, open_weights(folder, stem)


def load_model(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    opened: tuple[str, Layout[Any], Weights] | None = None,
) -> tuple[nn.Module, Path | None]:
    """The network of a checkpoint folder with its weights, ready to run, and the path of its tokenizer if it has one.

    dtype: of the weights; None for the widest that is stored. opened: what `open_checkpoint` gave, where that has been
    called. The peak of memory is the model and its largest tensor. Raises `CheckpointError` where the folder is of no
    known layout, incomplete or inconsistent.
    """
    folder = Path(folder)
    family, layout, weights = opened or open_checkpoint(folder)
    config = layout.read(folder, weights)
    model, wide = FAMILIES[family].build(config), FAMILIES[family].wide
    tables, parameters = layout.tables(config), model.state_dict()
    if dtype is None:
        matches = table.fitting(tables, weights, parameters).matches
        free = [name for match in matches if not match.here[0].startswith(wide) for name in match.there]
        stored = {weights[name].dtype for name in free if weights[name].dtype.is_floating_point}
        dtype = reduce(torch.promote_types, stored)
    model.load_state_dict(table.load(tables, weights, parameters, device, dtype, wide), assign=True)
    return model.eval(), tokenizer_of(folder, layout)


def tokenizer_of(folder: Path, layout: Layout[Any]) -> Path | None:
    """Where a folder of this layout has its tokenizer, None where the family needs none."""
    name = layout.tokenizer(folder) if callable(layout.tokenizer) else layout.tokenizer
    return folder / name if name else None


def save_model(
    model: nn.Module,
    folder: str | Path,
    layout: str,
    tokenizer: str | Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a core model as a checkpoint folder in one of its family's layouts.

    tokenizer: the file to copy, without which the folder cannot be loaded until someone else has put it there.
    Raises `CheckpointError` for an unknown layout, a model that it cannot describe, and a disk that cannot hold it.
    """
    kind = f"{type(model).__module__}:{type(model).__qualname__}"
    known = next(family for family in FAMILIES.values() if family.model == kind).load_layouts()
    writers = {name: of.write for name, of in known.items() if of.write}
    if layout not in writers:
        raise CheckpointError(f"expected a layout of {some(writers)}, got {layout}")
    chosen, config = known[layout], model.config
    weights = model.state_dict()
    dtype = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
    writers[layout](config, Path(folder), dtype, Path(tokenizer) if tokenizer else None)

    def part(prefix: str) -> Iterator[tuple[str, Tensor]]:
        """The tensors of one file, or of its shards."""
        for name, tensor in table.save(chosen.tables(config)[0], weights):
            if prefix == next((other for other in chosen.parts if name.startswith(other)), ""):
                yield name.removeprefix(prefix), tensor

    for prefix, stem in {"": chosen.stem, **chosen.parts}.items():
        save_weights(folder, part(prefix), stem, max_shard_bytes)
