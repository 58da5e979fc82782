"""Training Moshi: the loss is Kyutai's, and what it learns it says again while it is spoken to."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import earful
from earful import registry
from earful.api import CodecModel
from earful.audio.io import open_stereo
from earful.audio.wav import writing_wav
from earful.errors import CheckpointError
from earful.events import Audio, Text
from earful.models.moshi.stream import Chance
from earful.testing import tiny_moshi, write_tiny
from earful.train import moshi
from earful.train.dialogues import UNKNOWN, Pieces
from earful.train.loop import Schedule
from earful.train.moshi import Examples, MoshiRun, recompute, train_moshi
from earful.train.objectives import MoshiObjective
from tests.helpers import assert_means_are_written, spoken_like

RATE_HZ, FRAME = 4_800, 384  # of the tiny codec
FRAMES = 25
WORDS = [["one", [0.2, 0.4], "SPEAKER_MAIN"], ["dog", [1.1, 1.3], "SPEAKER_MAIN"], ["hello", [0.6, 0.8], "SPEAKER_01"]]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of one exchange of two seconds: left a voice, right a user."""
    folder = tmp_path_factory.mktemp("talk")
    rng = np.random.default_rng(0)
    sides = np.stack([spoken_like(rng, FRAMES * FRAME) for _ in range(2)])
    with writing_wav(folder / "a.wav", RATE_HZ, channels=2) as write:
        write(sides)
    (folder / "a.json").write_text(json.dumps({"alignments": WORDS}))
    manifest = folder / "data.jsonl"
    manifest.write_text(json.dumps({"path": "a.wav", "duration": FRAMES * FRAME / RATE_HZ}) + "\n")
    return manifest


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny("moshi", "kyutai", path=tmp_path_factory.mktemp("start"))


def run_of(talk: Path, start: Path, folder: Path, **changes: object) -> MoshiRun:
    run = MoshiRun(str(start), [talk], folder, steps=4, batch=2, seconds=FRAMES * 0.08, workers=0)
    return replace(run, **{"dtype": torch.float32, "other_rate": 3e-3, **changes})  # type: ignore[arg-type]


def test_a_memorised_exchange_is_had_again_live(talk: Path, start: Path, tmp_path: Path) -> None:
    losses = []
    run = run_of(talk, start, tmp_path / "run", steps=50, batch=1, other_rate=1e-2, checkpointing=True)
    folder = train_moshi(run, lambda row: losses.append(row["loss"]))
    assert losses[-1] < 0.05 < 1 < losses[0]
    model = earful.load(folder)
    left, right = np.concatenate(list(open_stereo(talk.with_name("a.wav"), RATE_HZ)), axis=1)
    with model.stream(chance=Chance(temperature=0, text_temperature=0)) as session:
        events = [event for part in np.array_split(right, 7) for event in session.feed(part)] + session.finish()
    assert "".join(event.text for event in events if isinstance(event, Text)) == "one dog"
    said = np.concatenate([event.samples for event in events if isinstance(event, Audio)])
    codec = CodecModel("mimi", model._live.model.codec)
    learned = codec.decode(codec.encode(left, model._live.config.own))
    assert len(said) == len(right)
    np.testing.assert_allclose(said[:-FRAME], learned[:-FRAME], atol=1e-4)  # the last frame was not whole in training


def batch(config: object, frames: int = 24) -> torch.Tensor:
    """Random ids of two conversations, in the second of which something is unknown."""
    c, generator = config.temporal, torch.Generator().manual_seed(3)  # type: ignore[attr-defined]
    text = torch.randint(0, 6, (2, 1, frames), generator=generator)  # both kinds of silence among them
    ids = torch.cat([text, torch.randint(0, c.audio_vocab, (2, c.codebooks, frames), generator=generator)], dim=1)
    ids[1, 0, 5:8] = UNKNOWN
    ids[1, 1:, 20:] = UNKNOWN
    return ids


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_kyutais(seed: int) -> None:
    """Their network's logits and masks, and what moshi-finetune makes of them."""
    from tests.models.moshi.models import as_moshi, random_model

    model = random_model(seed)
    ids = batch(model.config)
    ours, parts = MoshiObjective(model, pad_weight=0.5, first_weight=100.0)(ids)
    theirs = as_moshi(model).forward(ids)

    def mean(logits: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        each = torch.nn.functional.cross_entropy(logits[mask], labels[mask], reduction="none")
        return (each * weights[mask]).sum() / weights[mask].sum()

    text, codes = ids[:, :1], ids[:, 1 : 1 + model.config.own]
    silent = (text == model.config.pad_id) | (text == model.config.end_pad_id)
    expected = mean(theirs.text_logits, theirs.text_mask, text, torch.where(silent, 0.5, 1.0))
    weights = torch.ones(codes.shape)
    weights[:, 0] = 100.0
    torch.testing.assert_close(parts["text"], expected.detach(), atol=1e-5, rtol=1e-5)
    expected = expected + mean(theirs.logits, theirs.mask, codes, weights)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)


def test_gradients_reach_both_transformers_and_are_the_same_with_less_memory(tmp_path: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_moshi(tmp_path)[0].train()
        objective = MoshiObjective(model)  # type: ignore[arg-type]
        if checkpointing:
            recompute([*model.temporal.layers, model.depth])  # type: ignore[misc, list-item]
        loss, _ = objective(batch(model.config))
        loss.backward()
        assert all(weight.grad is None for weight in model.codec.parameters())  # type: ignore[union-attr]
        gradients.append({name: weight.grad for name, weight in objective.named_parameters()})
    plain, recomputed = gradients
    silent = {name for name, gradient in plain.items() if gradient is None or not gradient.any()}
    assert silent <= {f"depth.layers.{i}.attn.0.q.weight" for i in range(2)}  # the first code sees itself alone
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


def test_a_resumed_run_equals_an_uninterrupted_one(talk: Path, start: Path, tmp_path: Path) -> None:
    train_moshi(run_of(talk, start, tmp_path / "whole", average=2))
    assert_means_are_written(tmp_path / "whole")

    def stop(row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    part = run_of(talk, start, tmp_path / "part", average=2, codes=tmp_path / "whole" / "codes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moshi, "Schedule", partial(Schedule, log_every=2))
        with pytest.raises(KeyboardInterrupt):
            train_moshi(part, stop)
    train_moshi(part)
    one, other = (earful.load(tmp_path / name / "model")._live.model for name in ("whole", "part"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_low_rank_changes_in_a_file_of_their_own_are_those_that_are_merged(
    talk: Path, start: Path, tmp_path: Path
) -> None:
    merged = train_moshi(run_of(talk, start, tmp_path / "merged", lora=2, first_weight=100.0))
    apart = train_moshi(run_of(talk, start, tmp_path / "apart", lora=2, first_weight=100.0, merge=False))
    assert (apart / "lora.safetensors").is_file()
    models = [registry.load_model(folder)[0].state_dict() for folder in (start, merged, apart)]
    changed = {name for name, weight in models[0].items() if not torch.equal(weight, models[1][name])}
    depth, temporal = ({name for name in changed if name.startswith(part)} for part in ("depth.", "temporal."))
    assert changed == depth | temporal
    assert len(temporal) == 2 * 7
    assert len(depth) == 2 * (3 * 7 - 1)  # the first code sees itself alone, whatever it asks for
    for name, weight in models[1].items():
        torch.testing.assert_close(models[2][name], weight, atol=1e-6, rtol=1e-5, msg=name)


def test_text_stands_beside_the_frames(talk: Path, start: Path, tmp_path: Path) -> None:
    run = run_of(talk, start, tmp_path / "run", seconds=15 * 0.08, steps=1)
    train_moshi(run)
    config, (codes,) = tiny_moshi(tmp_path)[0].config, (tmp_path / "run" / "codes").glob("*.npy")
    pieces = Pieces(moshi.read_dialogues(talk), [codes], 0.08)
    examples = Examples(pieces, config, lambda word: [100 + len(word)] * 2)  # type: ignore[arg-type]
    assert examples.ids(0)[0].tolist() == [3, 0, 103, 103, *[3] * 8, 0, 103, 103]
    assert examples.ids(1)[0].tolist() == [*[3] * 10, *[-1] * 5]  # a word that began before is left out
    assert (examples.ids(1)[1:, 10:] == -1).all()
    assert (examples.ids(1)[:, :10] >= 0).all()
    assert torch.equal(examples.example(5, 7)["ids"], examples.example(5, 7)["ids"])
    drawn = [examples.example(5, index)["ids"][0, -1].item() for index in range(40)]
    assert set(drawn) == {-1, 103}
    with pytest.raises(ValueError, match=r"expected shares of \['talk.*'\], got shares of \['other'\]"):
        Examples(pieces, config, list, {"other": 1.0})  # type: ignore[arg-type]


def test_what_cannot_be_trained(talk: Path, tmp_path: Path) -> None:
    other = write_tiny("mimi", path=tmp_path / "mimi")
    with pytest.raises(CheckpointError, match="expected a Moshi model, got Mimi"):
        train_moshi(run_of(talk, other, tmp_path / "run"))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ValueError, match="expected manifests with some dialogues, got none"):
        train_moshi(run_of(empty, write_tiny("moshi", path=tmp_path / "hf"), tmp_path / "run"))
