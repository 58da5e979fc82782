"""What tests share: the law of streams, for a layer and for a family, its plain reference, and what a run writes."""

from __future__ import annotations

import math
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from earful import registry
from earful.audio.mel import log_mel
from earful.checkpoint.files import load_tensors
from earful.events import Event, Text, Word
from earful.models.voxtral.stream import Memo, Policy, StreamState, VoxtralStream
from earful.nn.state import leaves, reset
from earful.stream.engine import Engine, Lane
from earful.testing import tiny_voxtral
from earful.text.tekken import Tekken

LIVE = Policy()
MARGIN = 4e-3  # between the two largest logits: with float32 sums in another order they differ by 5e-4 at most
# Sizes of tiny models, as `write_tiny` takes them. Both windows are much shorter than the audio of most tests.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "published": {"audio": {"left_slots": 32}},  # hop 160, window 400, 8 mel frames to a slot
    "builtin": {"audio": {"hop": 320, "window": 512, "left_slots": 2}, "encoder": {"kv_heads": 1}},  # 4 to a slot
    "no silence": {"audio": {"left_slots": 1}, "decoder": {"tied": False}},
    "much silence": {"audio": {"left_slots": 70}},
    "wide": {"encoder": {"window": 10_000}, "decoder": {"window": 10_000}},
}


@torch.inference_mode()
def assert_streams_like_offline(
    layer: nn.Module, channels: int, past: int, hop: int = 1, chunk: int = 32, rounds: int = 40, atol: float = 1e-5
) -> None:
    """The law for one layer: x [B, channels, T], T a multiple of `hop`, at most `chunk` steps in a call.

    Calls of random lengths, random slots frozen (they are handed noise), slots reset at random: each stream equals the
    layer's own run over the whole, and no tensor of the state moves in memory. One has more than `past` outputs.
    """
    generator = torch.Generator().manual_seed(0)

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    slots = 3
    state = layer.init_state(slots)
    addresses = [leaf.data_ptr() for leaf in leaves(state)]
    streams: list[tuple[list, list]] = [([], []) for _ in range(slots)]
    longest = 0
    for turn in range(rounds):
        x = torch.randn(slots, channels, (below(chunk // hop) + 1) * hop, generator=generator)
        active = torch.rand(slots, generator=generator) < 0.7
        everyone = turn % 5 == 0
        y = layer(x, state, None if everyone else active)
        for slot, (heard, said) in enumerate(streams):
            if everyone or active[slot]:
                heard.append(x[slot])
                said.append(y[slot])
        # Late and rarely, so that streams grow past every window.
        leaving = [slot for slot in range(slots) if turn == rounds - 1 or below(rounds // 2) == 0]
        for slot in leaving:
            heard, said = streams[slot]
            streams[slot] = [], []
            if heard:
                whole = layer(torch.cat(heard, dim=-1)[None])[0]
                torch.testing.assert_close(torch.cat(said, dim=-1), whole, atol=atol, rtol=0)
                longest = max(longest, whole.shape[-1])
        reset(state, leaving)
    assert longest > past, f"expected a stream of more than {past} steps, got {longest} at most"
    assert [leaf.data_ptr() for leaf in leaves(state)] == addresses


class Recorded(VoxtralStream):
    """A family that keeps the ids of each session, those inside the prompt left out, in its memo."""

    def open(self, state: StreamState, slot: int, delay_s: float | None = None) -> Memo:
        memo = super().open(state, slot, delay_s)
        memo.ids = []
        return memo

    def events(self, ids: list[int], memo: Memo) -> list[Event]:
        inside = max(0, self.config.audio.left_slots + memo.delay - memo.position)
        memo.ids += ids[inside:]
        return super().events(ids, memo)


@cache
def tiny_family(sizes: str = "published", policy: Policy = LIVE, seed: int = 0) -> Recorded:
    """A tiny seeded model; always the same object for the same arguments."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = tiny_voxtral(Path(folder), seed, SIZES[sizes])
        return Recorded(model.eval(), Tekken.from_file(tokenizer), policy)


@dataclass(frozen=True)
class Clip:
    """Audio, and what the whole of it gives offline."""

    samples: np.ndarray
    delay_s: float
    ids: list[int]  # of every slot behind the prompt
    events: list[Event]

    @property
    def text(self) -> str:
        return said(self.events)

    @property
    def words(self) -> list[Word]:
        return [event for event in self.events if isinstance(event, Word)]


def said(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def assert_fits(events: list[Event], text: str, duration_s: float) -> None:
    """Text and words are what was written, and times go forward and end with the audio."""
    assert said(events) == text
    words = [event for event in events if isinstance(event, Word)]
    assert "".join(word.text for word in words) == "".join(text.split())
    assert not any(set(word.text) & set(" \t\n\u3000") for word in words)
    times = [0.0, *(time for word in words for time in (word.start_s, word.end_s)), duration_s]
    assert times == sorted(times)
    heard = [0.0, *(event.time_s for event in events if isinstance(event, Text)), duration_s]
    assert heard == sorted(heard)
    assert all(event.text for event in events)


def spoken_like(rng: np.random.Generator, length: int) -> np.ndarray:
    """Noise that changes its loudness every 50 ms: float32 [length]."""
    loud = np.repeat(rng.uniform(0, 0.5, length // 800 + 1), 800)[:length]
    return (rng.standard_normal(length) * loud).astype(np.float32)


@cache
def clip(family: Recorded, length: int, delay: int, which: int = 0) -> Clip:
    """One of the clips of `length` samples, heard with a delay of so many slots."""
    for attempt in count():
        samples = spoken_like(np.random.default_rng([length, delay, which, attempt]), length)
        ids, logits = offline(family, samples, delay)
        if not near_tie(logits):
            events = told(family, ids, delay, length / family.rate_hz)
            return Clip(samples, delay * family.config.slot_s, ids, events)
    raise AssertionError


def told(family: VoxtralStream, ids: list[int], delay: int, duration_s: float) -> list[Event]:
    """The events of all ids behind the prompt at once."""
    memo = Memo(delay, family.config.audio.left_slots + delay, limit_s=duration_s)
    return VoxtralStream.events(family, ids, memo) + family.finish(memo)


@torch.inference_mode()
def offline(
    family: VoxtralStream, samples: np.ndarray, delay: int, blanks: int | None = None
) -> tuple[list[int], torch.Tensor]:
    """The plain definition of what a stream says: no state, no chunks, everything computed anew for every id.

    Silence before and behind the audio, features of the whole signal, the encoder over all of it, the decoder over all
    ids so far for each new one. blanks: instead of the usual prompt, so many blanks and as many slots of silence.
    Returns the ids behind the prompt, and their logits [ids, V].
    """
    c, model = family.config, family.model
    a, ids = c.audio, c.ids
    silent = a.left_slots if blanks is None else blanks + 1
    slots = silent + math.ceil(len(samples) / c.slot_samples) + delay + 1 + a.tail_slots
    signal = torch.zeros(1, slots * c.slot_samples)
    begin = silent * c.slot_samples
    signal[0, begin : begin + len(samples)] = torch.from_numpy(samples)
    mel = log_mel(signal, a.rate_hz, a.hop, a.window, a.bins, a.log_max, center=True)
    audio = model.hear(mel)  # [1, slots, D]
    gains = model.decoder.gains(torch.tensor([delay]))
    tokens = [ids.bos] + [ids.blank] * (a.left_slots + delay if blanks is None else blanks)
    prompt, run, rows = len(tokens), 0, []
    for position in range(prompt - 1, slots):
        x = model.decoder.embed(torch.tensor([tokens])) + audio[:, : position + 1]
        logits = model.decoder.logits(model.decoder(x, gains))[0, -1]
        if family.policy.rut_slots is not None:
            logits[ids.blank] -= min(7.0, max(0.0, 0.5 * (run - family.policy.rut_slots)))
        rows.append(logits)
        tokens.append(int(logits.argmax()))
        run = run + 1 if tokens[-1] == ids.blank else 0
    return tokens[prompt:], torch.stack(rows)


def near_tie(logits: torch.Tensor) -> bool:
    """Whether some id was chosen by so little that it proves nothing. logits: [ids, V]."""
    best, second = logits.topk(2).values.unbind(-1)
    return bool((best - second).min() < MARGIN)


def chunked(rng: np.random.Generator, samples: np.ndarray) -> Iterator[np.ndarray]:
    """The samples in chunks whose lengths run from 0 and 1 to all of them, each order of magnitude as likely."""
    begin = 0
    while begin < len(samples):
        length = int(10 ** rng.uniform(-0.5, np.log10(len(samples) + 1)))
        yield samples[begin : begin + length]
        begin += length


def hear_all(engine: Engine, rng: np.random.Generator, audio: list[tuple[Lane, np.ndarray]]) -> None:
    """Feed each lane its samples in random chunks, in turns that chance decides, and finish it."""
    waiting = [(lane, len(samples) / engine.family.rate_hz, chunked(rng, samples)) for lane, samples in audio]
    while waiting:
        turn = rng.integers(len(waiting))
        lane, seconds, chunks = waiting[turn]
        chunk = next(chunks, None)
        if chunk is not None:
            lane.framer.feed(chunk)
        else:
            engine.finish(lane, seconds)
            waiting.pop(turn)
        for _ in range(rng.integers(3)):
            engine.step()
    engine.pump()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Only the first `size` bytes of any file fit. Not a fixture: when a test ends, its report must find room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_means_are_written(run: Path) -> None:
    """The model of a training run is the mean of its weights, not the last ones."""
    state = load_tensors(next(run.glob("state-*.safetensors")))
    written = registry.load_model(run / "model", dtype=torch.float32)[0].state_dict()
    names = {name.removeprefix("weight.").removeprefix("model."): name for name in state if name.startswith("weight.")}
    names = {name: old for name, old in names.items() if name in written}  # heads that help to learn are dropped
    assert len(names) > 10
    means = {name: state[old.replace("weight.", "mean.", 1)] for name, old in names.items()}
    for name, mean in means.items():
        torch.testing.assert_close(written[name], mean, rtol=8e-3, atol=1e-6, msg=name)  # written in bfloat16 by some
    assert any(not torch.allclose(mean, state[names[name]], rtol=8e-3, atol=1e-6) for name, mean in means.items())
