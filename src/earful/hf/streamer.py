"""Text as it is generated, taken out of another thread."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from typing import Any, Protocol

from torch import Tensor


class Decodes(Protocol):
    def decode(self, token_ids: list[int], **kwargs: Any) -> str: ...


class TextIteratorStreamer:
    """An iterator over pieces of text, for `generate(streamer=...)` in a thread of its own.

    Text comes out up to its last space, or at once behind a line's end and a Chinese character. skip_prompt: leave the
    prompt out. timeout: seconds after which waiting for text raises queue.Empty, None waits as long as it takes.
    decode_kwargs: for the tokenizer's `decode`. One row only: raises ValueError for more.
    """

    def __init__(
        self, tokenizer: Decodes, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        self.tokenizer, self.decode_kwargs = tokenizer, decode_kwargs
        self.skip_prompt, self.timeout = skip_prompt, timeout
        self.text_queue: Queue[str | None] = Queue()
        self._ids: list[int] = []  # whose text is not all written
        self._written = 0  # characters of it that are
        self._prompt_next = True

    def put(self, value: Tensor) -> None:
        """Take the prompt [1, L], then ids [1] one after the other."""
        if value.ndim > 1 and len(value) > 1:
            raise ValueError(f"expected one row of ids, got {len(value)}: a streamer writes one transcript")
        is_prompt, self._prompt_next = self._prompt_next, False
        if is_prompt and self.skip_prompt:
            return
        new = value.flatten().tolist()
        before, self._ids = self._ids, self._ids + new
        text = self._decode(self._ids)
        if text.endswith("\n"):
            self.text_queue.put(text[self._written :])
            self._ids, self._written = [], 0
            return
        end = len(text) if text and is_chinese(text[-1]) else text.rfind(" ") + 1
        self.text_queue.put(text[self._written : end])
        self._written += len(text[self._written : end])
        own = self._decode(new)
        if own.startswith(" ") and self._written == len(text) - len(own) + 1 and text == self._decode(before) + own:
            # All before this word is written and stands apart from it; decoding it each time would take ever longer.
            self._ids, self._written = new, 1

    def end(self) -> None:
        """Write what is left; the iteration ends."""
        self.text_queue.put(self._decode(self._ids)[self._written :] if self._ids else "")
        self.text_queue.put(None)
        self._ids, self._written, self._prompt_next = [], 0, True

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, **self.decode_kwargs)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = self.text_queue.get(timeout=self.timeout)
        if text is None:
            raise StopIteration
        return text


def is_chinese(character: str) -> bool:
    """Whether a character is one of Unicode's unified ideographs, which are written without spaces."""
    code = ord(character)
    return any(first <= code <= last for first, last in IDEOGRAPHS)


# Blocks of CJK unified ideographs, their extensions A to E and the compatibility ideographs. Source: Unicode 17.
IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
