"""Training Speech2Text: what it is fed, that gradients reach all of it, that it learns, resumes and can be loaded."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import earful
from earful import registry
from earful.api import SpeechModel
from earful.errors import CheckpointError
from earful.models.s2t.config import BOS, EOS, LANGUAGES, PAD, START, UNK
from earful.models.s2t.model import Speech2Text
from earful.models.s2t.processor import S2tText
from earful.testing import tiny_s2t, write_tiny
from earful.text.unigram import train_pieces
from earful.train import s2t
from earful.train.data import Corpus, build_cache
from earful.train.loop import Schedule, Trainer
from earful.train.mixing import Mixer
from earful.train.objectives import CTC, IGNORED, S2tObjective
from earful.train.s2t import Examples, Hiding, S2tRun, encoder_steps, initialise, schedule_of, train_s2t

RATE_HZ = 16_000


MakeTones = Callable[[Path, int, int], Path]


def network(tmp_path: Path, **changes: dict[str, object]) -> Speech2Text:
    return tiny_s2t(tmp_path, changes=changes)[0].train()  # type: ignore[return-value]


def batch(model: Speech2Text) -> dict[str, torch.Tensor]:
    """Two utterances, of which the second is shorter in every way."""
    generator, c = torch.Generator().manual_seed(1), model.config
    lengths, written = torch.tensor([64, 41]), [9, 5]
    features = torch.randn(2, 64, c.audio.bins, generator=generator)
    text = torch.randint(4, c.vocab, (2, 9), generator=generator)
    labels = torch.full((2, 9), IGNORED)
    ids = torch.full((2, 9), PAD)
    for row, count in enumerate(written):
        labels[row, :count] = torch.cat([text[row, : count - 1], torch.tensor([EOS])])
        ids[row, :count] = torch.cat([torch.tensor([START]), text[row, : count - 1]])
        features[row, lengths[row] :] = 0
    steps = encoder_steps(64, c)
    sounds = torch.randint(0, 5, (2, steps), generator=generator)
    sounds[1, encoder_steps(41, c) :] = IGNORED
    return {"features": features, "lengths": lengths, "ids": ids, "labels": labels, "sounds": sounds}


@pytest.fixture
def made(tmp_path: Path, make_tones: MakeTones) -> Examples:
    """Of two folders of tones, one of which says it in French."""
    folder = tmp_path
    manifests = [make_tones(folder / name, RATE_HZ, 6) for name in ("en", "fr")]
    rows = manifests[1].read_text().replace('"audio"', '"language": "fr", "audio"')
    manifests[1].write_text(rows.replace("low", "bas"))
    manifests[0].write_text(manifests[0].read_text().replace('"audio"', '"language": "de", "audio"'))
    corpus = build_cache(manifests, folder / "audio", RATE_HZ, processes=1)
    tags = [f"<lang:{language}>" for language in LANGUAGES["mustc"]]
    pieces = train_pieces((u.text for u in corpus.utterances), 40, folder / "tokenizer.model", tags)
    config = network(folder, text={"language_set": "mustc"}).config
    text = S2tText.from_file(folder / "tokenizer.model", config.text)
    assert [text.decode([id]) for id in range(4 + len(tags))] == [""] * (4 + len(tags))  # special, each in its place
    return Examples(Mixer(corpus), replace(config, vocab=pieces.vocab), text, 8.0, 4.0, Hiding(0.5, 0.6, 0.0))


def test_gradients_reach_every_weight(tmp_path: Path) -> None:
    objective = S2tObjective(network(tmp_path))
    loss, parts = objective(**batch(objective.model), auxiliary_weight=1.0)
    loss.backward()
    assert all(torch.isfinite(part) for part in parts.values())
    keys = ("attn.k.bias", "cross.k.bias")  # the same for all that is looked at
    silent = [n for n, w in objective.named_parameters() if not n.endswith(keys) and not w.grad.any()]
    assert silent == []


def test_the_loss_is_that_of_each_utterance_alone(tmp_path: Path) -> None:
    """What stands behind an utterance and its text counts for nothing; parts are means over what is asked."""
    objective = S2tObjective(network(tmp_path), smoothing=0.0)
    given = batch(objective.model)
    loss, parts = objective(**given, auxiliary_weight=0.5)
    assert loss.item() == pytest.approx((parts["text"] + 0.5 * (CTC * parts["ctc"] + parts["sound"])).item(), rel=1e-5)
    changed = {name: value.clone() for name, value in given.items()}
    changed["ids"][1, 5:] = 7
    changed["features"] = F.pad(given["features"], (0, 0, 0, 20))
    more = encoder_steps(84, objective.model.config) - given["sounds"].shape[1]
    changed["sounds"] = F.pad(given["sounds"], (0, more), value=IGNORED)
    torch.testing.assert_close(objective(**changed, auxiliary_weight=0.5)[0], loss)

    text = ctc = 0.0
    for row, (frames, written) in enumerate([(64, 9), (41, 5)]):
        with torch.no_grad():
            logits = objective.model(
                given["features"][row : row + 1, :frames], None, given["ids"][row : row + 1, :written]
            )
            encoded, _ = objective.model.encoder(given["features"][row : row + 1, :frames])
            heard = objective.ctc_head(encoded)[0].log_softmax(-1)
        labels = given["labels"][row, :written]
        text -= logits[0].log_softmax(-1)[range(written), labels].sum().item()
        ctc += _ctc(heard, labels[:-1].tolist()) / (written - 1)
    assert parts["text"].item() == pytest.approx(text / (9 + 5), rel=1e-4)
    assert parts["ctc"].item() == pytest.approx(ctc / 2, rel=1e-4)


def _ctc(log_chances: torch.Tensor, pieces: list[int]) -> float:
    """The negative log-probability that [S, V] spells the pieces, by the forward recursion."""
    states = [BOS] + [id for piece in pieces for id in (piece, BOS)]
    reached = np.full(len(states), -np.inf)
    reached[:2] = [log_chances[0, BOS], log_chances[0, states[1]]]
    for chances in log_chances[1:].tolist():
        before = reached
        reached = np.array([
            chances[state] + np.logaddexp.reduce([
                before[i],
                before[i - 1] if i > 0 else -np.inf,
                before[i - 2] if i > 1 and state not in (BOS, states[i - 2]) else -np.inf,
            ])
            for i, state in enumerate(states)
        ])  # fmt: skip
    return -float(np.logaddexp(reached[-1], reached[-2]))


def test_labels_are_smoothed_over_all_pieces(tmp_path: Path) -> None:
    plain, smooth = (S2tObjective(network(tmp_path), smoothing=smoothing) for smoothing in (0.0, 0.2))
    smooth.load_state_dict(plain.state_dict())
    given = batch(plain.model)
    (plain_loss, _), (loss, parts) = (o(**given, auxiliary_weight=0.0) for o in (plain, smooth))
    with torch.no_grad():
        memory = plain.model.decoder.remember(*plain.model.encoder(given["features"], given["lengths"], alone=True))
        chances = plain.model.decoder.logits(plain.model.decoder(given["ids"], memory)).log_softmax(-1)
    spread = -chances[given["labels"] != IGNORED].mean()
    assert loss.item() == pytest.approx((0.8 * plain_loss + 0.2 * spread).item(), rel=1e-5)
    assert parts["text"].item() == pytest.approx(plain_loss.item(), rel=1e-5)  # what is told is not smoothed


def test_examples_are_what_their_number_says(made: Examples) -> None:
    one, again = made.batch(3, 5), made.batch(3, 5)
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    assert not torch.equal(one["features"][:, :50], made.batch(3, 6)["features"][:1, :50])
    shapes = Counter()
    said = set()
    for number in range(40):
        found = made.batch(0, number)
        rows, frames, _ = found["features"].shape
        shapes[frames] += 1
        assert rows == max(1, round(2 * 4.0 / ((frames + 2.5) / 100)))  # as much audio in each batch
        assert found["sounds"].shape == (rows, encoder_steps(frames, made.config))
        for row in range(rows):
            length = int(found["lengths"][row])
            assert 0 < length <= frames
            assert not found["features"][row, length:].any()
            assert (found["sounds"][row, encoder_steps(length, made.config) :] == IGNORED).all()
            ids, labels = found["ids"][row], found["labels"][row]
            asked = labels != IGNORED
            assert ids[0] == START
            assert not asked[0]  # the language, which is given
            assert (ids[2:][asked[2:]] == labels[1:-1][asked[2:]]).all()
            assert labels[asked][-1] == EOS
            assert (ids[1:][~asked[1:]] == PAD).all()
            language = made.text.names[int(ids[1])]
            words = set(made.text.decode(labels[asked].tolist()).split())
            said |= {(language, word) for word in words}
    assert len(shapes) > 5
    assert {("<lang:de>", "low"), ("<lang:de>", "high"), ("<lang:fr>", "bas"), ("<lang:fr>", "high")} <= said
    assert not {("<lang:de>", "bas"), ("<lang:fr>", "low")} & said


@pytest.mark.parametrize("hidden", [0.0, 0.5, 1.0])
def test_ids_are_hidden_but_for_the_first_and_the_language(made: Examples, hidden: float) -> None:
    plain, hides = (Examples(made.mixer, made.config, made.text, 60.0, 4.0, Hiding(1, 0, h)) for h in (0.0, hidden))
    asked, given = plain.batch(3, 0), hides.batch(3, 0)
    assert torch.equal(asked["labels"], given["labels"])
    assert torch.equal(asked["features"], given["features"])
    hideable = asked["ids"] != PAD
    hideable[:, :2] = False
    unread = (given["ids"] == UNK) & (asked["ids"] != UNK)
    assert not unread[~hideable].any()
    assert torch.equal(given["ids"][~unread], asked["ids"][~unread])
    assert float(unread[hideable].float().mean()) == pytest.approx(hidden, abs=0.2 * hidden * (2 - 2 * hidden))


def test_audio_at_another_rate_is_refused(made: Examples) -> None:
    made.mixer.corpus.rate_hz = 8000
    with pytest.raises(ValueError, match=r"expected a corpus at 16000 Hz, got one at 8000 Hz"):
        Examples(made.mixer, made.config, made.text, 2.0, 2.0, made.hiding)


def test_languages_that_do_not_fit(made: Examples, tmp_path: Path) -> None:
    made.mixer.corpus.utterances[3] = replace(made.mixer.corpus.utterances[3], language=None)
    with pytest.raises(ValueError, match=r"expected a language of pt, .*, de in each row, got None"):
        Examples(made.mixer, made.config, made.text, 2.0, 2.0, made.hiding)
    run = S2tRun("s2t-small-en", [], tmp_path / "run", 1, languages="all")
    with pytest.raises(ValueError, match=r"expected languages of mustc, got all"):
        train_s2t(run)
    with pytest.raises(ValueError, match=r"expected languages of none for a checkpoint, which has its own, got mustc"):
        train_s2t(replace(run, start="folder", languages="mustc"))


def test_a_cache_keeps_the_language_and_files_without_one_stay_as_they_were(
    tmp_path: Path, made: Examples, make_tones: MakeTones
) -> None:
    assert {u.language for u in Corpus(tmp_path / "audio").utterances} == {"de", "fr"}
    assert {u.source for u in made.mixer.corpus.utterances if u.language == "fr"} == {"fr"}
    plain = make_tones(tmp_path / "plain", RATE_HZ, 2)
    build_cache([plain], tmp_path / "other", RATE_HZ, processes=1)
    assert "language" not in (tmp_path / "other" / "part-00000.jsonl").read_text()


def test_recipes(tmp_path: Path) -> None:
    run = S2tRun("s2t-small-en", [], tmp_path, steps=1000)
    assert schedule_of(run) == Schedule(1000)
    published = schedule_of(replace(run, recipe="published"))
    assert published.warmup == 100
    factors = [published.factor(step) for step in (0, 49, 99, 399, 999)]
    assert factors == pytest.approx([0.01, 0.5, 1.0, 0.5, math.sqrt(0.1)])
    trainer = Trainer(S2tObjective(network(tmp_path)), published, tmp_path)
    assert [type(optimiser) for optimiser in trainer.optimisers] == [torch.optim.AdamW]
    with pytest.raises(ValueError, match=r"expected a recipe of house or published, got 'other'"):
        schedule_of(replace(run, recipe="other"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The preset at a size that learns in seconds."""
    config = network(tmp_path).config
    tiny = replace(config, dim=48, dropout=0.02, encoder=replace(config.encoder, mlp_dim=96))
    tiny = replace(tiny, conv_channels=96, audio=replace(config.audio, bins=40))
    monkeypatch.setitem(s2t.PRESETS, "s2t-small-en", replace(tiny, decoding=replace(config.decoding, beams=1)))


def options(folder: Path, tones: Path) -> S2tRun:
    return S2tRun(
        "s2t-small-en", [tones], folder, 1, pieces=20, audio=folder.parent / "audio", clean=1.0, batch=4, seconds=2.5,
        matrix_rate=0.01, other_rate=3e-3, dtype=torch.float32, workers=0,
    )  # fmt: skip


@pytest.mark.usefixtures("small")
def test_it_learns_to_write_what_is_said(tmp_path: Path, make_tones: MakeTones) -> None:
    tones = make_tones(tmp_path / "tones", RATE_HZ, 24)
    rows = [json.loads(line) for line in tones.read_text().splitlines()]
    for row in rows:  # with the sounds that begin its words
        row |= {"phonemes": " ".join(word[0] for word in row["text"].split()), "frames": [10, 12, 8, 12, 8]}
    tones.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = replace(options(tmp_path / "run", tones), steps=260)
    told: list[dict[str, float]] = []
    folder = train_s2t(run, told.append)
    assert folder == tmp_path / "run" / "model"
    assert told[-1]["phoneme_accuracy"] > 0.9
    model = earful.load(folder)
    assert isinstance(model, SpeechModel)
    corpus = Corpus(tmp_path / "audio")
    texts = [model.transcribe(corpus.samples(number)).text for number in range(12)]  # type: ignore[union-attr]
    right = sum(text == utterance.text for text, utterance in zip(texts, corpus.utterances, strict=False))
    assert right >= 9  # by chance 3


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("recipe", ["house", "published"])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_tones: MakeTones, recipe: str
) -> None:
    run = replace(options(tmp_path / "whole", make_tones(tmp_path / "tones", RATE_HZ, 6)), steps=8, recipe=recipe)
    whole = registry.load_model(train_s2t(run))[0].state_dict()
    stopped = replace(run, folder=tmp_path / "stopped")
    advance, calls = Trainer.advance, iter(range(3))

    def interrupted(self: Trainer, batch: dict[str, object]) -> dict[str, float]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return advance(self, batch)

    monkeypatch.setattr(Trainer, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_s2t(stopped)
    monkeypatch.setattr(Trainer, "advance", advance)
    parts = registry.load_model(train_s2t(stopped))[0].state_dict()
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items())


@pytest.mark.usefixtures("small")
def test_fine_tuning_begins_with_the_weights_that_are_there(tmp_path: Path, make_tones: MakeTones) -> None:
    tones = make_tones(tmp_path / "tones", RATE_HZ, 2)
    start = write_tiny("s2t", path=tmp_path / "start")
    before, _ = registry.load_model(start, dtype=torch.float32)
    run = replace(options(tmp_path / "run", tones), start=str(start), steps=1, matrix_rate=0.0, other_rate=0.0)
    after, tokenizer = registry.load_model(train_s2t(run), dtype=torch.float32)
    assert tokenizer is not None
    for name, weight in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], weight, msg=name)
    other = write_tiny("voxtral", path=tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"expected a Speech2Text model, got VoxtralRealtime"):
        train_s2t(replace(run, start=str(other), folder=tmp_path / "b"))


def test_fresh_weights_say_nothing_yet(tmp_path: Path) -> None:
    """Blocks begin as identities, so that what is heard does not matter, and any next piece is about as likely."""
    model = network(tmp_path)
    initialise(model.eval(), 0)
    with torch.no_grad():
        ids = torch.tensor([[START, 5, 6]])
        one, other = (model(torch.randn(1, 40, model.config.audio.bins), None, ids) for _ in range(2))
    torch.testing.assert_close(one, other)
    chances = one.log_softmax(-1)
    assert (chances.max() - chances.min()).item() < 5
