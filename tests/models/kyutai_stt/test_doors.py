"""A folder of Kyutai Speech-To-Text as people use it: load, transcribe, stream, and the command line."""

import json
import pickle

import numpy as np
import pytest

import earful
from earful.audio.io import read_audio, write_wav
from earful.cli import run
from earful.events import Pause, Word
from earful.models.kyutai_stt.layouts import LAYOUTS
from earful.nn.state import nbytes
from earful.stream.transcript import FORMATS
from earful.testing import write_tiny
from tests.helpers import chunked, said
from tests.models.kyutai_stt.helpers import RATE, voice_like

SILENCE = {"delay_s": 2.5, "prefix_s": 1.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    made = {layout: write_tiny("kyutai_stt", layout, path=folder / layout, model=SILENCE) for layout in LAYOUTS}
    return {**made, "with heads": write_tiny("kyutai_stt", "kyutai", path=folder / "heads", model={"vad_heads": 4})}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    paths = [folder / f"{number}.wav" for number in range(3)]
    for path, seconds in zip(paths, (4.0, 1.5, 3.3), strict=True):
        write_wav(path, voice_like(np.random.default_rng(len(path.name)), round(seconds * RATE)) * 0.3, RATE)
    return paths


@pytest.fixture
def typed(capsys):
    """Runs `earful ARGUMENTS` and returns what it prints."""

    def call(*arguments):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    return call


def assert_in_order(words, duration_s):
    times = [0.0, *(time for word in words for time in (word.start_s, word.end_s)), duration_s]
    assert times == sorted(times)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_arrays_and_streams_say_the_same(folders, recordings, layout):
    model = earful.load(folders[layout])
    assert (model.family, model.rate_hz, model.delay_s, model.language) == ("kyutai_stt", RATE, None, None)
    samples = read_audio(recordings[0], RATE)
    transcript = model.transcribe(recordings[0])
    assert transcript == model.transcribe(samples)
    assert len(transcript.words) > 5
    assert_in_order(transcript.words, 4.0)
    with model.stream() as session:
        events = [event for chunk in chunked(np.random.default_rng(0), samples) for event in session.feed(chunk)]
        events += session.finish()
    assert said(events) == transcript.text
    assert [event for event in events if isinstance(event, Word)] == list(transcript.words)


def test_both_layouts_say_the_same(folders, recordings):
    first, second = (earful.load(folders[layout]).transcribe(recordings[0]) for layout in LAYOUTS)
    assert first == second


def test_a_batch_says_what_each_says_alone(folders, recordings):
    model = earful.load(folders["hf"])
    assert model.transcribe(recordings, batch=3) == [model.transcribe(path) for path in recordings]


def test_nothing_is_heard_in_nothing(folders):
    transcript = earful.load(folders["hf"]).transcribe(np.zeros(0, np.float32))
    assert transcript.duration_s == 0
    assert_in_order(transcript.words, 0.0)


def test_pauses_come_in_a_stream(folders, recordings):
    model = earful.load(folders["with heads"])
    with model.stream() as session:
        events = session.feed(voice_like(np.random.default_rng(0), 3 * RATE)) + session.finish()
    pauses = [event for event in events if isinstance(event, Pause)]
    assert pauses
    assert {event.seconds for event in pauses} <= {0.5, 1.0, 2.0, 3.0}
    assert all(0.5 < event.probability <= 1 for event in pauses)


def test_options_of_a_session(folders):
    model = earful.load(folders["hf"])
    samples = voice_like(np.random.default_rng(0), 3 * RATE)

    def text(**options):
        with model.stream(**options) as session:
            return said(session.feed(samples) + session.finish())

    assert text(temperature=0.8, seed=1) == text(temperature=0.8, seed=1) != text()
    assert text(prompt="the dog").startswith("the dog")
    with pytest.raises(TypeError, match="beams"):
        model.stream(beams=3)
    with pytest.raises(ValueError, match="expected no delay but the model's own, 2.5 s, got 0.4 s"):
        model.stream(delay_s=0.4)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_has_the_times_of_words(typed, folders, recordings, name):
    transcript = earful.load(folders["kyutai"]).transcribe(recordings[0])
    assert typed("transcribe", recordings[0], "-m", folders["kyutai"], "-f", name) == FORMATS[name](transcript)
    assert len(transcript.segments) > 0


def test_listening_says_what_transcribing_says(typed, folders, recordings):
    for folder, more in [(folders["hf"], []), (folders["with heads"], ["--words"])]:
        expected = typed("transcribe", recordings[0], "-m", folder, *more)
        assert typed("listen", "--from", recordings[0], "--fast", "-m", folder, *more) == expected
    lines = typed("listen", "--from", recordings[0], "--fast", "-m", folders["with heads"], "-f", "jsonl").splitlines()
    kinds = {event["type"] for event in map(json.loads, lines)}
    assert kinds == {"text", "word", "pause"}


def test_a_long_stream_takes_no_more_memory(folders):
    """What is kept of a session after ten seconds is what is kept after thirty."""
    model = earful.load(folders["with heads"])
    rng, kept = np.random.default_rng(0), []
    with model.stream() as session:
        for second in range(1, 31):
            session.feed(voice_like(rng, RATE))
            if second in (10, 30):
                lane, state = session._lane, session._engine.state
                kept.append((nbytes(state), len(pickle.dumps(lane)) // 1000))
    assert kept[0] == kept[1]


def test_the_command_line_without_network_says_what_it_needs(capsys):
    code = run(["transcribe", "talk.wav", "--model", "kyutai/stt-1b-en_fr-candle"])
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert (
        "kyutai/stt-1b-en_fr-candle: expected the network or a cached copy, got neither: connect, or give a local"
        in line
    )
