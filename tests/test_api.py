"""`load`, `transcribe` and `stream`: every way in gives the same text, words and times."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import earful
from earful.api import BUILTIN, SpeechModel
from earful.audio.io import Limits, read_audio, write_wav
from earful.errors import AudioError, CheckpointError
from earful.events import Text, Word
from earful.models.voxtral.stream import Policy
from earful.stream.session import Session
from earful.testing import write_tiny
from tests.helpers import LIVE, chunked, clip, said, spoken_like, tiny_family

RATE = 16_000
OFFLINE = Policy(stop_at_end=True)
LENGTHS = (2 * RATE, 0, 40 * 1280, 1, 1281, 3 * RATE + 77, 12_345)


@pytest.fixture
def model():
    return SpeechModel("voxtral", tiny_family("builtin", OFFLINE), tiny_family("builtin", LIVE), "en")


@pytest.fixture
def clips():
    return [clip(tiny_family("builtin", OFFLINE), length, 6) for length in LENGTHS]


def as_transcript_has_it(one):
    return one.text, tuple(one.words), len(one.samples) / RATE


def what(transcript):
    return transcript.text, transcript.words, transcript.duration_s


def test_a_transcript_is_what_the_whole_says_offline(model, clips):
    for one in clips:
        transcript = model.transcribe(one.samples, delay_s=0.48)
        assert what(transcript) == as_transcript_has_it(one)
        assert transcript.language == "en"
        assert tuple(word for segment in transcript.segments for word in segment.words) == transcript.words


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_a_batch_of_different_lengths_is_what_each_is_alone(model, clips, batch):
    transcripts = model.transcribe([one.samples for one in clips], batch=batch, delay_s=0.48)
    assert [what(transcript) for transcript in transcripts] == [as_transcript_has_it(one) for one in clips]


@pytest.mark.parametrize("batch", [1, 3])
def test_outcomes_come_as_they_are_done_and_events_on_the_way(model, clips, batch):
    come = {number: [] for number in range(len(clips))}
    heard = dict.fromkeys(come, 0.0)

    def on_events(number, events, heard_s):
        assert heard_s >= heard[number]
        come[number] += events
        heard[number] = heard_s

    sources = [one.samples for one in clips]
    order = []
    for number, outcome in model.outcomes(sources, batch=batch, delay_s=0.48, on_events=on_events):
        order.append(number)
        assert outcome.source is sources[number]
        assert outcome.error is None
        assert come[number] == clips[number].events
        assert what(outcome.transcript) == as_transcript_has_it(clips[number])
    assert sorted(order) == list(come)
    assert (order == sorted(order)) is (batch == 1)


def test_a_stream_says_what_a_transcript_says(model, clips):
    rng = np.random.default_rng(0)
    for one in clips:
        with model.stream(delay_s=0.48) as session:
            events = [event for chunk in chunked(rng, one.samples) for event in session.feed(chunk)]
            events += session.finish()
        assert events == one.events


def test_the_delay_of_the_model_is_the_default(model):
    one = clip(tiny_family("builtin", OFFLINE), 12_345, tiny_family("builtin").config.audio.delay_slots)
    assert model.delay_s == pytest.approx(one.delay_s)
    assert what(model.transcribe(one.samples)) == as_transcript_has_it(one)


def test_an_engine_is_for_live_sessions(model, clips):
    engine = model.engine(2)
    sessions = [Session(engine, delay_s=0.48) for _ in range(2)]
    assert [sessions[i].feed(clips[i].samples) + sessions[i].finish() for i in range(2)] == [
        one.events for one in clips[:2]
    ]


def test_files_paths_and_file_objects_are_what_their_samples_are(model, tmp_path):
    samples = spoken_like(np.random.default_rng(0), 2 * RATE)
    write_wav(tmp_path / "a.wav", samples, RATE)
    expected = model.transcribe(read_audio(tmp_path / "a.wav", RATE))
    assert expected.words
    sources = [tmp_path / "a.wav", str(tmp_path / "a.wav"), io.BytesIO((tmp_path / "a.wav").read_bytes())]
    assert model.transcribe(sources, batch=2) == [expected] * 3
    assert model.transcribe(sources[1]) == expected
    assert model.transcribe(tuple(sources[:1])) == [expected]
    assert model.transcribe([]) == []


def test_a_bad_source_does_not_stop_the_others(model, clips, tmp_path):
    good = clips[0]
    (tmp_path / "notes.txt").write_text("no audio")
    not_a_number = good.samples.copy()
    not_a_number[-1] = np.nan
    bad = [
        tmp_path / "gone.wav",
        tmp_path / "notes.txt",
        not_a_number,
        good.samples[:, None],
        np.zeros(9, np.int16),
        3.5,
    ]
    sources = [source for each in bad for source in (each, good.samples)]
    outcomes = dict(model.outcomes(sources, batch=2, delay_s=0.48))
    for number in range(len(sources)):
        if number % 2:
            assert what(outcomes[number].transcript) == as_transcript_has_it(good)
        else:
            assert isinstance(outcomes[number].error, AudioError)
            assert "\n" not in str(outcomes[number].error)
            assert outcomes[number].transcript.duration_s == 0
    with pytest.raises(AudioError) as caught:
        model.transcribe(sources, batch=2, delay_s=0.48)
    assert str(caught.value) == str(outcomes[0].error)
    assert [what(outcome.transcript) for outcome in caught.value.outcomes] == [
        what(outcomes[number].transcript) for number in range(len(sources))
    ]


def test_what_was_heard_of_a_file_that_is_too_long_is_kept(model, tmp_path):
    samples = spoken_like(np.random.default_rng(1), 5 * RATE)
    write_wav(tmp_path / "a.wav", samples, RATE)
    with pytest.raises(AudioError) as caught:
        model.transcribe(tmp_path / "a.wav", limits=Limits(max_s=3))
    (outcome,) = caught.value.outcomes
    heard = round(outcome.transcript.duration_s * RATE)
    assert 2 * RATE < heard <= 3 * RATE
    assert outcome.transcript == model.transcribe(read_audio(tmp_path / "a.wav", RATE)[:heard])


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_below_one_is_refused(model, batch):
    with pytest.raises(ValueError, match=f"expected a batch of at least 1, got {batch}"):
        model.transcribe([np.zeros(9, np.float32)], batch=batch)


def test_a_delay_that_the_model_does_not_have_is_refused(model):
    for use in (lambda: model.stream(delay_s=0.1), lambda: model.transcribe(np.zeros(9, np.float32), delay_s=0.1)):
        with pytest.raises(ValueError, match="expected a delay of 0.08 to 2.4 s in steps of 0.08 s, got 0.1 s"):
            use()


# --------------------------------------------------------------------------------------------------------------- load


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {layout: write_tiny("voxtral", layout, path=tmp_path_factory.mktemp(layout)) for layout in ("hf", "mistral")}


def test_a_folder_is_loaded_and_both_layouts_say_the_same(folders):
    samples = spoken_like(np.random.default_rng(2), 3 * RATE)
    models = [earful.load(folder) for folder in folders.values()]
    transcripts = [model.transcribe(samples) for model in models]
    assert transcripts[0] == transcripts[1]
    assert transcripts[0].text
    assert {(model.family, model.language, model.rate_hz) for model in models} == {("voxtral", None, RATE)}
    assert earful.load(str(folders["hf"])).transcribe(samples) == transcripts[0]


def test_live_audio_is_heard_on_behind_an_end_of_text(folders):
    model = earful.load(folders["hf"])
    assert model._offline.policy == Policy(stop_at_end=True)
    assert model._live.policy == Policy()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_have_the_type_that_is_asked_for(folders, dtype):
    model = earful.load(folders["hf"], dtype=dtype)
    assert {p.dtype for p in model._live.model.parameters()} == {getattr(torch, dtype)}
    with model.stream() as session:
        events = session.feed(spoken_like(np.random.default_rng(3), 3 * RATE)) + session.finish()
    assert said(events)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"dtype": "int3"}, ValueError, "expected a dtype of float32, bfloat16, float16, got int3"),
        ({"device": "abacus"}, ValueError, "expected a device of this machine such as cpu or cuda, got abacus"),
        ({"device": "cuda:99"}, ValueError, "expected a device of this machine such as cpu or cuda, got cuda:99"),
    ],
)
def test_what_cannot_be_had_is_refused(folders, options, error, message):
    with pytest.raises(error, match=message) as caught:
        earful.load(folders["hf"], **options)
    assert "\n" not in str(caught.value)


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path}: expected "):
        earful.load(tmp_path)


def test_the_built_in_model_says_live_what_it_says_offline():
    """A recorded human voice, in chunks of any length."""
    model = earful.load()
    transcript = model.transcribe(BUILTIN / "demo.flac")
    assert len(transcript.words) > 5
    assert transcript.language == "en"
    samples = read_audio(BUILTIN / "demo.flac", model.rate_hz)
    assert model.transcribe([samples, samples[: len(samples) // 2]], batch=2)[0] == transcript
    with model.stream() as session:
        events = [event for chunk in chunked(np.random.default_rng(4), samples) for event in session.feed(chunk)]
        events += session.finish()
    assert said(events) == transcript.text
    assert tuple(event for event in events if isinstance(event, Word)) == transcript.words
    assert all(event.time_s <= transcript.duration_s for event in events if isinstance(event, Text))


@pytest.mark.parametrize("own", [None, "0"])
def test_huge_pages_are_asked_for_unless_somebody_has_said_otherwise(own):
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if own is None else {"THP_MEM_ALLOC_ENABLE": own}
    asked = "import os, earful; print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{own or 1}\n"
