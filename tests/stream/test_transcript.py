"""Segments hold the whole text within their limits, and each format can be read back."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earful.events import Text, Word
from earful.stream.transcript import FORMATS, GAP_S, SEGMENT_S, SEGMENT_WIDTH, Growing, Segment, Transcript


@st.composite
def spoken(draw):
    """A text and its words, with times that the reading of a real stream could give, and a duration."""
    separator = draw(st.sampled_from([" ", "  ", ""]))
    letters = st.text("abz.?é好", min_size=1, max_size=12)
    words, now = [], 0.0
    for text in draw(st.lists(letters, min_size=1, max_size=60)):
        start = now + draw(st.floats(0, 3 * GAP_S))
        now = start + draw(st.floats(0, 2.0))
        words.append(Word(text, start, now))
    return separator.join(word.text for word in words), words, now + 1.0


def squeezed(text):
    return "".join(text.split())


@given(spoken())
def test_segments_share_out_the_text_and_its_words(said):
    text, words, duration_s = said
    made = Transcript.of(text, words, "en", duration_s)
    assert made.text == text
    assert list(made.words) == words
    assert [word for segment in made.segments for word in segment.words] == words
    assert squeezed("".join(segment.text for segment in made.segments)) == squeezed(text)
    for segment in made.segments:
        assert squeezed(segment.text) == "".join(word.text for word in segment.words)
        assert (segment.start_s, segment.end_s) == (segment.words[0].start_s, segment.words[-1].end_s)


@given(spoken())
def test_segments_of_several_words_keep_the_limits(said):
    for segment in Transcript.of(*said[:2], None, said[2]).segments:
        pairs = zip(segment.words, segment.words[1:], strict=False)
        assert all(after.start_s - before.end_s <= GAP_S for before, after in pairs)
        if len(segment.words) > 1:
            assert segment.end_s - segment.start_s <= SEGMENT_S
            assert len(segment.text) <= SEGMENT_WIDTH


@given(spoken(), st.integers(1, 7))
def test_a_text_that_grows_has_the_segments_of_the_whole(said, most):
    """Events as a stream has them, in bunches: a word is complete when its text is there, or later."""
    text, words, duration_s = said
    events, at = [], 0
    for number, word in enumerate(words):
        end = text.index(word.text, at) + len(word.text)
        events += [Text(text[at:end], word.end_s), *([words[number - 1]] if number else [])]
        at = end
    events.append(words[-1])
    growing, got = Growing(), []
    for begin in range(0, len(events), most):
        got += growing.take(events[begin : begin + most])
        assert len(growing.words) <= 2 * SEGMENT_WIDTH + most
    got += growing.rest(duration_s)
    assert tuple(got) == Transcript.of(text, words, None, duration_s).segments
    assert (growing.text, growing.words) == ("", [])


def test_a_text_without_word_times_comes_at_the_end():
    growing = Growing()
    assert growing.take([Text("你好。", 1.0)]) == []
    assert growing.rest(2.0) == [Segment("你好。", 0.0, 2.0)]


@given(st.lists(st.tuples(st.floats(-5, 50), st.floats(-5, 50)), min_size=1, max_size=20), st.floats(0, 30, width=32))
def test_times_lie_within_the_duration_and_never_run_back(times, duration_s):
    words = [Word("a", start, end) for start, end in times]
    made = Transcript.of(" ".join("a" * len(words)), words, None, duration_s)
    for parts in (made.words, made.segments):
        edges = [edge for part in parts for edge in (part.start_s, part.end_s)]
        assert edges == sorted(edges)
        assert edges[0] >= 0
        assert edges[-1] <= duration_s


@given(st.text("ab好。 .\n", max_size=400), st.floats(0, 600))
def test_a_text_without_word_times_is_spread_over_the_duration(text, duration_s):
    made = Transcript.of(text, [], "zh", duration_s)
    assert made.words == ()
    assert squeezed("".join(segment.text for segment in made.segments)) == squeezed(text)
    assert all(segment.text and len(segment.text) <= SEGMENT_WIDTH for segment in made.segments)
    if made.segments:
        edges = [edge for segment in made.segments for edge in (segment.start_s, segment.end_s)]
        assert edges == sorted(edges)
        assert (edges[0], edges[-1]) == (0, duration_s)


def test_text_without_word_times_is_cut_at_sentences_and_spaces():
    made = Transcript.of("今天天气很好。" * 9, [], "zh", 30.0)
    assert len(made.segments) > 1
    assert all(segment.text.endswith("。") for segment in made.segments)
    assert all(segment.end_s - segment.start_s <= SEGMENT_S for segment in made.segments)
    words = "word " * 50
    assert all(
        segment.text.split() == ["word"] * segment.text.count("word")
        for segment in Transcript.of(words, [], None, 30.0).segments
    )


def even(text, gap_s=0.0, word_s=0.4):
    words = []
    for number, word in enumerate(text.split()):
        start_s = number * (word_s + gap_s)
        words.append(Word(word, start_s, start_s + word_s))
    return words


def test_running_speech_is_cut_at_its_longest_break():
    text = " ".join(["word"] * 30)
    words = even(text)
    late = [Word(word.text, word.start_s + 0.3, word.end_s + 0.3) for word in words[12:]]
    made = Transcript.of(text, words[:12] + late, "en", 20.0)
    assert len(made.segments[0].words) == 12
    sentences = " ".join(["word"] * 11 + ["word."] + ["word"] * 18)
    assert len(Transcript.of(sentences, even(sentences), "en", 20.0).segments[0].words) == 12


def test_a_word_longer_than_a_segment_stands_alone():
    words = [Word("so", 0.0, 0.2), Word("loooong", 0.3, 9.0), Word("then", 9.1, 9.3)]
    made = Transcript.of("so loooong then", words, "en", 10.0)
    assert [segment.text for segment in made.segments] == ["so", "loooong", "then"]


def test_a_word_that_is_not_in_the_text_loses_none_of_it():
    words = [Word("one", 0.0, 0.5), Word("2", 0.6, 1.0), Word("three", 3.0, 3.5)]
    made = Transcript.of("one two three", words, "en", 4.0)
    assert " ".join(segment.text for segment in made.segments) == "one two three"


def test_silence_is_empty_in_every_format():
    empty = Transcript.of("", [], "en", 2.0)
    assert empty.segments == ()
    assert {name: write(empty) for name, write in FORMATS.items()} == {
        "txt": "",
        "srt": "",
        "vtt": "WEBVTT\n\n",
        "tsv": "start\tend\ttext\n",
        "json": '{\n  "text": "",\n  "language": "en",\n  "duration_s": 2.0,\n  "segments": []\n}\n',
        "jsonl": "",
    }


@pytest.fixture
def two():
    words = [Word("salt", 0.0, 0.4), Word("&", 0.4, 0.5), Word("<pepper>", 3723.9996, 3724.5)]
    return Transcript.of("salt & <pepper>", words, None, 3725.0)


def test_srt(two):
    first = "1\n00:00:00,000 --> 00:00:00,500\nsalt &\n\n"
    assert two.to_srt() == first + "2\n01:02:04,000 --> 01:02:04,500\n<pepper>\n\n"


def test_vtt(two):
    first = "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nsalt &amp;\n\n"
    assert two.to_vtt() == first + "01:02:04.000 --> 01:02:04.500\n&lt;pepper&gt;\n\n"


def test_tsv(two):
    assert two.to_tsv() == "start\tend\ttext\n0\t500\tsalt &\n3724000\t3724500\t<pepper>\n"


def test_txt(two):
    assert two.to_txt() == "salt &\n<pepper>\n"


def test_json(two):
    salt = {"text": "salt", "start_s": 0.0, "end_s": 0.4}
    ampersand = {"text": "&", "start_s": 0.4, "end_s": 0.5}
    segment = {"text": "salt &", "start_s": 0.0, "end_s": 0.5, "words": [salt, ampersand]}
    content = json.loads(two.to_json())
    assert list(content) == ["text", "language", "duration_s", "segments"]
    assert (content["text"], content["language"], content["duration_s"]) == ("salt & <pepper>", None, 3725.0)
    assert content["segments"][0] == segment
    assert [json.loads(line) for line in two.to_jsonl().splitlines()] == content["segments"]


def test_by_word(two):
    assert two.by_word().to_tsv().splitlines()[1:] == ["0\t400\tsalt", "400\t500\t&", "3724000\t3724500\t<pepper>"]
    timeless = Transcript.of("no times", [], None, 1.0)
    assert timeless.by_word() == timeless


def test_hours_of_more_than_two_digits():
    assert "100:00:00,000 --> 100:00:01,000" in Transcript.of("a", [Word("a", 360_000, 360_001)], None, 4e5).to_srt()


@given(st.text(max_size=40))
def test_no_text_breaks_the_lines_of_a_file(text):
    made = Transcript.of(text, [Word(text, 0.0, 1.0)] if text.strip() else [], "en", 1.0)
    srt, vtt, tsv = made.to_srt(), made.to_vtt(), made.to_tsv()
    cues = len(made.segments)
    assert srt.count("-->") == vtt.count("-->") == cues
    assert len(re.findall(r"\n\n", srt)) == cues
    assert len(tsv.split("\n")) == cues + 2
    assert all(row.count("\t") == 2 for row in tsv.split("\n")[:-1])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", srt + vtt + tsv + made.to_txt())
