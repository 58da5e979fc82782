"""Everything that earful raises on purpose.

    EarfulError
    ├── CheckpointError   a model folder or file that cannot be used as it is
    ├── AudioError        audio that cannot be read, or is not what was asked for
    ├── StreamClosed      a session was fed after it had finished
    └── EngineFull        every slot of an engine is taken

Messages are one line and say what was expected and what came.
"""

from collections.abc import Sequence
from typing import Any


class EarfulError(Exception):
    """Base of every error that earful raises on purpose."""


class CheckpointError(EarfulError, ValueError):
    """A checkpoint that is incomplete, misshapen, too large or of no known layout."""


class AudioError(EarfulError, ValueError):
    """Audio that cannot be decoded, or has a rate, shape or length outside the limits.

    outcomes: where several sources were to be transcribed, or one up to where it broke off, what became of each.
    """

    outcomes: Sequence[Any] = ()


class StreamClosed(EarfulError, ValueError):
    """A stream was used after `finish()`."""


class EngineFull(EarfulError, RuntimeError):
    """No free slot is left in an engine."""
