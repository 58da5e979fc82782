"""Words are found where the decoder looked."""

import math
from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.models.s2t.align import boundaries, glances, word_edges
from earful.models.s2t.config import EOS, START, TextConfig
from earful.models.s2t.model import Memory
from earful.models.s2t.processor import S2tText
from earful.nn.attention import KV
from earful.testing import tiny_s2t, tiny_s2t_vocabulary


def best_of_all(scores):
    """The definition: every way to give each id a run of steps."""
    ids, steps = scores.shape
    sums = {}
    for inner in combinations(range(1, steps), ids - 1):
        edges = (0, *inner, steps)
        sums[edges] = sum(scores[id, a:b].sum() for id, (a, b) in enumerate(pairwise(edges)))
    return max(sums, key=sums.get)


@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 10_000))
@settings(max_examples=50)
def test_the_path_is_the_best_of_all(ids, more, seed):
    scores = np.random.default_rng(seed).standard_normal((ids, ids + more)).astype(np.float32)
    assert tuple(boundaries(scores)) == best_of_all(scores)


@pytest.mark.parametrize("ids, steps", [(1, 1), (7, 3), (200, 1), (9, 4)])
def test_more_ids_than_steps(ids, steps):
    edges = boundaries(np.random.default_rng(0).standard_normal((ids, steps)).astype(np.float32))
    assert (edges[0], edges[-1], len(edges)) == (0, steps, ids + 1)
    assert edges == sorted(set(edges))


def looking_at(spans, steps, padding, heads=2):
    """A decoder whose upper layer looks at these steps for each id, and whose lower one looks anywhere."""
    generator = torch.Generator().manual_seed(0)
    asked = []

    def decoder(ids, memory, watch):
        asked.append(ids.tolist())
        shape = (1, heads, len(spans), steps + padding)
        upper = torch.rand(shape, generator=generator) * 0.02
        for row, (begin, end) in enumerate(spans):
            upper[:, :, row, begin:end] += 1 / (end - begin)
        upper[:, :, :, 0] += 5  # where a head rests says nothing
        watch[1].extend([torch.rand(shape, generator=generator), upper])

    mask = torch.zeros(2, 1, 1, steps + padding)
    mask[..., steps:] = -math.inf
    nothing = torch.zeros(2, heads, steps + padding, 4)
    return SimpleNamespace(decoder=decoder), Memory([KV(nothing, nothing)], mask), asked


def test_words_are_where_the_decoder_looked():
    model, memory, asked = looking_at([(2, 5), (5, 9), (9, 10), (10, 16), (16, 20)], steps=20, padding=7)
    edges = word_edges(model, memory, 1, [7, 8, 9, 10, EOS], [(0, 2), (2, 3), (3, 4)])
    assert edges == [(0, 9), (9, 10), (10, 16)]  # what comes before the first id is its own, what comes last the end's
    assert asked == [[[START, 7, 8, 9, 10]]]


def test_the_rest_of_a_batch_does_not_matter(tmp_path):
    model = tiny_s2t(tmp_path, seed=1)[0].eval()
    features, lengths = torch.randn(3, 90, 20), torch.tensor([90, 40, 61])
    ids = [9, 20, 11, 30, 12, EOS]
    with torch.inference_mode():
        together = model.hear(features, lengths, alone=True)
        for row, length in enumerate(lengths.tolist()):
            alone = model.hear(features[row : row + 1, :length], alone=True)
            seen = glances(model, alone, 0, ids)
            assert seen.shape == (6, math.ceil(math.ceil(length / 2) / 2))
            np.testing.assert_allclose(glances(model, together, row, ids), seen, atol=2e-4)


TEXTS = [TextConfig(), TextConfig(language_set="mustc", upper=True)]


@given(st.lists(st.integers(0, 90), max_size=30), st.sampled_from(TEXTS))
@settings(max_examples=100)
def test_every_word_has_its_ids(ids, text):
    vocabulary = tiny_s2t_vocabulary(text)
    names = {piece.text: id for id, piece in enumerate(vocabulary.pieces)}
    processor = S2tText(vocabulary, names, text)
    words, spans = processor.decode(ids).split(), processor.words(ids)
    assert len(words) == len(spans)
    assert all(a[0] < a[1] and a[1] <= b[0] + 1 for a, b in pairwise([*spans, (len(ids), len(ids))]))
    for word, (first, last) in zip(words, spans, strict=True):
        assert word in processor.decode(ids[first:last])


def test_words_of_ordinary_texts():
    vocabulary = tiny_s2t_vocabulary(TextConfig())
    processor = S2tText(vocabulary, {piece.text: id for id, piece in enumerate(vocabulary.pieces)}, TextConfig())
    ids = processor.encode("the dog is in a box")
    spans = processor.words(ids)
    assert [processor.decode(ids[first:last]) for first, last in spans] == ["the", "dog", "is", "in", "a", "box"]
    assert [first for first, _ in spans] == [0, *(last for _, last in spans[:-1])]
    assert spans[-1][1] == len(ids) - 1
