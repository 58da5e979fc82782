"""Check a corpus against its manifest and print what is in it:  python check.py DIR"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import soundfile

UNIT_S = 0.025


def check_row(row: dict) -> None:
    assert abs(sum(row["frames"]) * UNIT_S - row["duration"]) < 1e-6, "durations do not add up"
    assert len(row["frames"]) == len(row["phonemes"]) + 2
    assert row["text"].split() == [w for w, _, _ in row["words"]]
    assert re.fullmatch(r"[a-z']+( [a-z']+)*", row["text"]), row["text"]
    times = [t for _, start, end in row["words"] for t in (start, end)]
    assert [0, *times, row["duration"]] == sorted([0, *times, row["duration"]]), row["words"]


def decibels(x: np.ndarray) -> float:
    return 10 * float(np.log10(np.mean(np.square(x, dtype=np.float64)) + 1e-12))


def main(folder: Path) -> None:
    shards = defaultdict(list)
    for line in (folder / "manifest.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        check_row(row)
        shards[row["audio"]].append(row)
    rows = [row for rows in shards.values() for row in rows]
    peaks, silent, contrast = [], [], []
    for audio, its_rows in shards.items():
        samples, rate_hz = soundfile.read(folder / audio, dtype="float32")
        assert rate_hz == 16_000
        assert samples.ndim == 1
        end_s = its_rows[-1]["start"] + its_rows[-1]["duration"]
        assert 0 <= len(samples) / rate_hz - end_s < 0.1, f"{audio}: {len(samples) / rate_hz} s, manifest {end_s} s"
        for row in its_rows:
            first = round(row["start"] * rate_hz)
            x = samples[first : first + round(row["duration"] * rate_hz)]
            inside = np.zeros(len(x), bool)
            for _, start_s, stop_s in row["words"]:
                inside[round(start_s * rate_hz) : round(stop_s * rate_hz)] = True
            peaks.append(float(np.abs(x).max()))
            silent.append(1 - float(inside.mean()))
            before = x[: round(row["words"][0][1] * 0.5 * rate_hz)]
            contrast.append(decibels(x[inside]) - decibels(before))
    seconds = np.array([row["duration"] for row in rows])
    counts = Counter(row["text"] for row in rows)
    vocabulary = Counter(w for row in rows for w in row["text"].split())
    size = sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
    voices = Counter("blend of two" if "+" in row["voice"] else row["voice"] for row in rows)
    print(f"{seconds.sum() / 3600:.2f} h, {len(rows)} utterances in {len(shards)} files, {size / 1e6:.1f} MB")
    print(f"{sum(vocabulary.values())} words, {len(vocabulary)} different; {len(counts)} different transcripts")
    print("seconds per utterance, 5 / 50 / 95 %:", np.percentile(seconds, [5, 50, 95]).round(2))
    print("peak, lowest and highest:", round(min(peaks), 3), round(max(peaks), 3))
    print("share outside words, 5 / 50 / 95 %:", np.percentile(silent, [5, 50, 95]).round(2))
    print("words above the leading silence in dB, 5 / 50 / 95 %:", np.percentile(contrast, [5, 50, 95]).round(1))
    listed = sorted(voices.items()) if len(voices) < 40 else [("different", len(voices))]
    print("voices:", ", ".join(f"{v} {n}" for v, n in listed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
