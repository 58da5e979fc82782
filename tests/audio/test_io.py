import contextlib
import errno
import functools
import io
import os
import struct
import tempfile
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.audio import io as audio_io
from earful.audio.io import Limits, duration_hint, open_audio, open_stereo, read_audio
from earful.errors import AudioError

# How each kind of file is made: codec, rate, layout, container, options.
KINDS = {
    "a.mp3": ("libmp3lame", 44_100, "stereo", "mp3", {}),
    "a.flac": ("flac", 48_000, "stereo", "flac", {}),
    "a.opus": ("libopus", 48_000, "stereo", "ogg", {}),
    "a.m4a": ("aac", 44_100, "mono", "mp4", {}),
    "start.mp4": ("aac", 44_100, "mono", "mp4", {"movflags": "faststart"}),
    "parts.mp4": ("aac", 44_100, "mono", "mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "a.mkv": ("flac", 44_100, "stereo", "matroska", {}),
    "a.webm": ("libopus", 48_000, "mono", "webm", {}),
    "a.aac": ("aac", 22_050, "mono", "adts", {}),
    "a.aiff": ("pcm_s16be", 8_000, "mono", "aiff", {}),
    "a.g722": ("g722", 16_000, "mono", "g722", {}),
}


@functools.lru_cache
def encode(kind: str, seconds: float = 1.0) -> bytes:
    """A tone of 440 Hz, of amplitude 0.4 on average: 0.6 on the first channel of two, 0.2 on the second."""
    codec, rate, layout, container, options = KINDS[kind]
    return encode_tone(codec, rate, layout, container, options, seconds)


def encode_tone(codec, rate, layout, container, options=(), seconds=1.0, picture=False) -> bytes:
    with tempfile.TemporaryDirectory() as folder:  # to put its index first, an MP4 is opened again by its name
        path = Path(folder, "tone")
        with av.open(str(path), "w", format=container, options=dict(options)) as output:
            video = output.add_stream("mpeg4", rate=25) if picture else None
            stream = output.add_stream(codec, rate=rate, layout=layout)
            if video is not None:
                draw(output, video, seconds)
            channels = stream.layout.nb_channels
            tone = np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
            gains = [0.6, 0.2] if channels == 2 else [0.4] * channels
            packed = np.outer(tone, gains).astype(np.float32).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            resampler = av.AudioResampler(stream.format, stream.layout, rate, stream.codec_context.frame_size)
            for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
                output.mux(stream.encode(piece))
        return path.read_bytes()


def draw(output, video, seconds: float) -> None:
    video.width = video.height = 64
    video.pix_fmt = "yuv420p"
    for _ in range(round(25 * seconds)):
        output.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
    output.mux(video.encode(None))


def riff(content: bytes, code: int, bits: int, rate: int = 16_000, channels: int = 1, size: int | None = None) -> bytes:
    """A WAV file: `code` 1 for integers, 3 for floats; `size` is what the header says in place of the truth."""
    width = bits // 8
    head = struct.pack("<HHIIHH", code, channels, rate, rate * channels * width, channels * width, bits)
    body = (
        b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(content) if size is None else size)
    )
    return b"RIFF" + struct.pack("<I", len(body + content) if size is None else size) + body + content


class Pipe(io.RawIOBase):
    """A source that cannot seek and gives a little at a time."""

    def __init__(self, content: bytes, step: int = 1_000) -> None:
        self.rest = io.BytesIO(content)
        self.step = step

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.rest.read(min(size, self.step))


def keep(source, rate_hz=16_000, limits=audio_io.NO_LIMITS) -> tuple[np.ndarray, str]:
    """What comes before the error, and the error."""
    blocks = []
    with pytest.raises(AudioError) as error:
        blocks.extend(open_audio(source, rate_hz, limits))  # extends by what comes, up to the error
    assert "\n" not in str(error.value)
    return np.concatenate([np.zeros(0), *blocks]), str(error.value)


def amplitude(samples: np.ndarray, rate_hz: int) -> float:
    """Of the 440 Hz tone, whatever its phase, away from both ends."""
    middle = samples[rate_hz // 5 : -rate_hz // 5]
    return 2 * abs(np.mean(middle * np.exp(-2j * np.pi * 440 * np.arange(len(middle)) / rate_hz)))


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


def test_a_video_without_audio(tmp_path):
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as output:
        draw(output, output.add_stream("mpeg4", rate=25), seconds=1)
    assert keep(path)[1] == f"{path}: expected an audio stream, got a file without one (mov,mp4,m4a,3gp,3g2,mj2)"
    assert duration_hint(path) is None


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


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "expected audio, got an empty file"),
        (b"a", "expected audio or video, got a file of no known format, or a damaged one"),
        (b"Not a sound here.\n" * 300, "expected audio or video, got a file of no known format, or a damaged one"),
        (riff(b"", 1, 16), "expected audio, got nothing that can be decoded"),
        (encode("a.m4a")[:-2_000], "expected a whole MP4 file, got one without a readable index, cut off or damaged"),
        (riff(np.array([0, np.nan], "<f4").tobytes(), 3, 32), "expected finite samples, got nan"),
        (riff(np.array([0, 1e300], "<f8").tobytes(), 3, 64), "expected finite samples, got inf"),
        (riff(bytes(600), 1, 16, 3_999), "expected a rate of 4000 to 384000 Hz, got 3999 Hz"),
        (riff(bytes(600), 1, 16, 384_001), "expected a rate of 4000 to 384000 Hz, got 384001 Hz"),
        (riff(bytes(900), 1, 16, channels=9), "expected at most 8 channels, got 9"),
    ],
)
@pytest.mark.parametrize("source", ["path", "file", "pipe"])
def test_bad_content(tmp_path, content, message, source, capfd):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    if source == "path":
        assert keep(path)[1] == f"{path}: {message}"
    elif source == "file":
        assert keep(io.BytesIO(content))[1] == f"audio: {message}"
    else:
        assert keep(Pipe(content))[1] == f"audio: {message}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.txt", "a.mp3", "a.aac", "a.ogg", "a.flac", "a.m4a", "a.srt", "no ending"])
def test_a_text_file_of_any_name(tmp_path, name, capfd):
    path = tmp_path / name
    path.write_text("def f(x):\n    return x\n" * 200)
    assert keep(path)[1].startswith(f"{path}: expected a")
    assert capfd.readouterr() == ("", "")


def test_what_is_not_a_file(tmp_path):
    assert keep(tmp_path / "none.wav")[1] == f"{tmp_path / 'none.wav'}: expected a file, got none of that name"
    assert keep(tmp_path)[1] == f"{tmp_path}: expected a file, got a folder"
    assert "expected a readable file, got embedded null byte" in keep("a\0b.wav")[1]
    assert keep(np.zeros(3))[1] == "expected a path or a binary file object, got ndarray"
    assert "expected a binary file that waits for its bytes, got str" in keep(io.StringIO("text"))[1]
    closed = io.BytesIO()
    closed.close()
    assert "expected a readable file, got I/O operation on closed file" in keep(closed)[1]


def test_a_file_without_permission(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert keep("mine.wav")[1] == "mine.wav: expected a readable file, got Permission denied"


@pytest.mark.parametrize("kind", ["start.mp4", "parts.mp4", "a.flac", "a.mkv", "a.aac", "a.aiff", "a.wav"])
@pytest.mark.parametrize("piped", [False, True])
def test_a_file_that_breaks_off(kind, piped):
    if kind == "a.wav":
        content = riff(np.random.default_rng(0).bytes(2 * 8 * 16_000), 1, 16)
    else:
        content = encode(kind, seconds=8)
    whole = read_audio(io.BytesIO(content), 16_000)
    cut = content[: len(content) // 2]
    kept, message = keep(Pipe(cut) if piped else io.BytesIO(cut))
    assert 3.4 < len(kept) / 16_000 < 4.6
    tail = 400  # where the resampler rang out
    np.testing.assert_allclose(kept[:-tail], whole[: len(kept) - tail], atol=1e-6)
    assert message == f"audio: expected a whole file, got one that breaks off at {len(kept) / 16_000:.2f} s"
    with pytest.raises(AudioError, match="breaks off"):
        read_audio(io.BytesIO(cut), 16_000)


@pytest.mark.parametrize("kind", ["a.mp3", "a.opus", "a.g722"])
def test_a_file_that_does_not_tell_its_length_just_ends(tmp_path, kind):
    path = tmp_path / kind
    content = encode(kind, seconds=8)
    path.write_bytes(content[: len(content) // 2])
    assert 3.4 < len(read_audio(path, 16_000)) / 16_000 < 4.6


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF024, 0])
@pytest.mark.parametrize("piped", [False, True])
def test_a_wav_whose_writer_did_not_know_its_length(size, piped):
    content = riff(bytes(2 * 20_000), 1, 16, size=size)
    limits = Limits(max_s=2, max_bytes=40_000)  # counted as it comes: the header says hours
    assert len(read_audio(Pipe(content) if piped else io.BytesIO(content), 16_000, limits)) == 20_000


@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize(
    "tail", [b"", b"LIST\x0c\0\0\0INFOIART\0\0\0\0", b"junk" + struct.pack("<I", 150_000) + bytes(150_000)]
)
def test_chunks_after_the_samples_are_no_break(tail, piped):
    content = riff(bytes(2 * 20_000), 1, 16)
    content = content[:4] + struct.pack("<I", len(content) - 8 + len(tail)) + content[8:] + tail
    assert len(read_audio(Pipe(content) if piped else io.BytesIO(content), 16_000)) == 20_000


@pytest.mark.parametrize("piped", [False, True])
def test_a_chunk_after_the_samples_of_an_aiff_is_no_break(piped):
    content = encode("a.aiff") + b"ANNO" + struct.pack(">I", 150_000) + bytes(150_000)
    content = content[:4] + struct.pack(">I", len(content) - 8) + content[8:]
    assert len(read_audio(Pipe(content) if piped else io.BytesIO(content), 8_000)) == 8_000


def test_a_missing_padding_byte_is_no_break():
    content = riff(bytes(20_001), 1, 8)
    content = content[:4] + struct.pack("<I", len(content) - 8 + 1) + content[8:]
    assert len(read_audio(io.BytesIO(content), 16_000)) == 20_001


def test_a_title_in_another_alphabet():
    title = b"LIST" + struct.pack("<I", 16) + b"INFOINAM" + struct.pack("<I", 4) + b"Caf\xe9"
    content = riff(bytes(2 * 20_000), 1, 16)
    content = b"RIFF" + struct.pack("<I", len(content) - 8 + len(title)) + b"WAVE" + title + content[12:]
    assert len(read_audio(io.BytesIO(content), 16_000)) == 20_000


@pytest.mark.parametrize("tail", [bytes(3_000), b"TAG" + bytes(125), b"Lyrics and other nonsense. " * 40])
def test_what_stands_after_an_mp3_is_ignored(tail):
    assert len(read_audio(io.BytesIO(encode("a.mp3") + tail), 44_100)) == pytest.approx(44_100, abs=1_200)


def test_damage_in_the_middle_is_passed_over(capfd):
    content = bytearray(encode("a.flac", seconds=4))
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    samples = read_audio(io.BytesIO(bytes(content)), 48_000)
    assert 0.9 * 4 * 48_000 < len(samples) < 4 * 48_000
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["a.aiff", "a.flac"])
def test_a_file_comes_in_blocks_and_a_pipe_as_it_is_written(kind):
    content = encode(kind, seconds=4)
    of_file = list(open_audio(io.BytesIO(content), 16_000))
    of_pipe = list(open_audio(Pipe(content), 16_000))
    assert 2 * len(of_file) < len(of_pipe)
    np.testing.assert_array_equal(np.concatenate(of_file), np.concatenate(of_pipe))


def test_limits_are_counted_as_produced():
    content = riff(bytes(2 * 2 * 16_000 * 10), 1, 16, channels=2)  # 10 s, 640 000 bytes
    assert len(read_audio(io.BytesIO(content), 8_000, Limits(max_s=10, max_bytes=640_000))) == 80_000
    kept, message = keep(io.BytesIO(content), 8_000, Limits(max_s=3.5))
    assert message == "audio: expected at most 3.5 s of audio, got more"
    assert 3.2 * 8_000 < len(kept) <= 3.5 * 8_000
    kept, message = keep(io.BytesIO(content), 8_000, Limits(max_bytes=320_000))
    assert message == "audio: expected at most 320000 bytes of decoded audio, got more"
    assert 4.5 * 8_000 < len(kept) <= 5 * 8_000
    assert keep(io.BytesIO(content), 8_000, Limits(max_channels=1))[1] == "audio: expected at most 1 channels, got 2"


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile sound.aac\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{folder}/sound.aac\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{folder}/sound.aac\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_playlist_opens_nothing(tmp_path, monkeypatch, playlist):
    monkeypatch.chdir(tmp_path)
    Path("sound.aac").write_bytes(encode("a.aac"))
    assert len(read_audio("sound.aac", 16_000)) > 0
    for name in ("list.txt", "list.m3u8"):
        Path(name).write_text(playlist.format(folder=tmp_path))
        assert keep(name)[1].startswith(f"{name}: expected a")


class Failing(Pipe):
    def __init__(self, content: bytes, failure: BaseException) -> None:
        super().__init__(content)
        self.failure = failure

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        if not data:
            raise self.failure
        return data


def test_a_failing_disk_is_an_error_after_what_was_read():
    content = riff(bytes(2 * 16_000 * 20), 1, 16)[: 2 * 16_000 * 10]
    kept, message = keep(Failing(content, OSError(errno.EIO, "Input/output error")))
    assert message == "audio: expected a readable file, got Input/output error"
    assert len(kept) > 9.5 * 16_000
    assert keep(Failing(b"", OSError(errno.EIO, "Input/output error")))[1] == message


@pytest.mark.parametrize("content", [b"", riff(bytes(90_000), 1, 16, size=0xFFFFFFFF), encode("a.m4a")[:9_000]])
def test_an_interrupt_while_reading_is_an_interrupt(content):
    with pytest.raises(KeyboardInterrupt):
        read_audio(Failing(content, KeyboardInterrupt()), 16_000)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
def test_damage_never_raises_anything_else(kind, data):
    content = bytearray(encode(kind, seconds=0.2))
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = io.BytesIO(bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))]))
    file.name = kind
    with contextlib.suppress(AudioError):
        for block in open_audio(file, 16_000, Limits(max_s=60)):
            assert np.isfinite(block).all()


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


def test_of_both_sides_everything_before_a_file_breaks_off():
    content = riff(np.zeros(64_000, "<i2").tobytes(), 1, 16, channels=2)[:-60_000]
    blocks: list[np.ndarray] = []
    with pytest.raises(AudioError, match="expected a whole file, got one that breaks off"):
        blocks.extend(open_stereo(io.BytesIO(content), 24_000))
    assert sum(block.shape[1] for block in blocks) == (128_000 - 60_000) / 4 * 1.5
