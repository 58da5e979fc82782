"""The libraries that are measured, each behind the same three methods, and what a process measures of one.

`python -m benchmarks.subjects NAME TASK FOLDER SECONDS DTYPE` prints JSON: a process each, to tell memory apart.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from earful import registry
from earful.api import BUILTIN, SpeechModel
from earful.audio.io import read_audio
from earful.events import Event, Text
from earful.models.voxtral.stream import Memo, VoxtralStream, streams
from earful.nn.state import nbytes
from earful.stream.engine import Engine
from earful.stream.session import Session

RATE_HZ = 16_000
SLOT = 1280  # samples in 80 ms
FIRST = 13  # a slot behind the first id of every model here
Samples = np.ndarray[Any, np.dtype[np.float32]]
Json = dict[str, Any]


class Subject(Protocol):
    def offline(self, samples: Samples) -> tuple[float, list[int]]:
        """Seconds for a whole clip, and its ids."""

    def live(self, samples: Samples, at_slot: Callable[[int], None] = ...) -> tuple[list[float], list[int]]:
        """Seconds for each 80 ms from the first id on, which is the first of them, and the ids."""


class Recorder(VoxtralStream):
    """A stream that keeps the ids which it turns into events."""

    def __init__(self, stream: VoxtralStream) -> None:
        super().__init__(stream.model, stream.tokenizer)
        self.ids: list[int] = []

    def events(self, ids: list[int], memo: Memo) -> list[Event]:
        self.ids += ids
        return super().events(ids, memo)


class Earful:
    """Through `transcribe` and `Session.feed`, as everybody uses it: features, framing and events included."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        model, tokenizer = registry.load_model(folder, dtype=dtype)
        _, live = streams(model, tokenizer)  # type: ignore[arg-type]
        self.stream = Recorder(live)
        self.model = SpeechModel("voxtral", self.stream, self.stream)

    def offline(self, samples: Samples) -> tuple[float, list[int]]:
        self.stream.ids = []
        begin = time.perf_counter()
        self.model.transcribe(samples)
        return time.perf_counter() - begin, self._written()

    def live(
        self, samples: Samples, at_slot: Callable[[int], None] = lambda slot: None
    ) -> tuple[list[float], list[int]]:
        self.stream.ids = []
        times = []
        with self.model.stream() as session:
            for slot, begin in enumerate(range(0, len(samples), SLOT)):
                since = time.perf_counter()
                session.feed(samples[begin : begin + SLOT])
                times.append(time.perf_counter() - since)
                at_slot(slot)
        return times[self.stream.config.audio.delay_slots + 1 :], self._written()

    def batch(self, samples: Samples, sessions: int) -> list[float]:
        """Seconds for each 80 ms of several sessions in one batch."""
        engine = Engine(self.stream, sessions)
        lanes = [engine.open() for _ in range(sessions)]
        times = []
        for begin in range(0, len(samples) - SLOT + 1, SLOT):
            for lane in lanes:
                lane.framer.feed(samples[begin : begin + SLOT])
            since = time.perf_counter()
            engine.pump()
            times.append(time.perf_counter() - since)
        return times

    def _written(self) -> list[int]:
        """What follows the prompt: the silence before the audio is stepped in `open`, but for its last slot."""
        return self.stream.ids[self.stream.config.audio.delay_slots + 1 :]

    @property
    def state_bytes(self) -> int:
        return nbytes(self.stream.init_state(1))


class Transformers:
    """Through `generate`, with features that are ready: making them is not counted."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        self.model = transformers.VoxtralRealtimeForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
        self.config = registry.load_model(folder)[0].config
        self.extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        self.dtype = dtype

    def _features(self, samples: Samples, tail_slots: int) -> torch.Tensor:
        left = np.zeros(self.config.audio.left_slots * SLOT, np.float32)
        right = np.zeros(-len(samples) % SLOT + tail_slots * SLOT, np.float32)
        padded = np.concatenate([left, samples, right])
        found = self.extractor(padded, sampling_rate=RATE_HZ, center=True, return_tensors="pt")
        return found.input_features.to(self.dtype)  # type: ignore[no-any-return]

    def _prompt(self) -> torch.Tensor:
        ids, audio = self.config.ids, self.config.audio
        return torch.tensor([[ids.bos] + [ids.blank] * (audio.left_slots + audio.delay_slots)])

    def offline(self, samples: Samples) -> tuple[float, list[int]]:
        audio = self.config.audio
        mel, prompt = self._features(samples, audio.delay_slots + 1 + audio.tail_slots), self._prompt()
        begin = time.perf_counter()
        ids = self.model.generate(prompt, input_features=mel, num_delay_tokens=audio.delay_slots, do_sample=False)
        return time.perf_counter() - begin, ids[0, prompt.shape[1] :].tolist()

    def live(
        self, samples: Samples, at_slot: Callable[[int], None] = lambda slot: None
    ) -> tuple[list[float], list[int]]:
        delay, per_slot = self.config.audio.delay_slots, self.config.mels_per_slot
        mel, prompt = self._features(samples, 0), self._prompt()
        asked = []

        def chunks() -> Iterator[torch.Tensor]:
            first = prompt.shape[1] * per_slot
            asked.append(time.perf_counter())
            yield mel[..., :first]
            for number, begin in enumerate(range(first, mel.shape[-1], per_slot), delay + 1):
                at_slot(number)
                asked.append(time.perf_counter())
                yield mel[..., begin : begin + per_slot]
            asked.append(time.perf_counter())

        ids = self.model.generate(prompt, input_features=chunks(), num_delay_tokens=delay, do_sample=False)
        return np.diff(asked).tolist(), ids[0, prompt.shape[1] :].tolist()


SUBJECTS: dict[str, Callable[[Path, torch.dtype], Subject]] = {"earful": Earful, "transformers": Transformers}


def speech(seconds: float) -> Samples:
    """The bundled recording, again and again."""
    clip = read_audio(BUILTIN / "demo.flac", RATE_HZ)
    return np.resize(clip, round(seconds * RATE_HZ)).astype(np.float32)


def summary(times: list[float]) -> Json:
    """Milliseconds of the later half, when the windows have filled: as they stay."""
    later = sorted(1e3 * t for t in times[len(times) // 2 :])
    return {"median_ms": statistics.median(later), "p95_ms": later[math.ceil(0.95 * len(later)) - 1]}


def resident_bytes() -> int:
    """Memory of this process that is in RAM; Linux only, 0 elsewhere."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def speed(subject: Subject, seconds: float) -> Json:
    """Offline, then live, after a warm-up of each."""
    samples = speech(seconds)
    subject.offline(samples[:SLOT])
    subject.live(samples[:RATE_HZ])
    offline_s, _ = subject.offline(samples)
    times, _ = subject.live(samples)
    found: Json = {"offline_s": offline_s, "first_ms": 1e3 * times[0], "step": summary(times[1:])}
    if isinstance(subject, Earful):
        found["batch"] = {str(n): summary(subject.batch(samples[: len(samples) // 2], n)) for n in (4, 8)}
    return found


def ids(subject: Subject, seconds: float) -> Json:
    """What is written, offline and live."""
    samples = speech(seconds)
    return {"offline": subject.offline(samples)[1], "live": subject.live(samples)[1]}


def memory(subject: Subject, seconds: float) -> Json:
    """Resident memory after a tenth of the stream and at its end."""
    slots = round(seconds * RATE_HZ) // SLOT
    marks = (max(slots // 10, FIRST), slots - 1)
    seen: dict[int, int] = {}

    def at_slot(slot: int) -> None:
        if slot in marks:
            seen[slot] = resident_bytes()

    subject.live(speech(slots * SLOT / RATE_HZ), at_slot)
    found: Json = {"early_bytes": seen[marks[0]], "late_bytes": seen[marks[1]]}
    if isinstance(subject, Earful):
        found["state_bytes"] = subject.state_bytes
    return found


def builtin(subject: Subject, seconds: float) -> Json:
    """The model in the package: text included."""
    assert isinstance(subject, Earful)
    model, samples = subject.model, speech(seconds)
    model.transcribe(samples[:RATE_HZ])
    begin = time.perf_counter()
    whole = model.transcribe(samples)
    offline_s = time.perf_counter() - begin
    return {"clip_s": seconds, "offline_s": offline_s, **_captions(model.stream(), samples, whole.text)}


def _captions(session: Session, samples: Samples, whole: str) -> Json:
    times, text, first_ms = [], "", 0.0
    with session:
        for begin in range(0, len(samples), SLOT):
            since = time.perf_counter()
            events = session.feed(samples[begin : begin + SLOT])
            times.append(time.perf_counter() - since)
            new = "".join(event.text for event in events if isinstance(event, Text))
            if new and not text:
                first_ms = 1e3 * times[-1]
            text += new
        text += "".join(event.text for event in session.finish() if isinstance(event, Text))
    return {"first_ms": first_ms, "step": summary(times), "same_text": text == whole}


TASKS: dict[str, Callable[[Subject, float], Json]] = {
    "speed": speed,
    "ids": ids,
    "memory": memory,
    "builtin": builtin,
}


def main(name: str, task: str, folder: str, seconds: str, dtype: str) -> None:
    with torch.inference_mode():
        subject = SUBJECTS[name](Path(folder), getattr(torch, dtype))
        print(json.dumps(TASKS[task](subject, float(seconds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
