"""Linear layers for inference on the CPU, with weights in the order in which its matrix kernels read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TYPICAL_ROWS = 4  # a slot of one stream; the order is good for other numbers too
_product: Any = torch.ops.mkldnn._linear_pointwise.default


class PackedLinear(nn.Module):
    """What some nn.Linear make of the same x, one after the other, as one product without gradients.

    x: [..., in] -> [..., sum of out]. The plain kernels sort bfloat16 weights anew in every call, which takes longer
    than to multiply a few rows by them.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        weight = torch.cat([layer.weight.detach() for layer in layers])
        none = weight.new_zeros(len(weight))
        biases = [none[: layer.out_features] if layer.bias is None else layer.bias.detach() for layer in layers]
        self.bias = None if all(layer.bias is None for layer in layers) else torch.cat(biases)
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
        self.weight = weight.new_empty(0)  # tells the type and the device, as a caller expects of a linear layer

    def forward(self, x: Tensor) -> Tensor:
        return _product(x, self.packed, self.bias, "none", [], "")  # type: ignore[no-any-return]


def packs(weight: Tensor) -> bool:
    """Whether this machine has the kernels for weights of this type."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-any-return]
    return weight.dtype == torch.float32


def pack(model: nn.Module) -> None:
    """Make a model one for inference alone, in place: layers are packed where that is possible, and not saved again.

    A module whose layers share an input names them in `joined`: attribute of the packed layer -> names of the parts.
    """
    for module in list(model.modules()):
        for name, parts in getattr(module, "joined", {}).items():
            layers = [getattr(module, part) for part in parts if hasattr(module, part)]  # none if packed already
            if layers and all(packs(layer.weight) for layer in layers):
                setattr(module, name, PackedLinear(*layers))
                for part in parts:
                    delattr(module, part)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and packs(child.weight):
                setattr(module, name, PackedLinear(child))
