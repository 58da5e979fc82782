"""Arrangements of utterances: what is heard of one is what its place says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from earful.train.data import build_cache
from earful.train.mixing import EDGE_S, Mixer, Place
from tests.train.conftest import TONES

RATE_HZ = 16_000
MakeTones = Callable[[Path, int, int], Path]


@pytest.fixture
def make_mixer(tmp_path: Path, make_tones: MakeTones) -> Callable[..., Mixer]:
    def make(cut: float, renamed: str = "low") -> Mixer:
        manifest = make_tones(tmp_path / "tones", RATE_HZ, 12)
        manifest.write_text(manifest.read_text().replace('["low', f'["{renamed}'))
        return Mixer(build_cache([manifest], tmp_path / "audio", RATE_HZ, processes=1), cut=cut)

    return make


def said(mixer: Mixer, place: Place) -> list[str]:
    """The tones that are heard of a place, in order."""
    samples = mixer.mix(np.random.default_rng(0), [place], place.end_s)
    found: list[str] = []
    for block in samples[: len(samples) // 800 * 800].reshape(-1, 800):
        spectrum = np.abs(np.fft.rfft(block * np.hanning(800)))
        word = min(TONES, key=lambda name: abs(TONES[name] * place.speed - spectrum.argmax() / 800))
        found.append(word if spectrum.max() > 20 else "")
    return [word for word, before in zip(found, ["", *found], strict=False) if word and not before]


def test_of_a_cut_utterance_only_the_words_of_its_place_are_heard(make_mixer: Callable[..., Mixer]) -> None:
    mixer, rng, cut = make_mixer(1.0), np.random.default_rng(4), 0
    for _ in range(20):
        for place in mixer.fill(rng, 0.1, 6.0):
            utterance = mixer.utterance(place)
            assert said(mixer, place) == utterance.text.split() == [word for word, *_ in utterance.words] != []
            cut += len(utterance.words) == 1
    assert cut > 20


def test_words_of_a_cut_utterance_are_where_the_place_has_them(make_mixer: Callable[..., Mixer]) -> None:
    mixer, rng = make_mixer(1.0), np.random.default_rng(5)
    for place in mixer.fill(rng, 0.1, 20.0):
        for _, start_s, end_s in mixer.utterance(place).words:
            assert place.at_s <= place.moved(start_s) < place.moved(end_s) <= place.end_s + EDGE_S
        if len(mixer.utterance(place).words) == 1:
            assert place.to_s - place.from_s < mixer.whole(place).duration_s


def test_a_text_that_is_not_a_list_of_the_words_is_not_cut(make_mixer: Callable[..., Mixer]) -> None:
    mixer, rng = make_mixer(1.0, renamed="bas"), np.random.default_rng(6)
    places = [place for _ in range(20) for place in mixer.fill(rng, 0.0, 6.0)]
    texts = {mixer.utterance(place).text for place in places if place.words is None}
    assert any("low" in text for text in texts)
    assert all("low" in text for text in texts)
    assert all("low" not in mixer.whole(place).text for place in places if place.words)


def test_without_a_share_nothing_is_cut(make_mixer: Callable[..., Mixer]) -> None:
    mixer, rng = make_mixer(0.0), np.random.default_rng(7)
    assert all(place.words is None for _ in range(9) for place in mixer.fill(rng, 0.0, 6.0))
