from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from earful.checkpoint.files import open_weights, save_weights
from earful.checkpoint.table import (
    SAME,
    Codebook,
    Copy,
    Drop,
    Flat,
    Identity,
    Operation,
    Pointwise,
    RopePairs,
    Same,
    Split,
    Stacked,
    load,
    row,
    save,
)
from earful.errors import CheckpointError


@dataclass(frozen=True)
class Halves(Operation):
    """One tensor there, its upper and lower half here: what a later operation may look like."""

    def load(self, there):
        return there[0].chunk(2)

    def save(self, here):
        return [torch.cat(list(here))]


TABLE = [
    row("embed.w", "embed.weight"),
    row("head.w", "embed.weight", Copy()),
    row("blocks.{i}.wq", "layers.{i}.q", RopePairs(2)),
    row("blocks.{i}.bq", "layers.{i}.q_bias", RopePairs(2)),
    row("blocks.{i}.gate_up", ("layers.{i}.gate", "layers.{i}.up"), Halves()),
    row("conditions.{any}", op=Drop("not in this model")),
]


def parameters(layers=2, device="cpu"):
    torch.manual_seed(0)
    made = {"embed.weight": torch.randn(5, 4, device=device)}
    for i in range(layers):
        made[f"layers.{i}.q"] = torch.randn(12, 4, device=device)
        made[f"layers.{i}.q_bias"] = torch.randn(12, device=device)
        made[f"layers.{i}.gate"] = torch.randn(6, 4, device=device)
        made[f"layers.{i}.up"] = torch.randn(6, 4, device=device)
    return made


def there(**changes):
    """The file of the parameters above, with some tensors replaced (None: left out)."""
    held = dict(save(TABLE, parameters())) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in held.items() if tensor is not None}


def load_from(folder, tensors, tables=(TABLE,), layers=2, **options):
    save_weights(folder, tensors.items())
    return load(tables, open_weights(folder), parameters(layers, "meta"), **options)


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_same_table_saves_and_loads(tmp_path):
    assert sorted(there()) == sorted(
        ["embed.w", *(f"blocks.{i}.{name}" for i in range(2) for name in ("wq", "bq", "gate_up"))]
    )
    assert equal(load_from(tmp_path, there()), parameters())


def test_more_than_ten_layers(tmp_path):
    many = parameters(layers=12)
    save_weights(tmp_path, save(TABLE, many))
    assert equal(load([TABLE], open_weights(tmp_path), many), many)


def test_tensors_are_made_one_by_one():
    """So that saving a model needs no second copy of it."""
    made = []

    class Noted(Same):
        def save(self, here):
            made.append(here)
            return here

    written = save([row("{i}", "{i}", Noted())], {"0": torch.zeros(1), "1": torch.zeros(1)})
    next(written)
    assert len(made) == 1


@given(heads=st.integers(1, 5), pairs=st.integers(1, 5), width=st.integers(0, 3))
def test_rope_pairs_change_places_within_each_head(heads, pairs, width):
    rows = heads * pairs * 2
    tensor = torch.arange(rows * max(width, 1)).reshape(rows, *([width] if width else []))
    operation = RopePairs(heads)
    [half_split] = operation.load([tensor])
    for head in range(heads):
        for pair in range(pairs):
            for side in range(2):
                old, new = 2 * pair + side, pair + side * pairs
                assert torch.equal(half_split[head * 2 * pairs + new], tensor[head * 2 * pairs + old])
    assert torch.equal(operation.save([half_split])[0], tensor)


def test_floats_take_the_type_that_is_asked_for(tmp_path):
    table = [row("a", "a"), row("ids", "ids")]
    wanted = {"a": torch.zeros(3), "ids": torch.zeros(2, dtype=torch.int64)}
    save_file({"a": torch.tensor([1.0, 2, 3]).bfloat16(), "ids": torch.tensor([7, 8])}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    as_stored, widened = load([table], weights, wanted), load([table], weights, wanted, dtype=torch.float32)
    assert (as_stored["a"].dtype, widened["a"].dtype) == (torch.bfloat16, torch.float32)
    assert as_stored["ids"].tolist() == widened["ids"].tolist() == [7, 8]


# What does not fit


def refused(folder, message, tensors, **options):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_from(folder, tensors, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder))


def test_a_missing_tensor(tmp_path):
    refused(tmp_path, r"got 1 missing: blocks\.1\.wq$", there(blocks__1__wq=None))


def test_an_extra_tensor(tmp_path):
    refused(tmp_path, r"got 1 not of this model: blocks\.1\.wz$", there(blocks__1__wz=torch.zeros(1)))


@pytest.mark.parametrize("name", ["blocks.2.wq", "blocks.01.wq", "blocks.-1.wq", "blocks.x.wq", "xembed.w", "embed.w2"])
def test_only_whole_names_of_known_layers_are_known(tmp_path, name):
    refused(tmp_path, f"got 1 not of this model: {name}$", there() | {name: torch.zeros(12, 4)})


def test_a_misshapen_tensor(tmp_path):
    changed = there(blocks__0__wq=torch.zeros(4, 12), embed__w=torch.zeros(5, 4, 1))
    refused(
        tmp_path,
        r"got 2 misshapen: blocks\.0\.wq \(expected floats \[12, 4\], got floats \[4, 12\]\), embed\.w",
        changed,
    )


def test_a_tensor_of_another_kind(tmp_path):
    refused(
        tmp_path,
        r"got 1 misshapen: embed\.w \(expected floats \[5, 4\], got int8 \[5, 4\]\)",
        there(embed__w=torch.zeros(5, 4, dtype=torch.int8)),
    )


def test_a_tensor_that_is_to_be_halved_has_the_size_of_both(tmp_path):
    refused(
        tmp_path,
        r"misshapen: blocks\.0\.gate_up \(expected floats \[12, 4\], got floats \[6, 4\]\)",
        there(blocks__0__gate_up=torch.zeros(6, 4)),
    )


def test_both_remainders_are_counted_and_cut(tmp_path):
    held = {f"other.{i}": torch.zeros(1) for i in range(5)} | {"embed.w": torch.zeros(1)}
    refused(
        tmp_path,
        r"got 6 missing: blocks\.0\.bq, blocks\.0\.gate_up, blocks\.0\.wq and 3 more; "
        r"5 not of this model: other\.0, other\.1, other\.2 and 2 more; 1 misshapen: embed\.w",
        held,
    )


def test_nothing_is_read_before_everything_fits(tmp_path, monkeypatch):
    monkeypatch.setattr("earful.checkpoint.files.Entry.read", lambda self: pytest.fail("read too early"))
    refused(tmp_path, "1 missing", there(embed__w=None, head__w=torch.zeros(5, 4)))


def test_a_copy_may_be_there_and_must_be_one(tmp_path):
    embed = there()["embed.w"]
    assert equal(load_from(tmp_path, there(head__w=embed.clone())), parameters())
    refused(
        tmp_path, r"expected head\.w to be a copy of the tensor for embed\.weight, got others", there(head__w=embed + 1)
    )
    refused(tmp_path, r"misshapen: head\.w \(expected floats \[5, 4\]", there(head__w=torch.zeros(4)))


def test_dropped_tensors_may_be_there(tmp_path):
    held = there() | {"conditions.speaker.table": torch.zeros(3), "conditions.a": torch.zeros(1)}
    assert equal(load_from(tmp_path, held), parameters())


def test_the_naming_that_fits_best_is_taken(tmp_path):
    renamed = [row(f"model.{line.there[0]}", line.here, line.op) for line in TABLE]
    held = {f"model.{name}": tensor for name, tensor in there().items()}
    assert equal(load_from(tmp_path, held, tables=(TABLE, renamed)), parameters())
    assert equal(load_from(tmp_path, held, tables=(renamed, TABLE)), parameters())
    held.pop("model.embed.w")
    refused(tmp_path, r"got 1 missing: model\.embed\.w$", held, tables=(TABLE, renamed))


# A table that is wrong is our mistake


def test_a_parameter_without_a_row_or_with_two(tmp_path):
    with pytest.raises(AssertionError, match=r"rows for embed\.weight"):
        list(save(TABLE[1:], parameters()))
    with pytest.raises(AssertionError):
        list(save([*TABLE, row("again", "embed.weight")], parameters()))


def test_a_name_in_the_file_with_two_rows(tmp_path):
    with pytest.raises(AssertionError, match=r"two rows for embed\.w"):
        load_from(tmp_path, there(), tables=([*TABLE, row("embed.{any}", op=Drop("why"))],))
    twice = [row("a", "b"), row("a", "c")]
    save_weights(tmp_path, [("a", torch.zeros(1))])
    with pytest.raises(AssertionError, match="two rows for a"):
        load([twice], open_weights(tmp_path), {"b": torch.zeros(1), "c": torch.zeros(1)})


def test_split_gives_each_part_an_operation_of_its_own():
    op = Split((RopePairs(2), SAME, RopePairs(1)))
    whole = torch.randn(24, 3)
    parts = op.load([whole])
    assert torch.equal(parts[0], RopePairs(2).load([whole[:8]])[0])
    assert torch.equal(parts[1], whole[8:16])
    assert torch.equal(parts[2], RopePairs(1).load([whole[16:]])[0])
    assert torch.equal(op.save(parts)[0], whole)


def test_pointwise_is_a_matrix_here():
    matrix = torch.randn(3, 2)
    assert torch.equal(Pointwise().save([matrix])[0], matrix[:, :, None])
    assert torch.equal(Pointwise().load([matrix[:, :, None]])[0], matrix)


def test_vectors_of_a_codebook_are_sums_over_usage():
    usage, sums = torch.tensor([2.0, 0.0, 5.0]), torch.tensor([[4.0, 6.0], [3e-5, 0.0], [10.0, -5.0]])
    vectors, kept = Codebook().load([torch.ones(1), usage, sums])
    torch.testing.assert_close(vectors, torch.tensor([[2.0, 3.0], [3.0, 0.0], [2.0, -1.0]]))
    flag, usage_again, sums_again = Codebook().save([vectors, kept])
    assert flag.tolist() == [1.0]
    assert torch.equal(usage_again, usage)
    torch.testing.assert_close(sums_again, sums)


def test_identity_is_made_and_only_that_is_left_out(tmp_path):
    table = [row("w", "weight"), row((), "project", Identity(3))]
    held = {"weight": torch.randn(2, 3), "project": torch.eye(3)}
    assert [name for name, _ in save(table, held)] == ["w"]
    save_weights(tmp_path, save(table, held))
    on_meta = {name: tensor.to("meta") for name, tensor in held.items()}
    assert equal(load([table], open_weights(tmp_path), on_meta), held)
    half = load([table], open_weights(tmp_path), on_meta, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in half.values()} == {torch.bfloat16}
    with pytest.raises(
        CheckpointError, match="expected the identity, which this layout leaves out, got another matrix"
    ):
        dict(save(table, held | {"project": 2 * torch.eye(3)}))


def test_a_vector_may_have_sizes_of_one_before_its_own():
    vector = torch.arange(5.0)
    (there,) = Flat(3).save([vector])
    assert there.shape == (1, 1, 5)
    assert torch.equal(Flat(3).load([there])[0], vector)


def test_tables_may_be_rows_of_one_with_zeros_behind():
    tables = [torch.randn(3, 4), torch.randn(1, 4), torch.randn(2, 4)]
    op = Stacked((3, 1, 2))
    (there,) = op.save(tables)
    assert torch.equal(there[:6], torch.cat(tables))
    assert not there[6:].any()
    assert there.shape == (7, 4)
    assert all(torch.equal(one, again) for one, again in zip(tables, op.load([there]), strict=True))
