import io
import os
import threading

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.audio import io as audio_io
from earful.audio.io import duration_hint, open_audio, open_stereo, read_audio
from earful.errors import AudioError
from tests.audio.files import KINDS, Pipe, amplitude, encode, encode_tone, riff


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate_hz", [16_000, 24_000])
def test_every_kind_of_file(tmp_path, kind, rate_hz):
    path = tmp_path / kind
    path.write_bytes(encode(kind))
    samples = read_audio(path, rate_hz)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(rate_hz, abs=0.1 * rate_hz)  # AAC fills whole frames at both ends
    # LAME turns everything down to 0.95.
    assert amplitude(samples, rate_hz) == pytest.approx(0.4 * (0.95 if kind == "a.mp3" else 1), rel=0.03)
    loudness = np.sqrt(2 * np.mean(samples[rate_hz // 5 : -rate_hz // 5] ** 2))
    assert loudness == pytest.approx(0.39, abs=0.03)  # of the tone and nothing else


@pytest.mark.parametrize(
    "dtype, code, bits, full_scale",
    [("<i2", 1, 16, 2**15), ("<i4", 1, 32, 2**31), ("<f4", 3, 32, 1), ("<f8", 3, 64, 1)],
)
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_samples_of_wav_are_exact(dtype, code, bits, full_scale, channels):
    random = np.random.default_rng(0)
    if code == 1:
        values = random.integers(-full_scale, full_scale, (5_000, channels)).astype(dtype)
    else:
        values = random.uniform(-1, 1, (5_000, channels)).astype(dtype)
    samples = read_audio(io.BytesIO(riff(values.tobytes(), code, bits, channels=channels)), 16_000)
    wanted = (values.astype(np.float64) / full_scale).mean(axis=1)
    if channels == 1:
        np.testing.assert_array_equal(samples, wanted.astype(np.float32))
    np.testing.assert_allclose(samples, wanted, rtol=0, atol=2e-7)


def test_8_and_24_bits_are_exact():
    content = bytes(range(256))
    samples = read_audio(io.BytesIO(riff(content, 1, 8)), 16_000)
    np.testing.assert_array_equal(samples, (np.arange(256) - 128) / 128)
    values = np.random.default_rng(0).integers(-(2**23), 2**23, 1_000)
    content = b"".join(int(value).to_bytes(3, "little", signed=True) for value in values)
    samples = read_audio(io.BytesIO(riff(content, 1, 24)), 16_000)
    np.testing.assert_array_equal(samples, values / 2**23)


@pytest.mark.parametrize(
    "sample_format, dtype, full_scale", [("s16p", "i2", 2**15), ("fltp", "f4", 1), ("u8p", "u1", None)]
)
@pytest.mark.parametrize("layout, channels", [("mono", 1), ("5.1", 6), ("7.1", 8)])
def test_planes_are_averaged(sample_format, dtype, full_scale, layout, channels):
    frame = av.AudioFrame(sample_format, layout, 64, align=1)
    values = np.random.default_rng(0).integers(0, 100, (channels, 64)).astype(dtype)
    for plane, row in zip(frame.planes, values, strict=False):  # for 8 channels the binding lists a plane too many
        plane.update(row.tobytes())
    name, planes = audio_io._channels(frame, channels)
    assert planes.nbytes == values.nbytes
    (samples,) = audio_io._mean(audio_io._as_floats(planes, name))
    wanted = values.mean(axis=0) / full_scale if full_scale else (values.mean(axis=0) - 128) / 128
    np.testing.assert_allclose(samples, wanted, rtol=1e-6)


@pytest.mark.parametrize("codec, container", [("libopus", "matroska"), ("flac", "flac"), ("aac", "mp4")])
def test_eight_channels_of_a_codec(codec, container):
    samples = read_audio(io.BytesIO(encode_tone(codec, 48_000, "7.1", container)), 48_000)
    assert amplitude(samples, 48_000) == pytest.approx(0.4, rel=0.15)  # lossy codecs take the low channel for noise


def test_8_channels_of_float_at_96_khz():
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(96_000) / 96_000)
    content = np.repeat(tone[:, None], 8, axis=1).astype("<f4").tobytes()
    samples = read_audio(io.BytesIO(riff(content, 3, 32, 96_000, 8)), 16_000)
    assert len(samples) == 16_000
    assert amplitude(samples, 16_000) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_ten_milliseconds(tmp_path, kind):
    path = tmp_path / kind
    path.write_bytes(encode(kind, seconds=0.01))
    samples = read_audio(path, 16_000)
    assert 160 <= len(samples) <= 2_000
    assert np.abs(samples).max() > 0.1


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 9_999), rate=st.sampled_from([8_000, 11_025, 44_100, 48_000, 96_000]))
def test_the_length_is_the_rounded_one(count, rate):
    samples = sum(len(block) for block in open_audio(io.BytesIO(riff(bytes(2 * count), 1, 16, rate)), 16_000))
    assert samples == int(np.floor(count * 16_000 / rate + 0.5))


def test_the_extension_does_not_matter(tmp_path):
    path = tmp_path / "really an mp3.wav"
    path.write_bytes(encode("a.mp3"))
    assert amplitude(read_audio(path, 16_000), 16_000) == pytest.approx(0.38, rel=0.03)


@pytest.mark.parametrize("picture", [True, False])
def test_the_audio_of_a_video(picture):
    content = encode_tone("aac", 44_100, "mono", "mp4", picture=picture)
    assert amplitude(read_audio(io.BytesIO(content), 16_000), 16_000) == pytest.approx(0.4, rel=0.03)


def test_the_rate_may_change_on_the_way():
    content = encode_tone("aac", 48_000, "stereo", "adts") + encode_tone("aac", 24_000, "mono", "adts")
    samples = read_audio(io.BytesIO(content), 16_000)
    assert len(samples) == pytest.approx(32_000, abs=3_000)
    for part in (samples[:16_000], samples[17_000:32_000]):
        assert amplitude(part, 16_000) == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same(tmp_path, kind):
    content = encode(kind)
    path = tmp_path / kind
    path.write_bytes(content)
    whole = read_audio(path, 16_000)
    assert np.array_equal(read_audio(str(path), 16_000), whole)
    with path.open("rb") as file:
        file.seek(50)
        assert np.array_equal(read_audio(file, 16_000), whole)  # from its beginning
        assert not file.closed
    pipe = Pipe(content)
    pipe.name = kind
    piped = read_audio(pipe, 16_000)
    assert not pipe.closed
    if kind == "a.mp3":  # where it cannot seek libav leaves the encoder's padding at the end
        assert len(whole) <= len(piped) < len(whole) + 600
        piped, whole = piped[:15_600], whole[:15_600]
    assert np.array_equal(piped, whole)


def test_standard_input(tmp_path):
    read_end, write_end = os.pipe()
    content = riff(bytes(40_000), 1, 16)

    def write() -> None:
        with os.fdopen(write_end, "wb") as file:
            file.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(read_end, "rb") as file:
        assert len(read_audio(file, 16_000)) == 20_000
    writer.join()


def test_a_live_pipe_is_not_waited_for():
    read_end, write_end = os.pipe()
    heard = threading.Event()

    def speak() -> None:
        with os.fdopen(write_end, "wb", buffering=0) as sink:
            sink.write(riff(bytes(2 * 16_000 * 4), 1, 16, size=0xFFFFFFFF))
            heard.wait(timeout=30)

    speaker = threading.Thread(target=speak)
    speaker.start()
    with os.fdopen(read_end, "rb") as source:
        blocks, count = open_audio(source, 16_000), 0
        while count < 3.8 * 16_000:  # of 4 s, and the end is not in sight
            count += len(next(blocks))
        waited = not heard.is_set() and speaker.is_alive()
        heard.set()
        assert waited
        assert count + sum(len(block) for block in blocks) == 4 * 16_000
    speaker.join()


def test_blocks_come_before_the_file_is_read():
    content = riff(bytes(2 * 16_000 * 600), 1, 16)
    file = io.BytesIO(content)
    blocks = open_audio(file, 8_000)
    first = next(blocks)
    assert first.dtype == np.float32
    assert 0 < len(first) < 8_000
    assert file.tell() < len(content) // 10
    blocks.close()
    assert not file.closed


@pytest.mark.parametrize("kind", ["a.aiff", "a.flac"])
def test_a_file_comes_in_blocks_and_a_pipe_as_it_is_written(kind):
    content = encode(kind, seconds=4)
    of_file = list(open_audio(io.BytesIO(content), 16_000))
    of_pipe = list(open_audio(Pipe(content), 16_000))
    assert 2 * len(of_file) < len(of_pipe)
    np.testing.assert_array_equal(np.concatenate(of_file), np.concatenate(of_pipe))


@pytest.mark.parametrize("kind", KINDS)
def test_duration_hint(tmp_path, kind):
    path = tmp_path / kind
    path.write_bytes(encode(kind, seconds=3))
    assert duration_hint(path) == pytest.approx(3, abs=0.2)
    with path.open("rb") as file:
        assert duration_hint(file) == pytest.approx(3, abs=0.2)
        assert file.tell() == 0
    pipe = Pipe(path.read_bytes())
    assert duration_hint(pipe) is None
    assert pipe.rest.tell() == 0  # nothing of it was consumed


def test_no_duration_hint(tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("Not a sound here.\n" * 30)
    for nothing in (text, tmp_path / "none.wav", tmp_path, io.BytesIO(b"")):
        assert duration_hint(nothing) is None


@pytest.mark.parametrize("rate_hz", [16_000, 24_000])
@pytest.mark.parametrize("kind", ["a.flac", "a.opus"])
def test_both_sides_of_a_recording(kind, rate_hz):
    """Each as a recording of its own would be, resampled or not."""
    rng = np.random.default_rng(0)
    sides = np.rint(rng.uniform(-0.5, 0.5, (2, 16_000)) * 32768)
    stereo = riff(sides.T.astype("<i2").tobytes(), 1, 16, channels=2)
    both = np.concatenate(list(open_stereo(io.BytesIO(stereo), rate_hz)), axis=1)
    for side, heard in zip(sides, both, strict=True):
        alone = read_audio(io.BytesIO(riff(side.astype("<i2").tobytes(), 1, 16)), rate_hz)
        np.testing.assert_array_equal(heard, alone)
    content = encode(kind)
    both = np.concatenate(list(open_stereo(io.BytesIO(content), rate_hz)), axis=1)
    np.testing.assert_allclose(both.mean(0), read_audio(io.BytesIO(content), rate_hz), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_sides_that_are_not_two(channels):
    content = riff(b"\0" * 6_000, 1, 16, channels=channels)
    with pytest.raises(AudioError, match=f"audio: expected two channels, got {channels}"):
        list(open_stereo(io.BytesIO(content), 16_000))
