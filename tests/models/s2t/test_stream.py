"""Long audio, live and from files: the same cuts, the same text, and every piece heard as if it were alone."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

import earful
from earful.audio.pauses import Cutter, Pauses, Piece
from earful.errors import AudioError
from earful.events import Text, Word
from earful.generate.beam import Decoding
from earful.models.s2t import stream
from earful.models.s2t.align import word_edges
from earful.models.s2t.stream import _seen, _shared
from earful.stream.engine import Engine
from earful.stream.session import Session
from earful.testing import write_tiny
from tests.helpers import chunked, said

RATE = 16_000


@cache
def model(language_set=None):  # a seed that has something to say about any piece
    with TemporaryDirectory() as folder:
        return earful.load(str(write_tiny("s2t", path=Path(folder), seed=2, text={"language_set": language_set})))


def speech(rng, seconds):
    loud = np.repeat(rng.uniform(0.05, 0.5, round(seconds * 20)), RATE // 20)
    return (rng.standard_normal(len(loud)) * loud).astype(np.float32)


def talk(seed, pieces=4):
    """Audio with pauses of a second, and where the speech in it begins and ends."""
    rng = np.random.default_rng(seed)
    parts, times, at = [], [], 0.0
    for _ in range(pieces):
        seconds = round(rng.uniform(0.3, 2.5), 1)
        parts += [np.zeros(RATE, np.float32), speech(rng, seconds)]
        times.append((at + 1, at + 1 + seconds))
        at += 1 + seconds
    return np.concatenate(parts), times


def live(session, samples, rng):
    with session:
        events = [event for chunk in chunked(rng, samples) for event in session.feed(chunk)]
        return events + session.finish()


@pytest.mark.parametrize("seed", range(3))
def test_a_session_says_what_the_file_says(seed):
    samples, times = talk(seed)
    whole = model().transcribe(samples)
    events = live(model().stream(), samples, np.random.default_rng(seed))
    assert said(events) == whole.text
    assert tuple(event for event in events if isinstance(event, Word)) == whole.words
    assert len(whole.text.split()) >= 4
    ends = {segment.end_s for segment in whole.segments}
    for start_s, end_s in times:
        assert min(abs(end - end_s) for end in ends) < 0.06
        assert min(abs(segment.start_s - start_s) for segment in whole.segments) < 0.06


def test_sessions_side_by_side():
    engine = model().engine(3)
    talks = [talk(seed, 3)[0] for seed in range(3)]
    sessions = [Session(engine) for _ in talks]
    heard = [[] for _ in talks]
    for begin in range(0, max(map(len, talks)), 7_777):
        for session, events, samples in zip(sessions, heard, talks, strict=True):
            events += session.feed(samples[begin : begin + 7_777])
    for session, events, samples in zip(sessions, heard, talks, strict=True):
        events += session.finish()
        assert said(events) == model().transcribe(samples).text


def test_text_comes_at_pauses():
    samples, times = talk(1, 2)
    session = model().stream()
    before = round((times[0][1] + 0.3) * RATE)
    assert session.feed(samples[:before]) == []
    assert said(session.peek())
    (first, *_) = [e for e in session.feed(samples[before : before + RATE // 2]) if isinstance(e, Text)]
    assert times[0][1] + 0.5 <= first.time_s <= times[0][1] + 0.8
    assert said(session.finish()) == ""


def test_peeking_leaves_the_stream_alone():
    samples, _ = talk(2)
    rng = np.random.default_rng(0)
    session, events = model().stream(), []
    for chunk in chunked(rng, samples):
        events += session.feed(chunk)
        session.peek()
    assert said(events + session.finish()) == model().transcribe(samples).text


def test_a_batch_of_files_equals_each_alone():
    sources = [talk(seed, 1 + 5 * (seed % 3))[0] for seed in range(7)]
    together = model().transcribe(sources, batch=3)
    assert together == [model().transcribe(source) for source in sources]
    assert len({transcript.text for transcript in together}) == 7


def test_pieces_are_those_of_the_cutter():
    samples, _ = talk(5)
    family = model()._offline
    cutter = Cutter(RATE)
    pieces = cutter.feed(samples) + cutter.finish()
    memo = family.open([], 0)
    texts = [family.answer([piece], [memo])[0].text for piece in pieces]
    assert " ".join(text for text in texts if text) == model().transcribe(samples).text


@pytest.mark.parametrize("length", [0, 1, 399, 400, 3 * RATE])
def test_silence_and_very_short_clips_say_nothing(length):
    transcript = model().transcribe(np.zeros(length, np.float32))
    assert (transcript.text, transcript.segments, transcript.duration_s) == ("", (), length / RATE)
    with model().stream() as session:
        assert session.feed(np.zeros(length, np.float32)) + session.finish() == []


def test_silence_that_is_asked_for_all_the_same():
    family = model()._offline
    best = family.hypotheses([np.zeros(RATE, np.float32), speech(np.random.default_rng(0), 1.0)], [None, None])
    assert all(np.isfinite(hypothesis.score) for hypotheses in best for hypothesis in hypotheses)


def test_another_language_is_another_text():
    samples, _ = talk(0)
    translator = model("mustc")
    texts = {language: translator.transcribe(samples, language=language) for language in ("fr", "de", "pt")}
    assert len({transcript.text for transcript in texts.values()}) == 3
    assert [transcript.language for transcript in texts.values()] == ["fr", "de", "pt"]
    assert translator.transcribe(samples).text == texts["pt"].text
    assert said(live(translator.stream(language="de"), samples, np.random.default_rng(1))) == texts["de"].text
    with pytest.raises(ValueError, match="expected a language of pt, .* got xx"):
        translator.stream(language="xx")
    with pytest.raises(ValueError, match="expected no delay, since text comes at pauses, got 0.5 s"):
        translator.transcribe(samples, delay_s=0.5)
    with pytest.raises(TypeError, match="mood"):
        translator.transcribe(samples, mood="good")


def test_another_search_and_other_pauses():
    samples, times = talk(0)
    greedy, usual = (model().transcribe(samples, decoding=how) for how in (Decoding(1, 9), None))
    assert greedy.text != usual.text
    assert said(live(model().stream(decoding=Decoding(1, 9)), samples, np.random.default_rng(1))) == greedy.text
    longer = model().transcribe(samples, pauses=Pauses(pause_s=1.5))
    assert len(longer.text) < len(usual.text)  # one piece, cut off where a text may not be longer
    assert longer.words[0].start_s == pytest.approx(times[0][0], abs=0.06)
    assert longer.words[-1].end_s == pytest.approx(times[-1][1], abs=0.06)


def test_words_by_letters_share_what_is_spoken():
    spoken = np.repeat([True, False, True], [100, 45, 40])
    piece = Piece(np.zeros(0, np.float32), 0.8, 1.0, 2.85, spoken)
    edges = _shared(["one", "two", "three", "nine", "ten"], piece)
    assert (edges[0][0], edges[-1][1]) == (1.0, 2.85)
    assert all(end == start for (_, end), (start, _) in pairwise(edges))
    shares = [len(word) / 18 for word in ("one", "two", "three", "nine", "ten")]
    lengths = [end - start for start, end in edges]
    np.testing.assert_allclose(lengths, [1.4 * s + 0.45 * (i == 3) for i, s in enumerate(shares)], atol=1e-9)


def test_words_that_were_looked_at_leave_out_the_silences_between_them():
    spoken = np.repeat([True, False, True, False, True, False, True], [30, 20, 40, 9, 30, 40, 30])
    piece = Piece(np.zeros(0, np.float32), 0.8, 1.0, 2.99, spoken)

    def seen(*moments):  # in the recording
        edges = _seen(list(pairwise(np.array(moments) - 0.8)), piece)
        assert [edge for word in edges for edge in word] == sorted(edge for word in edges for edge in word)
        return edges

    # Silent from 1.3 to 1.5 s, for a short while from 1.9 s, and from 2.29 to 2.69 s, where nobody saw a word end.
    found = seen(1.2, 1.56, 1.92, 2.01, 2.05, 2.95, 2.97)
    expected = [(1.0, 1.3), (1.5, 1.92), (1.92, 2.01), (2.01, 2.05), (2.05, 2.95), (2.95, 2.99)]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(seen(1.2, 1.5), [(1.0, 2.99)])
    np.testing.assert_allclose(seen(0.8, 1.31, 3.2), [(1.0, 1.3), (1.5, 2.99)])
    np.testing.assert_allclose(seen(0.8, 1.25, 1.35, 1.45, 2.9), list(pairwise([1.0, 1.25, 1.35, 1.45, 2.99])))


def test_words_have_the_times_at_which_the_model_looked():
    samples, times = talk(1)
    by_letters, aligned = model().transcribe(samples, align=False), model().transcribe(samples)
    assert aligned.text == by_letters.text
    assert [word.text for word in aligned.words] == [word.text for word in by_letters.words]
    assert [word.start_s for word in aligned.words] != [word.start_s for word in by_letters.words]
    edges = [edge for word in aligned.words for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges)
    for word in aligned.words:
        (inside,) = [(start, end) for start, end in times if start - 0.06 <= word.start_s <= word.end_s <= end + 0.06]
        steps = (word.start_s - inside[0]) / 0.04, (inside[1] - word.end_s) / 0.04
        assert min(steps) > -2
    events = live(model().stream(), samples, np.random.default_rng(0))
    assert tuple(event for event in events if isinstance(event, Word)) == aligned.words
    together = model().transcribe([samples, talk(2)[0]], batch=2)
    assert together[0] == aligned


def test_words_of_a_translation_share_their_time_by_letters_unless_asked(monkeypatch):
    samples, _ = talk(1)
    looked = []
    monkeypatch.setattr(stream, "word_edges", lambda *given: looked.append(given) or word_edges(*given))
    for languages, align, expected in [
        (None, None, True),
        (None, False, False),
        ("mustc", None, False),
        ("mustc", False, False),
        ("mustc", True, True),
    ]:
        looked.clear()
        model(languages).transcribe(samples, align=align)
        assert bool(looked) is expected


def test_what_a_session_may_choose():
    assert model().options == ("language", "decoding", "pauses", "align")
    assert model().languages == ()
    assert model("mustc").languages == ("pt", "fr", "ru", "nl", "ro", "it", "es", "de")
    assert model().by_piece
    builtin = earful.load()
    assert (builtin.options, builtin.languages, builtin.by_piece) == ((), (), False)


def test_news_comes_while_files_are_heard():
    samples, _ = talk(3, 40)
    news = []
    outcomes = list(
        model().outcomes([samples], on_events=lambda number, events, heard_s: news.append((events, heard_s)))
    )
    told = [heard_s for events, heard_s in news if events]
    assert told[0] < outcomes[0][1].transcript.duration_s
    assert [heard_s for _, heard_s in news] == sorted(heard_s for _, heard_s in news)
    assert said([event for events, _ in news for event in events]) == outcomes[0][1].transcript.text


def test_a_file_that_breaks_off_keeps_what_was_heard(tmp_path):
    good, _ = talk(4)
    path = tmp_path / "broken.wav"
    path.write_bytes(b"RIFF....WAVE")
    with pytest.raises(AudioError) as caught:
        model().transcribe([good, str(path), good])
    texts = [outcome.transcript.text for outcome in caught.value.outcomes]
    assert texts == [model().transcribe(good).text, "", model().transcribe(good).text]


def test_an_engine_keeps_nothing_on_the_device():
    assert Engine(model()._live, 4).bytes_per_slot == 0
