"""The network: every part against its formula or against itself in pieces."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earful.models.voxtral.model import VoxtralRealtime
from earful.nn.attention import step_view
from earful.nn.state import leaves, nbytes, select
from tests.helpers import assert_streams_like_offline, tiny_family

ATOL = 1e-4  # values of order 1 to 10 through two layers whose weights keep them there


class OverTime(torch.nn.Module):
    """A part of the network with time last, as the law's helper has it."""

    def __init__(self, part: torch.nn.Module, chunk: int, **more: torch.Tensor) -> None:
        super().__init__()
        self.part, self.chunk, self.more = part, chunk, more

    def init_state(self, batch: int) -> object:
        return self.part.init_state(batch, self.chunk)

    def forward(self, x, state=None, active=None):
        decoder = bool(self.more)
        y = self.part(x.transpose(1, 2) if decoder else x, state=state, active=active, **self.spread(len(x)))
        return y.transpose(1, 2)

    def spread(self, batch: int) -> dict[str, torch.Tensor]:
        return {name: tensor.expand(batch, -1, -1) for name, tensor in self.more.items()}


@pytest.mark.parametrize("sizes", ["published", "builtin", "wide"])
def test_encoder_streams_like_offline(sizes):
    encoder = tiny_family(sizes).model.encoder
    past = 6 * encoder.config.window if encoder.config.window < 1000 else 100
    assert_streams_like_offline(OverTime(encoder, 16), encoder.config.mels, past, hop=2, atol=ATOL)


@pytest.mark.parametrize("sizes", ["published", "builtin", "wide"])
def test_decoder_streams_like_offline(sizes):
    decoder = tiny_family(sizes).model.decoder
    gains = decoder.gains(torch.tensor([3])).detach()
    past = 10 * decoder.config.window if decoder.config.window < 1000 else 100
    assert_streams_like_offline(OverTime(decoder, 32, gains=gains), decoder.config.dim, past, atol=ATOL)


def test_what_a_frozen_slot_is_handed_leaves_no_trace():
    model = tiny_family("published").model
    mel, noise = torch.randn(2, 24, 128), torch.randn(2, 24, 128) * 100
    state, undisturbed = model.encoder.init_state(2, 64), model.encoder.init_state(2, 64)
    with torch.inference_mode():
        for _ in range(3):  # past the window, to the end of the ring and over it
            model.hear(mel, state)
            model.hear(mel, undisturbed)
            before = select(state, [1])
            model.hear(noise, state, torch.tensor([True, False]))
            for part in (lambda s: s.conv1.tail, lambda s: s.conv2.tail, lambda s: s.pos):
                assert torch.equal(part(state)[1:], part(before))
        said, expected = model.hear(mel, state), model.hear(mel, undisturbed)
    torch.testing.assert_close(said[1], expected[1], rtol=0, atol=1e-5)
    assert (said[0] - expected[0]).abs().max() > 0.01


@given(delay=st.integers(0, 40))
def test_gain_is_a_function_of_the_delay_in_slots(delay):
    decoder = tiny_family("published").model.decoder
    dim = decoder.config.dim
    rates = [math.exp(-math.log(10_000) * i / (dim / 2)) for i in range(dim // 2)]
    condition = torch.tensor([math.cos(delay * rate) for rate in rates] + [math.sin(delay * rate) for rate in rates])
    gains = decoder.gains(torch.tensor([5, delay]))
    for layer, block in enumerate(decoder.layers):
        inner = block.ada.down.weight @ condition
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        torch.testing.assert_close(gains[1, layer], block.ada.up.weight @ inner, rtol=0, atol=1e-5)


def test_gain_acts_on_the_feed_forward_part_alone():
    """With a gain of -1 a decoder block is its attention."""
    decoder = tiny_family("published").model.decoder
    x = torch.randn(1, 5, decoder.config.dim)
    block, gain = decoder.layers[0], torch.full([1, 1, decoder.config.dim], -1.0)
    rope, view = step_view(x, None, decoder.config)
    torch.testing.assert_close(block(x, gain, rope, view, None), x + block.attn(block.attn_norm(x), rope, view))


def test_projector_joins_the_frames_of_a_slot_in_time_order():
    projector = tiny_family("published").model.projector
    x = torch.randn(2, 12, 20)
    y = projector(x)
    assert y.shape == (2, 3, 36)
    slot = torch.cat([x[1, 4], x[1, 5], x[1, 6], x[1, 7]])
    inner = projector.linear1.weight @ slot
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    torch.testing.assert_close(y[1, 1], projector.linear2.weight @ inner)


def test_silent_padding_behind_a_signal_changes_nothing_before_it():
    model = tiny_family("published").model
    mel = torch.randn(1, 24, 64)
    padded = torch.nn.functional.pad(mel, (0, 80), value=-0.625)
    torch.testing.assert_close(model.hear(padded)[:, :8], model.hear(mel), rtol=0, atol=1e-5)


def test_teacher_forcing_gives_the_logits_of_each_step():
    model = tiny_family("published").model
    mel, tokens, delay = torch.randn(2, 24, 96), torch.randint(0, 360, (2, 12)), torch.tensor([2, 7])
    logits = model(tokens, mel, delay)
    assert logits.shape == (2, 12, 360)
    audio, gains, state = model.hear(mel), model.decoder.gains(delay), model.decoder.init_state(2, 1)
    with torch.no_grad():
        for t in range(12):
            x = (model.decoder.embed(tokens[:, t]) + audio[:, t])[:, None]
            step = model.decoder.logits(model.decoder(x, gains, state))
            torch.testing.assert_close(step[:, 0], logits[:, t], rtol=0, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_head_is_the_embedding_or_its_own(tied):
    config = tiny_family("published").config
    model = VoxtralRealtime(replace(config, decoder=replace(config.decoder, tied=tied)))
    assert ("decoder.head.weight" in model.state_dict()) is not tied
    x = torch.randn(3, config.decoder.dim)
    head = model.decoder.embed if tied else model.decoder.head
    torch.testing.assert_close(model.decoder.logits(x), x @ head.weight.T)


def test_half_precision_keeps_its_type_and_ends_in_float32_logits():
    config = tiny_family("published").config
    model = VoxtralRealtime(config).bfloat16()
    state = model.encoder.init_state(1, 16)
    assert {leaf.dtype for leaf in leaves(state)} == {torch.bfloat16, torch.int64}
    with torch.no_grad():
        mel = torch.randn(1, 24, 32).bfloat16()
        whole = model.hear(mel)
        torch.testing.assert_close(model.hear(mel, state), whole, rtol=0, atol=0.05)
        logits = model.decoder.logits(whole)
    assert whole.dtype == torch.bfloat16
    assert logits.dtype == torch.float32


def test_states_of_the_published_model_have_the_size_that_is_expected():
    """From the sizes alone: 2 rings of (window + chunk - 1) entries to a layer, and what the convolutions remember."""
    config = tiny_family("published").config
    encoder = replace(config.encoder, mels=128, dim=1280, layers=32, heads=32, kv_heads=32, head_dim=64, window=750)
    decoder = replace(config.decoder, dim=3072, layers=26, heads=32, kv_heads=8, head_dim=128, window=8192)
    with torch.device("meta"):
        model = VoxtralRealtime(replace(config, encoder=encoder, decoder=decoder)).bfloat16()
        assert nbytes(model.encoder.init_state(1, 128)) == 2 * (32 * 2 * 32 * 64 * (750 + 127) + 2 * 128 + 1280) + 8
        assert nbytes(model.decoder.init_state(1, 32)) == 2 * 26 * 2 * 8 * 128 * (8192 + 31) + 8
