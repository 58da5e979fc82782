"""Trees of tensors: every leaf is found, and each slot is handled by itself."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from earful.nn.state import keep, leaves, nbytes, reorder, reset, row, select


@dataclass
class Leaf:
    x: Tensor


@dataclass
class Tree:
    count: Tensor
    parts: list[Leaf]
    pair: tuple[Tensor, Leaf]


def tree(slots: int = 4) -> Tree:
    """Every number differs, and none is zero."""

    def next_leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        nonlocal made
        made += 100
        size = slots * torch.Size(shape).numel()
        return torch.arange(made, made + size, dtype=dtype).view(slots, *shape)

    made = 0
    return Tree(
        next_leaf(dtype=torch.int64), [Leaf(next_leaf(3)), Leaf(next_leaf(2, 2))], (next_leaf(1), Leaf(next_leaf()))
    )


def test_leaves_are_all_tensors_in_order():
    state = tree()
    assert [leaf is known for leaf, known in zip(leaves(state), known_leaves(state), strict=True)] == [True] * 5


def known_leaves(state: Tree) -> list[Tensor]:
    return [state.count, state.parts[0].x, state.parts[1].x, state.pair[0], state.pair[1].x]


@pytest.mark.parametrize("bad", [3, None, "text", {"a": torch.zeros(1)}])
def test_anything_else_in_a_state_is_refused(bad):
    with pytest.raises(TypeError, match="expected tensors, lists or dataclasses in a state, got "):
        list(leaves(Tree(torch.zeros(1), [], (torch.zeros(1), bad))))


@pytest.mark.parametrize("slots", [[2], [0, 3], [], torch.tensor([1, 2])], ids=str)
def test_reset_zeroes_these_slots_in_place(slots):
    state, before = tree(), tree()
    addresses = [leaf.data_ptr() for leaf in leaves(state)]
    reset(state, slots)
    for leaf, old in zip(leaves(state), leaves(before), strict=True):
        for slot in range(4):
            assert (leaf[slot] == (0 if slot in list(slots) else old[slot])).all()
    assert [leaf.data_ptr() for leaf in leaves(state)] == addresses


def test_select_copies_rows_in_any_order():
    state = tree()
    copy = select(state, [3, 1])
    assert isinstance(copy, Tree)
    assert isinstance(copy.pair, tuple)
    for leaf, old in zip(leaves(copy), leaves(tree()), strict=True):
        assert torch.equal(leaf, old[[3, 1]])
        leaf.zero_()
    for leaf, old in zip(leaves(state), leaves(tree()), strict=True):
        assert torch.equal(leaf, old)


def test_row_is_one_slot_in_the_same_memory():
    state = tree()
    for leaf, old in zip(leaves(row(state, 2)), leaves(tree()), strict=True):
        assert torch.equal(leaf, old[2:3])
        leaf.zero_()
    expected = tree()
    reset(expected, [2])
    for leaf, known in zip(leaves(state), leaves(expected), strict=True):
        assert torch.equal(leaf, known)


def test_reorder_moves_rows_in_place():
    state = tree()
    addresses = [leaf.data_ptr() for leaf in leaves(state)]
    reorder(state, torch.tensor([1, 1, 0, 3]))
    for leaf, old in zip(leaves(state), leaves(tree()), strict=True):
        assert torch.equal(leaf, old[[1, 1, 0, 3]])
    assert [leaf.data_ptr() for leaf in leaves(state)] == addresses


def test_nbytes_counts_every_leaf():
    assert nbytes(tree(4)) == 4 * (8 + 3 * 4 + 4 * 4 + 4 + 4)


def test_keep_chooses_by_slot():
    new, old = torch.ones(3, 2, 2), torch.zeros(3, 2, 2)
    assert keep(new, old, None) is new
    assert keep(new, old, torch.tensor([True, False, True])).sum((1, 2)).tolist() == [4, 0, 4]
