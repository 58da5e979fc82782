"""Training a codec: what it is fed, that gradients reach all of it, that it learns, resumes and can be loaded."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import earful
from earful.api import CodecModel
from earful.audio.io import read_audio
from earful.errors import CheckpointError
from earful.models.mimi.model import Mimi
from earful.testing import tiny_mimi, write_tiny
from earful.train import mimi
from earful.train.data import Corpus, Utterance, build_cache
from earful.train.loop import Schedule
from earful.train.mimi import Crops, MimiRun, initialise, starting_codec, train_mimi
from earful.train.mixing import Mixer
from earful.train.objectives import IGNORED, MimiObjective, mel_distance
from earful.train.targets import SILENCE, SOUND_IDS

WEIGHTS = {"mel_weight": 1.0, "sound_weight": 1.0}


def fresh() -> Mimi:
    config = tiny_mimi(None)[0].config  # type: ignore[arg-type]
    model = Mimi(config)
    initialise(model, 0)
    return model.train()


def batch(model: Mimi, frames: int = 4) -> dict[str, object]:
    generator = torch.Generator().manual_seed(1)
    samples = torch.randn(2, 1, frames * model.config.frame_samples, generator=generator) * 0.1
    kept = torch.full((2,), model.config.codebooks)
    return {"samples": samples, "kept": kept, "sounds": torch.ones(2, frames * 2, dtype=torch.int64), "chance": 0}


def test_gradients_reach_every_weight_and_codebooks_move_without() -> None:
    model = fresh()
    objective = MimiObjective(model)
    for name, weight in model.named_parameters():  # what begins as zero would hide what stands behind it
        if name.endswith(("attn.o.weight", "mlp.down.weight")):
            torch.nn.init.normal_(weight, std=0.1)
    loss, parts = objective(**batch(model), **WEIGHTS)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(part) for part in parts.values())
    silent = [name for name, weight in objective.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    objective(**batch(model), **WEIGHTS)
    assert all(not torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    objective.eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    objective(**batch(model), **WEIGHTS)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_in_bfloat16_the_loss_is_nearly_that_of_float32() -> None:
    (exact, _), (rounded, _) = (
        MimiObjective(fresh(), dtype)(**batch(fresh()), **WEIGHTS) for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.dtype == rounded.dtype == torch.float32
    assert exact != rounded
    torch.testing.assert_close(exact, rounded, rtol=0.02, atol=0)


def test_the_objective_hears_what_the_codec_decodes() -> None:
    model = fresh()
    objective = MimiObjective(model)
    objective(**batch(model), **WEIGHTS)
    objective.eval()
    given = batch(model)
    _, parts = objective(**given, **WEIGHTS)
    again = model.decode(model.encode(given["samples"]))
    wave = (again - given["samples"]).abs().mean() / given["samples"].abs().mean()
    torch.testing.assert_close(parts["wave"], wave)
    distance = mel_distance(given["samples"][:, 0], again[:, 0], model.config.rate_hz)
    torch.testing.assert_close(parts["mel"], distance)


def test_what_is_not_decoded_is_heard_all_the_same() -> None:
    model = fresh()
    objective = MimiObjective(model)
    objective(**batch(model), **WEIGHTS)  # codebooks begin
    objective.eval()
    everything = batch(model)
    first = {name: value[:1] if isinstance(value, torch.Tensor) else value for name, value in everything.items()}
    with torch.no_grad():
        _, whole = objective(**everything, **WEIGHTS)
        _, part = objective(**everything, **WEIGHTS, decoded=1)
        _, alone = objective(**first, **WEIGHTS)
    for name in ("wave", "mel"):
        torch.testing.assert_close(part[name], alone[name])
        assert part[name] != whole[name]
    for name in ("sound", "commitment"):
        torch.testing.assert_close(part[name], whole[name])


def test_without_names_of_sounds_there_is_no_loss_on_them() -> None:
    model = fresh()
    given = batch(model) | {"sounds": torch.full((2, 8), IGNORED)}
    loss, parts = MimiObjective(model)(**given, **WEIGHTS)
    assert parts["sound"] == 0
    loss.backward()


def test_mel_distance_is_zero_for_the_same_and_grows_with_the_level() -> None:
    x = torch.randn(2, 4800) * 0.1
    assert mel_distance(x, x, 4800) == 0
    louder = mel_distance(x, 2 * x, 4800).item()
    assert louder == pytest.approx(np.log(2), abs=0.02)
    silence = torch.zeros_like(x).requires_grad_()
    mel_distance(x, silence, 4800).backward()
    assert silence.grad is not None
    assert torch.isfinite(silence.grad).all()


class Ramp:
    """One utterance of 2 s whose samples tell when they are; its only sound lasts from 0.5 s to 1.5 s."""

    rate_hz = 4800

    def __init__(self) -> None:
        words = (("t", 0.5, 1.5),)
        self.utterances = [Utterance(Path("a"), 0.0, 2.0, "t", words, phonemes="t", frames=(20, 40, 20), source="one")]

    def samples(self, number: int) -> np.ndarray:
        return (np.arange(1, 9601) / 9600).astype(np.float32)


def test_crops_and_the_names_of_their_sounds_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mimi, "degrade", lambda rng, samples, rate_hz, babble, clean: samples)
    config = fresh().config
    crops = Crops(Mixer(Ramp()), config, 1.28, 1.0)  # type: ignore[arg-type]
    outside, counts = 0, set()
    for index in range(60):
        made = crops.example(3, index)
        samples, sounds = made["samples"][0].numpy(), made["sounds"].tolist()
        assert samples.shape == (16 * 384,)
        assert len(sounds) == 32
        inside = np.flatnonzero(samples)
        first_s = (round(samples[inside[0]] * 9600) - 1 - inside[0]) / 4800  # of the crop, in the utterance's time
        outside += first_s < 0 or first_s + 1.28 > 2
        for step, sound in enumerate(sounds):
            middle_s = first_s + (step + 0.5 - mimi.SOUND_LATENCY) * 0.04
            if min(abs(middle_s - 0.5), abs(middle_s - 1.5)) > 1e-6:
                assert sound == (SOUND_IDS["t"] if 0.5 < middle_s < 1.5 else SILENCE)
        counts.add(int(made["kept"]))
    assert outside > 5
    assert counts == set(range(1, 7))
    again = crops.example(3, 7)
    assert all(torch.equal(value, again[name]) for name, value in crops.example(3, 7).items())


def small(tones: Path, tmp_path: Path, **changes: object) -> MimiRun:
    start = tmp_path / "start"
    if not start.exists():
        write_tiny("mimi", path=start)
    run = MimiRun(str(start), [tones], tmp_path / "run", steps=6, batch=2, seconds=0.64, audio=tmp_path / "audio")
    return replace(run, workers=0, **changes)  # type: ignore[arg-type]


def test_it_learns_and_its_folder_is_a_codec_like_any_other(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mimi.PRESETS, "mimi-small", fresh().config)
    rows: list[dict[str, float]] = []
    run = small(tones, tmp_path, start="mimi-small", steps=60, batch=4, clean=1.0, other_rate=3e-3)
    folder = train_mimi(run, rows.append)
    assert rows[-1]["mel"] < 0.85 * rows[0]["mel"]
    codec = earful.load(folder)
    assert isinstance(codec, CodecModel)
    samples = read_audio(tones.parent / "a.wav", codec.rate_hz)[: 20 * codec.frame_samples]
    codes = codec.encode(samples)
    assert len(np.unique(codes)) > 3
    assert codec.decode(codes).shape == samples.shape


def test_a_resumed_run_equals_an_uninterrupted_one(tones: Path, tmp_path: Path) -> None:
    """To the bit, codebooks that are dead and put elsewhere included."""
    train_mimi(small(tones, tmp_path, folder=tmp_path / "whole"))

    def stop(row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    part = small(tones, tmp_path, folder=tmp_path / "part")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mimi, "Schedule", partial(Schedule, log_every=3))
        with pytest.raises(KeyboardInterrupt):
            train_mimi(part, stop)
    train_mimi(part)
    one, other = (earful.load(tmp_path / name / "model").model.state_dict() for name in ("whole", "part"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_start_that_is_no_codec_is_refused(tmp_path: Path) -> None:
    other = write_tiny("kyutai_stt", path=tmp_path / "stt")
    with pytest.raises(CheckpointError, match="expected a Mimi codec, got KyutaiStt"):
        starting_codec(str(other), 0)


def test_a_random_codec_hears_speech_and_not_its_own_biases() -> None:
    model = starting_codec("mimi-small", 0)
    generator = torch.Generator().manual_seed(2)
    samples = 0.1 * torch.randn(2, 1, 10 * model.config.frame_samples, generator=generator)
    with torch.no_grad():
        latents = model.latents(samples)  # [B, D, T]
        answer = model.decoder(model.upsample(latents))
    assert 0.3 < latents.std() < 3
    assert latents.std(dim=(0, 2)).mean() > 0.5 * latents.std()  # what stays the same says nothing
    assert 0.03 < answer.std() < 0.3


def test_the_small_preset_is_one_that_both_layouts_can_say(tmp_path: Path) -> None:
    model = starting_codec("mimi-small", 0)
    assert 1e6 < sum(weight.numel() for weight in model.parameters()) < 4e6
    for layout in ("hf", "kyutai"):
        earful.registry.save_model(model, tmp_path / layout, layout)
        loaded = earful.load(tmp_path / layout)
        assert loaded.model.config == model.config  # type: ignore[union-attr]
        assert loaded.rate_hz == 24_000
        assert loaded.frame_samples == 1920


def test_audio_is_decoded_once_for_several_runs(tones: Path, tmp_path: Path) -> None:
    build_cache([tones], tmp_path / "audio", 4800)
    before = (tmp_path / "audio" / "index.json").stat().st_mtime_ns
    train_mimi(small(tones, tmp_path, steps=1))
    assert (tmp_path / "audio" / "index.json").stat().st_mtime_ns == before
    assert not (tmp_path / "run" / "audio").exists()
    assert len(Corpus(tmp_path / "audio")) == 12
