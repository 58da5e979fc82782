"""Residual vector quantisation: a vector as a few codes, each of which refines what the ones before it leave."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.nn.linear import PackedLinear


class Codebook(nn.Module):
    """A table of V vectors.

    The vectors are means over what they stood for in training and no parameters; `usage` is how much that was.
    """

    embedding: Tensor  # [V, D]
    usage: Tensor  # [V]

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("embedding", torch.zeros(size, dim))
        self.register_buffer("usage", torch.ones(size))

        self.product: PackedLinear | None = None
        self.columns: Tensor | None = None  # once packed, the vectors again, for a single x

    def as_linear(self) -> nn.Linear:
        """The nearer a vector is to x the larger its output: (|x|² - |x - e|²) / 2, of x and the vectors alone."""
        made = nn.Linear(self.embedding.shape[1], self.embedding.shape[0], device="meta")
        made.weight = nn.Parameter(self.embedding, requires_grad=False)
        made.bias = nn.Parameter(self._lead(), requires_grad=False)
        return made

    def use(self, product: PackedLinear) -> None:
        self.product, self.columns = product, self.embedding.t().contiguous()

    def _lead(self) -> Tensor:
        return -self.embedding.square().sum(-1) / 2

    def encode(self, x: Tensor) -> Tensor:
        """The index of the nearest vector. x: [..., D] -> int64 [...]."""
        return torch.argmax(self._nearness(x), dim=-1)

    def _nearness(self, x: Tensor) -> Tensor:
        if self.product is None or self.columns is None:
            return F.linear(x, self.embedding, self._lead())
        if x.numel() > x.shape[-1]:
            return self.product(x)  # type: ignore[no-any-return]
        assert self.product.bias is not None
        one = torch.addmm(self.product.bias, x.reshape(1, -1), self.columns)  # a quarter faster than the packed one
        return one.view(*x.shape[:-1], -1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes: int64 [...] -> [..., D]."""
        return F.embedding(codes, self.embedding)


class ResidualQuantizer(nn.Module):
    """Codebooks of a narrow space, one after the other, with a projection into it and one out of it.

    Source: SoundStream (Zeghidour et al. 2021, section III-C).
    """

    def __init__(self, dim: int, codebooks: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(dim, codebook_dim, bias=False)
        self.project_out = nn.Linear(codebook_dim, dim, bias=False)
        self.codebooks = nn.ModuleList(Codebook(codebook_size, codebook_dim) for _ in range(codebooks))

    def encode(self, x: Tensor, codebooks: int) -> Tensor:
        """The codes of the first few codebooks. x: [B, T, D] -> int64 [B, codebooks, T]."""
        x = self.project_in(x)
        codes = []
        for codebook in self.codebooks[:codebooks]:
            codes.append(codebook.encode(x))  # type: ignore[operator]
            x = x - codebook.decode(codes[-1])  # type: ignore[operator]
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes: int64 [B, Q, T] of the first Q codebooks -> [B, T, D]."""
        parts = zip(self.codebooks, codes.unbind(1), strict=False)  # fewer codes than codebooks: a coarser vector
        return self.project_out(sum(codebook.decode(of_one) for codebook, of_one in parts))  # type: ignore[operator, no-any-return]
