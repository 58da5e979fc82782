"""The causal convolutions: the law, and that each is a convolution of the past alone."""

import pytest
import torch
from torch.nn import functional as F

from earful.nn.conv import CausalConv1d, CausalConvTranspose1d, ReplicateConv1d
from earful.nn.linear import pack
from earful.nn.state import leaves, reset
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


@pytest.mark.parametrize("channels", [1, 4, 6, 8, 12, 16, 24, 32, 64])
@pytest.mark.parametrize("kind", [CausalConv1d, CausalConvTranspose1d])
def test_every_bfloat16_convolution_is_right(kind, channels):
    """As its weights are, by autocast, and its gradients; oneDNN has some that are not, on processors with AMX."""
    sizes = (channels, 32) if kind is CausalConv1d else (32, channels)
    for kernel, stride in [(3, 1), (5, 2), (4, 2), (4, 4), (8, 1), (8, 4), (8, 8), (10, 5), (12, 6), (16, 8), (20, 4)]:
        conv, x = kind(*sizes, kernel, stride), torch.randn(2, sizes[0], 480, requires_grad=True)

        def outcome(conv, x):
            y = conv(x)
            return [y, *torch.autograd.grad(y.float().square().sum(), [x, conv.conv.weight])]

        exact = outcome(conv, x)
        with torch.autocast("cpu", torch.bfloat16):
            cast = outcome(conv, x)
        rounded = outcome(conv.bfloat16(), x.detach().bfloat16().requires_grad_())
        assert rounded[0].dtype == torch.bfloat16
        for found in (cast, rounded):
            for one, other in zip(found, exact, strict=True):
                assert (one - other).norm() < 0.02 * other.norm(), (kernel, stride)


def test_a_broken_stride_is_refused():
    for layer in (CausalConv1d(3, 5, 4, 2), ReplicateConv1d(3, 5, 4, 2)):
        for state in (None, layer.init_state(1)):
            with pytest.raises(ValueError, match="expected a multiple of 2 steps, got 5"):
                layer(torch.zeros(1, 3, 5), state)


@pytest.mark.parametrize("kernel, dilation", [(3, 2), (3, 4), (2, 3), (5, 2), (1, 3)])
def test_dilated_conv_reaches_further_back(kernel, dilation):
    layer = CausalConv1d(3, 5, kernel, dilation=dilation)
    assert_streams_like_offline(layer, channels=3, past=30)
    x = torch.randn(2, 3, 20)
    expected = F.conv1d(F.pad(x, ((kernel - 1) * dilation, 0)), layer.conv.weight, layer.conv.bias, dilation=dilation)
    torch.testing.assert_close(layer(x), expected)


REPLICATE = [(2, 1), (4, 2), (5, 2), (9, 3), (2, 2)]


@pytest.mark.parametrize("kernel, stride", REPLICATE)
def test_replicating_conv_streams_like_offline(kernel, stride):
    assert_streams_like_offline(ReplicateConv1d(3, 5, kernel, stride), channels=3, hop=stride, past=30)


@pytest.mark.parametrize("kernel, stride", REPLICATE)
def test_replicating_conv_is_a_plain_one_behind_copies_of_the_first_step(kernel, stride):
    layer = ReplicateConv1d(3, 5, kernel, stride)
    x = torch.randn(2, 3, 6 * stride)
    padded = F.pad(x, (kernel - stride, 0), mode="replicate")
    torch.testing.assert_close(layer(x), F.conv1d(padded, layer.conv.weight, layer.conv.bias, stride))


@torch.inference_mode()
def test_each_stream_is_preceded_by_its_own_first_step():
    """Also one that begins later than its neighbours, in a call of its own length, and one that is reset."""
    layer, x = ReplicateConv1d(2, 4, 4, 2), torch.randn(3, 2, 8)
    state = layer.init_state(3)
    first = layer(x[..., :2], state, torch.tensor([True, False, True]))
    torch.testing.assert_close(first[[0, 2]], layer(x[[0, 2], :, :2]))
    reset(state, [2])
    second = layer(x[..., 2:], state)
    torch.testing.assert_close(second[:1], layer(x[:1])[..., 1:])
    torch.testing.assert_close(second[1:], layer(x[1:, :, 2:]))


TRANSPOSED = [(1, 1), (2, 2), (4, 2), (16, 8), (5, 2), (7, 2), (3, 1)]


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel, stride", TRANSPOSED)
def test_transposed_conv_streams_like_offline(kernel, stride, bias, groups):
    layer = CausalConvTranspose1d(3, 6, kernel, stride, bias, groups)
    assert_streams_like_offline(layer, channels=3, past=30 * stride)


@pytest.mark.parametrize("kernel, stride", TRANSPOSED)
def test_transposed_conv_is_its_sum(kernel, stride):
    layer = CausalConvTranspose1d(3, 5, kernel, stride)
    x = torch.randn(2, 3, 6)
    y = layer.conv.bias[:, None].repeat(2, 1, 6 * stride)
    for t in range(6):
        for k in range(kernel):
            if t * stride + k < 6 * stride:
                y[..., t * stride + k] += torch.einsum("io,bi->bo", layer.conv.weight[..., k], x[..., t])
    torch.testing.assert_close(layer(x), y)


def test_a_fresh_state_is_zeros():
    for layer in (CausalConv1d(3, 5, 3), ReplicateConv1d(3, 5, 4, 2), CausalConvTranspose1d(3, 5, 4, 2)):
        assert not any(leaf.any() for leaf in leaves(layer.init_state(2)))


LAYERS = {
    "plain": lambda: CausalConv1d(3, 5, 7),
    "one step": lambda: CausalConv1d(3, 5, 1),
    "strided": lambda: CausalConv1d(3, 5, 16, 8),
    "dilated": lambda: CausalConv1d(3, 5, 3, dilation=4),
    "no bias": lambda: CausalConv1d(3, 5, 4, 2, bias=False),
    "replicating": lambda: ReplicateConv1d(3, 5, 4, 2, bias=False),
    "transposed": lambda: CausalConvTranspose1d(3, 5, 8, 4),
    "transposed, no bias": lambda: CausalConvTranspose1d(3, 5, 8, 4, bias=False),
    "transposed, not whole strides": lambda: CausalConvTranspose1d(3, 5, 7, 3),
    "transposed, long": lambda: CausalConvTranspose1d(3, 5, 13, 2),
    "transposed, no overlap": lambda: CausalConvTranspose1d(3, 5, 4, 4),
    "transposed, by channel": lambda: CausalConvTranspose1d(3, 3, 4, 2, groups=3),
}


@torch.inference_mode()
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_layers_are_the_same_and_stream_like_offline(kind):
    layer, packed = LAYERS[kind](), LAYERS[kind]()
    packed.load_state_dict(layer.state_dict())
    pack(packed)
    by_channel = kind == "transposed, by channel"  # which is no matrix product
    assert (packed.product is None) == by_channel
    assert (packed.conv is None) != by_channel
    x = torch.randn(2, 3, 40)
    torch.testing.assert_close(packed(x), layer(x))
    hop = 1 if "transposed" in kind else layer.stride
    assert_streams_like_offline(packed, channels=3, hop=hop, past=30)
    state = layer.init_state(2)
    assert [leaf.shape for leaf in leaves(state)] == [leaf.shape for leaf in leaves(packed.init_state(2))]
    pack(packed)  # once more changes nothing
    torch.testing.assert_close(packed(x), layer(x))
