"""What was said, with times, and the files that it can be written as."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from earful.events import Event, Text, Word

GAP_S = 0.8  # a silence between words that ends a segment
SEGMENT_S = 7.0  # the longest segment of several words
SEGMENT_WIDTH = 84  # in columns of a terminal: two lines of a subtitle
LEAST_WIDTH = 20  # of a segment of text without word times
SENTENCE_S = 0.5  # the end of a sentence is as good a place to cut as so much silence
SENTENCE_ENDS = tuple(".?!…。？！")


@dataclass(frozen=True)
class Segment:
    """A stretch of speech as long as a subtitle; times in seconds from the start of the audio."""

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()

    @property
    def line(self) -> str:
        """The text on one line, without control characters, which would steer a terminal or end a subtitle."""
        return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in self.text).split())


@dataclass(frozen=True)
class Transcript:
    """The text of a recording; `words` and `segments` are in order, within `duration_s`, and do not overlap."""

    text: str
    words: tuple[Word, ...]
    segments: tuple[Segment, ...]
    language: str | None
    duration_s: float

    @classmethod
    def of(cls, text: str, words: Sequence[Word], language: str | None, duration_s: float) -> Transcript:
        """Cut a text into segments: at silences, and where it runs on, at the longest break within the limits.

        words: those of the text, in order; without any, the text is taken to be spoken evenly over the whole duration.
        Only what follows a segment's last word tells where the next one is cut, so a text that grows changes no segment
        but the last.
        """
        words = tuple(_in_order(words, duration_s))
        if words:
            segments = tuple(segment for _, segment in _spoken(text, words))
        else:
            segments = tuple(_spread(text, duration_s))
        return cls(text, words, segments, language, duration_s)

    def by_word(self) -> Transcript:
        """The same with a segment for each word; unchanged where there are no word times."""
        segments = tuple(Segment(word.text, word.start_s, word.end_s, (word,)) for word in self.words)
        return Transcript(self.text, self.words, segments or self.segments, self.language, self.duration_s)

    def to_txt(self) -> str:
        """A line for each segment."""
        return "".join(f"{segment.line}\n" for segment in self.segments)

    def to_srt(self) -> str:
        """SubRip subtitles."""
        return "".join(
            f"{number}\n{_clock(segment.start_s, ',')} --> {_clock(segment.end_s, ',')}\n"
            f"{segment.line.replace('-->', '->')}\n\n"
            for number, segment in enumerate(self.segments, 1)
        )

    def to_vtt(self) -> str:
        """WebVTT subtitles. Source: https://www.w3.org/TR/webvtt1/"""
        return "WEBVTT\n\n" + "".join(
            f"{_clock(segment.start_s, '.')} --> {_clock(segment.end_s, '.')}\n{_escaped(segment.line)}\n\n"
            for segment in self.segments
        )

    def to_tsv(self) -> str:
        """Start and end in whole milliseconds and the text, with a header, as Whisper's command line writes them."""
        rows = [f"{_ms(s.start_s)}\t{_ms(s.end_s)}\t{s.line}\n" for s in self.segments]
        return "start\tend\ttext\n" + "".join(rows)

    def to_json(self) -> str:
        """One object: text, language (or null), duration_s, and segments as `to_jsonl` has them; times in seconds."""
        content = {
            "text": self.text,
            "language": self.language,
            "duration_s": round(self.duration_s, 3),
            "segments": [_fields(segment) for segment in self.segments],
        }
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"

    def to_jsonl(self) -> str:
        """An object a line for each segment: text, start_s, end_s, and words, each with text, start_s and end_s."""
        return "".join(json.dumps(_fields(segment), ensure_ascii=False) + "\n" for segment in self.segments)


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": Transcript.to_txt,
    "srt": Transcript.to_srt,
    "vtt": Transcript.to_vtt,
    "tsv": Transcript.to_tsv,
    "json": Transcript.to_json,
    "jsonl": Transcript.to_jsonl,
}


class Growing:
    """A text that is still being said: gives out the segments of its transcript, each as soon as nothing changes it."""

    def __init__(self) -> None:
        self.text = ""  # what no segment has yet
        self.words: list[Word] = []

    def take(self, events: Iterable[Event]) -> list[Segment]:
        """Hear some more; returns the segments that are settled by it."""
        for event in events:
            if isinstance(event, Text):
                self.text += event.text
            elif isinstance(event, Word):
                self.words.append(event)
        if not self.words:
            return []
        *settled, (first, last) = _spoken(self.text, self.words)
        self.text, self.words = self.text[first:], list(last.words)
        return [segment for _, segment in settled]

    def rest(self, heard_s: float) -> list[Segment]:
        """The last segments: after so many seconds it has ended, or paused for long."""
        segments = Transcript.of(self.text, self.words, None, heard_s).segments
        self.text, self.words = "", []
        return list(segments)


def _in_order(words: Sequence[Word], duration_s: float) -> Iterator[Word]:
    """The words with times that lie within the duration and never run backwards."""
    past_s = 0.0
    for word in words:
        start_s = min(max(word.start_s, past_s), duration_s)
        past_s = min(max(word.end_s, start_s), duration_s)
        yield Word(word.text, start_s, past_s)


def _spoken(text: str, words: Sequence[Word]) -> Iterator[tuple[int, Segment]]:
    """Segments, each with where it begins in the text."""
    starts, at = [], 0  # where each word begins in the text; one that is not in it begins where the one before ended
    for word in words:
        found = text.find(word.text, at)
        starts.append(found if found >= 0 else at)
        at = starts[-1] + (len(word.text) if found >= 0 else 0)
    ends = [begin + len(word.text) for begin, word in zip(starts, words, strict=True)]
    begin = 0
    while begin < len(words):
        end = _cut(text, words, starts, ends, begin)
        first, last = starts[begin] if begin else 0, starts[end] if end < len(words) else len(text)
        chosen = tuple(words[begin:end])
        yield first, Segment(text[first:last].strip(), chosen[0].start_s, chosen[-1].end_s, chosen)
        begin = end


def _cut(text: str, words: Sequence[Word], starts: Sequence[int], ends: Sequence[int], begin: int) -> int:
    """The first word that is no longer in the segment of the word `begin`."""
    for end in range(begin + 1, len(words)):
        if words[end].start_s - words[end - 1].end_s > GAP_S:
            return end
        too_long = words[end].end_s - words[begin].start_s > SEGMENT_S
        if too_long or _width(text[starts[begin] : ends[end]]) > SEGMENT_WIDTH:
            # Not in the first half, which would leave single words behind; the last one of equal breaks.
            return max(range((begin + end + 1) // 2, end + 1), key=lambda at: (_break_s(words, at), at))
    return len(words)


def _break_s(words: Sequence[Word], at: int) -> float:
    """How good a place before the word `at` is to cut: seconds of silence, more at the end of a sentence."""
    sentence = words[at - 1].text.endswith(SENTENCE_ENDS)
    return words[at].start_s - words[at - 1].end_s + (SENTENCE_S if sentence else 0.0)


def _spread(text: str, duration_s: float) -> Iterator[Segment]:
    """Segments of a text without word times, each with its share of the duration."""
    rest = " ".join(text.split())
    seconds = duration_s / max(1, _width(rest))  # to a column
    most = max(LEAST_WIDTH, int(min(SEGMENT_WIDTH, SEGMENT_S / seconds))) if seconds else SEGMENT_WIDTH
    start_s = 0.0
    while rest:
        at = _fold(rest, most)
        end_s = start_s + seconds * _width(rest[:at]) if at < len(rest) else duration_s
        end_s = min(end_s, duration_s)
        yield Segment(rest[:at].strip(), start_s, end_s)
        rest, start_s = rest[at:], end_s


def _fold(text: str, most: int) -> int:
    """Where to cut a text so that the first part is at most so many columns wide: best at a sentence, or at a space."""
    widths = accumulate(map(_width, text))
    end = next((at for at, width in enumerate(widths) if width > most), len(text))
    if end == len(text):
        return end
    good = range(end, end // 2, -1)
    sentence = (at for at in good if text[at - 1] in SENTENCE_ENDS)
    space = (at for at in good if text[at].isspace())
    return next(sentence, next(space, end))


def _width(text: str) -> int:
    """Columns of a terminal: two for a Chinese or Japanese character, none for an accent of its own."""
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else not unicodedata.combining(character)
        for character in text
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _clock(seconds: float, point: str) -> str:
    minutes, ms = divmod(_ms(seconds), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{point}{ms % 1000:03}"


def _fields(segment: Segment) -> dict[str, Any]:
    return {**_timed(segment), "words": [_timed(word) for word in segment.words]}


def _timed(part: Segment | Word) -> dict[str, Any]:
    return {"text": part.text, "start_s": round(part.start_s, 3), "end_s": round(part.end_s, 3)}
