"""The causal convolution: the law, and that it is a convolution of the past alone."""

import pytest
import torch
from torch.nn import functional as F

from earful.nn.conv import CausalConv1d
from tests.helpers import assert_streams_like_offline

SHAPES = [(1, 1), (3, 1), (7, 1), (2, 2), (3, 2), (4, 2), (16, 8)]


@pytest.mark.parametrize("kernel, stride", SHAPES)
def test_conv_streams_like_offline(kernel, stride):
    assert_streams_like_offline(CausalConv1d(3, 5, kernel, stride), channels=3, hop=stride, past=30)


@pytest.mark.parametrize("kernel, stride", SHAPES)
def test_conv_is_a_plain_one_behind_zeros(kernel, stride):
    layer = CausalConv1d(3, 5, kernel, stride, bias=False)
    x = torch.randn(2, 3, 6 * stride, requires_grad=True)
    y = layer(x)
    expected = F.conv1d(F.pad(x, (kernel - stride, 0)), layer.conv.weight, stride=stride)
    torch.testing.assert_close(y, expected)
    # Step 2 sees nothing of what comes after its own stride, and the last input of that.
    (slope,) = torch.autograd.grad(y[0, :, 2].sum(), x)
    assert (slope[0, :, 3 * stride - 1] != 0).all()
    assert (slope[0, :, 3 * stride :] == 0).all()


def test_a_broken_stride_is_refused():
    layer = CausalConv1d(3, 5, 4, 2)
    for state in (None, layer.init_state(1)):
        with pytest.raises(ValueError, match="expected a multiple of 2 steps, got 5"):
            layer(torch.zeros(1, 3, 5), state)
