"""Codebooks follow what they stand for; gradients pass straight through them."""

from __future__ import annotations

import pytest
import torch

from earful.models.mimi.model import SplitQuantizer
from earful.nn.rvq import Codebook, ResidualQuantizer
from earful.testing import tiny_mimi
from earful.train.quantise import DEAD, DECAY, follow, quantise, quantise_split, revive


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def learning(codebooks: int = 3, size: int = 8) -> ResidualQuantizer:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(6, codebooks, size, 4)
    for codebook in quantizer.codebooks:
        codebook.usage.zero_()
    return quantizer


def everything(x: torch.Tensor, codebooks: int) -> torch.Tensor:
    return torch.full((len(x),), codebooks)


def test_averages_follow_their_vectors_exactly() -> None:
    """Two steps by hand: the vector is the weighted mean of all that it stood for, the usage decays."""
    codebook = Codebook(2, 1)
    codebook.embedding.copy_(torch.tensor([[1.0], [10.0]]))
    codebook.usage.copy_(torch.tensor([2.0, 4.0]))
    follow(codebook, torch.tensor([[2.0], [4.0], [9.0]]), torch.tensor([0, 0, 1]))
    usage = [DECAY * 2 + (1 - DECAY) * 2, DECAY * 4 + (1 - DECAY)]
    torch.testing.assert_close(codebook.usage, torch.tensor(usage))
    sums = [DECAY * 2 * 1 + (1 - DECAY) * 6, DECAY * 4 * 10 + (1 - DECAY) * 9]
    torch.testing.assert_close(codebook.embedding[:, 0], torch.tensor(sums) / torch.tensor(usage))


def test_a_vector_that_nothing_chooses_stays_where_it_is_and_is_used_less() -> None:
    codebook = Codebook(2, 1)
    codebook.embedding.copy_(torch.tensor([[1.0], [10.0]]))
    follow(codebook, torch.full((4, 1), 2.0), torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(codebook.embedding[1], torch.tensor([10.0]))
    torch.testing.assert_close(codebook.usage[1], torch.tensor(DECAY))


def test_only_dead_vectors_are_put_where_the_data_is() -> None:
    codebook = Codebook(4, 2)
    codebook.embedding.copy_(torch.full((4, 2), -5.0))
    x = torch.arange(16.0).reshape(8, 2)  # even usage would be 2
    codebook.usage.copy_(torch.tensor([2.0, 2 * DEAD + 0.01, 2 * DEAD - 0.01, 0.0]))
    revive(codebook, x, generator())
    assert (codebook.embedding[:2] == -5).all()
    for vector in codebook.embedding[2:]:
        assert any(torch.equal(vector, one) for one in x)
    assert not torch.equal(codebook.embedding[2], codebook.embedding[3])
    assert codebook.usage.tolist() == pytest.approx([2.0, 2 * DEAD + 0.01, 2.0, 2.0])


def test_a_new_codebook_begins_with_the_first_batch_even_if_that_is_small() -> None:
    codebook, x = Codebook(8, 4), torch.randn(5, 4)  # fewer vectors than codes
    codebook.usage.zero_()
    revive(codebook, x, generator())
    assert sorted(codebook.embedding.unique(dim=0).tolist()) == sorted(x.tolist())
    assert (codebook.usage == 5 / 8).all()


def test_what_comes_out_is_what_the_codec_decodes_and_the_gradient_is_that_of_x() -> None:
    quantizer = learning()
    x = torch.randn(2, 7, 6, requires_grad=True)
    quantise(quantizer, x.detach(), everything(x, 3), generator(), learning=True)
    out, _ = quantise(quantizer, x, everything(x, 3), generator(), learning=False)
    torch.testing.assert_close(out, quantizer.decode(quantizer.encode(x, 3)))
    weight = torch.randn_like(out)
    (got,) = torch.autograd.grad((out * weight).sum(), x)
    (straight,) = torch.autograd.grad((quantizer.project_out(quantizer.project_in(x)) * weight).sum(), x)
    torch.testing.assert_close(got, straight)


def test_the_commitment_loss_draws_x_to_its_codes() -> None:
    quantizer = learning(codebooks=1, size=2)
    codebook = quantizer.codebooks[0]
    codebook.embedding.copy_(torch.tensor([[1.0] * 4, [-1.0] * 4]))
    torch.nn.init.eye_(quantizer.project_in.weight)
    x = torch.full((1, 1, 6), 0.5, requires_grad=True)
    _, loss = quantise(quantizer, x, everything(x, 1), generator(), learning=False)
    assert loss.item() == pytest.approx(0.25)
    loss.backward()
    assert x.grad is not None
    assert (x.grad[..., :4] < 0).all()  # downhill is towards 1
    assert codebook.embedding.tolist() == [[1.0] * 4, [-1.0] * 4]  # nothing moves without learning


def test_dropped_codebooks_are_not_heard() -> None:
    codec, _ = tiny_mimi(None)  # type: ignore[arg-type]
    quantizer = codec.quantizer
    assert isinstance(quantizer, SplitQuantizer)
    x = torch.randn(4, 9, codec.config.dim)
    kept = torch.tensor([1, 2, 4, 6])
    out, said, _ = quantise_split(quantizer, x, kept, generator(), learning=False)
    for row, count in enumerate(kept):
        codes = quantizer.encode(x[row : row + 1], int(count))
        torch.testing.assert_close(out[row : row + 1], quantizer.decode(codes), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(said, quantizer.semantic.decode(quantizer.encode(x, 1)), atol=1e-5, rtol=1e-5)


def test_learning_makes_every_codebook_refine_the_one_before() -> None:
    """Vectors in clusters of clusters: after some steps the error falls from one codebook to the next."""
    quantizer = learning(codebooks=3, size=16)
    torch.nn.init.orthogonal_(quantizer.project_in.weight)
    with torch.no_grad():
        quantizer.project_out.weight.copy_(quantizer.project_in.weight.T)
    chance = generator()
    for _ in range(150):
        quantise(quantizer, torch.randn(8, 32, 6, generator=chance), torch.full((8,), 3), chance, learning=True)
    x = torch.randn(8, 32, 6, generator=chance)
    inside = quantizer.project_in(x)
    errors = []
    for count in (1, 2, 3):
        codes = quantizer.encode(x, count)
        parts = zip(quantizer.codebooks, codes.unbind(1), strict=False)
        errors.append((inside - sum(book.decode(of_one) for book, of_one in parts)).square().mean().item())
    variance = inside.square().mean().item()
    assert errors[0] < 0.5 * variance
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]
    used = [int((book.usage > 0.5).sum()) for book in quantizer.codebooks]
    assert min(used) > 12
