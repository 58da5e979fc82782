"""Everyday lines made from tables: numbers, times, names, commands, requests, telephone menus, questions, small talk.

Each maker takes a random generator and returns one line (see texts.py). A `{slot}` in a template is filled from
`SLOTS`: sections of tables.txt, and makers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

from numbers_en import ONES, cardinal, ordinal, year

Maker = Callable[[random.Random], str]


def read_tables(path: Path) -> dict[str, list[str]]:
    """The sections of a table file, in order, each with its entries."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = re.split(r"^\[(.+)\]\n", text, flags=re.MULTILINE)
    return {
        name: [entry for entry in re.split(r"\s*[;\n]\s*", body) if entry]
        for name, body in zip(sections[1::2], sections[2::2], strict=True)
    }


TABLES = read_tables(Path(__file__).with_name("tables.txt"))
MONTHS = TABLES["months"]
DAYS = TABLES["days"]
ALPHABET = TABLES["alphabet"]
FIRST_NAMES = TABLES["first names"]
SURNAMES = TABLES["surnames"]
PLACES = TABLES["places"]
COLOURS = TABLES["colours"]
COMMANDS = TABLES["commands"]
LETTER_SOUNDS = {"a": "[a](/ˈA/)", "i": "[i](/ˈI/)"}  # the only letters that are words too


def letter(c: str) -> str:
    return LETTER_SOUNDS.get(c, c.upper())


def letters(rng: random.Random, low: int = 1, high: int = 7) -> str:
    pause = rng.choice([", ", ", ", " "])
    return pause.join(letter(rng.choice("abcdefghijklmnopqrstuvwxyz")) for _ in range(rng.randint(low, high)))


def digit(rng: random.Random) -> str:
    return rng.choice(ONES[:10])


def digits(rng: random.Random, low: int = 2, high: int = 10) -> str:
    """Single digits in groups; zero is oh for some speakers."""
    zero = rng.choice(["zero", "zero", "oh"])
    n = rng.randint(low, high)
    said = [zero if d == "zero" else d for d in (digit(rng) for _ in range(n))]
    size = rng.choice([2, 3, 3, 4, n])
    groups = [" ".join(said[i : i + size]) for i in range(0, n, size)]
    return ", ".join(groups)


def phone(rng: random.Random) -> str:
    groups = rng.choice([(3, 4), (3, 3, 4), (3, 3, 4), (1, 3, 3, 4), (5, 6), (2, 3, 3)])
    said = [" ".join(digit(rng) for _ in range(n)) for n in groups]
    if len(groups) == 4:
        said[0] = "one"
    if rng.random() < 0.15:
        said[0] = rng.choice(["eight hundred", "nine hundred", "one eight hundred"])
    return ", ".join(said)


def number(rng: random.Random) -> str:
    top = rng.choices([21, 100, 1_000, 10_000, 100_000, 10_000_000], [3, 5, 5, 4, 2, 1])[0]
    n = rng.randrange(top)
    if rng.random() < 0.2:
        n = n // 100 * 100 if n > 200 else n // 10 * 10
    return cardinal(n, rng.choice([" ", " and "]))


def small(rng: random.Random) -> str:
    return cardinal(rng.randint(2, 99) if rng.random() < 0.4 else rng.randint(2, 20))


def ordinals(rng: random.Random) -> str:
    n = rng.randint(1, 31) if rng.random() < 0.7 else rng.randint(1, 400)
    return rng.choice(["{}", "the {}", "the {} one", "the {} time", "my {} try", "{} place", "the {} floor"]).format(
        ordinal(n)
    )


def any_year(rng: random.Random) -> str:
    return year(rng.choice([rng.randint(1600, 1999), rng.randint(1900, 1999), rng.randint(2000, 2039)]))


def date(rng: random.Random) -> str:
    day, month = ordinal(rng.randint(1, 31)), rng.choice(MONTHS)
    said = rng.choice([f"{month} {day}", f"{month} the {day}", f"the {day} of {month}"])
    if rng.random() < 0.25:
        said = f"{rng.choice(DAYS)}, {said}"
    return said + (f", {any_year(rng)}" if rng.random() < 0.35 else "")


def clock(rng: random.Random) -> str:
    hour, minute = rng.randint(1, 12), rng.randint(0, 59)
    if rng.random() < 0.5:
        minute = minute // 5 * 5
    named = cardinal(hour)
    style = rng.random()
    if style < 0.15:
        return rng.choice([f"half past {named}", f"quarter past {named}", f"a quarter to {named}", f"{named} thirty"])
    if style < 0.25 and minute:
        unit = "" if minute % 5 == 0 else " minutes" if minute > 1 else " minute"
        return f"{cardinal(minute)}{unit} {rng.choice(['past', 'to', 'after'])} {named}"
    said = named if minute == 0 else f"{named} {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    if minute == 0 and rng.random() < 0.6:
        said += " o'clock"
    elif rng.random() < 0.45:
        said += f" {letter(rng.choice('ap'))} M"
    return said + rng.choice(
        ["", "", "", "", " in the morning", " in the evening", " sharp"][: 7 if " M" not in said else 4]
    )


def money(rng: random.Random) -> str:
    unit, cent = rng.choice([("dollar", "cent"), ("dollar", "cent"), ("pound", "penny"), ("euro", "cent")])
    n = rng.choice([rng.randint(1, 20), rng.randint(1, 200), rng.randint(100, 9_999), 1_000 * rng.randint(1, 900)])
    said = f"{cardinal(n, rng.choice([' ', ' and ']))} {unit}{'s' if n != 1 else ''}"
    cents = rng.randint(1, 99)
    if n < 500 and rng.random() < 0.5:
        if rng.random() < 0.5:
            return f"{said} {rng.choice(['', 'and '])}{cardinal(cents)}"
        plural = "pence" if cent == "penny" else "cents"
        return f"{said} and {cardinal(cents)} {cent if cents == 1 else plural}"
    return said


def percent(rng: random.Random) -> str:
    whole = cardinal(rng.randint(0, 100))
    point = f" point {' '.join(digit(rng) for _ in range(rng.randint(1, 2)))}" if rng.random() < 0.3 else ""
    return f"{whole}{point} percent"


def decimal(rng: random.Random) -> str:
    return (
        f"{rng.choice(['', '', 'minus '])}{number(rng)} point {' '.join(digit(rng) for _ in range(rng.randint(1, 3)))}"
    )


def span(rng: random.Random) -> str:
    unit = rng.choice(["second", "minute", "minute", "minute", "hour", "day", "week"])
    n = rng.choice([1, 2, 3, 5, 10, 15, 20, 30, 45, rng.randint(1, 90)])
    extra = " and a half" if unit == "hour" and n > 1 and rng.random() < 0.3 else ""
    return f"{cardinal(n)}{extra} {unit}{'s' if n != 1 else ''}"


def temperature(rng: random.Random) -> str:
    return cardinal(rng.randint(10, 90)) + rng.choice(
        ["", " degrees", " degrees", " degrees Celsius", " degrees Fahrenheit"]
    )


def code(rng: random.Random) -> str:
    parts = [letters(rng, 1, 3) if rng.random() < 0.5 else digits(rng, 1, 4) for _ in range(rng.randint(2, 3))]
    return ", ".join(parts)


def address(rng: random.Random) -> str:
    street = f"{rng.choice(SURNAMES)} {rng.choice(['Street', 'Road', 'Avenue', 'Lane', 'Drive', 'Square'])}"
    return f"{cardinal(rng.randint(1, 400))} {street}"


def spelled_word(rng: random.Random) -> str:
    word = rng.choice(FIRST_NAMES + SURNAMES + COLOURS + [p for p in PLACES if " " not in p])
    spelled = ", ".join(letter(c) for c in word.lower())
    return rng.choice(
        [f"{word}, {spelled}.", f"{spelled}.", f"{word} is spelled {spelled}.", f"That's {spelled}, {word}."]
    )


def radio_alphabet(rng: random.Random) -> str:
    chosen = rng.choices(ALPHABET, k=rng.randint(1, 5))
    if rng.random() < 0.3:
        return ", ".join(f"{letter(w[0].lower())} as in {w}" for w in chosen[:3]) + "."
    return f"{', '.join(chosen)}."


SLOTS = {
    **TABLES,
    "onoff": ["on", "off"],
    "unit": ["second", "minute", "minute", "hour"],
    "digits count": ["four", "five", "six", "eight", "ten"],
    "digit": digit,
    "digits": digits,
    "extension": lambda rng: digits(rng, 3, 4),
    "phone": phone,
    "number": number,
    "small": small,
    "date": date,
    "time": clock,
    "money": money,
    "percent": percent,
    "span": span,
    "year": any_year,
    "temperature": temperature,
    "code": code,
    "address": address,
    "spelled": lambda rng: rng.choice(FIRST_NAMES + PLACES).title(),
}


SLOT = r"\{([a-z ]+)\}"


def fill(template: str, rng: random.Random) -> str:
    def value(match: re.Match[str]) -> str:
        slot = SLOTS[match[1]]
        return slot(rng) if callable(slot) else re.sub(SLOT, value, rng.choice(slot))

    return capital(re.sub(SLOT, value, template))


def capital(line: str) -> str:
    return line[0].upper() + line[1:]


def templates(section: str) -> Maker:
    return lambda rng: fill(rng.choice(TABLES[section]), rng)


def alone(make: Maker) -> Maker:
    """Something said by itself, or a few in a row."""

    def line(rng: random.Random) -> str:
        return capital(", ".join(make(rng) for _ in range(rng.choice([1, 1, 1, 1, 2, 3])))) + "."

    return line


def names(rng: random.Random) -> str:
    first, last, place = rng.choice(FIRST_NAMES), rng.choice(SURNAMES), rng.choice(PLACES)
    title = rng.choice(["Mister", "Missus", "Miss", "Doctor", "Professor"])
    return rng.choice(
        [
            first,
            f"{first} {last}",
            f"{title} {last}",
            place,
            f"{first} {last}, {place}",
            f"{place}, {rng.choice(PLACES)}",
        ]
    )


def commands(rng: random.Random) -> str:
    return ". ".join(rng.choices(COMMANDS, k=rng.choice([1, 1, 1, 2, 3]))) + "."


def single_number_word(rng: random.Random) -> str:
    """One short word of the kind that is often said alone."""
    tens = [cardinal(10 * n) for n in range(2, 10)]
    ordinal_words = [ordinal(n) for n in range(1, 32)]
    scales = ["hundred", "thousand", "million", "point", "minus"]
    others = ["today", "tomorrow", "yesterday", "and", "at", "o'clock"]
    every = [*ONES, *ONES, *tens, *ordinal_words, *scales, *DAYS, *MONTHS, *others]
    chosen = [rng.choice(every) for _ in range(3)]
    return capital(". ".join(chosen[: rng.choice([1, 1, 1, 2, 3])])) + "."


def characters(rng: random.Random) -> str:
    """A letter or a digit, or two or three, each said on its own."""
    said = [rng.choice([letters(rng, 1, 1), digits(rng, 1, 1)]) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    return ". ".join(map(capital, said)) + "."


# What people say to each other at home; not in the mixture below, which the held-out speech was drawn from.
chat = templates("chat")

# maker (None: single frequent words, which texts.py knows), weight
EVERYDAY = [
    (templates("requests"), 20), (templates("talk"), 14), (templates("telephone"), 12), (templates("questions"), 8),
    (alone(digits), 9), (None, 14), (commands, 8), (single_number_word, 9),
    (alone(number), 5), (alone(date), 4), (alone(clock), 4), (alone(letters), 4), (alone(names), 4), (alone(phone), 3),
    (alone(money), 3), (spelled_word, 2), (radio_alphabet, 2), (alone(ordinals), 2), (alone(percent), 1.5),
    (alone(decimal), 1.5),
]  # fmt: skip
