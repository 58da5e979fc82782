"""Beam search over a table of probabilities: against every text there is, and row by row."""

import math
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.generate.beam import Decoding, search
from earful.generate.sample import Sampling

START, END, VOCAB = 0, 1, 5


@dataclass
class History:
    """What a hypothesis has read, as a cache would hold it."""

    ids: torch.Tensor  # [R, 8], -1 where nothing has been read
    pos: torch.Tensor  # [R]


@dataclass
class Audio:
    key: torch.Tensor  # [U]


class Chance:
    """Logits that depend on the utterance and on everything written so far, and on nothing else."""

    def __init__(self, end: float = 0.0) -> None:
        self.end = end
        self.rows: list[int] = []  # of each call

    def logits(self, key: int, ids: list[int]) -> torch.Tensor:
        seed = hash((key, *ids)) % (1 << 31)
        logits = 2 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed))
        logits[END] += self.end
        return logits

    def __call__(self, last: torch.Tensor, state: History, memory: Audio) -> torch.Tensor:
        self.rows.append(len(last))
        state.ids[torch.arange(len(last)), state.pos] = last
        state.pos += 1
        beams = len(last) // len(memory.key)
        rows = [ids[: int(pos)].tolist() for ids, pos in zip(state.ids, state.pos, strict=True)]
        return torch.stack([self.logits(int(memory.key[i // beams]), ids) for i, ids in enumerate(rows)])


def found(step: Chance, keys: list[int], how: Decoding, forced=None):
    state = History(torch.full((len(keys) * how.beams, 8), -1), torch.zeros(len(keys) * how.beams, dtype=torch.int64))
    return search(step, state, Audio(torch.tensor(keys)), START, END, how, forced)


def score_of(step: Chance, key: int, ids: list[int], penalty: float) -> float:
    """The definition: the log-probability of each id after those before it, over a power of their number."""
    read, total = [START], 0.0
    for id in ids:
        total += float(step.logits(key, read).log_softmax(-1)[id])
        read.append(id)
    return total / len(ids) ** penalty


def every_text(length: int):
    """All that end by themselves within so many ids, and all that are cut off there."""
    others = [id for id in range(VOCAB) if id != END]
    for count in range(length):
        yield from ([*ids, END] for ids in product(others, repeat=count))
    yield from (list(ids) for ids in product(others, repeat=length))


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("key", range(4))
def test_with_as_many_beams_as_texts_nothing_is_missed(key, penalty):
    step = Chance()
    (hypotheses,) = found(step, [key], Decoding(100, 4, penalty, "never"))
    scores = {tuple(ids): score_of(step, key, ids, penalty) for ids in every_text(3)}
    best = max(scores, key=scores.__getitem__)
    assert tuple(hypotheses[0].ids) == best
    assert hypotheses[0].score == pytest.approx(scores[best], abs=1e-5)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=5),
    st.integers(1, 6),
    st.sampled_from([True, False, "never"]),
    st.sampled_from([0.0, 1.0, 0.5, -1.0]),
    st.sampled_from([-2.0, 0.0, 3.0]),
)
@settings(max_examples=60)
def test_a_batch_equals_its_rows(keys, beams, early, penalty, end):
    how = Decoding(beams, 8, penalty, early)
    together = found(Chance(end), keys, how)
    for key, hypotheses in zip(keys, together, strict=True):
        step = Chance(end)
        assert [hypotheses] == found(step, [key], how)
        assert len(hypotheses) == len({tuple(h.ids) for h in hypotheses}) <= beams
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            assert hypothesis.ids.count(END) <= 1 <= len(hypothesis.ids) <= 7
            assert hypothesis.ids[-1] == END or len(hypothesis.ids) == 7
            assert END not in hypothesis.ids[:-1]
            assert hypothesis.score == pytest.approx(score_of(step, key, hypothesis.ids, penalty), abs=1e-4)


def test_one_beam_takes_the_likeliest():
    for key in range(20):
        step, ids = Chance(), [START]
        while ids[-1] != END and len(ids) < 8:
            ids.append(int(step.logits(key, ids).argmax()))
        for early in (True, False, "never"):
            ((hypothesis,),) = found(step, [key], Decoding(1, 8, early_stopping=early))
            assert hypothesis.ids == ids[1:]


def test_finished_utterances_cost_nothing():
    class Ending(Chance):
        def logits(self, key, ids):
            logits = super().logits(key, ids)
            logits[END] += 100 if len(ids) >= key else -100
            return logits

    step = Ending()
    hypotheses = found(step, [2, 6, 4], Decoding(1, 8))
    assert [len(best[0].ids) for best in hypotheses] == [2, 6, 4]
    assert step.rows == [3, 3, 2, 2, 1, 1]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_forced_first_id(beams):
    step = Chance()
    forced = found(step, [3, 4, 5], Decoding(beams, 8), [4, None, 2])
    free = found(step, [3, 4, 5], Decoding(beams, 8))
    assert all(h.ids[0] == 4 for h in forced[0])
    assert all(h.ids[0] == 2 for h in forced[2])
    assert forced[1] == free[1] != forced[0]
    best = forced[0][0]
    rest = best.score * len(best.ids) + float(step.logits(3, [START]).log_softmax(-1)[4])
    assert rest == pytest.approx(score_of(step, 3, best.ids, 0.0), abs=1e-4)  # its own probability is not counted


def test_where_there_is_but_one_text_there_is_but_one_answer():
    (hypotheses,) = found(Chance(), [0], Decoding(5, 2), [3])
    assert [h.ids for h in hypotheses] == [[3]]
    assert math.isfinite(hypotheses[0].score)


@pytest.mark.parametrize("options", [{"beams": 0}, {"max_length": 1}, {"early_stopping": "soon"}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Decoding(**options)


def test_chance_draws_each_id_as_often_as_it_is_likely():
    step, draws = Chance(), 4_000
    torch.manual_seed(0)
    how = Decoding(1, max_length=2, sampling=Sampling(temperature=0.7, top_k=4))
    texts = found(step, [3] * draws, how)
    counts = torch.bincount(torch.tensor([best[0].ids[0] for best in texts]), minlength=VOCAB)
    likely = step.logits(3, [START])
    expected = (likely / 0.7).masked_fill(likely < likely.topk(4).values[-1], -math.inf).softmax(-1)
    assert (counts / draws - expected).abs().max() < 4 * (0.25 / draws) ** 0.5
    for best in texts[:50]:
        assert best[0].score == pytest.approx(score_of(step, 3, best[0].ids, 1.0), abs=1e-5)


def test_chance_ends_with_the_end_and_obeys_a_first_id():
    torch.manual_seed(0)
    texts = found(Chance(1.0), [1, 2, 3] * 20, Decoding(1, max_length=6, sampling=Sampling(1.0)), [None, 4, 2] * 20)
    lengths = {len(best[0].ids) for best in texts}
    assert lengths >= {1, 2, 5}
    for number, best in enumerate(texts):
        assert END not in best[0].ids[:-1]
        assert best[0].ids[-1] == END or len(best[0].ids) == 5
        assert number % 3 == 0 or best[0].ids[0] == (4, 2)[number % 3 - 1]


def test_beams_leave_nothing_to_chance():
    with pytest.raises(ValueError, match="expected one beam with sampling, got 2"):
        Decoding(2, sampling=Sampling(1.0))
