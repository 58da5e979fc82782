"""The microphone, with a sound library that is not one."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from earful.audio.microphone import WAITING_BLOCKS, microphone, microphones
from earful.errors import AudioError


class PortAudioError(Exception):
    pass


class Stream:
    """Keeps what it was opened with; plays blocks to whoever opened it."""

    opened: Stream

    def __init__(self, **options):
        if options["device"] == "broken":
            raise PortAudioError("Invalid device [PaErrorCode -9996]\nand more lines")
        if options["device"] == 99:
            raise ValueError("No input device matching 99")
        self.options, self.running = options, False
        Stream.opened = self

    def __enter__(self):
        self.running = True

    def __exit__(self, *error):
        self.running = False

    def hear(self, block):
        self.options["callback"](block, len(block), None, None)


@pytest.fixture
def sound(monkeypatch):
    module = types.ModuleType("sounddevice")
    module.InputStream, module.PortAudioError = Stream, PortAudioError
    module.query_devices = lambda: [
        {"name": "speaker", "max_input_channels": 0},
        {"name": "headset", "max_input_channels": 1},
    ]
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_blocks_come_in_order_and_are_copies(sound):
    with microphone(16_000, 0.08, device="3") as blocks:
        stream = Stream.opened
        assert stream.running
        options = stream.options
        assert (options["samplerate"], options["blocksize"], options["device"]) == (16_000, 1280, 3)
        assert (options["channels"], options["dtype"]) == (1, "float32")
        buffer = np.zeros((1280, 1), np.float32)
        for level in (0.1, 0.2):
            buffer[:] = level
            stream.hear(buffer)
        got = [next(blocks), next(blocks)]
    assert [block.shape for block in got] == [(1280,)] * 2
    assert [float(block[0]) for block in got] == pytest.approx([0.1, 0.2])
    assert not stream.running


def test_a_listener_that_falls_far_behind_is_told(sound):
    with microphone(16_000, 0.5) as blocks:
        for level in range(WAITING_BLOCKS + 1):
            Stream.opened.hear(np.full((8000, 1), level, np.float32))
        with pytest.raises(AudioError, match="expected to keep up with the microphone, got 128 s behind"):
            list(blocks)
    assert not Stream.opened.running


@pytest.mark.parametrize(
    "device, message",
    [
        ("broken", r"^expected the microphone 'broken' at 16000 Hz, got: Invalid device \[PaErrorCode -9996\]$"),
        ("99", "^expected the microphone '99' at 16000 Hz, got: No input device matching 99$"),
    ],
)
def test_a_device_that_cannot_be_opened(sound, device, message):
    with pytest.raises(AudioError, match=message), microphone(16_000, device=device):
        pass


def test_names_of_devices_that_record(sound):
    assert microphones() == ["headset"]


def test_a_sound_system_that_is_broken(sound):
    def broken():
        raise PortAudioError("Error querying host API")

    sound.query_devices = broken
    with pytest.raises(AudioError, match="expected a list of microphones, got: Error querying host API"):
        microphones()


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    message = r"expected sounddevice to reach microphones and speakers, got: .*: pip install 'earful\[mic\]'"
    with pytest.raises(AudioError, match=message):
        microphones()
    with pytest.raises(AudioError, match=message), microphone(16_000):
        pass
