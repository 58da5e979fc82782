"""What `earful transcribe` makes of ten minutes of held-out clips and pauses: `ten_minutes.py MODEL MANIFEST...`.

Prints the word error rate of the whole, by kind of clip; how far the end of each segment is from that of its own last
word, as the manifest has it and as it is heard, since manifests count silence behind a word as a part of it; and how
far the words are from those of the clips that were written right. Which word is a segment's last one, the alignment
tells that counts word errors; where nobody wrote the words behind it, it may be one of those. The clips come in an
order by chance, the same one every time, as many as fit.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import jiwer
import numpy as np

from earful.audio.io import read_audio, write_wav
from earful.train.score import Reference, read_references, scores

RATE_HZ, LENGTH_S, PAUSES_S = 16_000, 600.0, (0.6, 2.8)
AROUND_S = 0.15  # the first sound of a word begins before its time
CLOSE_S = 0.3
BLOCK_S, QUIET_DB = 0.01, -30.0  # silence is what stays so far below the loudest moment of the word


@dataclass(frozen=True)
class Clip:
    reference: Reference
    words: list[tuple[float, float]]  # start and end of each in the recording, in seconds


def recording(manifests: list[Path]) -> tuple[np.ndarray, list[Clip]]:
    """Samples [N] float32 and the clips in them. Raises OSError and EarfulError for what cannot be read."""
    rows = [
        (reference, json.loads(line)["words"])
        for manifest in manifests
        for reference, line in zip(read_references(manifest), manifest.read_text().splitlines(), strict=True)
    ]
    files = {path: read_audio(path, RATE_HZ) for path in {reference.audio for reference, _ in rows}}
    rng = np.random.default_rng(0)
    parts, clips, at_s = [], [], 0.0
    for row in rng.permutation(len(rows)):
        reference, words = rows[row]
        pause_s = round(rng.uniform(*PAUSES_S), 2)
        first_s, last_s = max(0.0, words[0][1] - AROUND_S), words[-1][2] + AROUND_S
        if at_s + pause_s + last_s - first_s > LENGTH_S:
            break
        begin, end = (round((reference.start_s + edge) * RATE_HZ) for edge in (first_s, last_s))
        parts += [np.zeros(round(pause_s * RATE_HZ), np.float32), files[reference.audio][begin:end]]
        shift = at_s + pause_s - first_s
        clips.append(Clip(reference, [(start + shift, end + shift) for _, start, end in words]))
        at_s += pause_s + last_s - first_s
    return np.concatenate(parts), clips


def heard(samples: np.ndarray, start_s: float, end_s: float) -> tuple[float, float]:
    """From where to where the sound of a word is, in seconds, for one that the manifest has from start_s to end_s."""
    size = round(BLOCK_S * RATE_HZ)
    word = samples[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
    power = np.square(word[: len(word) // size * size].reshape(-1, size)).mean(1)
    loud = np.flatnonzero(power > power.max() * 10 ** (QUIET_DB / 10))
    return start_s + loud[0] * BLOCK_S, start_s + (loud[-1] + 1) * BLOCK_S


def said_last(clip: Clip, texts: list[str]) -> list[range]:
    """Which words of a clip may be the last of each of its segments: its own, and those behind it that nobody wrote.

    One that was written and not said stands for the word before it.
    """
    said: list[int] = []
    for part in jiwer.process_words(clip.reference.text, " ".join(texts)).alignments[0]:
        written = part.hyp_end_idx - part.hyp_start_idx
        inserted = part.type == "insert"
        first = part.ref_start_idx
        said += [max(0, first - 1)] * written if inserted else range(first, first + written)
    following = [*said[1:], len(clip.words)]
    lasts = [count - 1 for count in accumulate(len(text.split()) for text in texts)]
    return [range(said[last], max(said[last] + 1, following[last])) for last in lasts]


def main(model: str, manifests: list[Path]) -> None:
    samples, clips = recording(manifests)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ten-minutes.wav"
        write_wav(path, samples, RATE_HZ)
        command = [sys.executable, "-m", "earful", "transcribe", str(path), "--model", model, "--format", "json"]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    segments = [[] for _ in clips]
    for segment in found["segments"]:
        # A clip has the segments that begin in it, or in the pause before it.
        owner = next((i for i, clip in enumerate(clips) if segment["start_s"] < clip.words[-1][1]), len(clips) - 1)
        segments[owner].append(segment)
    texts = [[segment["text"].lower() for segment in of_clip] for of_clip in segments]
    ends, words = [], []
    for clip, of_clip, text in zip(clips, segments, texts, strict=True):
        for segment, lasts in zip(of_clip, said_last(clip, text) if text else [], strict=True):
            truth = [(clip.words[last][1], heard(samples, *clip.words[last])[1]) for last in lasts]
            ends.append(np.abs(np.array(truth) - segment["end_s"]).min(0))
            if max(ends[-1]) > CLOSE_S:
                print(f"{segment['end_s']:.2f} s, and not {truth}: ...{segment['text'][-40:]}")
        found_words = [word for segment in of_clip for word in segment["words"]]
        if [word["text"].lower() for word in found_words] == clip.reference.text.split():
            edges = [(word["start_s"], word["end_s"]) for word in found_words]
            words += np.abs(np.subtract(edges, [heard(samples, *span) for span in clip.words])).tolist()
    print(f"{len(samples) / RATE_HZ:.0f} s, {len(clips)} clips, {len(ends)} segments")
    for score in scores([clip.reference for clip in clips], [" ".join(text) for text in texts]):
        print(f"{score.kind}: {100 * score.wer:.1f} % of {score.words} words")
    for name, each in zip(("by the manifest", "as it is heard"), np.transpose(ends), strict=True):
        near = f"{100 * np.mean(each <= CLOSE_S):.1f} % within {CLOSE_S} s"
        print(f"ends of segments {name}: median {np.median(each):.2f} s off, {near}, worst {each.max():.2f} s")
    for name, each in zip(("starts", "ends"), np.transpose(words), strict=True):
        half, most = np.quantile(each, [0.5, 0.9])
        print(f"{name} of {len(each)} words: half within {half:.3f} s, nine in ten within {most:.3f} s")


if __name__ == "__main__":
    main(sys.argv[1], [Path(name) for name in sys.argv[2:]])
