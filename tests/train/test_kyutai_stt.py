"""Training Kyutai Speech-To-Text: that gradients flow, labels are what they say, and that what it learns is written."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import earful
from earful.api import SpeechModel
from earful.errors import CheckpointError
from earful.models.kyutai_stt.model import KyutaiStt
from earful.testing import tiny_kyutai_stt, write_tiny
from earful.train import kyutai_stt
from earful.train.codes import Recipe, Version
from earful.train.data import Corpus
from earful.train.kyutai_stt import (
    UNKNOWN,
    Examples,
    KyutaiSttRun,
    example_frames,
    initialise,
    pauses,
    preset,
    train_kyutai_stt,
)
from earful.train.loop import Schedule
from earful.train.mimi import PRESETS as CODECS
from earful.train.mixing import Mixer
from earful.train.objectives import IGNORED, KyutaiSttObjective
from earful.train.targets import LABELS

FRAMES = 45


@pytest.fixture
def model(tmp_path: Path) -> KyutaiStt:
    return tiny_kyutai_stt(tmp_path)[0].train()  # type: ignore[return-value]


def batch(model: KyutaiStt, frames: int = FRAMES) -> dict[str, torch.Tensor]:
    c, generator = model.config.temporal, torch.Generator().manual_seed(2)
    text = torch.randint(0, c.text_vocab, (2, frames), generator=generator)
    codes = torch.randint(0, c.audio_vocab, (2, c.codebooks, frames), generator=generator)
    return {"text": text, "codes": codes, "labels": text.clone()}


def test_gradients_reach_the_language_model_and_nothing_else(model: KyutaiStt) -> None:
    assert model.config.temporal.window < FRAMES  # as sequences of training are
    objective = KyutaiSttObjective(model)
    loss, _ = objective(**batch(model))
    loss.backward()
    silent = [n for n, weight in objective.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []
    assert all(weight.grad is None for weight in model.codec.parameters())
    objective.to(torch.bfloat16)
    assert {weight.dtype for weight in model.temporal.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.codec.parameters()} == {torch.float32}


def test_the_lower_half_of_the_layers_learns_the_names_of_sounds(model: KyutaiStt) -> None:
    objective = KyutaiSttObjective(model, with_sounds=True)
    sounds = torch.randint(0, LABELS, (2, 2 * FRAMES), generator=torch.Generator().manual_seed(3))
    sounds[0, ::7] = IGNORED
    text, _ = objective(**batch(model))
    both, parts = objective(**batch(model), sounds=sounds, sound_weight=0.7)
    torch.testing.assert_close(both - text, 0.7 * parts["sound"])
    (both - text).backward()
    touched = {
        n for n, weight in objective.named_parameters() if weight.grad is not None and weight.grad.abs().max() > 1e-7
    }
    last = len(model.temporal.layers) - 1
    assert {"sound_head.weight", "temporal.layers.0.attn.q.weight", "temporal.audio_embeds.0.weight"} <= touched
    assert not any(name.startswith((f"temporal.layers.{last}.", "temporal.text_head")) for name in touched)
    nothing, _ = objective(**batch(model), sounds=torch.full_like(sounds, IGNORED), sound_weight=0.7)
    assert torch.equal(nothing, text)


def test_the_loss_is_that_of_the_text_weighted_by_hand(model: KyutaiStt) -> None:
    given = batch(model)
    given["labels"][0, :5] = IGNORED
    given["labels"][1, ::3] = model.config.pad_id
    given["labels"][1, 1::3] = model.config.word_id
    for pad_weight in (0.5, 1.0, 0.0):
        loss, _ = KyutaiSttObjective(model, pad_weight)(**given)
        with torch.no_grad():
            chances = model(given["text"], given["codes"]).log_softmax(-1)
        total = weights = 0.0
        for row in range(2):
            for place, label in enumerate(given["labels"][row].tolist()):
                if label != IGNORED:
                    weight = pad_weight if label in (model.config.pad_id, model.config.word_id) else 1.0
                    total -= weight * chances[row, place, label].item()
                    weights += weight
        assert loss.item() == pytest.approx(total / weights, rel=1e-5)


def test_labels_that_are_ignored_ask_for_nothing_and_what_is_unknown_is_not_heard(model: KyutaiStt) -> None:
    given = batch(model)
    given["labels"][:, 20:] = IGNORED
    objective = KyutaiSttObjective(model)
    loss, _ = objective(**given)
    later = {name: value.clone() for name, value in given.items()}
    later["text"][:, 19:] = 5  # the id of a position goes in behind it
    later["codes"][..., 19:] = 7
    assert torch.equal(objective(**later)[0], loss)
    # A row that ends early and one that is filled up with what is unknown are the same.
    short = {name: value[..., :20] for name, value in given.items()}
    filled = {name: value.clone() for name, value in given.items()}
    filled["text"][:, 20:], filled["codes"][..., 20:] = UNKNOWN, UNKNOWN
    torch.testing.assert_close(objective(**short)[0], objective(**filled)[0])
    hidden = {name: value.clone() for name, value in given.items()}
    hidden["codes"][:] = UNKNOWN
    with torch.no_grad():
        for table in model.temporal.audio_embeds:
            table.weight[:-1] = 9.0  # all but the start id, which is heard
    quiet = objective(**hidden)[0]
    with torch.no_grad():
        for table in model.temporal.audio_embeds:
            table.weight[:-1] = -4.0
    assert torch.equal(objective(**hidden)[0], quiet)


def test_labels_of_the_documents_class_are_the_text_column(tmp_path: Path, model: KyutaiStt) -> None:
    """Shifted inside, mean over what is not -100: with equal weights the same loss as in training."""
    folder = write_tiny("kyutai_stt", path=tmp_path / "hf")
    documents = earful.KyutaiSpeechToTextForConditionalGeneration.from_pretrained(folder)
    given = batch(model)
    ids = torch.cat([model.inputs(given["text"], given["codes"]), torch.zeros(2, 1 + 6, 1, dtype=torch.int64)], dim=-1)
    ids[:, 0, -1] = given["text"][:, -1]  # the last id is only a label
    ids[:, 1:, -1] = given["codes"][..., -1]
    labels = ids[:, 0].clone()
    labels[0, 9:14] = -100
    expected = given["labels"].clone()
    expected[0, 8:13] = IGNORED
    ours, _ = KyutaiSttObjective(documents.core, pad_weight=1.0)(given["text"], given["codes"], expected)
    theirs = documents(input_ids=ids.transpose(1, 2), labels=labels).loss
    # Theirs has one logit more, the start id's, which is 0.
    logits = documents.core(given["text"], given["codes"])
    more = (torch.logaddexp(logits.logsumexp(-1), torch.zeros(2, FRAMES)) - logits.logsumexp(-1))[expected != IGNORED]
    torch.testing.assert_close(theirs, ours + more.mean(), atol=1e-4, rtol=1e-4)


def test_a_preset_begins_with_the_codecs_vectors(model: KyutaiStt) -> None:
    """Two frames whose codes stand for nearby vectors begin nearby: embeddings are a projection of them."""
    codec = model.codec
    fresh = KyutaiStt(model.config)
    fresh.codec.load_state_dict(codec.state_dict())
    initialise(fresh, 0)
    codes = torch.randint(0, 32, (1, 6, 40))
    heard = fresh.temporal.embed(torch.cat([torch.full((1, 1, 40), -1), codes], dim=1))[0]  # [T, D]
    stood_for = codec.quantizer.decode(codes)[0]
    solution = torch.linalg.lstsq(stood_for, heard).solution
    torch.testing.assert_close(stood_for @ solution, heard, atol=1e-3, rtol=1e-3)
    assert 0.1 < heard.square().mean().sqrt() < 1
    text = torch.zeros(1, 40, dtype=torch.int64)
    loss, _ = KyutaiSttObjective(fresh)(text, codes, text)
    assert loss.item() == pytest.approx(np.log(model.config.temporal.text_vocab), abs=0.3)


def test_the_small_preset_has_the_size_that_it_says() -> None:
    config = preset("kyutai-small", CODECS["mimi-small"], 1000, 1.2)
    with torch.device("meta"):
        count = sum(weight.numel() for weight in KyutaiStt(config).temporal.parameters())
    assert 4e6 < count < 10e6
    assert example_frames(None, config) > config.temporal.window
    assert example_frames(20.0, config) == 250


def run_of(tones: Path, tmp_path: Path, layout: str = "kyutai", **changes: object) -> KyutaiSttRun:
    start = tmp_path / f"start-{layout}"
    if not start.exists():
        write_tiny("kyutai_stt", layout, path=start)
    run = KyutaiSttRun(str(start), [tones], tmp_path / "run", steps=4, batch=2, seconds=2.4, versions=1)
    shared = {"audio": tmp_path / "audio", "codes": tmp_path / "codes", "workers": 0, "clean": 1.0, "hidden": 0.0}
    return replace(run, dtype=torch.float32, **{**shared, **changes})  # type: ignore[arg-type]


def speech_model(folder: Path) -> SpeechModel:
    loaded = earful.load(folder)
    assert isinstance(loaded, SpeechModel)
    return loaded


def test_it_overfits_and_then_transcribes_through_every_door(tones: Path, tmp_path: Path) -> None:
    """Two utterances in several arrangements: words and, within a frame, times; whole, streamed and generated."""
    rows = tones.read_text().splitlines()
    chosen = {json.loads(row)["text"]: row for row in rows}
    short = tones.with_name("two.jsonl")
    short.write_text("\n".join([chosen["high low"], chosen["low high"]]) + "\n")
    run = run_of(tones, tmp_path, "hf", manifests=[short], steps=90, batch=6, versions=4, seconds=2.8, other_rate=5e-3)
    folder = train_kyutai_stt(run)
    model, documents = speech_model(folder), earful.KyutaiSpeechToTextForConditionalGeneration.from_pretrained(folder)
    processor = earful.KyutaiSpeechToTextProcessor.from_pretrained(folder)
    delay_s = 0.4
    made = [
        Version(Mixer(Corpus(tmp_path / "audio")), Recipe(35, 6, 0.0, delay_s + 1, 1.0, 0), 35 * 384, version)
        for version in range(4)
    ]
    said = 0
    for version in made:
        audio, words = version.audio(0), version.words(0)
        transcript = model.transcribe(audio)
        assert transcript.text == " ".join(word for word, *_ in words)
        assert [word.text for word in transcript.words] == [word for word, *_ in words]
        for word, (_, start_s, _) in zip(transcript.words, words, strict=True):
            assert start_s - 0.08 - 1e-6 <= word.start_s <= start_s + 1e-6
        with model.stream() as stream:
            events = [e for chunk in np.array_split(audio, 7) for e in stream.feed(chunk)] + stream.finish()
        assert "".join(e.text for e in events if isinstance(e, earful.Text)) == transcript.text
        ids = documents.generate(**processor(audio))
        assert processor.batch_decode(ids, skip_special_tokens=True) == [transcript.text]
        said += len(words)
    assert said >= 4


def test_a_resumed_run_equals_an_uninterrupted_one(tones: Path, tmp_path: Path) -> None:
    train_kyutai_stt(run_of(tones, tmp_path, folder=tmp_path / "whole"))

    def stop(row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    part = run_of(tones, tmp_path, folder=tmp_path / "part")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kyutai_stt, "Schedule", partial(Schedule, log_every=2))
        with pytest.raises(KeyboardInterrupt):
            train_kyutai_stt(part, stop)
    train_kyutai_stt(part)
    one, other = (earful.load(tmp_path / n / "model")._live.model for n in ("whole", "part"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_examples_are_hidden_in_part_and_repeat_by_their_number(tones: Path, tmp_path: Path) -> None:
    train_kyutai_stt(run_of(tones, tmp_path, steps=1))
    codes = earful.train.codes.Codes(tmp_path / "codes")
    config = speech_model(tmp_path / "run" / "model")._live.config
    for hidden in (0.0, 0.3):
        examples = Examples(codes, config, lambda word: [100 + ord(c) for c in word], hidden)
        made = [examples.example(5, index) for index in range(80)]
        again = examples.example(5, 11)
        assert all(torch.equal(value, made[11][name]) for name, value in again.items())
        unheard = np.array([(one["codes"][0] == UNKNOWN).double().mean() for one in made])
        assert unheard.mean() == pytest.approx(hidden * 0.87, abs=0.06 if hidden else 0)  # gaps may lie over each other
        unread = np.array([(one["text"] == UNKNOWN).double().mean() for one in made])
        assert unread.mean() == pytest.approx(hidden, abs=0.03 if hidden else 0)
        for one in made:
            read = one["text"] != UNKNOWN
            assert torch.equal(one["text"][read], one["labels"][read])
            assert (one["labels"] != UNKNOWN).all()
        coarse = [bool((one["codes"][-1] == UNKNOWN).all()) for one in made]
        assert np.mean(coarse) == pytest.approx(0.5 if hidden else 0, abs=0.2 if hidden else 0)
        assert not any((one["codes"][: config.codec.semantic_codebooks] == UNKNOWN).all() for one in made)


def test_examples_are_put_together_between_words(tones: Path, tmp_path: Path) -> None:
    """Their codes and words are those of the cache, moved together, and most have parts of several examples."""
    train_kyutai_stt(run_of(tones, tmp_path, steps=1, seconds=9.6, versions=2))
    codes = earful.train.codes.Codes(tmp_path / "codes")
    config = speech_model(tmp_path / "run" / "model")._live.config
    frame_s = config.codec.frame_s
    known: dict[str, dict[bytes, int]] = {"low": {}, "high": {}}  # codes under a word of the cache: their frames
    for number in range(len(codes)):
        for word, start_s, end_s in codes.words(number):
            frames = codes.codes(number)[:, round(start_s / frame_s) + 1 : round(end_s / frame_s) - 1]
            known[word][frames.tobytes()] = frames.shape[1]
    examples = Examples(codes, config, lambda word: [100 + len(word)], 0.0)
    said = 0
    for index in range(20):
        together, sounds, words = examples._put_together(np.random.default_rng(index))
        assert len(sounds) == 2 * together.shape[1]
        assert together.shape == codes.codes(0).shape
        assert words == sorted(words, key=lambda word: word[1])
        for word, start_s in words:
            first = round(start_s / frame_s) + 1
            lengths = set(known[word].values())
            pieces = {together[:, first : first + length].tobytes() for length in lengths}
            whole = first + max(lengths) <= together.shape[1]
            said += whole
            assert not whole or pieces & known[word].keys()
    assert said > 20


@pytest.mark.parametrize(
    "words, found",
    [
        ([], []),
        ([("a", 1.0, 1.5)], []),
        ([("a", 0.0, 0.5), ("b", 0.6, 1.0), ("c", 2.0, 2.4)], [15]),
    ],
)
def test_pauses_lie_between_words(words: list[tuple[str, float, float]], found: list[int]) -> None:
    assert pauses(words, 0.1) == found


def test_from_nothing_it_makes_a_vocabulary_and_writes_the_layout_of_the_documents(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"dim": 32, "layers": 1, "heads": 2, "head_dim": 16, "mlp_dim": 40, "window": 20}
    monkeypatch.setitem(kyutai_stt.PRESETS, "kyutai-small", sizes)
    codec = write_tiny("mimi", path=tmp_path / "mimi")
    run = run_of(tones, tmp_path, start="kyutai-small", pieces=280)
    with pytest.raises(CheckpointError, match="expected a codec to train kyutai-small from nothing with, got none"):
        train_kyutai_stt(run)
    folder = train_kyutai_stt(replace(run, codec=codec, delay_s=0.4))
    assert (folder / "tokenizer.json").is_file()
    assert (tmp_path / "run" / "tokenizer.model").is_file()
    config = speech_model(folder)._live.config
    assert config.delay_s == 0.4
    assert 260 < config.temporal.text_vocab <= 280
    with pytest.raises(CheckpointError, match="expected a Mimi codec, got KyutaiStt"):
        train_kyutai_stt(replace(run, codec=folder))
