"""Root-mean-square normalisation against its formula in float64."""

import pytest
import torch

from earful.nn.norm import LayerScale, RMSNorm


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-6), (torch.bfloat16, 2**-7), (torch.float16, 2**-9)])
def test_norm_is_its_formula(scale, dtype, rtol):
    norm = RMSNorm(40, eps=1e-5)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    norm = norm.to(dtype)
    x = (torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(1)) * scale).to(dtype)
    wide = x.double()
    expected = norm.weight.double() * wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    y = norm(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("dim", [1, 40, 1152])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_norm_without_gradients_is_the_same_but_for_a_rounding_and_of_each_row_alone(dim, scale):
    norm = RMSNorm(dim, eps=1e-5)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    norm = norm.bfloat16()
    x = (torch.randn(3, 5, dim, generator=torch.Generator().manual_seed(1)) * scale + scale).bfloat16()
    with torch.inference_mode():
        y = norm(x)
        assert torch.equal(y[1, 2], norm(x[1:2, 2:3])[0, 0])
    torch.testing.assert_close(y, norm(x), rtol=2**-7, atol=0)


def test_statistics_of_large_half_precision_values_do_not_overflow():
    y = RMSNorm(8, eps=1e-5).half()(torch.full([1, 8], 60_000.0, dtype=torch.float16))
    torch.testing.assert_close(y, torch.ones_like(y))


def test_layer_scale_is_a_factor_for_each_channel():
    layer = LayerScale(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 0.0, -2.0]))
    torch.testing.assert_close(layer(torch.ones(2, 4, 3))[1, 2], torch.tensor([1.0, 0.0, -2.0]))
