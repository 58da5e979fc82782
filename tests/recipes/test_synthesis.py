"""The lines that are spoken for training: every template can be filled, and what comes out can be written down."""

from __future__ import annotations

import importlib
import random
import re
from pathlib import Path
from types import ModuleType

import pytest

SYNTHESIS = Path(__file__).resolve().parents[2] / "recipes" / "builtin-en" / "synthesis"


@pytest.fixture
def everyday(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(SYNTHESIS)
    return importlib.import_module("everyday")


@pytest.fixture
def texts(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(SYNTHESIS)
    return importlib.import_module("texts")


@pytest.mark.parametrize(
    "number, said",
    [
        (0, "zero"),
        (14, "fourteen"),
        (80, "eighty"),
        (101, "one hundred one"),
        (2_000_042, "two million forty two"),
        (1250, "one thousand two hundred fifty"),
    ],
)
def test_numbers_are_said(everyday, number, said):
    assert everyday.cardinal(number) == said


def test_ordinals_and_years_are_said(everyday):
    assert [everyday.ordinal(n) for n in (1, 12, 20, 22, 100)] == [
        *("first", "twelfth", "twentieth", "twenty second", "one hundredth")
    ]
    assert [everyday.year(n) for n in (1900, 1905, 1862, 2004, 2024)] == [
        *("nineteen hundred", "nineteen oh five", "eighteen sixty two", "two thousand four", "twenty twenty four")
    ]


def test_every_slot_of_every_template_is_known(everyday):
    slots = {slot for entries in everyday.TABLES.values() for line in entries for slot in re.findall(r"{(.*?)}", line)}
    assert len(slots) > 30
    assert slots <= set(everyday.SLOTS)


def test_every_maker_gives_lines_whose_words_can_be_written(everyday, texts):
    for make, _ in everyday.EVERYDAY:
        for seed in range(200 if make else 0):
            line = make(random.Random(seed))
            assert line == make(random.Random(seed))
            assert texts.words(line), line
            assert not re.search(r"[{}\d]", texts.LINK.sub(r"\1", line)), line


@pytest.mark.parametrize(
    "sentence, line",
    [
        ("he paid $20 in 1862, Mr. Smith said", "He paid twenty dollars in eighteen sixty two, Mister Smith said."),
        ("a well-known   fact", "A well known fact."),
        ("born in 2,500 houses", "Born in two thousand five hundred houses."),
        ("the U.S. Army", None),
        ("x = 3.5", None),
        ("so-called 'experts' agree", None),
        ("one", None),
    ],
)
def test_sentences_become_lines_or_are_left_out(texts, sentence, line):
    assert texts.clean(sentence) == line


def test_transcripts_are_plain_words(texts):
    assert texts.words("Press [a](/ˈA/), then don't — STOP!") == ["press", "a", "then", "don't", "stop"]


def test_a_transcript_belongs_to_one_split_however_it_is_written(texts):
    lines = [f"Line {w}." for w in "abcdefghijklmnopqrstuvwxyz"]
    assert {texts.split_of(line) == texts.split_of(line.lower().rstrip(".")) for line in lines} == {True}
    made = [texts.split_of(f"number {a} {b}") for a in "abcdefghij" for b in "abcdefghijklmnopqrstuvwxyz"]
    assert 0 < made.count("heldout") < len(made) / 15


def test_lines_of_the_vocabulary_have_rare_words_nearly_as_often(texts, monkeypatch, tmp_path):
    common = [f"the {a} {b} sees it" for a in ("cat", "dog", "man") for b in ("here", "there", "now")] * 8
    pools = {"wordnet": [f"{line}." for line in [*common, *["don't wander off"] * 4]], "sotu": [], "moby": []}
    monkeypatch.setattr(texts, "load_general", lambda cache: pools)
    made = texts.Texts(tmp_path)
    drawn = [made.draw(random.Random(seed), "vocabulary") for seed in range(400)]
    assert all(texts.split_of(line) == "train" for line in drawn)
    said = [word for line in drawn for word in texts.words(line)]
    often = said.count("the") / said.count("wander")
    assert 1.2 < often < 1.5 * (72 / 4) ** 0.5
    assert {"don't", "off"} <= set(said)


def test_characters_are_letters_and_digits_said_on_their_own(everyday, texts):
    lines = [everyday.characters(random.Random(seed)) for seed in range(300)]
    said = [texts.words(line) for line in lines]
    assert {len(words) for words in said} == {1, 2, 3}
    every = {word for words in said for word in words}
    assert every == set("abcdefghijklmnopqrstuvwxyz") | {*everyday.ONES[:10], "oh"}
