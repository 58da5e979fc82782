"""Linear layers for inference on the CPU, whose bfloat16 weights are read at the speed of the memory."""

from __future__ import annotations

from threading import Lock
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TYPICAL_ROWS = 4  # a slot of one stream; their order is good for other numbers too
_switching = Lock()  # two threads that restore what they found could leave oneDNN off for good
_product: Any = torch.ops.mkldnn._linear_pointwise.default


class PackedLinear(nn.Module):
    """What some nn.Linear make of the same x, one after the other, as one product without gradients.

    x: [..., in] -> [..., sum of out]. The weights lie in the order in which oneDNN's kernels read them; the plain
    layers sort bfloat16 weights anew in every call, which takes longer than to multiply a few rows by them. The
    order is the best one for calls of `rows` rows.
    """

    def __init__(self, *layers: nn.Linear, rows: int = TYPICAL_ROWS) -> None:
        super().__init__()
        weight, self.bias = _joined(*layers)
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        self.weight = weight.new_empty(0)  # tells the type and the device, as a caller expects of a linear layer
        # Of float32 four rows take less time than one or two, but not on processors with AMX.
        self.least = TYPICAL_ROWS if weight.dtype == torch.float32 and not torch.cpu._is_amx_tile_supported() else 1

    def forward(self, x: Tensor, then: str = "none") -> Tensor:
        """then: what is done to the result, "relu", "gelu" in its exact form, or nothing."""
        if self.least > 1 and 0 < (rows := x.numel() // x.shape[-1]) < self.least:
            again = torch.cat([x.reshape(rows, -1)] * -(-self.least // rows))
            return _product(again, self.packed, self.bias, then, [], "none")[:rows].view(*x.shape[:-1], -1)  # type: ignore[no-any-return]
        return _product(x, self.packed, self.bias, then, [], "none")  # type: ignore[no-any-return]


class OneRowLinear(nn.Linear):
    """The same for one row of bfloat16 without AMX: torch's own kernel reads the weights as they lie, a third faster.

    The switch between the two is the process's: what another thread multiplies meanwhile is right, but may be slow.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        weight, bias = _joined(*layers)
        super().__init__(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > x.shape[-1]:
            return F.linear(x, self.weight, self.bias)
        with _switching:
            switch: Any = torch.backends.mkldnn
            before, switch.enabled = switch.enabled, False
            try:
                return F.linear(x, self.weight, self.bias)
            finally:
                switch.enabled = before


@runtime_checkable
class Disguised(Protocol):
    """A layer that is a linear one in another form."""

    product: PackedLinear | None

    def as_linear(self) -> nn.Linear | None:
        """That linear layer; None where it would be no gain."""

    def use(self, product: PackedLinear) -> None:
        """Compute with it, packed, from now on."""


def _joined(*layers: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weights [sum of out, in], and biases [sum of out] where some layer has one."""
    if len(layers) == 1:
        return layers[0].weight.detach(), None if layers[0].bias is None else layers[0].bias.detach()
    weight = torch.cat([layer.weight.detach() for layer in layers])
    if all(layer.bias is None for layer in layers):
        return weight, None
    none = weight.new_zeros(len(weight))
    return weight, torch.cat([none[: layer.out_features] if layer.bias is None else layer.bias for layer in layers])


def packs(weight: Tensor) -> bool:
    """Whether this machine has the kernels for weights of this type."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-any-return]
    return weight.dtype == torch.float32


def pack(model: nn.Module, one_row: bool = False) -> None:
    """Make a model one for inference alone, in place: layers are packed where that is possible, and not saved again.

    A module whose layers share an input names them in `joined`: attribute of the packed layer -> names of the parts.
    one_row: for calls with a single row; a model made for these may be packed for others later, not the other way.
    """
    for module in list(model.modules()):
        for name, parts in getattr(module, "joined", {}).items():
            layers = [getattr(module, part) for part in parts if hasattr(module, part)]  # none if packed already
            if layers and all(packs(layer.weight) for layer in layers):
                setattr(module, name, _inferring(layers, one_row))
                for part in parts:
                    module.__dict__.pop(part, None)
                    delattr(module, part)
        if isinstance(module, Disguised) and module.product is None:
            linear = module.as_linear()
            if linear is not None and packs(linear.weight):
                module.use(PackedLinear(linear))
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and packs(child.weight):
                setattr(module, name, _inferring([child], one_row))
        module.__dict__.update(module._modules)  # where Python finds them at once, and not by __getattr__


def _inferring(layers: list[nn.Linear], one_row: bool) -> nn.Module:
    bfloat16, amx = layers[0].weight.dtype == torch.bfloat16, torch.cpu._is_amx_tile_supported()
    if one_row and bfloat16:
        return PackedLinear(*layers, rows=1) if amx else OneRowLinear(*layers)
    return PackedLinear(*layers)
