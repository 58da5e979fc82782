"""What ids say: text, words and their times, pauses."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from earful.events import Pause, Text, Word
from earful.models.kyutai_stt.stream import LONGEST_WORD, KyutaiSttStream, Memo, longest_s
from tests.helpers import assert_fits
from tests.models.kyutai_stt.helpers import FRAME_S, HOP, RATE, tiny_family, told

PAD, WORD, BOS, EOS, BYTE = 3, 0, 1, 2, 4  # of the tiny tokenizer; the 256 bytes from 4 on
SIZES = ["like 1b", "like 2.6b"]
OFFSET_S = {"like 1b": 0.5, "like 2.6b": 3.5}  # by how much text is later than what it says
IDS = st.lists(
    st.sampled_from([PAD, PAD, WORD, WORD, BOS, EOS, BYTE + 0x20, BYTE + 0x09])
    | st.integers(BYTE, 319)  # any piece, alone perhaps no UTF-8
    | st.sampled_from("é日🙂a\u3000").flatmap(lambda c: st.sampled_from([BYTE + byte for byte in c.encode()]))
)


def pieces(text, sizes="like 1b"):
    return tiny_family(sizes).tokenizer.encode(text)


def in_bytes(text):
    """One id to a byte, so that every character beyond ASCII is split."""
    return [BYTE + byte for byte in text.encode()]


def says(ids, sizes="like 1b", duration_s=math.inf):
    return told(tiny_family(sizes), [[id] for id in ids], duration_s)


def words_of(ids, sizes="like 1b", duration_s=math.inf):
    return [event for event in says(ids, sizes, duration_s) if isinstance(event, Word)]


def near(time_s):
    return pytest.approx(time_s, abs=1e-9)


@example(ids=[PAD] * 5 + [BYTE, BYTE + 0xC2, WORD], sizes="like 1b", duration_s=math.inf, data=None)  # half a character
@given(ids=IDS, sizes=st.sampled_from(SIZES), duration_s=st.just(math.inf) | st.floats(0, 20), data=st.data())
def test_text_and_words_are_what_the_ids_say(ids, sizes, duration_s, data):
    family = tiny_family(sizes)
    events = says(ids, sizes, duration_s)
    assert_fits(events, family.tokenizer.decode(ids), duration_s)

    memo = Memo(family.lead, 0, limit_s=duration_s)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids))))) if data else []
    parts = [ids[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    told_in_parts = [e for part in parts for e in KyutaiSttStream.events(family, [[id] for id in part], memo)]
    assert told_in_parts + family.finish(memo) == events


def kyutais_times(ids, offset_s):
    """The words and their times by the rule of Kyutai's scripts, for ids with one word behind each 0."""
    frames = [i for i, id in enumerate(ids) if id == WORD]
    for begin, end in zip(frames, [*frames[1:], None], strict=True):
        start_s = (begin + 1) * FRAME_S - offset_s
        end_s = end * FRAME_S - offset_s if end is not None else min(len(ids) * FRAME_S - offset_s, start_s + 1)
        yield start_s, end_s


@given(
    words=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(["one", "fox", "dogs", "étés", "日本", "qu"]), st.integers(0, 6)),
        min_size=1,
        max_size=8,
    ),
    sizes=st.sampled_from(SIZES),
)
def test_times_are_those_of_kyutais_scripts(words, sizes):
    """But that a word without a next one close by lasts as long as its letters; there a word lasts until the next."""
    ids = []
    for before, word, behind in words:
        ids += [PAD] * before + [WORD, *pieces(word), *[PAD] * behind]
    found = words_of(ids, sizes)
    assert [word.text for word in found] == [word for _, word, _ in words]
    for word, (start_s, end_s) in zip(found, kyutais_times(ids, OFFSET_S[sizes]), strict=True):
        assert word.start_s == near(max(0, start_s))
        most_s = max(longest_s(word.text), len(pieces(word.text)) * FRAME_S)
        assert word.end_s == near(max(0, min(end_s, start_s + most_s)))


def test_words_that_follow_each_other_without_a_sign_begin_where_their_pieces_do():
    first, second, third = words_of([PAD] * 20 + [WORD, *pieces("one fox dog"), PAD, PAD])
    assert (first.text, second.text, third.text) == ("one", "fox", "dog")
    assert (first.start_s, first.end_s) == (near(21 * FRAME_S - 0.5), near(22 * FRAME_S - 0.5))
    assert (second.start_s, second.end_s) == (near(22 * FRAME_S - 0.5), near(23 * FRAME_S - 0.5))
    assert (third.start_s, third.end_s) == (near(23 * FRAME_S - 0.5), near(26 * FRAME_S - 0.5))


def test_a_word_comes_with_the_next_one_or_a_second_after_its_start():
    family, come = tiny_family("like 1b"), []
    memo = Memo(0, 0)
    for position, id in enumerate([PAD] * 10 + [WORD, *pieces("one")] + [PAD] * 20 + [WORD, *pieces("fox"), WORD]):
        events = KyutaiSttStream.events(family, [[id]], memo)
        come += [(position, event.text) for event in events if isinstance(event, Word)]
    assert come == [(11 + 13, "one"), (34, "fox")]


def test_a_word_before_a_pause_lasts_as_long_as_its_letters():
    ends = {"I": 0.27, "fox": 0.41, "constitutional": 1.18, "2026": 1.8}
    for text, longest in ends.items():
        one, two = words_of([PAD] * 20 + [WORD, *pieces(text)] + [PAD] * 40 + [WORD, *pieces("dog"), WORD])
        assert (one.text, two.text) == (text, "dog")
        assert one.end_s - one.start_s == near(max(longest, len(pieces(text)) * FRAME_S))


def test_a_long_word_lasts_until_its_last_piece():
    (word,) = words_of([PAD] * 20 + [WORD, *in_bytes("x" * 40)] + [PAD] * 40)
    assert (word.text, word.start_s) == ("x" * 40, near(21 * FRAME_S - 0.5))
    assert word.end_s == near(61 * FRAME_S - 0.5)


def test_the_end_of_text_ends_a_word():
    assert words_of([PAD] * 20 + [WORD, *pieces("one"), PAD, EOS] + [PAD] * 30)[0].end_s == near(23 * FRAME_S - 0.5)


def test_a_character_in_several_ids_comes_when_it_is_whole():
    family = tiny_family("like 1b")
    memo = Memo(0, 0, position=20)
    come = []
    for id in in_bytes(" é日🙂"):
        come += ["".join(e.text for e in KyutaiSttStream.events(family, [[id]], memo) if isinstance(e, Text))]
    assert come == ["", "", "é", "", "", "日", "", "", "", "🙂"]
    (word,) = KyutaiSttStream.events(family, [[id] for id in [*in_bytes("🙂")[:2], WORD]], memo)
    assert (word.text, word.start_s) == ("é日🙂", near(20 * FRAME_S - 0.5))
    (text, word) = family.finish(memo)
    assert text.text == word.text == "\ufffd"


def test_text_has_the_time_at_which_its_last_byte_was_heard():
    """Id p has heard p frames; 1 s of the frames is silence before the audio in the larger model."""
    events = says([PAD] * 15 + in_bytes("a") + [PAD] + in_bytes("é"))
    assert [e for e in events if isinstance(e, Text)] == [Text("a", near(15 * FRAME_S)), Text("é", near(18 * FRAME_S))]
    (text,) = [e for e in says([PAD] * 15 + in_bytes("a"), "like 2.6b") if isinstance(e, Text)]
    assert text.time_s == near(15 * FRAME_S - 1.0)


def test_nothing_lies_before_the_audio_or_behind_it():
    assert words_of([WORD, *pieces("one"), WORD, *pieces("fox")])[1] == Word("fox", 0.0, 0.0)
    (word,) = words_of([PAD] * 20 + [WORD, *pieces("one")] + [PAD] * 30, duration_s=1.5)
    assert (word.start_s, word.end_s) == (near(21 * FRAME_S - 0.5), 1.5)


def test_a_model_that_never_ends_a_word_takes_no_memory():
    family = tiny_family("like 1b")
    memo, words = Memo(0, 0), []
    for _ in range(1000):
        words += [e for e in KyutaiSttStream.events(family, [[BYTE + ord("x")]], memo) if isinstance(e, Word)]
        assert len(memo.word) <= LONGEST_WORD
    assert [len(word.text) for word in words] == [LONGEST_WORD] * 9


def test_pauses_are_told_once_until_a_word_is_written():
    family = tiny_family("like 1b with heads")
    rows = [
        [PAD, 0.1, 0.2, 0.3, 0.4],
        [PAD, 0.6, 0.2, 0.3, 0.4],  # half a second
        [PAD, 0.9, 0.51, 0.3, 0.8],  # one second, three seconds
        [PAD, 0.9, 0.9, 0.9, 0.9],  # two seconds
        [WORD, 0.9, 0.9, 0.9, 0.9],
        [*pieces("one"), 0.2, 0.7, 0.5, 0.5],  # a word: one second again
        [PAD, 0.2, 0.7, 0.5, 0.5],
    ]
    events = [event for event in told(family, rows) if isinstance(event, Pause)]
    assert [(event.seconds, event.probability) for event in events] == [
        (0.5, 0.6),
        (1.0, 0.51),
        (3.0, 0.8),
        (2.0, 0.9),
        (1.0, 0.7),
    ]


def test_the_frames_and_rates_of_the_tiny_model():
    family = tiny_family("like 2.6b")
    assert (family.hop, family.rate_hz, family.lead, family.config.codec.frame_s) == (HOP, RATE, RATE, FRAME_S)
