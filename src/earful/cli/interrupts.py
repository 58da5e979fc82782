"""Ctrl-C between two steps of the model, not in the middle of one, and `kill` as Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def kill_as_ctrl_c() -> None:
    """`kill` and schedulers end a command as Ctrl-C does, even where a shell has it ignore Ctrl-C."""

    def end(number: int, frame: Any) -> None:
        interrupt = signal.getsignal(signal.SIGINT)
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    signal.signal(signal.SIGTERM, end)


@contextmanager
def held() -> Iterator[None]:
    """Puts Ctrl-C off until the block is done, so that what it works on stays whole; the second one does not wait."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, or somebody else's concern
        yield
        return
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt
