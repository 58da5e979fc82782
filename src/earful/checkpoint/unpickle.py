"""Old PyTorch checkpoints read as data: a pickle is a list of instructions, and here only those that make tensors work.

Nothing is imported, called or built because a file says so: each instruction is carried out by the few lines below, and
a name that is not in `KNOWN` ends the reading. Numbers stay in the file; what is made is a list of where they are.
Run as a program, with the path of a file, by `earful.checkpoint.pickled`; it prints that list as JSON.

Source: Python's pickletools for the instructions; torch/serialization.py for both kinds of file.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickletools
import reprlib
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

MAX_PICKLE_BYTES = 16 << 20  # all but the numbers; a model of 711 tensors needs 0.1 MB
MAX_INSTRUCTIONS = 2_000_000
MAX_MEMORY_BYTES, MAX_SECONDS = 4 << 30, 600  # of the process and its processor, so that no file can take more
MAX_SIZE = 1 << 48
MAX_DIMS = 8
MAX_BITS = 128
MOST_VIEWS = 4  # all tensors together may be so many times as large as the file
MAX_TEXT = 1000  # of a setting
SETTINGS = (str, int, float, bool, type(None))

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # files of PyTorch up to 1.5 begin with this number and the next, each pickled
LEGACY_VERSION = 1001
LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip file's member: the lengths of its name and of what follows it

STORAGES = {  # kinds of storage -> dtype as safetensors calls it, and bytes
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}


class Refused(Exception):
    """A file that is not what it should be; the message says *expected* and *got*."""


class Made:
    """What instructions make beside Python's own values; messages say only what it is, whatever it holds."""

    def __repr__(self) -> str:
        return f"a {type(self).__name__.lower()}"


@dataclass(frozen=True, repr=False)
class Name(Made):
    """A name of `KNOWN` that the file mentions; `make` is what stands here for calling it."""

    text: str
    make: Callable[[tuple[Any, ...]], Any] | None = None


@dataclass(frozen=True, repr=False)
class Storage(Made):
    """A run of numbers: which one, of what type, and how many."""

    key: str
    dtype: str
    size: int
    count: int


@dataclass(frozen=True, repr=False)
class Tensor(Made):
    """Numbers of a storage that lie one behind the other."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Namespace(Made):
    """Settings, as `argparse` keeps them."""

    values: dict[Any, Any] = field(default_factory=dict)


def _sizes(values: Any, what: str) -> tuple[int, ...]:
    few = isinstance(values, (tuple, list)) and len(values) <= MAX_DIMS
    if not few or not all(type(v) is int and 0 <= v < MAX_SIZE for v in values):
        raise Refused(f"expected {what}, got {shown(values)}")
    return tuple(values)


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    """Arguments as `torch._utils._rebuild_tensor_v2` has them: storage, offset, sizes, strides, and for training."""
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        raise Refused(f"expected a tensor of a storage, got {shown(arguments)}")
    storage = arguments[0]
    (offset,) = _sizes(arguments[1:2], "an offset")
    sizes = f"up to {MAX_DIMS} sizes"
    shape, strides = _sizes(arguments[2], sizes), _sizes(arguments[3], "as many strides")
    if len(strides) != len(shape):
        raise Refused(f"expected a stride for each size, got {shown(shape)} and {shown(strides)}")
    count = math.prod(shape)
    if offset + count > storage.count:
        raise Refused(f"expected a tensor within {storage.count} numbers, got {shown(shape)} from {offset} on")
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if count and size != 1 and stride != step:
            raise Refused(f"expected a tensor whose rows lie in order, got strides {shown(strides)} of {shown(shape)}")
        step *= size
    return Tensor(storage, offset, shape)


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    if not arguments or not isinstance(arguments[0], Tensor):
        raise Refused(f"expected a parameter of a tensor, got {shown(arguments)}")
    return arguments[0]


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise Refused(f"expected an empty dictionary, got one of {shown(arguments)}")
    return {}


def _namespace(arguments: tuple[Any, ...]) -> Namespace:
    if arguments:
        raise Refused(f"expected settings without arguments, got {shown(arguments)}")
    return Namespace()


def _shape(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    return _sizes(arguments[0] if len(arguments) == 1 else None, f"up to {MAX_DIMS} sizes")


KNOWN = {
    name.text: name
    for name in (
        Name("collections OrderedDict", _dictionary),
        Name("torch._utils _rebuild_tensor", _tensor),
        Name("torch._utils _rebuild_tensor_v2", _tensor),
        Name("torch._utils _rebuild_parameter", _parameter),
        Name("torch Size", _shape),
        Name("argparse Namespace", _namespace),
        *(Name(f"torch {kind}") for kind in STORAGES),
    )
}


def known(name: str) -> Name:
    if name not in KNOWN:
        raise Refused(f"expected nothing but tensors, got the name {shown(name)}")
    return KNOWN[name]


def storage_of(id: object) -> Storage:
    """What a persistent id of PyTorch stands for."""
    if not isinstance(id, tuple) or not 5 <= len(id) <= 6 or id[0] != "storage" or not isinstance(id[1], Name):
        raise Refused(f"expected the id of a storage, got {shown(id)}")
    kind = id[1].text.partition(" ")[2]
    (count,) = _sizes(id[4:5], "a number of numbers")
    if kind not in STORAGES or not isinstance(id[2], str):
        raise Refused(f"expected the id of a storage, got {shown(id)}")
    if id[5:] not in ((), (None,)):
        raise Refused("expected whole storages, got a part of one")
    return Storage(id[2], *STORAGES[kind], count)


class Machine:
    """Carries out the instructions of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # stacks below a mark
        self.memory: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, file: BinaryIO) -> Any:
        """The object of the pickle that begins here; the file then stands behind it. Raises `Refused`."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of an escape in a text that means nothing
                self._follow(file)
            (result,) = self.stack
        except (ValueError, LookupError, Warning) as error:
            raise Refused(f"expected a whole pickle, got: {type(error).__name__}: {shown(str(error))}") from error
        if self.marked:
            raise Refused("expected a whole pickle, got a mark that is left over")
        return result

    def _follow(self, file: BinaryIO) -> None:
        for number, (code, argument, _) in enumerate(pickletools.genops(file)):
            if number == MAX_INSTRUCTIONS:
                raise Refused(f"expected at most {MAX_INSTRUCTIONS} instructions, got more")
            if code.name in VALUES:
                self.stack.append(_plain(argument))
            elif code.name in INSTRUCTIONS:
                INSTRUCTIONS[code.name](self, argument)
            else:
                raise Refused(f"expected nothing but tensors, got the instruction {code.name}")

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def close(self, kind: Callable[[list[Any]], Any]) -> None:
        items = self.since_mark()
        self.stack.append(kind(items))

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def put(self, at: int | None) -> None:
        self.memory[len(self.memory) if at is None else at] = self.stack[-1]

    def get(self, at: int) -> None:
        self.stack.append(self.memory[at])

    def tuple_of(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Refused(f"expected a list to add to, got {shown(target)}")
        target += items

    def fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused(f"expected a dictionary to add to, got {shown(target)}")
        for key in items[::2]:
            if type(key) not in (str, int):  # the hash of tuples in tuples may take for ever
                raise Refused(f"expected keys of text or whole numbers, got {shown(key)}")
        target.update(zip(items[::2], items[1::2], strict=True))

    def name(self, argument: str | None) -> None:
        if argument is None:
            name, module = self.stack.pop(), self.stack.pop()
            if type(name) is not str or type(module) is not str:
                raise Refused(f"expected a name, got {shown((module, name))}")
            argument = f"{module} {name}"
        self.stack.append(known(argument))

    def call(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or name.make is None or not isinstance(arguments, tuple):
            raise Refused(f"expected nothing but tensors to be made, got {shown(name)} of {shown(arguments)}")
        self.stack.append(name.make(arguments))

    def build(self, _: Any) -> None:
        """What Python would write into the object: settings; of a dictionary PyTorch's versions, which nobody needs."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(state, dict) or not isinstance(target, (dict, Namespace)):
            raise Refused(f"expected settings, got {shown(state)} for {shown(target)}")
        if isinstance(target, Namespace):
            target.values.update(state)

    def persistent(self, _: Any) -> None:
        storage = storage_of(self.stack.pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise Refused(f"expected one storage {shown(storage.key)}, got two that differ")
        self.stack.append(storage)


VALUES = {
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
INSTRUCTIONS: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "MARK": Machine.mark,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine.get),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "TUPLE": lambda m, _: m.close(tuple),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "LIST": lambda m, _: m.close(list),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "SETITEM": lambda m, _: m.fill([m.stack.pop(), m.stack.pop()][::-1]),
    "SETITEMS": lambda m, _: m.fill(m.since_mark()),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), Machine.name),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Machine.call),
    "BUILD": Machine.build,
    "BINPERSID": Machine.persistent,
}


def _plain(value: Any) -> Any:
    if type(value) is int and value.bit_length() > MAX_BITS:
        raise Refused(f"expected whole numbers of at most {MAX_BITS} bits, got one of {value.bit_length()}")
    return value


def shown(value: object) -> str:
    """A value as it may stand in a message: one line, cut where it is long."""
    text = repr(value[:200]) if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ----------------------------------------------------------------------------------------------- the two kinds of file


def listing(path: Path) -> dict[str, Any]:
    """What a checkpoint holds: "tensors" as the header of a safetensors file lists them, their offsets counted from the
    beginning of the file, and "settings", which fairseq keeps beside them. Raises `Refused`.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        found, starts = (_read_zip if file.read(2) == b"PK" else _read_legacy)(file, size)
    tensors, settings = contents(found)
    total = sum(math.prod(tensor.shape) * tensor.storage.size for tensor in tensors.values())
    if total > MOST_VIEWS * size:
        raise Refused(f"expected tensors of at most {MOST_VIEWS * size} bytes in a file of {size}, got {total}")
    places = {}
    for name, tensor in tensors.items():
        storage = tensor.storage
        begin = starts[storage.key] + tensor.offset * storage.size
        offsets = (begin, begin + math.prod(tensor.shape) * storage.size)
        places[name] = {"dtype": storage.dtype, "shape": tensor.shape, "data_offsets": offsets}
    return {"tensors": places, "settings": settings}


def contents(found: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, and settings: of a dictionary of tensors, or of one that fairseq has written."""
    if not isinstance(found, dict):
        raise Refused(f"expected a dictionary of tensors, got {shown(found)}")
    settings: object = {}
    if isinstance(found.get("model"), dict):
        configuration = found.get("cfg")
        settings = found.get("args") or (configuration.get("model") if isinstance(configuration, dict) else None)
        settings = settings.values if isinstance(settings, Namespace) else settings or {}
        found = found["model"]
    if not isinstance(settings, dict):
        raise Refused(f"expected settings, got {shown(settings)}")
    tensors: dict[Any, Any] = found
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise Refused(f"expected tensors by name, got {shown(tensor)} for {shown(name)}")
    return tensors, {key: value for key, value in settings.items() if type(key) is str and _is_setting(value)}


def _is_setting(value: object) -> bool:
    return type(value) in SETTINGS and not (isinstance(value, str) and len(value) > MAX_TEXT)


def _read_zip(file: BinaryIO, size: int) -> tuple[Any, dict[str, int]]:
    """As PyTorch writes since 1.6: one member is the pickle, each other one a storage, none of them compressed."""
    try:
        archive = zipfile.ZipFile(file)
        members = {member.filename: member for member in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise Refused("expected a zip file with one member to a name, got several")
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise Refused(f"expected a zip file with one data.pkl, got {len(pickles)}")
        folder = pickles[0].removesuffix("data.pkl")
        order = folder + "byteorder"
        if order in members and archive.read(_stored(members, order, 16)) != b"little":
            raise Refused("expected numbers whose lowest byte comes first, got others")
        machine = Machine()
        found = machine.run(io.BytesIO(archive.read(_stored(members, pickles[0], MAX_PICKLE_BYTES))))
        starts = {}
        for storage in machine.storages.values():
            member = _stored(members, f"{folder}data/{storage.key}", size)
            if member.file_size != storage.count * storage.size:
                raise Refused(
                    f"expected {storage.count * storage.size} bytes in {member.filename}, got {member.file_size}"
                )
            with archive.open(member) as data:  # to its end, where it is seen whether it is damaged
                while data.read(1 << 20):
                    pass
            file.seek(member.header_offset)
            lengths = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            starts[storage.key] = member.header_offset + LOCAL_HEADER.size + sum(lengths)
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, struct.error) as error:
        raise Refused(f"expected a whole zip file, got: {shown(str(error))}") from error
    return found, starts


def _stored(members: dict[str, zipfile.ZipInfo], name: str, most: int) -> zipfile.ZipInfo:
    member = members.get(name)
    if member is None:
        raise Refused(f"expected a member {shown(name)}, got none of that name")
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise Refused(f"expected members that are not compressed, got {shown(name)}")
    if member.file_size > most:
        raise Refused(f"expected at most {most} bytes in {shown(name)}, got {member.file_size}")
    return member


def _read_legacy(file: BinaryIO, size: int) -> tuple[Any, dict[str, int]]:
    """As PyTorch wrote before 1.6: five pickles, then of each storage the number of its numbers, and these."""
    file.seek(0)
    head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    if Machine().run(head) != LEGACY_MAGIC or Machine().run(head) != LEGACY_VERSION:
        raise Refused("expected a checkpoint of PyTorch, got another pickle")
    about = Machine().run(head)
    if not isinstance(about, dict) or about.get("little_endian") is not True:
        raise Refused("expected numbers whose lowest byte comes first, got others")
    machine = Machine()
    found, keys = machine.run(head), Machine().run(head)
    if not isinstance(keys, list) or any(type(key) is not str for key in keys):
        raise Refused(f"expected a list of storages, got {shown(keys)}")
    if sorted(keys) != sorted(machine.storages):
        raise Refused(f"expected the {len(machine.storages)} storages that tensors are of, got {len(keys)}")
    starts, begin = {}, head.tell()
    for key in keys:
        storage = machine.storages[key]
        file.seek(begin)
        count = int.from_bytes(file.read(8), "little")
        starts[key] = begin + 8
        begin += 8 + storage.count * storage.size
        if count != storage.count or begin > size:
            raise Refused(f"expected {storage.count} numbers in storage {shown(key)}, got {count} or the file's end")
    if begin != size:
        raise Refused(f"expected {begin} bytes, got {size}")
    return found, starts


# -------------------------------------------------------------------------------------------------------- as a program


def main() -> None:
    """Print what the file holds, or {"refused": why}, as JSON."""
    sys.setrecursionlimit(200)
    _limit()
    try:
        result = listing(Path(sys.argv[1]))
    except Refused as error:
        result = {"refused": str(error)}
    except MemoryError:
        result = {"refused": f"expected a file that is read within {MAX_MEMORY_BYTES >> 30} GB, got one that is not"}
    except OSError as error:
        result = {"refused": f"expected a readable file, got: {error.strerror}"}
    print(json.dumps(result))


def _limit() -> None:
    """Memory and time of this process, where the system can; and no file may be written."""
    if sys.platform == "win32":
        return
    import resource

    for kind, most in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, MAX_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
    ):
        try:
            resource.setrlimit(kind, (most, most))
        except (OSError, ValueError):  # macOS does not limit memory
            continue


if __name__ == "__main__":
    main()
