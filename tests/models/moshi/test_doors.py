"""A folder of Moshi as people use it: load, stream, several sessions at once, and the command line."""

import pickle

import numpy as np
import pytest

import earful
from earful import Audio, Chance, Session, Text
from earful.cli import run
from earful.models.moshi.layouts import LAYOUTS
from earful.nn.state import nbytes
from earful.registry import load_model
from earful.testing import write_tiny
from tests.models.moshi.models import written

RATE = 4800


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    return {layout: write_tiny("moshi", layout, path=folder / layout) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def model(folders):
    return earful.load(folders["hf"])


def noise(seconds, seed=0):
    return 0.3 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


def heard(session, samples, size):
    with session:
        events = [event for at in range(0, len(samples), size) for event in session.feed(samples[at : at + size])]
        return written(events + session.finish())


def test_both_layouts_answer_alike(folders, model):
    assert (model.family, model.rate_hz, model.delay_s) == ("moshi", RATE, None)
    samples = noise(3.01)
    text, sound = heard(model.stream(), samples, 1000)
    assert len(text) > 20
    assert len(sound) == len(samples)
    again = heard(earful.load(folders["kyutai"]).stream(), samples, 7777)
    assert again[0] == text
    np.testing.assert_allclose(again[1], sound, rtol=0, atol=1e-4)
    assert model.transcribe(samples).text == text  # what the voice says


def test_a_frame_heard_is_a_frame_spoken_at_once(model):
    frame = round(0.08 * RATE)
    with model.stream() as session:
        for number in range(1, 6):
            events = session.feed(noise(0.08, number))
            assert [len(event.samples) for event in events if isinstance(event, Audio)] == [frame]
            for event in events:
                if isinstance(event, Text):
                    assert event.time_s == pytest.approx(number * 0.08)


def test_options_of_a_session(model):
    samples = noise(2)

    def answer(**options):
        return heard(model.stream(**options), samples, 5000)

    plain = answer()
    for options in ({"chance": Chance(seed=1)}, {"chance": Chance(temperature=0.1)}, {"prompt": "the dog"}):
        text, sound = answer(**options)
        assert text == answer(**options)[0]
        assert not np.array_equal(sound, plain[1])
    assert answer(prompt="the dog")[0].startswith("the dog")
    with pytest.raises(TypeError, match="temperature"):
        model.stream(temperature=0.5)
    with pytest.raises(ValueError, match="expected no delay, got 0.4 s"):
        model.stream(delay_s=0.4)


def test_sessions_of_one_engine(model):
    engine, samples = model.engine(2), noise(2)
    first, second = Session(engine), Session(engine, chance=Chance(seed=1))
    events = [], []
    for at in range(0, len(samples), 900):
        events[0].extend(first.feed(samples[at : at + 900]))
        events[1].extend(second.feed(samples[at : at + 900]))
    together = [written(said + session.finish()) for said, session in zip(events, (first, second), strict=True)]
    alone = [heard(model.stream(**options), samples, 900) for options in ({}, {"chance": Chance(seed=1)})]
    for (text, sound), (text_alone, sound_alone) in zip(together, alone, strict=True):
        assert text == text_alone
        np.testing.assert_allclose(sound, sound_alone, rtol=0, atol=1e-5)


def test_a_long_stream_takes_no_more_memory(model):
    kept = []
    with model.stream() as session:
        for second in range(1, 16):
            session.feed(noise(1, second))
            if second in (5, 15):
                lane, state = session._lane, session._engine.state
                kept.append((nbytes(state), len(pickle.dumps(lane)) // 1000))
    assert kept[0] == kept[1]


def test_a_folder_is_converted(folders, tmp_path, capsys):
    assert run(["convert", str(folders["hf"]), str(tmp_path / "new"), "--layout", "kyutai"]) == 0
    assert "kyutai layout" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        path.name for path in folders["kyutai"].iterdir()
    )
    assert load_model(tmp_path / "new")[0].config == load_model(folders["kyutai"])[0].config
