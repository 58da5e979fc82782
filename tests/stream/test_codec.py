"""A live codec: any chunking, both ways."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import earful
from earful.api import CodecModel
from earful.errors import AudioError, CheckpointError, StreamClosed
from earful.testing import tiny_mimi, write_tiny
from tests.helpers import chunked

FRAME = 384
ATOL = 1e-4  # of samples of order 0.1 to 1: other chunks, other orders of the same sums


@pytest.fixture(scope="module")
def codec() -> CodecModel:
    return CodecModel("mimi", tiny_mimi(None)[0].eval())


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


def margin(codec: CodecModel, samples: np.ndarray) -> float:
    """By how much the nearest vector is nearer than the next one, where that is least."""
    with torch.inference_mode():
        latents = codec.model.latents(torch.from_numpy(samples)[None, None]).transpose(1, 2)
        least = np.inf
        for part in (codec.model.quantizer.semantic, codec.model.quantizer.acoustic):
            x = part.project_in(latents)
            for book in part.codebooks:
                nearest = torch.cdist(x, book.embedding[None]).square().topk(2, largest=False)
                least = min(least, float((nearest.values[..., 1] - nearest.values[..., 0]).min()))
                x = x - book.decode(nearest.indices[..., 0])
    return least


@given(length=st.integers(1, 60 * FRAME), seed=st.integers(0, 1000), codebooks=st.integers(1, 6))
def test_any_chunking_gives_the_codes_and_the_samples_of_the_whole(codec, length, seed, codebooks):
    rng, samples = np.random.default_rng(seed), noise(length, seed)
    assume(margin(codec, samples) > 1e-4)  # at a tie either code is right
    with torch.inference_mode():
        expected = codec.model.encode(torch.from_numpy(samples)[None, None], codebooks)[0]
        heard = codec.model.decode(expected[None])[0, 0].numpy()
    encoding, decoding = codec.encode_stream(codebooks), codec.decode_stream()
    codes = [encoding.feed(chunk) for chunk in chunked(rng, samples)] + [encoding.finish()]
    joined = np.concatenate(codes, axis=1)
    assert joined.dtype == np.int64
    assert np.array_equal(joined, expected.numpy())
    said = [decoding.feed(part) for part in np.array_split(joined, int(rng.integers(1, 30)), axis=1)]
    assert said[0].dtype == np.float32
    np.testing.assert_allclose(np.concatenate(said), heard, rtol=0, atol=ATOL)


def test_a_frame_comes_as_soon_as_it_is_whole(codec):
    stream = codec.encode_stream(2)
    assert stream.feed(noise(FRAME - 1)).shape == (2, 0)
    assert stream.feed(noise(1)).shape == (2, 1)
    assert stream.feed(noise(25 * FRAME + 5)).shape == (2, 25)
    assert stream.finish().shape == (2, 1)
    for use in (lambda: stream.feed(noise(1)), stream.finish):
        with pytest.raises(StreamClosed):
            use()


def test_streams_of_one_model_do_not_disturb_each_other(codec):
    left, right = noise(FRAME * 12, 1), noise(FRAME * 12, 2)
    streams, codes = [codec.encode_stream() for _ in "lr"], [[], []]
    for begin in range(0, FRAME * 12, FRAME):
        for side, samples in enumerate((left, right)):
            codes[side].append(streams[side].feed(samples[begin : begin + FRAME]))
    for side, samples in enumerate((left, right)):
        assert np.array_equal(np.concatenate(codes[side], axis=1), codec.encode(samples))


def test_a_file_is_encoded_and_comes_back(codec, tmp_path):
    from earful.audio.io import write_wav

    samples = 0.1 * noise(FRAME * 10 + 7)
    write_wav(tmp_path / "noise.wav", samples, codec.rate_hz)
    codes = codec.encode(tmp_path / "noise.wav")
    assert codes.shape == (6, 11)
    with (tmp_path / "noise.wav").open("rb") as file:
        assert np.array_equal(codec.encode(file, 3), codes[:3])
    assert codec.decode(codes).shape == (11 * FRAME,)
    assert codec.encode(samples[:0]).shape == (6, 0)
    assert codec.decode(codes[:, :0]).shape == (0,)
    with pytest.raises(AudioError):
        codec.encode(tmp_path / "nothing.wav")


def test_what_a_codec_says_of_itself(codec):
    assert (codec.family, codec.rate_hz, codec.frame_samples, codec.frame_s, codec.codebooks) == (
        "mimi", 4800, 384, 0.08, 6,
    )  # fmt: skip
    assert codec.bits_per_s() == 6 * 5 * 12.5
    assert codec.bits_per_s(2) == 2 * 5 * 12.5


@pytest.mark.parametrize(
    "codes, message",
    [
        (np.zeros(3, np.int64), r"expected integers \[1 to 6 codebooks, frames\], got int64 \[3\]"),
        (np.zeros((7, 2), np.int64), r"got int64 \[7, 2\]"),
        (np.zeros((0, 2), np.int64), r"got int64 \[0, 2\]"),
        (np.zeros((2, 2), np.float32), r"got float32 \[2, 2\]"),
        (np.full((2, 2), 32), "expected codes of 0 to 31, got 32 to 32"),
        (np.array([[3, -1]]), "expected codes of 0 to 31, got -1 to 3"),
    ],
)
def test_codes_that_are_none_are_refused(codec, codes, message):
    with pytest.raises(ValueError, match=message):
        codec.decode(codes)


def test_wrong_numbers_of_codebooks_are_refused(codec):
    for codebooks in (0, 7):
        with pytest.raises(ValueError, match=f"expected 1 to 6 codebooks, got {codebooks}"):
            codec.encode_stream(codebooks)


@pytest.mark.parametrize("layout", ["hf", "kyutai"])
def test_load_gives_a_codec_for_a_folder_with_one(codec, tmp_path, layout):
    loaded = earful.load(write_tiny("mimi", layout, path=tmp_path, dtype=torch.float32))
    assert isinstance(loaded, CodecModel)
    samples = noise(FRAME * 20)
    assert np.array_equal(loaded.encode(samples), codec.encode(samples))
    with pytest.raises(ValueError, match="expected a codec in float32, got bfloat16"):
        earful.load(tmp_path, dtype="bfloat16")


def test_a_codec_stored_in_bfloat16_computes_in_float32(tmp_path):
    loaded = earful.load(write_tiny("mimi", path=tmp_path, dtype=torch.bfloat16))
    assert loaded.model.encoder.first.product.weight.dtype == torch.float32
    assert loaded.encode(noise(FRAME)).shape == (6, 1)


def test_only_mono_codecs_have_this_interface():
    with pytest.raises(CheckpointError, match="expected a codec of mono audio, got 2 channels"):
        CodecModel("mimi", tiny_mimi(None, 0, {"codec": {"channels": 2}})[0])
