"""Training Voxtral Realtime: what it is fed, that it learns, and that what it writes is a checkpoint like any other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import earful
from earful.audio.io import write_wav
from earful.errors import CheckpointError
from earful.models.voxtral.config import SpecialIds
from earful.models.voxtral.model import VoxtralRealtime
from earful.testing import write_tiny
from earful.text.bpe import tiny_tekken
from earful.text.tekken import Tekken
from earful.train.objectives import IGNORED, VoxtralObjective
from earful.train.packing import Example
from earful.train.run import Run, draw_curves, preset, starting_model, train_run
from earful.train.voxtral import MISREAD, features, initialise, misread

RATE_HZ = 16_000
TONES = {"low": 300.0, "high": 1800.0}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two words that anyone can tell apart: a low tone and a high one."""
    folder = tmp_path / "tones"
    folder.mkdir()
    rows, audio, at = [], [], 0.0
    rng = np.random.default_rng(0)
    for _ in range(12):
        words, parts = [], [np.zeros(4000)]
        for word in rng.choice(list(TONES), 2):
            start = sum(map(len, parts)) / RATE_HZ
            parts += [0.4 * np.sin(2 * np.pi * TONES[word] * np.arange(4800) / RATE_HZ), np.zeros(3200)]
            words.append([str(word), start, start + 0.3])
        samples = np.concatenate(parts)
        row = {"audio": "a.wav", "start": at, "duration": len(samples) / RATE_HZ}
        rows.append(row | {"text": " ".join(w for w, *_ in words), "words": words})
        audio.append(samples)
        at += len(samples) / RATE_HZ
    write_wav(folder / "a.wav", np.concatenate(audio).astype(np.float32), RATE_HZ)
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_features_line_up_with_what_a_stream_hears(tmp_path: Path) -> None:
    """The mel frames of training are those of the live session: silent slots, then the audio."""
    model = earful.load(write_tiny("voxtral", layout="mistral", path=tmp_path))
    config = model._live.config
    samples = np.random.default_rng(0).standard_normal(10 * config.slot_samples).astype(np.float32) * 0.1
    slots = config.audio.left_slots + 10
    tokens = np.zeros(slots, np.int64)
    example = Example(samples, tokens, tokens, 2, np.zeros(slots * config.downsample, np.int64), tokens)
    made = features(config, example)
    assert made["mel"].shape == (config.audio.bins, slots * config.mels_per_slot)
    silent = config.audio.left_slots * config.mels_per_slot
    heard = earful.audio.mel.log_mel(
        torch.from_numpy(np.pad(samples, (config.audio.window // 2, config.audio.window)))[None],
        *(RATE_HZ, config.audio.hop, config.audio.window, config.audio.bins, config.audio.log_max),
        center=False,
    )[0]
    inner = slice(0, 10 * config.mels_per_slot)
    assert torch.allclose(made["mel"][:, silent:][:, inner], heard[:, inner], atol=1e-6)


def test_misread_pieces_are_others_of_the_example_and_nothing_else_changes() -> None:
    ids = SpecialIds(bos=1, eos=2, blank=3, word=4, filler=5)
    tokens = np.tile(np.array([1, 3, 3, 4, 20, 21, 3, 4, 22]), 1000)
    changed = misread(np.random.default_rng(0), tokens, ids)
    pieces = tokens >= 20
    assert np.array_equal(changed[~pieces], tokens[~pieces])
    assert set(changed[pieces]) == {20, 21, 22}
    share = (changed != tokens)[pieces].mean()
    assert 0.85 * MISREAD * 2 / 3 < share < 1.15 * MISREAD * 2 / 3  # one in three is drawn again as it was
    blanks = np.full(9, 3)
    assert np.array_equal(misread(np.random.default_rng(0), blanks, ids), blanks)


def test_ignored_labels_cost_nothing(tmp_path: Path) -> None:
    tekken = tiny_tekken(320, 512, 80, 2, 12)
    small = preset("builtin-en", tekken)
    small = replace(small, encoder=replace(small.encoder, layers=1), decoder=replace(small.decoder, layers=1))
    model = VoxtralRealtime(small)
    initialise(model, 0)
    objective = VoxtralObjective(model, 5)
    batch = {
        "mel": torch.randn(2, 80, 40),
        "tokens": torch.zeros(2, 10, dtype=torch.int64),
        "delay": torch.tensor([1, 2]),
    }
    labels = torch.full((2, 10), IGNORED)
    labels[:, 5] = 3
    phonemes = torch.full((2, 20), IGNORED)
    phonemes[:, 7] = 1
    loss, parts = objective(**batch, labels=labels, phonemes=phonemes, early=labels, auxiliary_weight=1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert parts["text"] > 0
    # Position 6 and later are never asked about, and nothing looks back from them.
    later = batch | {"tokens": batch["tokens"].clone()}
    later["tokens"][:, 6:] = 9
    assert torch.equal(
        objective(**later, labels=labels, phonemes=phonemes, early=labels, auxiliary_weight=1.0)[0], loss
    )


def test_a_model_trained_on_two_words_tells_them_apart(tmp_path: Path, manifest: Path) -> None:
    """From a random tiny checkpoint to right text, offline and streamed, through the folder that training writes."""
    start = write_tiny(
        "voxtral",
        layout="mistral",
        path=tmp_path / "start",
        encoder={"dim": 48, "window": 40},
        decoder={"dim": 48, "window": 40},
    )
    run = Run(
        str(start), [manifest], tmp_path / "run", steps=150, batch=8, seconds=3.2, delays={3: 1.0}, dtype=torch.float32,
        matrix_rate=0.02, other_rate=5e-3, workers=0,
    )  # fmt: skip
    folder = train_run(run)
    model = earful.load(folder, dtype="float32")
    samples = earful.audio.io.read_audio(manifest.parent / "a.wav", RATE_HZ)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    right = 0
    for row in rows:
        begin = round(row["start"] * RATE_HZ)
        one = samples[begin : begin + round(row["duration"] * RATE_HZ)]
        transcript = model.transcribe(one, delay_s=0.24)
        right += transcript.text == row["text"]
        with model.stream(delay_s=0.24) as stream:
            events = [e for chunk in np.array_split(one, 7) for e in stream.feed(chunk)] + stream.finish()
        assert "".join(e.text for e in events if isinstance(e, earful.Text)) == transcript.text
    assert right >= 10
    draw_curves(tmp_path / "run", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_preset_needs_a_tokenizer_that_fits(tmp_path: Path) -> None:
    run = Run("builtin-en", [], tmp_path, steps=1)
    with pytest.raises(
        CheckpointError, match="expected a tokenizer file to train builtin-en from nothing with, got none"
    ):
        starting_model(run)
    tiny_tekken(160, 400, 128, 32, 6).save(tmp_path / "tekken.json")
    with pytest.raises(CheckpointError, match="expected 128 mel bins"):
        starting_model(replace(run, tokenizer=tmp_path / "tekken.json"))


def test_the_builtin_preset_is_the_builtin_model() -> None:
    folder = Path(earful.__file__).parent / "builtin"
    loaded = earful.load()
    assert loaded._live.config == preset("builtin-en", Tekken.from_file(folder / "tekken.json"))
