"""The cache of codes: what it holds is what the codec says of the audio whose words it lists."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from earful.models.mimi.model import Mimi
from earful.testing import tiny_mimi
from earful.train.codes import SOUND_LATENCY, Codes, Recipe, Version, build_codes
from earful.train.data import Corpus, build_cache
from earful.train.mixing import Mixer
from earful.train.targets import IGNORED, SILENCE

RECIPE = Recipe(frames=50, codebooks=4, lead_s=0.2, room_s=0.5, clean=1.0)


@pytest.fixture(scope="module")
def codec() -> Mimi:
    return tiny_mimi(None)[0].eval()  # type: ignore[arg-type, return-value]


@pytest.fixture
def corpus(tones: Path, tmp_path: Path) -> Corpus:
    return build_cache([tones], tmp_path / "audio", 4800)


def build(codec: Mimi, corpus: Corpus, folder: Path, versions: int, recipe: Recipe = RECIPE) -> Codes:
    return build_codes(codec, Mixer(corpus), recipe, folder, versions, workers=0)


def test_codes_are_those_of_the_audio_and_words_are_where_it_sounds(codec, corpus, tmp_path):
    codes = build(codec, corpus, tmp_path / "codes", 2)
    per_version = len(codes) // 2
    assert per_version == 4  # 15 s in examples of 4 s
    number = said = 0
    for version in range(2):
        made = Version(Mixer(corpus), RECIPE, 50 * 384, version)
        for example in range(per_version):
            audio = made.audio(example)
            assert audio.shape == (50 * 384,)
            with torch.no_grad():
                expected = codec.encode(torch.from_numpy(audio)[None, None], 4)[0].numpy()
            np.testing.assert_array_equal(codes.codes(number), expected)
            sounding = np.abs(audio).reshape(-1, 48).max(1) > max(0.1 * np.abs(audio).max(), 1e-6)  # by 10 ms
            assert not sounding[:20].any()  # the silence before the audio
            listed = np.zeros_like(sounding)
            for word, start_s, end_s in codes.words(number):
                assert word in ("low", "high")
                listed[round(start_s * 100) : round(end_s * 100)] = True
                said += 1
            assert np.mean(listed != sounding) < 0.05
            sounds = codes.sounds(number)  # these utterances have no phonemes: only the silence between them is known
            assert sounds.shape == (100,)
            unknown = np.repeat(sounds[SOUND_LATENCY:] == IGNORED, 4)[: len(sounding)]
            assert not sounding[: len(unknown)][~unknown].any()
            assert (sounds[: SOUND_LATENCY + 5] == SILENCE).all()
            assert not sounding[-45:].any()
            number += 1
    assert said > 10


def test_shifted_codes_are_those_of_the_audio_from_there_on(codec, corpus, tmp_path):
    """But for the first frames, which have heard what lies before them."""
    recipe = replace(RECIPE, shifts=4)
    codes = build(codec, corpus, tmp_path / "codes", 1, recipe)
    made = Version(Mixer(corpus), recipe, 50 * 384, 0)
    assert len(codes) == 4 * 4
    for number in range(len(codes)):
        mixed, shift = divmod(number, 4)
        audio = np.pad(made.audio(mixed)[shift * 96 :], (0, shift * 96))
        with torch.no_grad():
            expected = codec.encode(torch.from_numpy(audio)[None, None], 4)[0].numpy()
        assert np.mean(codes.codes(number)[:, 20:] == expected[:, 20:]) > 0.98
        offset_s = shift * 96 / 4800
        for (word, start_s, end_s), whole in zip(codes.words(number), codes.words(4 * mixed), strict=True):
            assert (word, start_s, end_s) == pytest.approx(
                (whole[0], whole[1] - offset_s, whole[2] - offset_s), abs=2e-4
            )
    with pytest.raises(ValueError, match="expected a number of shifts that divides 16, got 5"):
        build(codec, corpus, tmp_path / "five", 1, replace(RECIPE, shifts=5))


def test_a_bfloat16_encoder_makes_nearly_the_same_codes(codec, corpus, tmp_path):
    one = build(codec, corpus, tmp_path / "float32", 1)
    other = build_codes(codec, Mixer(corpus), RECIPE, tmp_path / "bfloat16", 1, workers=0, dtype=torch.bfloat16)
    same = np.mean([one.codes(number) == other.codes(number) for number in range(len(one))])
    assert 0.9 < same < 1


def test_versions_differ_and_are_added_to_what_is_there(codec, corpus, tmp_path):
    one = build(codec, corpus, tmp_path / "codes", 1)
    before = (tmp_path / "codes" / "part-00000.npy").stat().st_mtime_ns
    two = build(codec, corpus, tmp_path / "codes", 2)
    assert (tmp_path / "codes" / "part-00000.npy").stat().st_mtime_ns == before
    assert len(two) == 2 * len(one)
    assert two.words(0) == one.words(0) != two.words(len(one))
    again = pickle.loads(pickle.dumps(two))
    np.testing.assert_array_equal(again.codes(len(one)), two.codes(len(one)))
    with pytest.raises(IndexError, match="expected an example below 8, got one beyond"):
        two.codes(8)


def test_an_interrupted_version_is_made_again(codec, corpus, tmp_path):
    whole = build(codec, corpus, tmp_path / "whole", 2)
    build(codec, corpus, tmp_path / "part", 1)
    (tmp_path / "part" / "part-00001.npy").write_bytes(b"half")
    part = build(codec, corpus, tmp_path / "part", 2)
    for number in range(len(whole)):
        np.testing.assert_array_equal(part.codes(number), whole.codes(number))


def test_codes_of_another_codec_corpus_or_recipe_are_refused(codec, corpus, tmp_path):
    build(codec, corpus, tmp_path / "codes", 1)
    build(codec, corpus, tmp_path / "codes", 1)
    for what, arguments in {
        "codec": (tiny_mimi(None, seed=1)[0], RECIPE),  # type: ignore[arg-type]
        "recipe": (codec, replace(RECIPE, clean=0.5)),
    }.items():
        with pytest.raises(ValueError, match=f"expected codes made with this {what} in .*: build a new folder"):
            build(arguments[0], corpus, tmp_path / "codes", 1, arguments[1])
    with pytest.raises(ValueError, match="expected codes made with this recipe"):
        build_codes(codec, Mixer(corpus), RECIPE, tmp_path / "codes", 1, workers=0, dtype=torch.bfloat16)
    corpus.utterances.pop()
    with pytest.raises(ValueError, match="expected codes made with this corpus"):
        build(codec, corpus, tmp_path / "codes", 1)


def test_the_way_back_does_not_make_another_codec(codec, corpus, tmp_path):
    """Codes are as they were when only the decoder has learned on."""
    build(codec, corpus, tmp_path / "codes", 1)
    other = tiny_mimi(None)[0]  # type: ignore[arg-type]
    with torch.no_grad():
        other.decoder.last.conv.weight.add_(1)
    build(other, corpus, tmp_path / "codes", 1)
