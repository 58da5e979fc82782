"""Rotary embeddings: both layouts of the pairs, exact at any position."""

import mpmath
import pytest
import torch

from earful.nn.rope import Rope

HOURS_6 = 6 * 3600 * 50  # encoder frames
FAR = 10**7


def rotated(x: torch.Tensor, positions: list[int], base: float = 1e6, interleaved: bool = False) -> torch.Tensor:
    """x: [T, head_dim] -> the same."""
    return Rope.at(torch.tensor([positions]), x.shape[-1], base, x.dtype, interleaved)(x[None, None])[0, 0]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("position", [0, 1, 749, HOURS_6, FAR])
@pytest.mark.parametrize("base", [1e4, 1e6])
def test_rotation_is_that_of_exact_angles(interleaved, position, base):
    head_dim = 12
    x = torch.arange(1.0, head_dim + 1)[None]
    y = rotated(x, [position], base, interleaved)[0].tolist()
    with mpmath.workdps(50):
        for pair in range(head_dim // 2):
            exponent = torch.tensor(2 * pair, dtype=torch.float32) / head_dim
            frequency = (1.0 / base**exponent).item()  # as published models have it: rounded to float32, then exact
            angle = mpmath.mpf(position) * mpmath.mpf(frequency)
            i, j = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + head_dim // 2)
            a, b = i + 1, j + 1
            assert y[i] == pytest.approx(float(a * mpmath.cos(angle) - b * mpmath.sin(angle)), abs=3e-6)
            assert y[j] == pytest.approx(float(b * mpmath.cos(angle) + a * mpmath.sin(angle)), abs=3e-6)


def test_layouts_are_one_rotation_of_permuted_pairs():
    x = torch.randn(5, 16)
    halves = x.unflatten(-1, (8, 2)).transpose(1, 2).flatten(1)  # [T, 2 * 8], first members then second ones
    positions = [0, 3, 4, 1000, FAR]
    expected = rotated(x, positions, interleaved=True).unflatten(-1, (8, 2)).transpose(1, 2).flatten(1)
    torch.testing.assert_close(rotated(halves, positions), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shift", [1, 750, HOURS_6, FAR])
def test_only_distances_count(interleaved, shift):
    q, k = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    near, far = [0, 1, 5, 100, 400, 748], 749

    def scores(offset: int) -> torch.Tensor:
        keys = rotated(k, [offset + p for p in near], interleaved=interleaved)
        queries = rotated(q, [offset + far] * 6, interleaved=interleaved)
        return (queries * keys).sum(-1)

    torch.testing.assert_close(scores(shift), scores(0), rtol=0, atol=2e-5)
    assert (scores(0) - (q * k).sum(-1)).abs().min() > 1e-3  # and distances do count


def test_each_slot_has_its_own_positions():
    x = torch.randn(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 3], [70, 71, 72, 73]])
    together = Rope.at(positions, 8, 1e4, torch.float32)(x)
    for slot in (0, 1):
        alone = Rope.at(positions[slot : slot + 1], 8, 1e4, torch.float32)(x[slot : slot + 1])
        assert torch.equal(together[slot], alone[0])


def test_rotation_has_the_type_of_the_activations():
    x = torch.randn(1, 1, 2, 8).bfloat16()
    y = Rope.at(torch.tensor([[5, FAR]]), 8, 1e6, torch.bfloat16)(x)
    assert y.dtype == torch.bfloat16
    exact = Rope.at(torch.tensor([[5, FAR]]), 8, 1e6, torch.float32)(x.float())
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=0.05)
