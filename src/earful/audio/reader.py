"""Where audio comes from, as a decoder reads it: a path, a file object or a pipe."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from earful.errors import AudioError

Source = str | Path | BinaryIO
QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # the first box of an MP4 or MOV file


class Reader:
    """A file as libav sees it: of the name only the ending, and no exceptions.

    What is raised in a callback, Ctrl-C among it, would be printed and forgotten: it is kept, the file seems to end,
    and `check` raises it where Python is in charge again.
    """

    def __init__(self, file: BinaryIO, suffix: str) -> None:
        self.name = f"audio{suffix}"
        self._file = file
        self._seekable = file.seekable()
        self._read = getattr(file, "read1", file.read)  # a pipe's samples as they come, not a full buffer later
        self._failure: BaseException | None = None
        self._end = file.seek(0, os.SEEK_END) if self._seekable else 0  # of a pipe: what was read of it
        if self._seekable:
            file.seek(0)
        self._held = b""
        self.head = self._held = self._first(12)
        if self._seekable:
            self.seek(0)
            self._held = b""

    def _first(self, size: int) -> bytes:
        head = b""
        while len(head) < size and (more := self.read(size - len(head))):
            head += more
        return head

    def seekable(self) -> bool:
        return self._seekable

    def read(self, size: int) -> bytes:
        if self._held:
            data, self._held = self._held[:size], self._held[size:]
            return data
        try:
            data = self._read(size)
            if not isinstance(data, bytes) or len(data) > size:  # the binding would copy beyond its buffer
                raise AudioError(f"expected a binary file that waits for its bytes, got {type(data).__name__}")
        except BaseException as failure:
            self._failure = failure
            return b""
        if not self._seekable:
            self._end += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except BaseException as failure:
            self._failure = failure
            return -1

    def tell(self) -> int:
        return self._file.tell()

    def check(self) -> None:
        """Raise what was kept: AudioError for what the file did, anything else as it is."""
        if isinstance(self._failure, OSError):
            raise AudioError(f"expected a readable file, got {_reason(self._failure)}")
        if self._failure is not None:
            raise self._failure

    def holds(self, size: int) -> bool:
        """Whether the file is at least so long; of a pipe the rest is read to find out."""
        while not self._seekable and self._end < size and self.read(2**16):
            pass
        return self._end >= size


def name_of(source: Source) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if not hasattr(source, "read") or not hasattr(source, "seekable"):
        raise AudioError(f"expected a path or a binary file object, got {type(source).__name__}")
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "audio"


@contextlib.contextmanager
def reading(source: Source, name: str) -> Iterator[Reader]:
    """Open a source as libav's reader; a QuickTime file from a pipe, whose index may come last, goes to disk first."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(source, "rb")) if isinstance(source, str | Path) else source
            reader = Reader(file, Path(name).suffix)
            if reader.head[4:8] in QUICKTIME and not reader.seekable():
                spool = stack.enter_context(tempfile.TemporaryFile())
                while chunk := reader.read(2**16):
                    spool.write(chunk)
                reader.check()
                reader = Reader(spool, Path(name).suffix)
        except AudioError as error:
            raise AudioError(f"{name}: {error}") from None
        except FileNotFoundError:
            raise AudioError(f"{name}: expected a file, got none of that name") from None
        except IsADirectoryError:
            raise AudioError(f"{name}: expected a file, got a folder") from None
        except (OSError, ValueError) as error:  # ValueError: a null character in the name, a file object that is closed
            raise AudioError(f"{name}: expected a readable file, got {_reason(error)}") from None
        yield reader


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
