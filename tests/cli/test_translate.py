"""`earful translate`, and what `transcribe` and `listen` may choose of Speech2Text."""

from __future__ import annotations

import json

import numpy as np
import pytest

import earful as library
from earful.audio.io import read_audio, write_wav
from earful.models.s2t.stream import S2tStream
from earful.stream import pieces
from earful.stream.transcript import FORMATS
from earful.testing import write_tiny


@pytest.fixture(scope="module")
def polyglot(tmp_path_factory):
    """A checkpoint of eight languages."""
    return write_tiny("s2t", path=tmp_path_factory.mktemp("s2t") / "eight", seed=2, text={"language_set": "mustc"})


@pytest.fixture(scope="module")
def one_language(tmp_path_factory):
    return write_tiny("s2t", path=tmp_path_factory.mktemp("s2t") / "one", seed=7)


@pytest.fixture(scope="module")
def talk(tmp_path_factory, noise):
    """Three pieces: short pauses, so that segments of other models would go on."""
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    quiet = np.zeros(9_600, np.float32)
    write_wav(path, np.concatenate([part for file in noise for part in (read_audio(file, 16_000), quiet)]), 16_000)
    return path


@pytest.mark.parametrize("language", ["fr", "de"])
def test_the_language_is_the_one_that_is_asked_for(earful, polyglot, talk, language):
    expected = library.load(polyglot).transcribe(talk, language=language)
    ran = earful("translate", talk, "--to", language, "--model", polyglot)
    assert (ran.code, ran.out, ran.err) == (0, expected.to_txt(), "")
    content = json.loads(earful("translate", talk, "--to", language, "--model", polyglot, "--format", "json").out)
    assert (content["language"], content["text"]) == (language, expected.text)
    assert earful("transcribe", talk, "--language", language, "--model", polyglot).out == expected.to_txt()
    heard = earful("listen", "--from", talk, "--fast", "--language", language, "--model", polyglot)
    assert heard.out.split() == expected.text.split()
    other = earful("translate", talk, "--to", "es", "--model", polyglot)
    assert other.out != expected.to_txt()


def test_the_published_model_is_the_usual_one(earful, hub, talk):
    ran = earful("translate", talk, "--to", "nl")
    assert (ran.code, ran.err) == (0, "")


def test_a_line_for_each_piece(earful, one_language, talk):
    """As they are settled, and the same as at the end."""
    lines = earful("transcribe", talk, "--model", one_language).out.splitlines()
    written = library.load(one_language).transcribe(talk)
    assert lines == [segment.line for segment in written.segments]
    assert len(lines) >= 3


@pytest.mark.parametrize("name", FORMATS)
def test_times_of_words_by_attention(earful, one_language, talk, name):
    expected = library.load(one_language).transcribe(talk)
    assert expected.words != library.load(one_language).transcribe(talk, align=False).words
    ran = earful("transcribe", talk, "--model", one_language, "--format", name)
    assert (ran.code, ran.out) == (0, FORMATS[name](expected))
    if name != "txt":
        ran = earful("transcribe", talk, "--model", one_language, "--align", "--words", "--format", name)
        assert ran.out == FORMATS[name](expected.by_word())


@pytest.mark.parametrize("align", [True, False])
def test_times_of_words_of_a_translation(earful, polyglot, talk, align):
    expected = library.load(polyglot).transcribe(talk, language="fr", align=align)
    ran = earful("translate", talk, "--to", "fr", "--model", polyglot, *["--align"] * align, "--format", "json")
    assert (ran.code, ran.out) == (0, FORMATS["json"](expected))


def test_words_of_a_live_session(earful, one_language, talk):
    expected = library.load(one_language).transcribe(talk)
    ran = earful("listen", "--from", talk, "--fast", "--align", "--format", "jsonl", "--model", one_language)
    words = [event for event in map(json.loads, ran.out.splitlines()) if event["type"] == "word"]
    assert [word["text"] for word in words] == [word.text for word in expected.words]
    assert [word["start_s"] for word in words] == pytest.approx([word.start_s for word in expected.words], abs=6e-4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["translate", "--to", "fr", "--model", "ONE"],
            "expected a model that writes several languages, got s2t without",
        ),
        (["translate", "--to", "fr", "--model", "TINY"], "expected a model that writes several languages, got voxtral"),
        (
            ["translate", "--to", "xx", "--model", "MANY"],
            "expected a language of pt, fr, ru, nl, ro, it, es, de, got xx",
        ),
        (
            ["transcribe", "--language", "xx", "--model", "MANY"],
            "expected a language of pt, fr, ru, nl, ro, it, es, de",
        ),
        (
            ["transcribe", "--language", "fr", "--model", "ONE"],
            "expected no language, since this model writes only one",
        ),
        (
            ["transcribe", "--language", "fr", "--model", "TINY"],
            "expected no --language with this model, since voxtral",
        ),
        (
            ["transcribe", "--align", "--model", "TINY"],
            "expected no --align with this model, since voxtral has no such",
        ),
    ],
)
def test_what_a_model_does_not_have(earful, polyglot, one_language, tiny, talk, arguments, message):
    folders = {"ONE": one_language, "MANY": polyglot, "TINY": tiny}
    ran = earful(*(folders.get(argument, argument) for argument in arguments), talk)
    assert (ran.code, ran.out, len(ran.complaints)) == (1, "", 1)
    assert message in ran.err


def test_translate_misused(earful, talk):
    ran = earful("translate", talk)
    assert (ran.code, len(ran.complaints)) == (2, 1)
    assert "--to" in ran.err


@pytest.mark.parametrize("to_files", [False, True])
def test_ctrl_c_gives_the_pieces_that_were_answered(earful, polyglot, talk, tmp_path, monkeypatch, to_files):
    whole = library.load(polyglot).transcribe(talk, language="fr")
    monkeypatch.setattr(pieces, "AT_ONCE", 1)
    monkeypatch.setattr(pieces, "AHEAD", 1)
    answer, left = S2tStream.answer, iter(range(2))

    def answered(self, cut, memos):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return answer(self, cut, memos)

    monkeypatch.setattr(S2tStream, "answer", answered)
    chosen = ["--output", tmp_path / "out", "--format", "json"] if to_files else []
    ran = earful("translate", talk, "--to", "fr", "--model", polyglot, *chosen)
    assert ran.code == 130
    (line,) = ran.complaints
    begun = [segment for segment in whole.segments if segment.end_s < 5.5]  # of the first two pieces
    assert 2 <= len(begun) < len(whole.segments)
    assert line == f"earful: {talk}: stopped after {begun[-1].end_s:.1f} s"
    if to_files:
        content = json.loads((tmp_path / "out" / "talk.json").read_text())
        assert [segment["text"] for segment in content["segments"]] == [segment.text for segment in begun]
        assert (content["language"], content["duration_s"]) == ("fr", begun[-1].end_s)
    else:
        assert ran.out.splitlines() == [segment.line for segment in begun]
