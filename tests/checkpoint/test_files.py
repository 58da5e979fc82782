import json
import struct
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import earful.checkpoint.files as files
from earful.checkpoint.files import load_tensors, open_weights, read_header, save_tensors, save_weights
from earful.errors import CheckpointError
from tests.helpers import full_disk


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {
        "a.weight": torch.randn(3, 5),
        "b.weight": torch.randn(2, 2, 3).to(torch.bfloat16),
        "c.bias": torch.randn(7).half(),
        "d.scale": torch.tensor(3.0, dtype=torch.float64),
        "e.ids": torch.arange(6),
        "f.mask": torch.tensor([True, False]),
        "g.empty": torch.zeros(0, 4),
    }


def same(left, right):
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]) for key in left
    )


def read_all(weights):
    return {name: weights.read(name) for name in weights}


def write_file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# Reading and writing


def test_reads_what_the_safetensors_library_writes(tmp_path, tensors):
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    weights = open_weights(tmp_path)
    assert len(weights) == len(tensors)
    assert {name: tuple(tensors[name].shape) for name in tensors} == {name: weights.shape(name) for name in weights}
    assert same(read_all(weights), tensors)
    with pytest.raises(CheckpointError, match=r"expected a tensor z\.weight, got none of that name"):
        weights.shape("z.weight")


def test_the_safetensors_library_reads_what_we_write(tmp_path, tensors):
    save_weights(tmp_path, tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert same(load_file(tmp_path / "model.safetensors"), tensors)
    assert b'"format":"pt"' in (tmp_path / "model.safetensors").read_bytes()[:200]


@pytest.mark.parametrize("limit", [1, 60, 130])
def test_shards_hold_each_tensor_once_and_stay_below_the_limit(tmp_path, tensors, limit):
    save_weights(tmp_path, iter(tensors.items()), "consolidated", limit)
    assert same(read_all(open_weights(tmp_path, "consolidated")), tensors)
    index = json.loads((tmp_path / "consolidated.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    shards = sorted(tmp_path.glob("consolidated-*.safetensors"))
    assert [shard.name for shard in shards] == [
        f"consolidated-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))
    ]
    for shard in shards:
        held = load_file(shard)
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= limit


def test_a_later_save_replaces_the_earlier_one_whole(tmp_path, tensors):
    (tmp_path / "tekken.json").write_text("{}")
    (tmp_path / "mimi.safetensors").write_text("other")
    others = {"tekken.json", "mimi.safetensors"}
    for limit, count in [(60, 3), (1000, 1), (130, 2), (60, 3)]:
        save_weights(tmp_path, tensors.items(), max_shard_bytes=limit)
        assert same(read_all(open_weights(tmp_path)), tensors)
        written = {path.name for path in tmp_path.iterdir()} - others
        assert len(written) == (count if count == 1 else count + 1), written


def test_a_read_tensor_is_independent_of_the_file(tmp_path, tensors):
    save_weights(tmp_path, tensors.items())
    weights = open_weights(tmp_path)
    held = weights.read("a.weight")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert torch.equal(held, tensors["a.weight"])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected \d+ bytes"):
        [weights.read(name) for name in weights]
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected a readable file, got: No such file"):
        weights.read("a.weight")


def test_views_are_written_as_what_they_show(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    save_weights(tmp_path, [("t", base.T), ("row", base[1])])
    assert same(read_all(open_weights(tmp_path)), {"t": base.T.contiguous(), "row": base[1]})


def test_one_file_of_tensors(tmp_path, tensors):
    save_tensors(tmp_path / "new" / "state.safetensors", tensors)
    assert same(load_tensors(tmp_path / "new" / "state.safetensors"), tensors)


@pytest.mark.parametrize("limit", [3000, 1 << 20])
def test_a_full_disk_leaves_the_older_files_alone(tmp_path, limit):
    old = {"w": torch.ones(4)}
    save_weights(tmp_path, old.items())
    new = [("v", torch.zeros(100)), ("w", torch.zeros(2000))]
    with full_disk(4096):
        with pytest.raises(
            CheckpointError, match=r"^cannot write model\.safetensors in .*: .*File too large.*$"
        ) as caught:
            save_weights(tmp_path, new, max_shard_bytes=limit)
        assert "\n" not in str(caught.value)
        with pytest.raises(CheckpointError, match=r"cannot write .*state\.safetensors: .*File too large"):
            save_tensors(tmp_path / "state.safetensors", dict(new))
        with pytest.raises(CheckpointError, match=r"cannot write .*config\.json: File too large"):
            files.write_json(tmp_path / "config.json", "x" * 10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert same(read_all(open_weights(tmp_path)), old)


def test_an_error_on_the_way_leaves_no_file(tmp_path):
    def broken():
        yield "a", torch.zeros(3)
        yield "b", torch.zeros(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_weights(tmp_path, broken(), max_shard_bytes=12)
    assert list(tmp_path.iterdir()) == []


def test_loading_takes_no_more_memory_than_the_tensors(tmp_path):
    """Read in a process of its own, because the peak of this one is long past."""
    save_file({str(i): torch.zeros(4 << 20) for i in range(8)}, tmp_path / "model.safetensors")  # 8 x 16 MiB
    program = f"""
        import resource
        from earful.checkpoint.files import open_weights
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
        weights = open_weights({str(tmp_path)!r})
        held = [weights.read(name) for name in weights]
        print((peak() - before) // 1024)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 128 + 24


# What must be refused


def test_pickled_weights_are_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(
        CheckpointError, match=r"expected model\.safetensors or .*, got only pytorch_model\.bin: pickled"
    ):
        open_weights(tmp_path)


def test_a_folder_without_weights_says_what_it_holds(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors or .*, got nothing"):
        open_weights(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"got notes\.txt"):
        open_weights(tmp_path)
    with pytest.raises(CheckpointError, match="expected a checkpoint folder, got: No such file"):
        open_weights(tmp_path / "nowhere")


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


FORGED = {
    "beyond the file": ({"a": entry([4], 0, 16)}, 8, "expected .* bytes for 1 tensors"),
    "bytes left over": ({"a": entry([4], 0, 16)}, 20, "expected .* bytes for 1 tensors"),
    "overlap": ({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, 24, "'b' at byte .*, an overlap"),
    "all in one place": ({str(i): entry([1], 0, 4) for i in range(99)}, 4, "an overlap"),
    "gap": ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, 12, "'b' at byte .*, a gap"),
    "gap at the beginning": ({"a": entry([1], 4, 8)}, 8, "'a' at byte .*, a gap"),
    "wrong size": ({"a": entry([4], 0, 12)}, 12, "expected data_offsets to be 16 bytes apart"),
    "backwards": ({"a": entry([4], 16, 0)}, 16, "expected data_offsets to be 16 bytes apart"),
    "huge": ({"a": entry([1 << 40, 1 << 40], 0, 16)}, 16, "expected data_offsets to be .* bytes apart"),
    "too huge for numbers": ({"a": entry([0, 10**30], 0, 0)}, 0, "expected shape to be"),
    "negative size": ({"a": entry([-4, -1], 0, 16)}, 16, "expected shape to be"),
    "negative offset": ({"a": entry([4], -16, 0)}, 16, "expected data_offsets to be a beginning and an end"),
    "three offsets": ({"a": entry([4], 0, 16) | {"data_offsets": [0, 8, 16]}}, 16, "a beginning and an end"),
    "true as a size": ({"a": entry([True, 4], 0, 16)}, 16, "expected shape to be"),
    "size as text": ({"a": entry(["4"], 0, 16)}, 16, "expected shape to be"),
    "too many dimensions": ({"a": entry([1] * 9, 0, 4)}, 4, "expected shape to be at most 8 sizes"),
    "unknown type": ({"a": entry([4], 0, 16, "F3")}, 16, "expected dtype to be one of .*, got 'F3'"),
    "type of another type": ({"a": entry([4], 0, 16, ["F32"])}, 16, "expected dtype to be one of"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, 4, "expected shape to be"),
    "no object": ({"a": 3}, 0, "'a': expected an object, got 3"),
    "a list": ([1, 2], 0, "header: expected an object"),
    "not JSON": (b"{" + b" " * 20, 0, "expected a safetensors header in JSON"),
    "not text": (b"\xff" * 20, 0, "expected a safetensors header in JSON"),
    "nested deeply": (b"[" * 100_000, 0, "expected a safetensors header in JSON"),
    "a key twice": (b'{"a": {"dtype": "F32"}, "a": {}}', 0, "the same key twice"),
    "no header": (b"", 4, "expected a safetensors header of 1 to 4 bytes, got 0"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_header_is_refused(tmp_path, name):
    header, data, message = FORGED[name]
    write_file(tmp_path / "model.safetensors", header, bytes(data))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_weights(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [1, 2**20, 2**40, 2**64 - 1])
def test_a_header_longer_than_the_file_is_refused(tmp_path, length):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length))
    with pytest.raises(CheckpointError, match=f"expected a safetensors header of 1 to 0 bytes, got {length}"):
        read_header(path)
    path.write_bytes(b"abc")
    with pytest.raises(CheckpointError, match="expected a safetensors header"):
        read_header(path)


def test_a_header_may_not_take_all_memory(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 36))
        file.truncate(1 << 37)  # 128 GiB on paper, nothing on the disk
    with pytest.raises(CheckpointError, match=f"of 1 to {16 << 20} bytes"):
        read_header(path)


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_file_reads_or_raises_one_line(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(2, dtype=torch.float16)}, path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    held, message = {}, ""
    try:
        held = load_tensors(path)
    except CheckpointError as error:
        message = str(error)
    assert message or sum(tensor.nbytes for tensor in held.values()) == 64
    assert "\n" not in message


def test_an_index_must_agree_with_its_shards(tmp_path, tensors):
    save_weights(tmp_path, tensors.items(), max_shard_bytes=60)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first, second, *_ = sorted(set(index["weight_map"].values()))

    def refused(message, **changes):
        path.write_text(json.dumps({"weight_map": index["weight_map"] | changes}))
        with pytest.raises(CheckpointError, match=message):
            open_weights(tmp_path)

    inside = next(name for name, file in index["weight_map"].items() if file == first)
    refused(rf"expected {first} to hold the \d+ tensors listed for it, got others: z", z=first)
    refused("tensors listed for it, got others", **{inside: second})
    refused(r"missing\.safetensors: expected a readable file", z="missing.safetensors")
    refused("expected names of safetensors files, got '../model", z="../model.safetensors")
    refused("expected names of safetensors files, got '/etc", z="/etc/model.safetensors")
    refused("expected names of safetensors files, got 'pytorch_model.bin'", z="pytorch_model.bin")
    refused("expected names of safetensors files, got", z=["a"])
    path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"index\.json: expected weight_map, an object, got no such key"):
        open_weights(tmp_path)
