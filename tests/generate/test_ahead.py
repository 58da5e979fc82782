"""Steps written ahead say what they say one after the other, in fewer passes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from earful.generate.ahead import Written, guesses, held, write_steps


class Chain:
    """Says what depends on what it said last and on what is heard, twice; 0 is silence."""

    def __init__(self, batch: int) -> None:
        self.last, self.passes = torch.zeros(batch, dtype=torch.int64), 0

    def __call__(self, heard: Tensor, active: Tensor | None, most: Tensor | None) -> Written:
        self.passes += 1
        read = torch.cat([self.last[:, None], torch.zeros_like(heard[:, 1:])], dim=1)
        said = (3 * read + heard) % 7 % 4
        written = Written(torch.stack([said, -said], dim=-1), held(said[:, :-1] == 0, most))
        moved = torch.ones_like(self.last, dtype=torch.bool) if active is None else active
        self.last = torch.where(moved, written.last(said), self.last)
        return written


@given(
    heard=st.integers(1, 3).flatmap(
        lambda batch: st.integers(1, 12).flatmap(
            lambda steps: st.lists(
                st.lists(st.integers(0, 9), min_size=steps, max_size=steps), min_size=batch, max_size=batch
            )
        )
    ),
    ahead=st.integers(0, 5),
    frozen=st.integers(0, 7),
)
def test_what_is_said_is_what_single_steps_say(heard, ahead, frozen):
    samples = torch.tensor(heard)
    active = torch.tensor([not frozen >> row & 1 for row in range(len(heard))])
    one, other = Chain(len(heard)), Chain(len(heard))
    expected = torch.cat([one(step, active, None).said for step in samples.split(1, dim=1)], dim=1)
    said = write_steps(other, samples, None if active.all() else active, ahead)
    assert said.shape == expected.shape
    assert torch.equal(said[active], expected[active])
    assert torch.equal(other.last, one.last)
    assert other.passes <= one.passes


def test_silence_takes_few_passes():
    chain = Chain(1)
    assert (write_steps(chain, torch.zeros(1, 12, dtype=torch.int64), None, 3) == 0).all()
    assert chain.passes == 3


@pytest.mark.parametrize("batch, ahead", [(1, 3), (2, 1), (3, 0), (8, 0)])
def test_a_few_rows_of_float32_cost_as_one(batch, ahead):
    assert guesses(torch.zeros(1), batch) == ahead
    assert guesses(torch.zeros(1, dtype=torch.bfloat16), batch) == 0
