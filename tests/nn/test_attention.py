"""Attention: against its formula, and the law on rings of every size."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from earful.nn.attention import BLOCK, KV, Attention, View
from earful.nn.rope import Rope
from tests.helpers import assert_streams_like_offline

GROUPS = [(1, 1), (2, 2), (4, 2), (6, 2), (4, 1)]


@dataclass
class StackState:
    layers: list[KV]
    pos: Tensor


class Stack(nn.Module):
    """Layers of attention with their window and rotation. x: [B, D, T] -> [B, D, T]."""

    def __init__(self, window: int, heads: int = 2, kv_heads: int = 2, chunk: int = 32, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(window)
        self.layers = nn.ModuleList(
            Attention(12, heads, kv_heads, 8, qv_bias=True, out_bias=True) for _ in range(layers)
        )
        self.window, self.chunk = window, chunk

    def init_state(self, batch: int) -> StackState:
        rings = [layer.init_state(batch, self.window + self.chunk - 1) for layer in self.layers]
        return StackState(rings, torch.zeros(batch, dtype=torch.int64))

    def forward(self, x: Tensor, state: StackState | None = None, active: Tensor | None = None) -> Tensor:
        x, steps = x.transpose(1, 2), x.shape[-1]
        if state is None:
            positions = torch.arange(steps)[None]
            view = View.whole(steps, self.window, x.dtype, x.device)
        else:
            positions = state.pos[:, None] + torch.arange(steps)
            view = View.ring(state.pos, steps, self.window, self.window + self.chunk - 1, x.dtype)
        rope = Rope.at(positions, 8, 1e4, x.dtype)
        for i, layer in enumerate(self.layers):
            x = x + layer(x, rope, view, state.layers[i] if state else None)
        if state is not None:
            state.pos += steps * (1 if active is None else active)
        return x.transpose(1, 2)


@pytest.mark.parametrize("heads, kv_heads", GROUPS)
@pytest.mark.parametrize("window", [1, 5, 2000])
def test_attention_is_its_formula(heads, kv_heads, window):
    """One query at a time, one head at a time, in float64."""
    torch.manual_seed(0)
    layer = Attention(12, heads, kv_heads, 8, qv_bias=True, out_bias=True).double()
    x = torch.randn(1, 9, 12, dtype=torch.float64)
    rope = Rope.at(torch.arange(9)[None], 8, 1e4, torch.float64)
    y = layer(x, rope, View.whole(9, window, x.dtype, x.device))[0]
    for t in range(9):
        first = max(0, t - window + 1)
        heard = []
        for head in range(heads):
            group = head // (heads // kv_heads)
            q = rope(layer.q(x)[:, None, :, head * 8 : head * 8 + 8])[0, 0, t]
            k = rope(layer.k(x)[:, None, :, group * 8 : group * 8 + 8])[0, 0, first : t + 1]
            v = layer.v(x)[0, first : t + 1, group * 8 : group * 8 + 8]
            heard.append(torch.softmax(k @ q / math.sqrt(8), 0) @ v)
        torch.testing.assert_close(y[t], layer.o(torch.cat(heard)))


@pytest.mark.parametrize(
    "window, chunk",
    [(1, 1), (2, 1), (33, 1), (1, 4), (7, 4), (100, 4), (1, 32), (31, 32), (32, 32), (33, 32), (200, 32)],
)
def test_attention_streams_like_offline(window, chunk):
    rounds = 40 + 8 * window // chunk
    assert_streams_like_offline(Stack(window, chunk=chunk), 12, chunk=chunk, rounds=rounds, past=2 * window)


@pytest.mark.parametrize("heads, kv_heads", GROUPS)
def test_grouped_attention_streams_like_offline(heads, kv_heads):
    assert_streams_like_offline(Stack(9, heads, kv_heads), channels=12, past=100)


@given(
    pos=st.lists(st.integers(0, 400) | st.integers(10**6, 10**8), min_size=1, max_size=3),
    steps=st.integers(1, 40),
    window=st.integers(1, 150),
    spare=st.integers(0, 70),
)
def test_ring_shows_what_the_whole_signal_would_show(pos, steps, window, spare):
    """Simulated entry by entry: the ring holds the newest position of each entry, a query sees its window of them."""
    capacity = window + steps - 1 + spare
    view = View.ring(torch.tensor(pos), steps, window, capacity, torch.float32)
    visible = view.mask[:, 0] == 0  # [B, T, S]
    assert ((view.mask == 0) | (view.mask == -math.inf)).all()
    slots, entries = view.entries
    assert slots.tolist() == [[slot] for slot in range(len(pos))]
    for slot, begin in enumerate(pos):
        assert entries[slot].tolist() == [position % capacity for position in range(begin, begin + steps)]
        held = {position % capacity: position for position in range(max(0, begin + steps - capacity), begin + steps)}
        for t in range(steps):
            seen = {held.get(entry, -1) for entry in visible[slot, t].nonzero().flatten().tolist()}
            assert seen == set(range(max(0, begin + t - window + 1), begin + t + 1))


@given(pos=st.lists(st.integers(0, 99), min_size=1, max_size=3), steps=st.integers(1, 12), spare=st.integers(0, 9))
def test_new_entries_are_written_alike_whether_they_lie_side_by_side_or_not(pos, steps, spare):
    capacity = 20 + steps - 1 + spare
    view = View.ring(torch.tensor(pos), steps, 20, capacity, torch.float32)
    assert (view.begin is None) == (len(pos) > 1 or pos[0] % capacity + steps > capacity)
    k, v = torch.randn(2, len(pos), 3, steps, 5)
    before = torch.randn(len(pos), 3, capacity, 5)
    kv = KV(before.clone(), before.clone())
    looked_at = kv.write(k, v, view)
    for ring, new, seen in zip((kv.keys, kv.values), (k, v), looked_at, strict=True):
        expected = before.clone()
        for slot, first in enumerate(pos):
            for step in range(steps):
                expected[slot, :, (first + step) % capacity] = new[slot, :, step]
        assert torch.equal(ring, expected)
        assert torch.equal(seen, expected[:, :, : view.mask.shape[-1]])


def test_a_young_ring_is_looked_at_in_whole_blocks():
    """Whichever slot is the oldest decides."""
    widths = [
        View.ring(torch.tensor([0, pos]), 4, 100, 300, torch.float32).mask.shape[-1]
        for pos in (0, BLOCK - 4, BLOCK - 3, 250, 10**6)
    ]
    assert widths == [BLOCK, BLOCK, 2 * BLOCK, 256, 300]


def test_more_steps_than_a_ring_has_room_for_are_refused():
    with pytest.raises(ValueError, match="expected at most 5 steps in a call, got 6"):
        View.ring(torch.zeros(1, dtype=torch.int64), 6, window=10, capacity=14, dtype=torch.float32)


@pytest.mark.parametrize("steps", [8, 63, 64, 65, 200])
@pytest.mark.parametrize("window", [1, 7, 33, 64])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_blocks_give_what_the_whole_mask_gives(steps, window, kv_heads):
    torch.manual_seed(steps)
    layer = Attention(24, 4, kv_heads, 6)
    x = torch.randn(2, steps, 24, requires_grad=True)
    rope = Rope.at(torch.arange(steps)[None], 6, 1e4, x.dtype)
    found = []
    for view in (View.whole(steps, window, x.dtype, x.device), View.blocks(steps, window, x.dtype, x.device)):
        y = layer(x, rope, view)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])))
    for whole, blocks in zip(*found, strict=True):
        torch.testing.assert_close(blocks, whole, atol=1e-5, rtol=1e-4)
