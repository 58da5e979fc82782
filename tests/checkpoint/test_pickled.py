"""Old checkpoints: what PyTorch wrote is read, and what anybody else could write does nothing but be refused."""

import argparse
import collections
import contextlib
import copyreg
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.checkpoint import pickled, unpickle
from earful.checkpoint.pickled import open_pickled
from earful.checkpoint.unpickle import LEGACY_MAGIC, LEGACY_VERSION, Refused, listing
from earful.errors import CheckpointError

ABOUT = {"protocol_version": LEGACY_VERSION, "little_endian": True, "type_sizes": {}}
FORMATS = ["zip", "legacy"]


@pytest.fixture(params=FORMATS)
def kind(request):
    return request.param


def written(path, content, kind):
    """What PyTorch itself writes."""
    torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


# -------------------------------------------------------------------------------- what PyTorch and fairseq have written


def everything():
    base = torch.randn(4, 5)
    return collections.OrderedDict(
        weight=torch.nn.Parameter(torch.randn(3, 4)),
        ids=torch.arange(6),
        scale=torch.tensor(2.5, dtype=torch.float64),
        half=torch.randn(2, 2, 2).half(),
        brain=torch.randn(3).bfloat16(),
        mask=torch.tensor([True, False]),
        small=torch.tensor([-3, 4], dtype=torch.int8),
        empty=torch.zeros(0, 4),
        row=base[2:3],
        rest=base[1:],
        same=base,
    )


def test_every_tensor_is_read_as_it_was(tmp_path, kind):
    content = everything()
    weights = open_pickled(written(tmp_path / "pytorch_model.bin", content, kind))
    assert list(weights) == list(content)
    for name, tensor in content.items():
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights.read(name), tensor)
    assert weights.settings == {}


def test_the_state_of_a_module(tmp_path, kind):
    """Beside the tensors PyTorch keeps versions in it."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    weights = open_pickled(written(tmp_path / "a.bin", module.state_dict(), kind))
    assert {name: weights.read(name).tolist() for name in weights} == {
        name: tensor.tolist() for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("where", ["args", "cfg"])
def test_settings_of_fairseq(tmp_path, kind, where):
    given = argparse.Namespace(encoder_layers=12, conv_kernel_sizes="5,5", dropout=0.1, tied=True, none=None, many=[1])
    state = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.98)}]}
    content = {
        "args": given if where == "args" else None,
        "cfg": {"model": given} if where == "cfg" else None,
        "model": {"a": torch.ones(2)},
        "optimizer_history": [{"criterion_name": "LabelSmoothed", "num_updates": 7}],
        "last_optimizer_state": state,
    }
    weights = open_pickled(written(tmp_path / "a.pt", content, kind))
    assert weights.read("a").tolist() == [1, 1]
    assert weights.settings == {
        "encoder_layers": 12,
        "conv_kernel_sizes": "5,5",
        "dropout": 0.1,
        "tied": True,
        "none": None,
    }


def test_settings_are_short(tmp_path, kind):
    given = argparse.Namespace(a="a" * 1000, b="b" * 1001)
    found = listing(written(tmp_path / "a.pt", {"model": {"a": torch.ones(2)}, "args": given}, kind))
    assert found["settings"] == {"a": "a" * 1000}


@given(st.data())
@settings(max_examples=25)
def test_any_views_of_any_storages(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("views") / "a.bin"
    content = {}
    for number in range(data.draw(st.integers(0, 4))):
        base = torch.randn(data.draw(st.integers(1, 30)))
        for part in range(data.draw(st.integers(1, 3))):
            begin = data.draw(st.integers(0, len(base)))
            content[f"{number}.{part}"] = base[begin:]
        content[f"{number}.square"] = base[: len(base) // 2 * 2].view(2, -1, 1)
    found = listing(written(path, content, data.draw(st.sampled_from(FORMATS))))["tensors"]
    raw = path.read_bytes()
    for name, tensor in content.items():
        begin, end = found[name]["data_offsets"]
        assert (found[name]["dtype"], tuple(found[name]["shape"])) == ("F32", tuple(tensor.shape))
        assert raw[begin:end] == tensor.contiguous().numpy().tobytes()


# ------------------------------------------------------------------------------------------------------ made by hand


@dataclass
class Call:
    """A call of a name, as an instruction."""

    module: str
    name: str
    arguments: Any


@dataclass
class Storage:
    key: str = "0"
    count: Any = 6
    kind: Any = b"ctorch\nFloatStorage\n"
    more: tuple = ()


def code(thing) -> bytes:
    """Instructions that make a thing; bytes are instructions already."""
    match thing:
        case bytes():
            return thing
        case Call():
            return f"c{thing.module}\n{thing.name}\n".encode() + code(thing.arguments) + b"R"
        case Storage():
            return code(("storage", thing.kind, thing.key, "cpu", thing.count, *thing.more)) + b"Q"
        case dict():
            return b"}(" + b"".join(code(part) for item in thing.items() for part in item) + b"u"
        case tuple():
            return b"(" + b"".join(map(code, thing)) + b"t"
        case list():
            return b"](" + b"".join(map(code, thing)) + b"e"
        case None:
            return b"N"
        case True | False:
            return b"\x88" if thing else b"\x89"
        case int():
            return b"I%d\n" % thing
        case str():
            return b"X" + struct.pack("<I", len(thing.encode())) + thing.encode()
    raise AssertionError(thing)


def pickle_of(thing) -> bytes:
    return b"\x80\x02" + code(thing) + b"."


def tensor(storage=None, offset=0, shape=(6,), strides=(1,), name="_rebuild_tensor_v2"):
    return Call("torch._utils", name, (storage or Storage(), offset, shape, strides, False, {}))


NUMBERS = torch.arange(6, dtype=torch.float32).numpy().tobytes()


def file_of(path, content, kind, storages=None, compression=zipfile.ZIP_STORED, members=()):
    """A checkpoint that holds these instructions and one storage of six numbers."""
    storages = {"0": NUMBERS} if storages is None else storages
    if kind == "legacy":
        parts = [LEGACY_MAGIC, LEGACY_VERSION]
        data = b"".join(struct.pack("<q", len(raw) // 4) + raw for raw in storages.values())
        head = b"".join(map(pickle_of, (*parts, ABOUT, content, list(storages))))
        path.write_bytes(head + data)
        return path
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle_of(content))
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)
        for name, raw in members:
            archive.writestr(name, raw)
    return path


def test_files_made_by_hand_are_read(tmp_path, kind):
    """Else those below could be refused for another reason than they should."""
    content = {"a": tensor(), "b": tensor(offset=2, shape=(2, 2), strides=(2, 1)), "c": tensor(name="_rebuild_tensor")}
    weights = open_pickled(file_of(tmp_path / "a.bin", content, kind))
    assert {name: weights.read(name).tolist() for name in weights} == {
        "a": [0, 1, 2, 3, 4, 5],
        "b": [[2, 3], [4, 5]],
        "c": [0, 1, 2, 3, 4, 5],
    }


# ------------------------------------------------------------------------------------------------ what could run code

TARGET = "PWNED"  # a file that must not come to be
CALLS = {
    "os.system": ("os", "system", (f"touch {TARGET}",)),
    "posix.system": ("posix", "system", (f"touch {TARGET}",)),
    "nt.system": ("nt", "system", (f"touch {TARGET}",)),
    "open": ("builtins", "open", (TARGET, "w")),
    "open of Python 2": ("__builtin__", "open", (TARGET, "w")),
    "io.open": ("io", "open", (TARGET, "w")),
    "eval": ("builtins", "eval", (f"open('{TARGET}', 'w')",)),
    "exec": ("builtins", "exec", (f"open('{TARGET}', 'w')",)),
    "import": ("builtins", "__import__", ("antigravity",)),
    "getattr": ("builtins", "getattr", (b"cos\nsystem\n", "__call__")),
    "apply": ("builtins", "map", (b"cos\nsystem\n", (f"touch {TARGET}",))),
    "subprocess": ("subprocess", "Popen", (("touch", TARGET),)),
    "runpy": ("runpy", "_run_code", (f"open('{TARGET}', 'w')", {})),
    "copyreg": ("copyreg", "_reconstructor", (b"cpathlib\nPath\n", b"cbuiltins\nobject\n", None)),
    "newobj": ("copyreg", "__newobj__", (b"csubprocess\nPopen\n", ("touch", TARGET))),
    "partial": ("functools", "partial", (b"cos\nsystem\n", f"touch {TARGET}")),
    "attrgetter": ("operator", "attrgetter", ("system",)),
    "pickle again": ("pickle", "loads", (pickle_of(Call("os", "system", (f"touch {TARGET}",))).decode("latin-1"),)),
    "torch.load": ("torch", "load", (TARGET,)),
    "torch.storage": ("torch.storage", "_load_from_bytes", (TARGET,)),
    "torch.hub": ("torch.hub", "load", ("someone/something", "model")),
    "torch.jit": ("torch.jit", "load", (TARGET,)),
    "numpy": ("numpy", "fromfile", (TARGET,)),
    "a name inside a name": ("torch._utils", "_rebuild_tensor_v2.__globals__", ()),
    "a class of ours": ("earful.checkpoint.unpickle", "main", ()),
    "settings with arguments": ("argparse", "Namespace", (TARGET,)),
    "a dictionary with arguments": ("collections", "OrderedDict", (((TARGET, 1),),)),
}
WHERE = {
    "alone": lambda evil: evil,
    "beside tensors": lambda evil: {"a": tensor(), "b": evil},
    "as a name": lambda evil: {code(evil): tensor()},
    "in a list": lambda evil: {"model": {"a": tensor()}, "extra_state": [1, [evil]]},
    "as a storage's key": lambda evil: {"a": tensor(Storage(key=evil))},
    "as a storage's kind": lambda evil: {"a": tensor(Storage(kind=code(evil)))},
    "as a storage's size": lambda evil: {"a": tensor(Storage(count=evil))},
    "as a storage": lambda evil: {"a": tensor(evil)},
    "as a view of a storage": lambda evil: {"a": tensor(Storage(more=(evil,)))},
    "as the id itself": lambda evil: {"a": tensor(code(evil) + b"Q")},
    "as sizes": lambda evil: {"a": tensor(shape=evil)},
    "as hooks": lambda evil: {"a": Call("torch._utils", "_rebuild_parameter", (tensor(), True, evil))},
    "as settings": lambda evil: {
        "model": {"a": tensor()},
        "args": code(Call("argparse", "Namespace", ())) + code(evil) + b"b",
    },
    "among settings": lambda evil: {
        "model": {"a": tensor()},
        "args": code(Call("argparse", "Namespace", ())) + code({"x": evil}) + b"b",
    },
    "behind tensors, and dropped": lambda evil: code({"a": tensor()}) + code(evil) + b"0",
}


def must_be_refused(path, target, kind, content, **options):
    file_of(path, content, kind, **options)
    with pytest.raises(Refused, match="^expected .* got ") as caught:
        listing(path)
    assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.fixture
def target(tmp_path, monkeypatch):
    """What payloads would create; they name it by itself, so they are read in its folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / TARGET


@pytest.mark.parametrize("where", WHERE)
def test_code_is_not_run_wherever_it_lies(tmp_path, target, kind, where):
    for call in CALLS.values():
        must_be_refused(tmp_path / "a.bin", target, kind, WHERE[where](Call(*call)))


def text(value):
    return f"S'{value}'\n".encode()


RAW = {  # instructions that name things in other ways, or that make objects without calling
    "INST": b"(" + text(f"touch {TARGET}") + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + text(f"touch {TARGET}") + b"o",
    "NEWOBJ": b"cos\nsystem\n(" + text(f"touch {TARGET}") + b"t\x81",
    "NEWOBJ_EX": b"cos\nsystem\n(" + text(f"touch {TARGET}") + b"t}\x92",
    "STACK_GLOBAL": code("os") + code("system") + b"\x93" + code((f"touch {TARGET}",)) + b"R",
    "STACK_GLOBAL, dotted": code("torch._utils") + code("_rebuild_tensor_v2.__globals__") + b"\x93",
    "STACK_GLOBAL of no text": code(1) + code(2) + b"\x93",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pstorage\n",
    "BUILD of a dictionary's state": code({}) + code(({}, {"__class__": 1})) + b"b",
    "BUILD of a list": b"]" + code({"__class__": 1}) + b"b",
    "REDUCE of text": code("os.system") + code((f"touch {TARGET}",)) + b"R",
    "REDUCE of a kind of storage": b"ctorch\nFloatStorage\n" + code((6,)) + b"R",
    "REDUCE without a tuple": b"ccollections\nOrderedDict\n" + code([]) + b"R",
    "a set": b"\x8f",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 1) + b"a",
    "NEXT_BUFFER": b"\x97",
}


@pytest.mark.parametrize("where", ["alone", "beside tensors", "as the id itself"])
def test_other_instructions_are_refused(tmp_path, target, kind, where):
    for instructions in RAW.values():
        must_be_refused(tmp_path / "a.bin", target, kind, WHERE[where](instructions))


class Reduced:
    """What pickle itself makes of an object with a `__reduce__`, for each protocol."""

    def __reduce__(self):
        return os.system, (f"touch {TARGET}",)


class Extended:
    """Has a number in the registry of extensions."""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_python_are_refused(tmp_path, target, kind, protocol):
    copyreg.add_extension(Extended.__module__, Extended.__qualname__, 77)
    try:
        for evil in (Reduced(), Extended(), Extended, print, slice(1), {1, 2}, 2 + 3j, bytearray(b"a")):
            made = pickle.dumps(evil, protocol).removesuffix(b".")
            made = made[2:] if protocol >= 2 else made  # without the number of the protocol
            must_be_refused(tmp_path / "a.bin", target, kind, {"a": tensor(), "b": made})
            must_be_refused(tmp_path / "a.bin", target, kind, {"a": tensor(made + b"Q")})
            (tmp_path / "a.bin").write_bytes(pickle.dumps(evil, protocol))
            with pytest.raises(Refused):
                listing(tmp_path / "a.bin")
    finally:
        copyreg.remove_extension(Extended.__module__, Extended.__qualname__, 77)
    assert not target.exists()


@pytest.mark.parametrize("number", range(5))
def test_every_pickle_of_an_older_file_is_watched(tmp_path, target, number):
    evil = pickle_of(Call("os", "system", (f"touch {TARGET}",)))
    parts = list(map(pickle_of, (LEGACY_MAGIC, LEGACY_VERSION, ABOUT, {"a": tensor()}, ["0"])))
    parts[number] = evil
    (tmp_path / "a.bin").write_bytes(b"".join(parts) + struct.pack("<q", 6) + NUMBERS)
    with pytest.raises(Refused, match="got the name 'os system'"):
        listing(tmp_path / "a.bin")
    assert not target.exists()


def test_these_payloads_would_work(tmp_path, target):
    """In the hands of another program: else the tests above show nothing."""
    pickle.loads(pickle_of({"b": Call("os", "system", (f"touch {TARGET}",))}))
    assert target.exists()


# --------------------------------------------------------------------------------------------------------- forged sizes

FORGED = {
    "more numbers than there are": (tensor(Storage(count=7)), "24|7"),
    "fewer numbers than there are": (tensor(Storage(count=5), shape=(5,)), "20|5"),
    "sizes beyond the storage": (tensor(shape=(7,)), "expected a tensor within 6 numbers"),
    "a huge size": (tensor(shape=(1 << 47,)), "expected a tensor within 6 numbers"),
    "a size beyond any": (tensor(shape=(1 << 60,)), "expected up to 8 sizes"),
    "a product beyond any": (tensor(shape=(1 << 40,) * 8, strides=(1,) * 8), "expected a tensor within 6 numbers"),
    "an offset beyond the storage": (tensor(offset=1), "expected a tensor within 6 numbers"),
    "an offset before it": (tensor(offset=-1, shape=(1,)), "expected an offset"),
    "a negative size": (tensor(shape=(-6,)), "expected up to 8 sizes"),
    "a flag for a size": (tensor(shape=(True,)), "expected up to 8 sizes"),
    "a text for a size": (tensor(shape=("6",)), "expected up to 8 sizes"),
    "one number many times": (tensor(shape=(1 << 30,), strides=(0,)), "expected a tensor within 6 numbers"),
    "one number a few times": (tensor(shape=(6,), strides=(0,)), "whose rows lie in order"),
    "columns for rows": (tensor(shape=(2, 3), strides=(1, 2)), "whose rows lie in order"),
    "many sizes": (tensor(shape=(1,) * 9, strides=(1,) * 9), "expected up to 8 sizes"),
    "a stride too few": (tensor(shape=(2, 3), strides=(3,)), "expected a stride for each size"),
    "a storage that is not there": (tensor(Storage(key="1")), "'archive/data/1'|storages"),
    "a storage outside": (tensor(Storage(key="../../x")), "'archive/data/../../x'|storages"),
    "a part of a storage": (tensor(Storage(more=(("0", 1, 2),))), "expected whole storages"),
    "a storage of no kind": (tensor(Storage(kind=b"ctorch\nSize\n")), "expected the id of a storage"),
    "one storage of two kinds": ([tensor(), tensor(Storage(kind=b"ctorch\nIntStorage\n"))], "got two that differ"),
}


def test_forged_sizes_are_refused(tmp_path, kind):
    for forged, message in FORGED.values():
        content = {"a": forged} if isinstance(forged, Call) else dict(zip("ab", forged, strict=True))
        file_of(tmp_path / "a.bin", content, kind)
        with pytest.raises(Refused, match=message):
            listing(tmp_path / "a.bin")


def test_many_views_are_not_many_times_the_file(tmp_path, kind):
    numbers = bytes(4 * 10_000)
    content = {str(i): tensor(Storage(count=10_000), shape=(10_000,)) for i in range(9)}
    with pytest.raises(Refused, match=r"expected tensors of at most \d+ bytes in a file of 4\d+, got 360000"):
        listing(file_of(tmp_path / "a.bin", content, kind, {"0": numbers}))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"N", "expected a dictionary of tensors, got None"),
        ({"a": 1}, "expected tensors by name, got 1 for 'a'"),
        ({1: tensor()}, "expected tensors by name, got .* for 1"),
        ({("a", "b"): tensor()}, "expected keys of text or whole numbers"),
        ({"model": {"a": tensor()}, "args": 3}, "expected settings, got 3"),
        ({"a": 1 << 200}, "expected whole numbers of at most 128 bits, got one of 201"),
        (b"((N", "got a mark that is left over"),
        (b"NN", "expected a whole pickle, got: ValueError"),
        (b"0", "the instruction POP"),
        (b"h\x05", "expected a whole pickle, got: KeyError"),
        (b"Q", "expected a whole pickle, got: IndexError"),
        (b"t", "expected a whole pickle, got: IndexError"),
        (b"X\xff\xff\xff\x7fabc", "expected a whole pickle, got: ValueError"),
        (b"I1" + b"0" * 5000 + b"\n", "expected a whole pickle, got: ValueError"),
        (b"S'\\q'\n", "expected a whole pickle, got: DeprecationWarning"),
    ],
)
def test_other_pickles_are_refused(tmp_path, kind, content, message):
    storages = {"0": NUMBERS} if b"Storage" in code(content) else {}
    with pytest.raises(Refused, match=message):
        listing(file_of(tmp_path / "a.bin", content, kind, storages))


def test_what_takes_for_ever_is_refused(tmp_path, kind, monkeypatch):
    deep = b")" + b"q\x00h\x00\x86" * 100  # a pair of pairs of pairs ..., whose hash would take 2^100 steps
    with pytest.raises(Refused, match="expected keys of text or whole numbers"):
        listing(file_of(tmp_path / "a.bin", {deep: 1}, kind))
    with pytest.raises(Refused, match="expected tensors by name"):
        listing(file_of(tmp_path / "a.bin", {"a": deep}, kind, {}))
    nested = code(Call("argparse", "Namespace", ())) + code({"x": deep}) + b"b"
    with pytest.raises(Refused, match=r"expected tensors by name, got a namespace for 'a'"):
        listing(file_of(tmp_path / "a.bin", {"a": nested}, kind, {}))  # its text would be 2^100 long
    monkeypatch.setattr(unpickle, "MAX_INSTRUCTIONS", 500)
    with pytest.raises(Refused, match="expected at most 500 instructions, got more"):
        listing(file_of(tmp_path / "a.bin", [b"N"] * 600, kind))


def test_zip_files_that_are_not_pytorchs(tmp_path):
    path, content = tmp_path / "a.bin", {"a": tensor()}
    cases = {
        "expected members that are not compressed": {"compression": zipfile.ZIP_DEFLATED},
        "expected a zip file with one data.pkl, got 2": {"members": [("b/data.pkl", b"")]},
        "expected numbers whose lowest byte comes first": {"members": [("archive/byteorder", b"big")]},
        r"expected a member 'archive/data/0', got none": {"storages": {}},
    }
    for message, options in cases.items():
        with pytest.raises(Refused, match=message):
            listing(file_of(path, content, "zip", **options))
    file_of(path, content, "zip", members=[("archive/data/1", b"")])
    path.write_bytes(path.read_bytes().replace(b"archive/data/1", b"archive/data/0"))
    with pytest.raises(Refused, match="one member to a name"):
        listing(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(Refused, match="expected a zip file with one data.pkl, got 0"):
        listing(path)


def test_a_pickle_that_is_too_large(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(unpickle, "MAX_PICKLE_BYTES", 1000)
    with pytest.raises(Refused, match="expected at most 1000 bytes|expected a whole pickle"):
        listing(file_of(tmp_path / "a.bin", {"a": "b" * 1000}, kind))


def test_damage_is_seen(tmp_path):
    path = file_of(tmp_path / "a.bin", {"a": tensor()}, "zip")
    whole = path.read_bytes()
    at = whole.index(NUMBERS)
    path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    with pytest.raises(Refused, match='expected a whole zip file, got: "Bad CRC-32'):
        listing(path)


@pytest.mark.parametrize("about", [{}, {"little_endian": False}, 3])
def test_older_files_of_other_machines(tmp_path, about):
    parts = map(pickle_of, (LEGACY_MAGIC, LEGACY_VERSION, about, {"a": tensor()}, ["0"]))
    (tmp_path / "a.bin").write_bytes(b"".join(parts) + struct.pack("<q", 6) + NUMBERS)
    with pytest.raises(Refused, match="expected numbers whose lowest byte comes first"):
        listing(tmp_path / "a.bin")


@pytest.mark.parametrize("keys", [["1"], ["0", "0"], [], 3, [1]])
def test_older_files_whose_list_is_another(tmp_path, keys):
    parts = map(pickle_of, (LEGACY_MAGIC, LEGACY_VERSION, ABOUT, {"a": tensor()}, keys))
    (tmp_path / "a.bin").write_bytes(b"".join(parts) + struct.pack("<q", 6) + NUMBERS)
    with pytest.raises(Refused, match="expected .*storages"):
        listing(tmp_path / "a.bin")


@given(st.data())
@settings(max_examples=100)
def test_whatever_is_changed_nothing_else_comes_out(tmp_path_factory, data):
    """Bytes changed, cut or put in: the list of tensors, all of them within the file, or a reason."""
    path = tmp_path_factory.mktemp("fuzz") / "a.bin"
    chosen = data.draw(st.sampled_from(FORMATS))
    content = {"model": {"a": torch.arange(6.0), "b": torch.zeros(2, 3)}, "args": argparse.Namespace(x=1)}
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=chosen == "zip")
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert"])):
            case "change":
                raw[at] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 20))]
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=6))
    path.write_bytes(raw)
    try:
        found = listing(path)
    except Refused:
        return
    assert all(0 <= b <= e <= len(raw) for b, e in (about["data_offsets"] for about in found["tensors"].values()))


@given(st.lists(st.sampled_from([bytes([c]) for c in range(256)] + [code(tensor()), code({"a": 1})]), max_size=40))
@settings(max_examples=100)
def test_any_instructions_at_all(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("fuzz") / "a.bin"
    with contextlib.suppress(Refused):
        listing(file_of(path, b"".join(parts), "zip"))


# ------------------------------------------------------------------------------------------- the process of its own


def test_the_process_says_why(tmp_path):
    path = file_of(tmp_path / "a.bin", {"a": Call("os", "system", ("true",))}, "zip")
    with pytest.raises(CheckpointError, match="a.bin: expected nothing but tensors, got the name 'os system'$"):
        open_pickled(path)
    with pytest.raises(CheckpointError, match="b.bin: expected a readable file, got: No such file or directory$"):
        open_pickled(tmp_path / "b.bin")
    (tmp_path / "c.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="c.bin: expected a whole pickle, got"):
        open_pickled(tmp_path / "c.bin")


def test_a_process_that_dies_is_a_reason(tmp_path, monkeypatch):
    crash = tmp_path / "crash.py"
    crash.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setattr(pickled.unpickle, "__file__", str(crash))
    with pytest.raises(CheckpointError, match=r"a.bin: expected a list of tensors, got none \(exit code -9\)"):
        open_pickled(file_of(tmp_path / "a.bin", {"a": tensor()}, "zip"))


def test_what_the_process_says_is_not_believed(tmp_path, monkeypatch):
    liar = tmp_path / "liar.py"
    monkeypatch.setattr(pickled.unpickle, "__file__", str(liar))
    path = file_of(tmp_path / "a.bin", {"a": tensor()}, "zip")
    for about, message in [
        ('{"dtype": "F32", "shape": [9999], "data_offsets": [0, 39996]}', "expected 'a' within"),
        ('{"dtype": "F32", "shape": [2], "data_offsets": [-4, 4]}', "expected data_offsets"),
        ('{"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}', "expected dtype"),
        ("3", "expected an object, got 3"),
    ]:
        liar.write_text(f'print(\'{{"tensors": {{"a": {about}}}, "settings": {{}}}}\')')
        with pytest.raises(CheckpointError, match=message):
            open_pickled(path)


def test_the_process_is_limited(tmp_path):
    """It can write no file, and its memory ends."""
    script = tmp_path / "greedy.py"
    script.write_text(
        f"import runpy; unpickle = runpy.run_path({unpickle.__file__!r}); unpickle['_limit']()\n"
        "try: open('x', 'wb', 0).write(b'a')\nexcept OSError as e: print(e.strerror)\n"
        "try: bytearray(5 << 30)\nexcept MemoryError: print('MemoryError')\n"
    )
    done = subprocess.run([sys.executable, "-I", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout == "File too large\nMemoryError\n"
