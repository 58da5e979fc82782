"""Audio files of every kind, made on the spot, and what a test asks of them."""

import functools
import io
import struct
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from earful.audio import io as audio_io
from earful.audio.io import open_audio
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
