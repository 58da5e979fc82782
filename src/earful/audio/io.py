"""Any audio or video file to mono float32, block by block, and 16-bit WAV back to a file."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from earful.audio.frames import Samples
from earful.audio.reader import Reader, Source, name_of, reading
from earful.audio.resample import Resampler
from earful.audio.wav import MAX_RATE_HZ, MIN_RATE_HZ, UNKNOWN_SIZE
from earful.audio.wav import write_wav as write_wav
from earful.errors import AudioError

Mix = Callable[[Samples], Samples]
Raw = npt.NDArray[Any]  # samples in a codec's own format

# What the binding of libav raises on a bad file: mostly FFmpegError, and plain errors where it trips over itself.
DECODER_ERRORS = (av.FFmpegError, ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, ValueError)
# A playlist may name other files and addresses: there is no protocol by which libav could reach them.
CONTAINER_OPTIONS = {"protocol_whitelist": "none"}
FORMATS = {  # sample format: type, value of silence, value of full scale
    "u8": (np.uint8, 128, 2**7),
    "s16": (np.int16, 0, 2**15),
    "s32": (np.int32, 0, 2**31),
    "flt": (np.float32, 0, 1),
    "dbl": (np.float64, 0, 1),
}
BLOCK_S = 1.0  # frames of a few milliseconds are joined up to here before they are converted, mixed and resampled
SLACK_S = 0.5  # headers round, and codecs pad: only what is shorter than promised by more has been cut


@dataclass(frozen=True)
class Limits:
    """What a file may hold, counted while it is decoded and whatever its header says."""

    max_s: float | None = None  # seconds of audio
    max_bytes: int | None = None  # decoded samples of all channels, in the codec's own format
    min_rate_hz: int = MIN_RATE_HZ
    max_rate_hz: int = MAX_RATE_HZ
    max_channels: int = 8


NO_LIMITS = Limits()


def open_audio(source: Source, rate_hz: int, limits: Limits = NO_LIMITS) -> Iterator[Samples]:
    """Decode the first audio stream of a file, block by block: mono float32 [N] at rate_hz, N > 0 and of any size.

    source: a path, or a binary file object, which is left open: read from its beginning, or as it comes from a pipe.
    Channels are averaged. At an equal rate 16-bit samples become exactly sample / 32768, otherwise they are resampled;
    the rate may change on the way. A name that ends in `.g722` stands for raw G.722, which has no header.

    Raises AudioError, with the first block, for what is missing, empty or not audio. Of a file that breaks off, or
    exceeds the limits on the way, everything up to there is yielded before AudioError says at which second. MP3, Ogg
    and raw files do not tell their length: cut, they only end. Damaged packets between good ones are passed over.
    """
    for block in _open(source, rate_hz, limits, _mean):
        yield block[0]


def open_stereo(source: Source, rate_hz: int, limits: Limits = NO_LIMITS) -> Iterator[Samples]:
    """The same of a file with two channels, both of them: float32 [2, N], left and right.

    Raises AudioError for another number of channels too.
    """
    yield from _open(source, rate_hz, limits, _both)


def _open(source: Source, rate_hz: int, limits: Limits, mix: Mix) -> Iterator[Samples]:
    """Blocks [rows, N] of what `mix` makes of the channels."""
    name = name_of(source)
    with reading(source, name) as reader, _container(reader, name) as container:
        if not container.streams.audio:
            raise AudioError(f"{name}: expected an audio stream, got a file without one ({container.format.name})")
        resamplers: list[Resampler] = []
        try:
            for from_hz, samples in _blocks(container, reader, limits, mix):
                if not resamplers or from_hz != resamplers[0].from_hz:
                    yield from _if_any([resampler.finish() for resampler in resamplers])
                    resamplers = [Resampler(from_hz, rate_hz) for _ in samples]
                yield from _if_any([r.feed(row) for r, row in zip(resamplers, samples, strict=True)])
        except AudioError as error:
            yield from _if_any([resampler.finish() for resampler in resamplers])
            raise AudioError(f"{name}: {error}") from None
        yield from _if_any([resampler.finish() for resampler in resamplers])


def read_audio(source: Source, rate_hz: int, limits: Limits = NO_LIMITS) -> Samples:
    """Decode a whole file to mono float32 [N] at rate_hz; takes and raises what `open_audio` does."""
    return np.concatenate([np.zeros(0, np.float32), *open_audio(source, rate_hz, limits)])


def duration_hint(source: Source) -> float | None:
    """Seconds that a file's header claims, for a progress bar; None for a pipe and where nothing is claimed.

    Says nothing of a bad file, since `open_audio` will; a file object that can seek is left at its beginning.
    """
    name = name_of(source)
    if not (Path(source).is_file() if isinstance(source, str | Path) else source.seekable()):
        return None
    try:
        with reading(source, name) as reader, _container(reader, name) as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            if stream.duration is not None and stream.time_base is not None:
                return float(stream.duration * stream.time_base)
            return None if container.duration is None else container.duration / av.time_base
    except AudioError:
        return None
    finally:
        if not isinstance(source, str | Path):
            source.seek(0)


@contextlib.contextmanager
def _container(reader: Reader, name: str) -> Iterator[InputContainer]:
    try:
        reader.check()
        if not reader.head:
            raise AudioError("expected audio, got an empty file")
        raw = "g722" if reader.name.lower().endswith(".g722") else None
        try:
            container = av.open(reader, "r", format=raw, container_options=CONTAINER_OPTIONS, metadata_errors="replace")
        except DECODER_ERRORS:
            reader.check()
            if reader.head[4:8] == b"ftyp":
                raise AudioError(
                    "expected a whole MP4 file, got one without a readable index, cut off or damaged"
                ) from None
            raise AudioError("expected audio or video, got a file of no known format, or a damaged one") from None
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from None
    with container:
        yield container


def _blocks(container: InputContainer, reader: Reader, limits: Limits, mix: Mix) -> Iterator[tuple[int, Samples]]:
    """Rate and mixed samples [rows, N] of some frames, of a pipe of each; then what `_checked` raises."""
    held: list[Raw] = []
    count, kind = 0, (0, "", 0)
    least_s = BLOCK_S if reader.seekable() else 0.0

    def joined() -> Iterator[tuple[int, Samples]]:
        whole = held.copy()
        held.clear()
        if whole:
            yield kind[0], mix(_as_floats(np.concatenate(whole, axis=1), kind[1]))

    try:
        for rate_hz, name, samples in _checked(container, reader, limits):
            if kind != (rate_hz, name, len(samples)):
                yield from joined()
                count, kind = 0, (rate_hz, name, len(samples))
            held.append(samples)
            count += samples.shape[1]
            if count >= least_s * rate_hz:
                yield from joined()
                count = 0
    except AudioError:
        yield from joined()
        raise
    yield from joined()


def _checked(container: InputContainer, reader: Reader, limits: Limits) -> Iterator[tuple[int, str, Raw]]:
    """Rate, sample format and channels [C, N] of each decoded frame, then the error if the file broke off or a limit
    was passed."""
    counts: Counter[int] = Counter()  # samples at each rate: a sum of seconds would pass a limit by its rounding
    seconds = end_s = 0.0
    size = 0
    broken = False
    for frame in _frames(container, reader):
        if frame is None:
            broken = True
            break
        rate_hz, channels = frame.sample_rate, frame.layout.nb_channels
        if not limits.min_rate_hz <= rate_hz <= limits.max_rate_hz:
            raise AudioError(f"expected a rate of {limits.min_rate_hz} to {limits.max_rate_hz} Hz, got {rate_hz} Hz")
        if channels > limits.max_channels:
            raise AudioError(f"expected at most {limits.max_channels} channels, got {channels}")
        name, samples = _channels(frame, channels)
        counts[rate_hz] += frame.samples
        seconds = sum(count / hz for hz, count in counts.items())
        size += samples.nbytes
        if limits.max_s is not None and seconds > limits.max_s:
            raise AudioError(f"expected at most {limits.max_s:g} s of audio, got more")
        if limits.max_bytes is not None and size > limits.max_bytes:
            raise AudioError(f"expected at most {limits.max_bytes} bytes of decoded audio, got more")
        if frame.pts is not None and frame.time_base is not None:
            end_s = frame.pts * frame.time_base.numerator / frame.time_base.denominator + frame.samples / rate_hz
        yield rate_hz, name, samples
    reader.check()
    if not seconds:
        raise AudioError("expected audio, got nothing that can be decoded")
    if (
        broken
        or max(seconds, end_s) + SLACK_S < _promised_s(container)
        or not reader.holds(_promised_size(reader.head))
    ):
        raise AudioError(f"expected a whole file, got one that breaks off at {seconds:.2f} s")


def _frames(container: InputContainer, reader: Reader) -> Iterator[av.AudioFrame | None]:
    """Decoded frames in order; a last None says that the data stops making sense before the end."""
    packets = container.demux(container.streams.audio[0])
    broken = False
    while True:
        try:
            packet = next(packets, None)
        except DECODER_ERRORS:
            broken = True
            break
        reader.check()
        if packet is None:
            break
        try:
            frames = packet.decode()
        except DECODER_ERRORS:
            # libav takes whatever stands after the last MP3 frame, tags of some kind mostly, for one frame more.
            broken = container.format.name != "mp3"
            continue
        if frames and packet.size:
            broken = False
        yield from (frame for frame in frames if isinstance(frame, av.AudioFrame) and frame.samples)
    if broken:
        yield None


def _mean(samples: Samples) -> Samples:
    """[C, N] -> [1, N]."""
    with np.errstate(over="ignore", invalid="ignore"):  # the resampler refuses what is not finite
        mixed: Samples = samples.mean(axis=0, dtype=np.float32, keepdims=True)
    return mixed


def _both(samples: Samples) -> Samples:
    if len(samples) != 2:
        raise AudioError(f"expected two channels, got {len(samples)}")
    return samples


def _channels(frame: av.AudioFrame, channels: int) -> tuple[str, Raw]:
    """A frame's sample format, and its channels [C, N] in it."""
    name = frame.format.name.removesuffix("p")
    if name not in FORMATS:
        raise AudioError(f"expected samples of {', '.join(FORMATS)}, got {name}")
    dtype, _, _ = FORMATS[name]
    # Of 8 planes the binding lists 9, the last at an address that is none: neither it nor `to_ndarray` may be used.
    planes = frame.planes[:channels] if frame.format.is_planar else frame.planes[:1]
    count = frame.samples * channels // len(planes)
    samples = np.stack([np.frombuffer(memoryview(plane), dtype, count) for plane in planes])  # [C, N] or [1, N * C]
    return name, samples if frame.format.is_planar else samples.reshape(-1, channels).T


def _as_floats(samples: Raw, name: str) -> Samples:
    """Samples of a format, with full scale at 1."""
    _, silence, full_scale = FORMATS[name]
    with np.errstate(over="ignore", invalid="ignore"):  # the resampler refuses what is not finite
        floats: Samples = (samples.astype(np.float32) - np.float32(silence)) / np.float32(full_scale)
    return floats


def _promised_s(container: InputContainer) -> float:
    """How long the audio should be by its header; 0 where headers do not say, or libav makes up a length instead."""
    stream = container.streams.audio[0]
    kind = container.format.name
    if (kind == "flac" or "mp4" in kind) and stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if "matroska" in kind and len(container.streams) == 1 and container.duration:  # the longest stream's length
        return container.duration / av.time_base
    return 0.0


def _promised_size(head: bytes) -> int:
    """How many bytes a WAV, AVI or AIFF file should have by its first chunk; 0 for other files and unknown sizes."""
    size = 0
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
    elif head[:4] == b"FORM":
        size = int.from_bytes(head[4:8], "big")
    return 8 + size - 1 if 0 < size < UNKNOWN_SIZE else 0  # less the padding byte that some count but leave out


def _if_any(rows: list[Samples]) -> Iterator[Samples]:
    if rows and len(rows[0]):
        yield np.stack(rows)
