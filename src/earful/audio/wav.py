"""16-bit WAV files, written block by block."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from earful.audio.frames import Samples, as_samples
from earful.errors import AudioError

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
UNKNOWN_SIZE = 0x7FFF0000  # a RIFF size from here on means that the writer could not know it
HEADER_BYTES = 44


@contextmanager
def writing_wav(
    target: str | Path | BinaryIO,
    rate_hz: int,
    samples: int | None = None,
    channels: int = 1,
    growing: bool = False,
) -> Iterator[Callable[[Samples], None]]:
    """What writes samples, float32 [N] with full scale at 1, as the nearest of 65536 levels, clipped.

    target: a path, whose file is replaced when the block ends well, or a binary file object such as a pipe, which is
    left open. samples: how many will come, where that is known: a pipe begins with their number. channels: with more
    than one, [channels, N] are written. growing: the file has its name from the beginning and can be played at any
    moment, whatever becomes of the writer.
    Raises AudioError where the samples are not float of that shape, or the file cannot be written; BrokenPipeError as
    it comes.
    """
    name = str(target) if isinstance(target, str | Path) else str(getattr(target, "name", "a file"))
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(f"{name}: expected a rate of {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {rate_hz} Hz")
    promised = UNKNOWN_SIZE if samples is None else 2 * channels * samples
    written, told = 0, promised
    with _replacing(target, name, growing) as file:

        def put(data: bytes) -> None:
            with _reported(name):
                file.write(data)

        def settle() -> None:
            """The header says what there is."""
            nonlocal told
            with _reported(name):
                file.flush()
                if written != told and file.seekable():
                    file.seek(0)
                    file.write(_header(rate_hz, written, channels))
                    file.seek(HEADER_BYTES + written)
                    told = written
                file.flush()

        def write(samples: Samples) -> None:
            nonlocal written
            rows = [as_samples(row) for row in (samples if channels > 1 else [samples])]
            if len(rows) != channels:
                raise AudioError(f"{name}: expected samples of {channels} channels, got {len(rows)}")
            levels = np.minimum(np.rint(np.clip(np.stack(rows, axis=1), -1, 1) * 32768), 32767).astype("<i2")
            put(levels.tobytes())
            written += levels.nbytes
            if growing:
                settle()

        put(_header(rate_hz, promised, channels))
        yield write
        settle()


def write_wav(path: str | Path, samples: Samples, rate_hz: int) -> None:
    """Write mono samples as a 16-bit WAV file: the nearest of 65536 levels, clipped; whole or not at all.

    samples: float32 [N], full scale at 1
    Raises AudioError where the samples are not mono float, or the file cannot be written.
    """
    with writing_wav(path, rate_hz) as write:
        write(samples)


def _header(rate_hz: int, size: int, channels: int) -> bytes:
    """The 44 bytes before so many bytes of samples; a size that RIFF has no room for is one that is not known."""
    size, whole = (size, size + HEADER_BYTES - 8) if size < UNKNOWN_SIZE - HEADER_BYTES else (0xFFFFFFFF, 0xFFFFFFFF)
    kind = struct.pack("<IHHIIHH", 16, 1, channels, rate_hz, 2 * channels * rate_hz, 2 * channels, 16)  # PCM
    return b"RIFF" + struct.pack("<I", whole) + b"WAVEfmt " + kind + b"data" + struct.pack("<I", size)


@contextmanager
def _replacing(target: str | Path | BinaryIO, name: str, at_once: bool) -> Iterator[BinaryIO]:
    """The file to write to; that of a path is a new one, which takes its place when the block ends well, or at once."""
    if not isinstance(target, str | Path):
        yield target
        return
    part = path = Path(target)
    if not at_once and (path.is_file() or not path.exists()):  # a device or a pipe is written to, not replaced
        part = path.with_name(f".{path.name}.part")
    with _reported(name):
        file = part.open("wb")
    try:
        yield file
        with _reported(name):
            file.close()
            part.replace(path)
    finally:
        with suppress(OSError):  # what could not be written is known by now
            file.close()
        if part != path:
            part.unlink(missing_ok=True)


@contextmanager
def _reported(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # whoever reads has had enough, which is no error
        raise
    except OSError as error:
        raise AudioError(f"{name}: expected to write a WAV file, got {error.strerror or error}") from None
