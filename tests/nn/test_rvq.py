"""Vectors as codes and back, against the definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earful.nn.linear import PackedLinear, pack
from earful.nn.rvq import Codebook, ResidualQuantizer


def quantizer(codebooks=4, size=20, seed=0):
    torch.manual_seed(seed)
    made = ResidualQuantizer(6, codebooks, size, codebook_dim=5)
    for k, book in enumerate(made.codebooks):
        book.embedding.normal_().mul_(0.7**k)
    return made.requires_grad_(False)


def test_nearest_vector_is_found_also_when_another_has_the_larger_product():
    book = Codebook(3, 2)
    book.embedding.copy_(torch.tensor([[10.0, 0.0], [1.0, 0.1], [-5.0, 0.0]]))
    x = torch.tensor([[[1.0, 0.0], [6.0, 0.0], [-3.0, 0.0]]])
    assert book.encode(x).tolist() == [[1, 0, 2]]
    assert torch.equal(book.decode(torch.tensor([[2, 0]])), torch.tensor([[[-5.0, 0.0], [10.0, 0.0]]]))


@given(seed=st.integers(0, 1 << 30))
def test_each_codebook_refines_what_the_ones_before_it_leave(seed):
    made = quantizer(seed=seed)
    x = torch.randn(2, 3, 6)
    codes = made.encode(x, 4)
    assert codes.shape == (2, 4, 3)
    left = made.project_in(x).double()
    for book, chosen in zip(made.codebooks, codes.unbind(1), strict=True):
        distance = torch.cdist(left, book.embedding.double()[None].expand(2, -1, -1))
        best = distance.min(-1).values
        torch.testing.assert_close(distance.gather(-1, chosen[..., None])[..., 0], best, rtol=1e-5, atol=1e-5)
        left = left - book.embedding.double()[chosen]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_few_codes_are_the_first_ones_and_decode_to_the_sum_of_their_vectors(count):
    made = quantizer()
    x = torch.randn(2, 7, 6)
    codes = made.encode(x, count)
    assert torch.equal(codes, made.encode(x, 4)[:, :count])
    vectors = sum(made.codebooks[k].embedding[codes[:, k]] for k in range(count))
    torch.testing.assert_close(made.decode(codes), vectors @ made.project_out.weight.T)


def test_codebooks_are_no_parameters_and_their_vectors_are_their_own():
    made = quantizer()
    assert {name for name, _ in made.named_parameters()} == {"project_in.weight", "project_out.weight"}
    before = made.encode(torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(1)), 1)
    made.codebooks[0].embedding.copy_(made.codebooks[0].embedding.flip(0))
    after = made.encode(torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(1)), 1)
    assert torch.equal(after, 19 - before)  # a change is noticed: nothing was worked out once and kept


def test_packed_codebooks_choose_the_same():
    made, x = quantizer(), torch.randn(3, 50, 6)
    codes = made.encode(x, 4)
    pack(made)
    assert all(isinstance(book.product, PackedLinear) for book in made.codebooks)
    assert torch.equal(made.encode(x, 4), codes)
    assert torch.equal(made.encode(x[:1, :1], 4), codes[:1, :, :1])
