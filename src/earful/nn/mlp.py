"""Feed-forward networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)). x: [..., D] -> [..., D]. Source: SwiGLU (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int, down_bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=down_bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = F.silu(self.gate(x)) * self.up(x)
        return self.down(hidden)  # type: ignore[no-any-return]
