"""Speak invented lines with synthetic voices; keep the audio and the exact time of every word.

    python synthesise.py --cache CACHE --engine kokoro --hours 4 --seed 1 --out DIR --workers 2

Writes DIR/NNNNN.opus, each with LINES_PER_SHARD utterances in a row (Ogg/Opus, 24 kbit/s, 16 kHz mono; with
`--form flac` DIR/NNNNN.flac, larger and quicker to write), and
DIR/manifest.jsonl with one utterance per line:

    {"audio": "00003.opus", "start": 12.35, "duration": 3.2, "text": "turn off the lights",
     "words": [["turn", 0.35, 0.6], ...], "engine": "kokoro", "voice": "af_heart",
     "speed": 1.04, "phonemes": "tˈɜɹn ...", "frames": [14, 2, ...]}

`start` is where the utterance begins in the file; the word times count from there, all in seconds. `frames` are the
durations, in units of 25 ms, of the leading silence, of each character of `phonemes`, and of the trailing silence.
The same seed gives the same corpus, whatever the number of workers; a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from texts import Texts, words

RATE_HZ = 16_000
UNIT_S = 0.025  # one unit of the engines' durations
UNIT_SAMPLES = round(UNIT_S * RATE_HZ)
GAP_S = 0.05  # silence between utterances in a file
LINES_PER_SHARD = 80  # about five minutes of speech
KINDS = ("general", "everyday", "all", "chat", "vocabulary", "characters")
FORMS = {  # the number is soundfile's compression level that means 24 kbit/s mono
    "opus": {"format": "OGG", "subtype": "OPUS", "compression_level": 1 - (24_000 - 6_000) / 250_000},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
}
PEAK = 0.6  # of every utterance; loudness is varied at training time, not here
TOO_LONG_S = 16.0  # a shorter line is drawn instead
PUNCTUATION = frozenset(';:,.!?—…"“”()')
LONG_SOUND_S = 0.1  # only longer ones can hide a silence
SILENCE = 10 ** (-35 / 20)  # beside the level of the speech


@dataclass(frozen=True)
class Utterance:
    line: str
    engine: str
    voice: str
    speed: float
    phonemes: str
    frames: list[int]  # [1 + len(phonemes) + 1] in units of 25 ms
    samples: np.ndarray  # [N] float32 at 16 kHz


def word_spans(phonemes: str, frames: list[int], count: int) -> list[tuple[float, float, float]]:
    """Of each word, in seconds: where it starts, where its last sound starts, where that ends; punctuation left out."""
    ends = np.cumsum(frames) * UNIT_S  # frames[0] is the leading silence: character i lasts from ends[i] to ends[i + 1]
    spans, position = [], 0
    for chunk in phonemes.split(" "):
        sounds = [i for i, c in enumerate(chunk, position) if c not in PUNCTUATION]
        if sounds:
            spans.append((float(ends[sounds[0]]), float(ends[sounds[-1]]), float(ends[sounds[-1] + 1])))
        position += len(chunk) + 1
    if len(spans) != count:
        raise ValueError(f"expected {count} words, got {len(spans)} in {phonemes!r}")
    return spans


def audible_end(samples: np.ndarray, start_s: float, end_s: float) -> float:
    """The end of a sound without the silence that the engines count into the last sound before a pause."""
    level = np.sqrt(np.mean(samples[np.abs(samples) > 0.03 * np.abs(samples).max()] ** 2))
    step = RATE_HZ // 100
    first, last = round(start_s * 100), round(end_s * 100)
    loud = np.sqrt(np.mean(samples[first * step : last * step].reshape(-1, step) ** 2, axis=1)) > level * SILENCE
    heard = np.flatnonzero(loud)
    return (first + int(heard[-1]) + 1) / 100 if len(heard) else min(end_s, start_s + UNIT_S)


def word_times(phonemes: str, frames: list[int], samples: np.ndarray, count: int) -> list[tuple[float, float]]:
    """Start and end of each word in seconds."""
    spans = word_spans(phonemes, frames, count)
    return [
        (start, audible_end(samples, last, end) if end - last > LONG_SOUND_S else end) for start, last, end in spans
    ]


def speak(engine, texts: Texts, kind: str, seed: int, index: int) -> Utterance:
    """Utterance number `index` of the corpus `seed`, whichever worker makes it."""
    rng = random.Random(f"{seed}/{index}")
    while True:
        line = texts.draw(rng, kind)
        utterance = engine.speak(line, texts.split, rng)
        if utterance is None or len(utterance.samples) > TOO_LONG_S * RATE_HZ:
            continue
        try:
            word_spans(utterance.phonemes, utterance.frames, len(words(line)))
        except ValueError:  # a word that the pronunciation rules take apart, or swallow
            continue
        return utterance


def entry(u: Utterance, audio: str, start_s: float) -> dict:
    assert sum(u.frames) * UNIT_SAMPLES == len(u.samples), "the durations do not add up to the audio"
    spoken = words(u.line)
    times = word_times(u.phonemes, u.frames, u.samples, len(spoken))
    return {
        "audio": audio,
        "start": round(start_s, 3),
        "duration": round(len(u.samples) / RATE_HZ, 3),
        "text": " ".join(spoken),
        "words": [[w, round(a, 3), round(b, 3)] for w, (a, b) in zip(spoken, times, strict=True)],
        "engine": u.engine,
        "voice": u.voice,
        "speed": round(u.speed, 3),
        "phonemes": u.phonemes,
        "frames": u.frames,
    }


def write_shard(engine, texts: Texts, kind: str, seed: int, shard: int, out: Path, lines: int, form: str) -> None:
    audio, rows, position = [], [], 0
    gap = np.zeros(round(GAP_S * RATE_HZ), np.float32)
    for index in range(shard * lines, (shard + 1) * lines):
        u = speak(engine, texts, kind, seed, index)
        rows.append(entry(u, f"{shard:05d}.{form}", position / RATE_HZ))
        audio += [u.samples * (PEAK / max(1e-3, float(np.abs(u.samples).max()))), gap]
        position += len(u.samples) + len(gap)
    unfinished = out / f".{shard:05d}.{form}"
    joined = np.concatenate(audio)
    soundfile.write(unfinished, joined, RATE_HZ, **FORMS[form])
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    (out / f".{shard:05d}.jsonl").write_text(text, encoding="utf-8")
    unfinished.replace(out / f"{shard:05d}.{form}")  # last, so that a shard with audio is complete


def finished(out: Path) -> list[Path]:
    return sorted(file for form in FORMS for file in out.glob(f"[0-9]*.{form}"))


def hours_done(out: Path) -> float:
    done = (out / f".{f.stem}.jsonl" for f in finished(out))
    return sum(json.loads(row)["duration"] for f in done for row in f.open(encoding="utf-8")) / 3600


def make_engine(name: str, cache: Path):
    if name == "kokoro":
        from kokoro import Kokoro

        return Kokoro(cache)
    if name == "kokoro-bf16":
        from kokoro_bf16 import KokoroBfloat16

        return KokoroBfloat16(cache)
    from hibari_voices import HibariVoices

    return HibariVoices(cache)


def work(arguments: argparse.Namespace, queue, deadline: float) -> None:
    texts = Texts(arguments.cache, arguments.split)
    engine = make_engine(arguments.engine, arguments.cache)
    while True:
        with queue.get_lock():
            shard = queue.value
            queue.value += 1
        if any((arguments.out / f"{shard:05d}.{form}").exists() for form in FORMS):
            continue
        if time.time() > deadline or hours_done(arguments.out) >= arguments.hours:
            return
        how = (arguments.kind, arguments.seed, shard, arguments.out, arguments.lines, arguments.form)
        write_shard(engine, texts, *how)
        print(f"shard {shard}: {hours_done(arguments.out):.2f} h", flush=True)


def collect(out: Path) -> None:
    """One manifest out of the shards' own, in order."""
    with (out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for shard in finished(out):
            manifest.write((out / f".{shard.stem}.jsonl").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["kokoro", "kokoro-bf16", "hibari"], default="kokoro")
    parser.add_argument("--hours", type=float, required=True, help="stop starting shards after so much speech")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop starting shards after so much time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", type=Path, required=True, help="the folder that fetch.sh filled")
    parser.add_argument("--split", choices=["train", "heldout"], default="train", help="which lines and which voices")
    parser.add_argument("--kind", choices=KINDS, default="all")
    parser.add_argument("--form", choices=FORMS, default="opus", help="of the audio")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument("--lines", type=int, default=LINES_PER_SHARD, help="utterances per shard")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    make_engine(arguments.engine, arguments.cache)  # prepares the cache once, and fails early
    context = multiprocessing.get_context("spawn")
    queue = context.Value("i", arguments.first)
    deadline = time.time() + 60 * arguments.minutes
    workers = [context.Process(target=work, args=(arguments, queue, deadline)) for _ in range(arguments.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed: see above; run the same command again to go on")
    collect(arguments.out)
    print(f"{hours_done(arguments.out):.2f} h in {arguments.out}")


if __name__ == "__main__":
    main()
