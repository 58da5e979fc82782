"""Text from bytes that arrive in pieces."""

import codecs


class Utf8Stream:
    """Decodes UTF-8 as it comes and holds back the last, unfinished character (at most three bytes).

    Whatever the cuts, the strings join to `all_bytes.decode("utf-8", "replace")`.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> str:
        """The text that these bytes complete, perhaps empty; what cannot become UTF-8 is U+FFFD."""
        data = self._held + data
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._held = data[used:]
        return text

    def finish(self) -> str:
        """U+FFFD for an unfinished character, else nothing; the next `feed` begins a new stream."""
        text = self._held.decode("utf-8", "replace")
        self._held = b""
        return text
