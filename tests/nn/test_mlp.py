"""The feed-forward networks against their formulas."""

import pytest
import torch

from earful.nn.mlp import MLP, GatedMLP


@pytest.mark.parametrize("down_bias", [False, True])
def test_gated_mlp_is_its_formula(down_bias):
    layer = GatedMLP(6, 10, down_bias).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    gate, up = x @ layer.gate.weight.T, x @ layer.up.weight.T
    expected = (gate / (1 + torch.exp(-gate)) * up) @ layer.down.weight.T
    if down_bias:
        expected = expected + layer.down.bias
    torch.testing.assert_close(layer(x), expected)
    biases = {name for name, _ in layer.named_parameters() if name.endswith("bias")}
    assert biases == ({"down.bias"} if down_bias else set())


def test_mlp_is_its_formula():
    layer = MLP(6, 10).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64) * 3
    inner = x @ layer.up.weight.T
    inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2  # not its approximation by tanh, which is off by 1e-3 at 2
    torch.testing.assert_close(layer(x), inner @ layer.down.weight.T)
    assert [name for name, _ in layer.named_parameters()] == ["up.weight", "down.weight"]
