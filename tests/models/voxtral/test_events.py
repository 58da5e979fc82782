"""What ids say: text once its characters are whole, and words with their times."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earful.events import Text, Word
from earful.models.voxtral.stream import GROUP_WORDS, LETTER_S, Memo, Policy, VoxtralStream
from earful.train.targets import written
from tests.helpers import assert_fits, said, tiny_family, told

SLOT, SLOT_S = 1280, 0.08
BOS, END, BLANK, MARKER, SPECIAL, BYTE = 1, 2, 32, 33, 35, 40  # of the tiny tokenizer; the 256 bytes from 40 on

IDS = st.lists(
    st.sampled_from([MARKER, BLANK, BLANK, END, BOS, SPECIAL, BYTE + 0x20, BYTE + 0x09])
    | st.integers(BYTE, 359)  # any piece, alone perhaps no UTF-8
    | st.sampled_from("é日🙂a\u3000").flatmap(lambda c: st.sampled_from([BYTE + byte for byte in c.encode()]))
)


def pieces(text: str) -> list[int]:
    """One id to a byte, so that every character beyond ASCII is split."""
    return [BYTE + byte for byte in text.encode()]


def words_of(ids: list[int], delay: int = 6, duration_s: float = math.inf) -> list[Word]:
    return [event for event in told(tiny_family("builtin"), ids, delay, duration_s) if isinstance(event, Word)]


@given(ids=IDS, delay=st.integers(1, 30), duration_s=st.just(math.inf) | st.floats(0, 60), data=st.data())
def test_text_and_words_are_what_the_ids_say(ids, delay, duration_s, data):
    family = tiny_family("builtin")
    events = told(family, ids, delay, duration_s)
    assert_fits(events, family.tokenizer.decode(ids).lstrip(), duration_s)

    memo = Memo(delay, family.config.audio.left_slots + delay, limit_s=duration_s)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)))))
    parts = [ids[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    assert [e for part in parts for e in VoxtralStream.events(family, part, memo)] + family.finish(memo) == events


def test_a_character_in_several_ids_comes_when_it_is_whole():
    family = tiny_family("builtin")
    memo = Memo(1, family.config.audio.left_slots + 1)
    come = [said(VoxtralStream.events(family, [id], memo)) for id in pieces(" é日🙂")]
    assert come == ["", "", "é", "", "", "日", "", "", "", "🙂"]
    (word,) = VoxtralStream.events(family, [*pieces("🙂")[:2], BLANK], memo)
    assert word == Word("é日🙂", 0.0, pytest.approx(2.5 * SLOT_S))
    (text, word) = family.finish(memo)
    assert text.text == word.text == "\ufffd"


def test_text_has_the_time_at_which_its_last_byte_was_heard():
    """The first id behind the prompt comes when the delay and one slot more were heard."""
    events = told(tiny_family("builtin"), [*pieces("a"), BLANK, *pieces("é")], 6, math.inf)
    assert [e for e in events if isinstance(e, Text)] == [
        Text("a", pytest.approx(7 * SLOT_S)),
        Text("é", pytest.approx(10 * SLOT_S)),
    ]


@pytest.mark.parametrize("delay", [1, 6, 30])
def test_words_end_where_they_were_trained_to_end(delay):
    config = tiny_family("builtin").config
    ends_s = [0.3 + 0.777 * i for i in range(40)]
    ids = written([(end_s, pieces(" word")) for end_s in ends_s], config.audio.left_slots, delay, SLOT_S, config.ids)
    words = words_of(ids[config.audio.left_slots + delay + 1 :], delay)
    assert [word.text for word in words] == ["word"] * 40
    for word, end_s in zip(words, ends_s, strict=True):
        assert abs(word.end_s - end_s) <= SLOT_S / 2 + 1e-9
    assert all(word.start_s < word.end_s for word in words)


def test_words_behind_one_marker_share_the_time_before_it_by_their_letters():
    words = words_of([BLANK] * 99 + [MARKER, *pieces(" ab cdef"), BLANK, MARKER, *pieces(" g")])
    end_s = 99.5 * SLOT_S
    start_s = end_s - SLOT_S - 6 * LETTER_S
    middle_s = start_s + (end_s - start_s) / 3
    assert words[:2] == [
        Word("ab", pytest.approx(start_s), pytest.approx(middle_s)),
        Word("cdef", pytest.approx(middle_s), pytest.approx(end_s)),
    ]
    later_s = end_s + 10 * SLOT_S
    assert words[2] == Word("g", pytest.approx(later_s - SLOT_S - LETTER_S), pytest.approx(later_s))


def test_words_without_a_marker_end_where_their_first_letter_stands():
    first, second = words_of([BLANK] * 10 + pieces("one") + [BLANK] * 10 + pieces("two"))
    assert first == Word("one", pytest.approx(9.5 * SLOT_S - 3 * LETTER_S), pytest.approx(10.5 * SLOT_S))
    assert second.end_s == pytest.approx(23.5 * SLOT_S)


def test_no_word_ends_behind_the_audio():
    assert words_of([BLANK] * 20 + [MARKER, *pieces(" late")], duration_s=0.5)[0].end_s == 0.5


def test_a_model_without_markers_and_blanks_still_says_words():
    """And nothing is held back for longer than a group of words."""
    family = tiny_family("builtin")
    memo = Memo(1, family.config.audio.left_slots + 1)
    come = 0
    for number in range(100):
        come += sum(isinstance(event, Word) for event in VoxtralStream.events(family, pieces(" word"), memo))
        assert number - GROUP_WORDS < come <= number
        assert len(memo.group) < GROUP_WORDS


def test_nothing_is_said_behind_the_end_of_text():
    ids = [MARKER, *pieces(" one"), END, *pieces(" two"), MARKER, *pieces(" three")]
    ended = told(tiny_family("builtin", Policy(stop_at_end=True)), ids, 6, 10.0)
    assert said(ended) == "one"
    assert [event.text for event in ended if isinstance(event, Word)] == ["one"]
    assert said(told(tiny_family("builtin"), ids, 6, 10.0)) == "one two three"
