"""The network: the law both ways, and every part against its formula."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from earful.models.mimi.config import MIMI
from earful.models.mimi.model import Mimi
from earful.nn.linear import pack
from earful.nn.state import leaves, nbytes, reset, select
from earful.testing import tiny_mimi
from tests.helpers import assert_streams_like_offline

# Values of order 1 to 10 through a dozen layers whose weights keep them there; the sums of float32 are in other orders.
ATOL = 1e-4
SIZES = {
    "usual": {},
    "two residual blocks": {"residual_layers": 3, "ratios": (3, 2), "kernel": 5, "last_kernel": 5},
    "narrow window": {"window": 2, "layers": 3},
    "window of one step": {"window": 1},
    "one head": {"heads": 1, "head_dim": 24, "residual_kernel": 2, "compress": 1},
}


@cache
def tiny(sizes: str = "usual", packed: bool = False) -> Mimi:
    model = tiny_mimi(None, 0, {"codec": SIZES[sizes]})[0].eval()
    if packed:
        pack(model)
    return model


class Direction(torch.nn.Module):
    """One way through a codec, as the law's helper has a layer."""

    def __init__(self, model: Mimi, way: str, chunk: int) -> None:
        super().__init__()
        self.model, self.way, self.chunk = model, way, chunk

    def init_state(self, batch: int) -> object:
        make = self.model.init_encode_state if self.way == "latents" else self.model.init_decode_state
        return make(batch, self.chunk)

    def forward(self, x, state=None, active=None):
        if self.way == "latents":
            return self.model.latents(x, state, active)
        size = self.model.config.codebook_size
        codes = (x.abs() * 100).long() % size  # the helper makes noise
        return self.model.decode(codes, state, active)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_encoding_streams_like_offline(sizes, packed):
    model = tiny(sizes, packed)
    frame, window = model.config.frame_samples, model.config.window
    layer = Direction(model, "latents", chunk=5)
    assert_streams_like_offline(layer, 1, past=2 * window, hop=frame, chunk=5 * frame, atol=ATOL)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_decoding_streams_like_offline(sizes, packed):
    model = tiny(sizes, packed)
    past = 2 * model.config.window * model.config.hop
    assert_streams_like_offline(Direction(model, "decode", chunk=5), model.config.codebooks, past, chunk=5, atol=ATOL)


@torch.inference_mode()
def test_codes_of_a_stream_are_those_of_the_whole():
    model = tiny()
    samples = torch.randn(3, 1, 384 * 60, generator=torch.Generator().manual_seed(0))
    codes = model.encode(samples)
    for chunk in (1, 2, 6, 60):
        state = model.init_encode_state(3, chunk)
        parts = [model.encode(part, state=state) for part in samples.split(384 * chunk, dim=-1)]
        assert torch.equal(torch.cat(parts, -1), codes)
    assert min(len(codes[:, q].unique()) for q in range(6)) > 8  # of 32: the comparison means something


@torch.inference_mode()
@pytest.mark.parametrize("sizes", SIZES)
def test_a_packed_codec_is_the_same(sizes):
    model, packed = tiny(sizes), tiny(sizes, packed=True)
    samples = torch.randn(2, 1, model.config.frame_samples * 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(packed.latents(samples), model.latents(samples), rtol=0, atol=ATOL)
    codes = model.encode(samples)
    assert torch.equal(packed.encode(samples), codes)
    torch.testing.assert_close(packed.decode(codes), model.decode(codes), rtol=0, atol=ATOL)


@torch.inference_mode()
def test_after_an_hour_a_stream_still_is_what_the_last_minute_of_it_gives():
    """Everything has a bounded past, and rotary angles know only distances."""
    model = tiny_mimi(None, 0, {"codec": {"ratios": (2,), "rate_hz": 50, "layers": 1, "filters": 4}})[0].eval()
    generator = torch.Generator().manual_seed(0)
    chunk, calls = 450, 100
    encoding, decoding = model.init_encode_state(1, chunk), model.init_decode_state(1, chunk)
    for _ in range(calls):
        samples = torch.randn(1, 1, 4 * chunk, generator=generator)
        latents = model.latents(samples, encoding)
        codes = model.quantizer.encode(latents.transpose(1, 2), 6)
        audio = model.decode(codes, decoding)
    assert int(encoding.transformer.pos) == 2 * 3600 * 12.5
    settled = 100  # frames
    torch.testing.assert_close(latents[..., settled:], model.latents(samples)[..., settled:], rtol=0, atol=ATOL)
    torch.testing.assert_close(audio[..., 4 * settled :], model.decode(codes)[..., 4 * settled :], rtol=0, atol=ATOL)


@torch.inference_mode()
@pytest.mark.parametrize("way", ["latents", "decode"])
def test_what_a_frozen_slot_is_handed_leaves_no_trace(way):
    """A long call that one slot sits out, then short ones, beyond the window: the keys that it sees are its own."""
    layer = Direction(tiny(), way, chunk=4)
    unit = (1, 384) if way == "latents" else (6, 1)
    noise = lambda frames: torch.randn(2, unit[0], unit[1] * frames, generator=generator)  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    state, undisturbed = layer.init_state(2), layer.init_state(2)
    for _ in range(6):
        x = noise(1)
        layer(x, state)
        layer(x, undisturbed)
        layer(noise(4) * 100, state, torch.tensor([True, False]))
    x = noise(2)
    said, expected = layer(x, state), layer(x, undisturbed)
    torch.testing.assert_close(said[1], expected[1], rtol=0, atol=ATOL)
    assert (said[0] - expected[0]).abs().max() > 0.01


@torch.inference_mode()
def test_a_slot_that_is_reset_begins_anew_and_disturbs_nobody():
    model = tiny()
    samples = torch.randn(2, 1, 384 * 20, generator=torch.Generator().manual_seed(0)) + 1  # begins far from silence
    state = model.init_encode_state(2, 20)
    before = model.latents(samples, state)
    reset(state, [0])
    after = model.latents(samples, state)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=ATOL)
    whole = model.latents(torch.cat([samples, samples], -1))
    torch.testing.assert_close(after[1], whole[1, :, 20:], rtol=0, atol=ATOL)
    assert (after[1, :, 0] - before[1, :, 0]).abs().max() > 0.1
    kept = select(state, [1])
    assert [leaf.shape[0] for leaf in leaves(kept)] == [1] * len(list(leaves(state)))


@torch.inference_mode()
def test_first_frame_is_preceded_by_its_own_first_step_and_not_by_silence():
    model = tiny()
    samples = torch.ones(1, 1, 384)
    steps = model.encoder_transformer(model.encoder(samples))  # [1, D, 2]
    first = torch.cat([steps[..., :1], steps[..., :1], steps], -1)
    expected = torch.einsum("oik,bik->bo", model.downsample.conv.weight, first)
    torch.testing.assert_close(model.latents(samples)[..., 0], expected)


@torch.inference_mode()
def test_quantizer_is_its_formula():
    """The acoustic codebooks begin with the vector itself, not with what the semantic one leaves."""
    model = tiny()
    q = model.quantizer
    latents = torch.randn(1, 24, 5, generator=torch.Generator().manual_seed(0)) * 3
    codes = q.encode(latents.transpose(1, 2), 6)
    total = torch.zeros(24, 5)
    for part, begin in ((q.semantic, 0), (q.acoustic, 1)):
        left, heard = part.project_in.weight @ latents[0], torch.zeros(14, 5)
        for k, book in enumerate(part.codebooks):
            distance = (left[:, :, None] - book.embedding.T[:, None, :]).square().sum(0)  # [5, 32]
            assert torch.equal(distance.argmin(-1), codes[0, begin + k])
            nearest = book.embedding[codes[0, begin + k]].T
            left, heard = left - nearest, heard + nearest
        total += part.project_out.weight @ heard
    torch.testing.assert_close(q.decode(codes)[0].T, total, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("codebooks", [1, 2, 5, 6])
def test_fewer_codebooks_are_the_first_ones(codebooks):
    model = tiny()
    samples = torch.randn(1, 1, 384 * 12, generator=torch.Generator().manual_seed(0))
    codes = model.encode(samples)
    few = model.encode(samples, codebooks)
    assert torch.equal(few, codes[:, :codebooks])
    audio = model.decode(few)
    assert audio.shape == samples.shape
    if codebooks < 6:
        assert (audio - model.decode(codes)).abs().max() > 1e-3


@torch.inference_mode()
def test_a_last_frame_that_was_begun_is_filled_up_with_zeros():
    model = tiny()
    samples = torch.randn(1, 1, 384 * 3 + 1, generator=torch.Generator().manual_seed(0))
    padded = F.pad(samples, (0, 383))
    assert torch.equal(model.latents(samples), model.latents(padded))
    for length, frames in ((1, 1), (384, 1), (385, 2)):
        assert model.encode(samples[..., :length]).shape == (1, 6, frames)


@torch.inference_mode()
def test_what_cannot_be_is_refused():
    model = tiny()
    state = model.init_encode_state(1)
    for length in (383, 385, 0):
        with pytest.raises(ValueError, match=f"expected a multiple of 384 samples, got {length}"):
            model.encode(torch.zeros(1, 1, length), state=state)
    with pytest.raises(ValueError, match="expected some samples, got 0"):
        model.encode(torch.zeros(1, 1, 0))
    with pytest.raises(ValueError, match="expected some frames, got 0"):
        model.decode(torch.zeros(1, 6, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected at most 1 frames in a call, as the state was made for, got 2"):
        model.encode(torch.zeros(1, 1, 768), state=state)
    with pytest.raises(ValueError, match="expected at most 3 frames in a call, as the state was made for, got 4"):
        model.decode(torch.zeros(1, 6, 4, dtype=torch.int64), model.init_decode_state(1, 3))
    assert not any(leaf.any() for leaf in leaves(state))
    for codebooks in (0, 7, -1):
        with pytest.raises(ValueError, match=f"expected 1 to 6 codebooks, got {codebooks}"):
            model.encode(torch.zeros(1, 1, 384), codebooks)
    with pytest.raises(ValueError, match="expected 1 to 6 codebooks, got 7"):
        model.decode(torch.zeros(1, 7, 1, dtype=torch.int64))


@torch.inference_mode()
def test_half_a_codec_is_that_half_and_refuses_the_other():
    whole = tiny()
    samples = torch.randn(1, 1, 384 * 4, generator=torch.Generator().manual_seed(0))
    codes = whole.encode(samples)
    for half in ("encodes", "decodes"):
        model = Mimi(replace(whole.config, **{name: name == half for name in ("encodes", "decodes")}))
        weights = whole.state_dict()
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
        assert sum(p.numel() for p in model.parameters()) < 0.6 * sum(p.numel() for p in whole.parameters())
        able, unable = ("encode", "decode") if half == "encodes" else ("decode", "encode")
        given = {"encode": samples, "decode": codes}
        assert torch.equal(getattr(model, able)(given[able]), getattr(whole, able)(given[able]))
        with pytest.raises(ValueError, match=f"expected a codec that can {unable}, got only the other half"):
            getattr(model, unable)(given[unable])
        with pytest.raises(ValueError, match=f"expected a codec that can {unable}, got only the other half"):
            getattr(model, f"init_{unable}_state")(1)


def test_gradients_reach_every_parameter_without_a_state():
    model = tiny_mimi(None)[0]
    latents = model.latents(torch.randn(1, 1, 384 * 3))
    codes = model.quantizer.encode(latents.detach().transpose(1, 2), 6)
    audio = model.decode(codes)
    (latents.square().sum() + audio.square().sum()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {f"quantizer.{part}.project_in.weight" for part in ("semantic", "acoustic")}
    assert not any("codebooks" in name for name, _ in model.named_parameters())


def test_published_model_has_the_size_that_is_expected():
    with torch.device("meta"):
        model = Mimi(MIMI)
        encoding, decoding = model.init_encode_state(1), model.init_decode_state(1)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 79
    assert round(sum(buffer.numel() for buffer in model.buffers()) / 1e6) == 17
    rings = 4 * 2 * 8 * 512 * (250 + 1) + 8
    # channels times steps of the tails, from the spacing of the rates alone
    narrow = sum(channels * 2 for channels in (64, 128, 256, 512))
    strided = sum(channels * ratio for channels, ratio in ((64, 4), (128, 5), (256, 6), (512, 8)))
    assert nbytes(encoding) == rings + 4 * (6 + narrow + strided + 1024 * 2 + 512 * 2) + 1
    assert nbytes(decoding) == rings + 4 * (512 * 6 + narrow + strided + 64 * 2 + 512 * 2)
