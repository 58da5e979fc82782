"""The speaker, with a sound library that is not one."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from earful.audio.speaker import Speaker, speaker
from earful.errors import AudioError


class PortAudioError(Exception):
    pass


class Stream:
    """Keeps what it was opened with; asks whoever opened it for samples."""

    opened: Stream

    def __init__(self, **options):
        if options["device"] == "broken":
            raise PortAudioError("Invalid device [PaErrorCode -9996]\nand more lines")
        self.options, self.running = options, False
        Stream.opened = self

    def __enter__(self):
        self.running = True

    def __exit__(self, *error):
        self.running = False

    def want(self, count):
        block = np.full((count, 1), 9, np.float32)
        self.options["callback"](block, count, None, None)
        return block[:, 0].tolist()


@pytest.fixture
def sound(monkeypatch):
    module = types.ModuleType("sounddevice")
    module.OutputStream, module.PortAudioError = Stream, PortAudioError
    monkeypatch.setitem(sys.modules, "sounddevice", module)


def test_what_is_said_is_played_in_order_and_silence_where_nothing_is(sound):
    with speaker(16_000, device="3") as player:
        stream = Stream.opened
        assert stream.running
        options = stream.options
        assert (options["samplerate"], options["device"]) == (16_000, 3)
        assert (options["channels"], options["dtype"]) == (1, "float32")
        assert stream.want(2) == [0, 0]
        player.play(np.array([1, 2, 3], np.float32))
        player.play(np.array([4], np.float32))
        assert player.waiting_s == 4 / 16_000
        assert stream.want(2) == [1, 2]
        assert player.waiting_s == 2 / 16_000
        assert stream.want(3) == [3, 4, 0]
        assert player.waiting_s == 0
    assert not stream.running


@pytest.mark.parametrize("seed", range(5))
def test_blocks_of_any_length_come_out_as_one(seed):
    rng = np.random.default_rng(seed)
    player, said, played = Speaker(8_000), [], []
    for _ in range(60):
        said.append(rng.standard_normal(rng.integers(0, 30)).astype(np.float32))
        player.play(said[-1])
        played.append(player.take(min(int(rng.integers(0, 40)), round(player.waiting_s * 8_000))))
    played.append(player.take(round(player.waiting_s * 8_000)))
    np.testing.assert_array_equal(np.concatenate(played), np.concatenate(said))


def test_a_device_that_cannot_be_opened(sound):
    message = r"^expected the speaker 'broken' at 16000 Hz, got: Invalid device \[PaErrorCode -9996\]$"
    with pytest.raises(AudioError, match=message), speaker(16_000, device="broken"):
        pass


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AudioError, match=r"expected sounddevice .*: pip install 'earful\[mic\]'"), speaker(16_000):
        pass
