"""Packed layers compute what the plain ones do."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from earful.nn.attention import Attention, View, products
from earful.nn.linear import OneRowLinear, PackedLinear, pack, packs
from earful.nn.mlp import MLP, GatedMLP
from earful.nn.rope import Rope

# of outputs around 1: one rounding of bfloat16 is 1/256
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
TYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(autouse=True)
def kernels(dtype):
    if not packs(torch.zeros(1, dtype=dtype)):
        pytest.skip(f"this machine has no packed kernels for {dtype}")


@TYPES
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (2, 128), (5,)])
@pytest.mark.parametrize("biases", [(False,), (True,), (True, False, True)], ids=str)
def test_packed_layers_stand_one_after_the_other(dtype, shape, biases):
    layers = [nn.Linear(36, 20 + 7 * i, bias=bias, dtype=dtype) for i, bias in enumerate(biases)]
    x = torch.randn(*shape, 36, dtype=dtype)
    with torch.inference_mode():
        expected = torch.cat([layer(x) for layer in layers], dim=-1)
        y = PackedLinear(*layers)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected, rtol=0, atol=TOLERANCE[dtype])


@TYPES
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_and_mlp_are_packed_whole(dtype, kv_heads):
    plain = nn.ModuleList([Attention(36, 4, kv_heads, 10, True, True), GatedMLP(36, 52, down_bias=True)]).to(dtype)
    packed = copy.deepcopy(plain)
    pack(packed)
    pack(packed)  # a second time changes nothing
    assert not [module for module in packed.modules() if isinstance(module, nn.Linear)]
    assert not list(packed.parameters())
    x = torch.randn(2, 5, 36, dtype=dtype)
    rope = Rope.at(torch.arange(5)[None], 10, 1e4, dtype)
    view = View.whole(5, 3, dtype, x.device)
    with torch.inference_mode():
        torch.testing.assert_close(packed[0](x, rope, view), plain[0](x, rope, view), rtol=0, atol=TOLERANCE[dtype])
        torch.testing.assert_close(packed[1](x), plain[1](x), rtol=0, atol=TOLERANCE[dtype])
    state, expected = packed[0].init_state(2, 9), plain[0].init_state(2, 9)
    assert (state.keys.shape, state.keys.dtype) == (expected.keys.shape, dtype)


@TYPES
def test_what_could_not_be_packed_at_first_can_be_later(dtype):
    model = GatedMLP(36, 52).double()
    pack(model)
    assert isinstance(model.gate, nn.Linear)
    model.to(dtype)
    pack(model)
    assert not hasattr(model, "gate")
    assert not [module for module in model.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("dtype", [torch.bfloat16], ids=str)
@pytest.mark.parametrize(("amx", "kind"), [(False, OneRowLinear), (True, PackedLinear)])
def test_one_row_is_multiplied_by_what_is_fastest_until_all_are_packed(dtype, amx, kind, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    plain = GatedMLP(36, 52, down_bias=True).to(dtype)
    model = copy.deepcopy(plain)
    pack(model, one_row=True)
    pack(model, one_row=True)
    assert isinstance(model.gate_up, kind)
    assert isinstance(model.down, kind)
    one, many = torch.randn(1, 1, 36, dtype=dtype), torch.randn(3, 2, 36, dtype=dtype)
    with torch.inference_mode():
        for x in (one, many):
            torch.testing.assert_close(model(x), plain(x), rtol=0, atol=TOLERANCE[dtype])
            assert torch.backends.mkldnn.enabled  # for everybody else
        pack(model)
        assert isinstance(model.gate_up, PackedLinear)
        assert isinstance(model.down, PackedLinear)
        torch.testing.assert_close(model(one), plain(one), rtol=0, atol=TOLERANCE[dtype])


@TYPES
@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("rows", range(6))
def test_a_packed_network_of_few_rows_is_the_plain_one(dtype, rows, amx, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    plain = MLP(36, 52).to(dtype)
    model = copy.deepcopy(plain)
    pack(model)
    assert isinstance(model.up, PackedLinear)
    x = torch.randn(rows, 1, 36, dtype=dtype)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), plain(x), rtol=0, atol=TOLERANCE[dtype])


@TYPES
def test_a_large_ring_is_looked_at_by_products(dtype, monkeypatch):
    asked = []
    monkeypatch.setattr("earful.nn.attention.products", lambda *a: asked.append(1) or products(*a))
    layer = Attention(32, 4, 2, 8).to(dtype)
    steps, pos = 7, torch.zeros(1, dtype=torch.int64)
    x, rope = torch.randn(1, steps, 32, dtype=dtype), Rope.at(torch.arange(steps)[None], 8, 1e4, dtype)
    view = View.ring(pos, steps, 5, 32, dtype)
    with torch.inference_mode():
        expected = layer(x, rope, View.whole(steps, 5, dtype, x.device))
        for large, called in ((2 * 32 * 8 * dtype.itemsize + 1, 0), (2 * 32 * 8 * dtype.itemsize, 1)):
            monkeypatch.setattr("earful.nn.attention.LARGE", large)
            y = layer(x, rope, view, layer.init_state(1, 32))
            assert len(asked) == called
            torch.testing.assert_close(y, expected, rtol=0, atol=TOLERANCE[dtype])


@TYPES
def test_other_devices_are_left_alone(dtype):
    model = nn.Sequential(GatedMLP(8, 8).to("meta", dtype))
    pack(model)
    assert isinstance(model[0].gate, nn.Linear)
    assert model[0].gate_up is None


@pytest.mark.parametrize("dtype", [torch.bfloat16], ids=str)
def test_threads_leave_the_switch_as_it_was(dtype):
    layer, x = OneRowLinear(nn.Linear(64, 64, dtype=dtype)), torch.randn(1, 64, dtype=dtype)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: layer(x), range(3000)))
    assert torch.backends.mkldnn.enabled
