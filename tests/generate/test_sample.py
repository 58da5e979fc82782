import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earful.generate.sample import Sampling, choose, noise


def draws(logits, how, count=2000):
    generator = torch.Generator().manual_seed(0)
    return choose(logits.expand(count, -1), how, generator)


def test_greedy_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 4.9]])
    assert choose(logits).tolist() == [1, 0]


def test_draws_follow_the_temperature():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    for temperature in (0.5, 1.0, 3.0):
        counts = torch.bincount(draws(logits, Sampling(temperature), 20_000), minlength=4) / 20_000
        torch.testing.assert_close(counts, (logits[0] / temperature).softmax(-1), rtol=0, atol=0.012)


def test_top_k_keeps_the_likeliest_and_their_ratio():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    counts = torch.bincount(draws(logits, Sampling(1.0, top_k=2), 20_000), minlength=4) / 20_000
    expected = torch.tensor([0.0, 1.0, 2.0, 0.0]).softmax(-1)  # of the two alone, once the others are gone
    expected = torch.where(torch.tensor([False, True, True, False]), expected, 0.0)
    torch.testing.assert_close(counts, expected / expected.sum(), rtol=0, atol=0.012)


def test_top_p_keeps_as_few_as_reach_it():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, kept in [(0.01, {0}), (0.49, {0}), (0.6, {0, 1}), (0.79, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})]:
        assert set(draws(logits, Sampling(1.0, top_p=top_p)).tolist()) == kept


def test_top_p_at_its_edges():
    assert len(draws(torch.zeros(1, 2), Sampling(1.0, top_p=0.5)).unique()) == 1  # one of them has half of it all
    many = torch.randn(40, 5000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(choose(many, Sampling(1.0, top_p=1e-9)), many.argmax(-1))  # whatever the sum is rounded to


def test_top_p_counts_after_top_k():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    # Of the first two, 0.625 and 0.375: the first alone reaches 0.6.
    assert set(draws(logits, Sampling(1.0, top_k=2, top_p=0.6)).tolist()) == {0}


def test_more_than_there_are():
    assert set(draws(torch.zeros(1, 3), Sampling(1.0, top_k=50)).tolist()) == {0, 1, 2}


def test_rows_are_drawn_alone_and_again_the_same():
    logits = torch.randn(64, 40, generator=torch.Generator().manual_seed(1))
    how = Sampling(0.8, top_k=8, top_p=0.9)
    first, second = (choose(logits, how, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert len(first.unique()) > 10


@given(st.integers(0, 2**31), st.floats(0.1, 4), st.integers(1, 30), st.floats(0.05, 1))
def test_only_ids_that_are_allowed(seed, temperature, top_k, top_p):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, 20, generator=generator)
    ids = choose(logits, Sampling(temperature, top_k, top_p), generator)
    rank = (logits > logits.gather(1, ids[:, None])).sum(-1)
    assert (rank < top_k).all()
    probabilities = (logits / temperature).softmax(-1)
    # What is likelier than the drawn one has not reached top_p; top_k only makes their share larger.
    likelier = probabilities.masked_fill(logits <= logits.gather(1, ids[:, None]), 0).sum(-1)
    assert (likelier < top_p + 1e-5).all()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"temperature": -0.1}, "temperature of at least 0, got -0.1"),
        ({"temperature": float("inf")}, "temperature of at least 0, got inf"),
        ({"temperature": float("nan")}, "temperature of at least 0, got nan"),
        ({"top_k": 0}, "top_k of at least 1, got 0"),
        ({"top_p": 0.0}, "top_p above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p above 0 and at most 1, got 1.5"),
    ],
)
def test_refuses_what_is_out_of_range(wrong, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**wrong)


@pytest.mark.reference
@pytest.mark.parametrize("temperature, top_k, top_p", [(1.0, 50, 1.0), (0.7, 5, 1.0), (1.3, 200, 0.8), (0.5, 12, 0.3)])
def test_draws_what_transformers_draws(temperature, top_k, top_p):
    logits_process = pytest.importorskip("transformers.generation.logits_process")
    logits = 4 * torch.randn(50, 200, generator=torch.Generator().manual_seed(3))
    theirs = logits.clone()
    if temperature != 1:
        theirs = logits_process.TemperatureLogitsWarper(temperature)(None, theirs)
    theirs = logits_process.TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = logits_process.TopPLogitsWarper(top_p)(None, theirs)
    torch.manual_seed(5)
    drawn = torch.multinomial(theirs.softmax(-1), 1)[:, 0]
    torch.manual_seed(5)
    assert torch.equal(choose(logits, Sampling(temperature, top_k, top_p)), drawn)


def test_noise_depends_on_seed_and_position_alone():
    seed, position = torch.tensor([5, 6, 5]), torch.tensor([0, 0, 1])
    together = noise(seed, position, 100)
    assert torch.equal(together[1:2], noise(seed[1:2], position[1:2], 100))
    rows = [tuple(row.tolist()) for row in together]
    assert len(set(rows)) == 3
    assert torch.isfinite(noise(torch.tensor([0, -1, 2**63 - 1]), torch.tensor([0, 10**9, 3]), 8000)).all()


def test_the_largest_with_noise_is_drawn_from_the_distribution():
    logits, temperature = torch.tensor([1.0, 0.5, -1.0, -math.inf]), 0.7
    draws = 20_000
    seeds = torch.full((draws,), 3)
    ids = (logits + temperature * noise(seeds, torch.arange(draws), 4)).argmax(-1)
    counts = torch.bincount(ids, minlength=4) / draws
    torch.testing.assert_close(counts, (logits / temperature).softmax(-1), rtol=0, atol=0.015)


def test_noise_of_neighbours_has_nothing_in_common():
    first = noise(torch.arange(200), torch.zeros(200, dtype=torch.int64), 500)
    second = noise(torch.arange(200), torch.ones(200, dtype=torch.int64), 500)
    pairs = [(first[:-1], first[1:]), (first[:, :-1], first[:, 1:]), (first, second)]
    for one, other in pairs:
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].abs() < 0.02
    assert abs(float(first.mean()) - 0.5772) < 0.02
    assert abs(float(first.var()) - math.pi**2 / 6) < 0.05
