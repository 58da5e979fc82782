"""Feed-forward networks."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from earful.nn.linear import PackedLinear


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)). x: [..., D] -> [..., D]. Source: SwiGLU (Shazeer 2020)."""

    joined: ClassVar = {"gate_up": ("gate", "up")}

    def __init__(self, dim: int, hidden: int, down_bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=down_bias)
        self.gate_up: nn.Module | None = None  # see nn/linear.py

    def forward(self, x: Tensor) -> Tensor:
        gate, up = (self.gate(x), self.up(x)) if self.gate_up is None else self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class MLP(nn.Module):
    """down(gelu(up(x))), the exact form of GELU. x: [..., D] -> [..., D]. Source: Vaswani et al. 2017."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x, then="gelu") if isinstance(self.up, PackedLinear) else F.gelu(self.up(x))
        return self.down(up)  # type: ignore[no-any-return]
