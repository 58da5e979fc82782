import itertools
from dataclasses import dataclass

import pytest
import torch

from earful.generate.lockstep import Choice, continued, search, write
from earful.generate.sample import Sampling

VOCAB = 5


@dataclass
class State:
    last: torch.Tensor  # [R]
    texts: torch.Tensor  # [R, count]


class Bigrams:
    """Writes by a table of what follows what; each row of `starts` is an utterance."""

    def __init__(self, table, starts, rows, count):
        self.table, self.written = table, 0
        self.state = State(torch.tensor(starts).repeat_interleave(rows), torch.zeros(len(starts) * rows, count).long())
        self.logits = table[self.state.last]

    def take(self, ids, last):
        self.state.last.copy_(ids)
        self.state.texts[:, self.written] = ids
        self.written += 1
        self.logits = None if last else self.table[ids]


@pytest.fixture
def table():
    return torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1)) * 2


def likelihood(table, start, text):
    steps = table.log_softmax(-1)
    return sum(steps[a, b] for a, b in itertools.pairwise([start, *text]))


def test_the_likeliest_one_by_one(table):
    ids = torch.stack(list(write(Bigrams(table, [0, 3], 1, 4), 4)), dim=1)
    for start, row in zip([0, 3], ids.tolist(), strict=True):
        assert row == [int(table[before].argmax()) for before in [start, *row[:-1]]]


def test_an_end_fills_a_row_and_stops_when_it_is_in_all(table):
    free = torch.stack(list(write(Bigrams(table, [0, 3], 1, 6), 6)), dim=1)
    end = int(free[0, 1])
    ended = torch.stack(list(write(Bigrams(table, [0, 3], 1, 6), 6, ends=[end], filler=9 % VOCAB)), dim=1)
    assert ended[0, :2].tolist() == free[0, :2].tolist()
    assert (ended[0, 2:] == 4).all()
    alone = list(write(Bigrams(table, [0], 1, 6), 6, ends=[end]))
    assert len(alone) == 2


@pytest.mark.parametrize("count", [1, 3, 4])
def test_enough_beams_find_the_best_of_all_texts(table, count):
    writer = Bigrams(table, [0, 3], VOCAB**2, count)
    texts, scores = search(writer, count, VOCAB**2, wanted=3)
    for u, start in enumerate([0, 3]):
        every = sorted(itertools.product(range(VOCAB), repeat=count), key=lambda text: -likelihood(table, start, text))
        assert [tuple(text) for text in texts[3 * u : 3 * u + 3].tolist()] == every[:3]
        best = torch.stack([likelihood(table, start, text) for text in every[:3]])
        torch.testing.assert_close(scores[3 * u : 3 * u + 3], best)
    assert torch.equal(writer.state.texts, texts)  # the state is that of the texts found
    assert torch.equal(writer.state.last, texts[:, -1])


def test_one_beam_is_greedy(table):
    texts, _ = search(Bigrams(table, [0, 3], 1, 4), 4, 1)
    assert torch.equal(texts, torch.stack(list(write(Bigrams(table, [0, 3], 1, 4), 4)), dim=1))


def test_chance_draws_continuations_by_their_probability():
    """Of two beams the likelier is shown first: both orders of one pair of draws count for it."""
    torch.manual_seed(0)
    draws, probabilities = 4000, torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probabilities.log().expand(2 * draws, -1)
    scores = torch.tensor([0.0, -1e9]).expand(draws, -1)
    _, rows, ids = continued(logits, scores, Sampling(1.0))
    assert (rows.view(draws, 2)[:, 0] == 2 * torch.arange(draws)).all()
    # four of the four ids are drawn, so that the best two always go on
    assert (ids.view(draws, 2) == torch.tensor([0, 1])).all()
    _, _, ids = continued(logits[:draws], torch.zeros(draws, 1), Sampling(1.0))  # of two drawn the likelier
    share = torch.bincount(ids, minlength=4) / draws
    p = probabilities
    pairs = {
        (i, j): float(p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])) for i in range(4) for j in range(i + 1, 4)
    }
    expected = torch.tensor([sum(q for (i, _), q in pairs.items() if i == k) for k in range(4)])
    torch.testing.assert_close(share, expected, rtol=0, atol=0.04)


def test_chance_keeps_to_the_likely_ids(table):
    torch.manual_seed(0)
    texts, _ = search(Bigrams(table, [0] * 50, 2, 3), 3, 2, how=Sampling(5.0, top_k=2))
    for row in texts.tolist():
        assert all(b in table[a].topk(2).indices for a, b in itertools.pairwise([0, *row]))


def test_less_than_one_beam():
    with pytest.raises(ValueError, match="expected at least 1 beam, got 0"):
        Choice(beams=0)
