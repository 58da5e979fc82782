"""WAV files written whole and block by block."""

import os
import struct
import threading
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from earful.audio import wav
from earful.audio.io import read_audio
from earful.audio.wav import write_wav, writing_wav
from earful.errors import AudioError
from tests.helpers import full_disk

SAMPLES = np.random.default_rng(0).uniform(-0.9, 0.9, 3_000).astype(np.float32)
BLOCKS = np.split(SAMPLES, [0, 1, 1_000, 1_001])


def write_blocks(target, promised=None, blocks=BLOCKS):
    with writing_wav(target, 16_000, promised) as write:
        for block in blocks:
            write(block)


@pytest.mark.parametrize("promised", [None, 3_000, 5_000])
def test_blocks_make_the_same_file_as_the_whole(tmp_path, promised):
    write_wav(tmp_path / "whole.wav", SAMPLES, 16_000)
    write_blocks(tmp_path / "blocks.wav", promised)
    assert (tmp_path / "blocks.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    with wave.open(str(tmp_path / "whole.wav")) as file:
        assert file.getparams()[:4] == (1, 2, 16_000, 3_000)


def through_a_pipe(promised, blocks=BLOCKS):
    reader, writer = os.pipe()
    got = []
    with open(reader, "rb") as source:
        thread = threading.Thread(target=lambda: got.append(source.read()))
        thread.start()
        with open(writer, "wb") as target:
            write_blocks(target, promised, blocks)
            assert not target.closed
        thread.join()
    return got[0]


@pytest.mark.parametrize("promised, size", [(None, 0xFFFFFFFF), (3_000, 6_000)])
def test_a_pipe_is_told_what_is_known(tmp_path, promised, size):
    content = through_a_pipe(promised)
    write_wav(tmp_path / "whole.wav", SAMPLES, 16_000)
    assert struct.unpack("<I", content[40:44]) == (size,)
    assert content[44:] == (tmp_path / "whole.wav").read_bytes()[44:]
    (tmp_path / "piped.wav").write_bytes(content)
    np.testing.assert_array_equal(
        read_audio(tmp_path / "piped.wav", 16_000), read_audio(tmp_path / "whole.wav", 16_000)
    )


def test_more_than_a_header_can_say_is_of_unknown_length(tmp_path, monkeypatch):
    monkeypatch.setattr(wav, "UNKNOWN_SIZE", 5_000)
    path = tmp_path / "long.wav"
    write_blocks(path)
    assert struct.unpack("<I", path.read_bytes()[40:44]) == (0xFFFFFFFF,)
    assert len(read_audio(path, 16_000)) == 3_000


@pytest.mark.parametrize("kind", [KeyboardInterrupt, AudioError])
def test_what_is_not_ended_leaves_the_old_file(tmp_path, kind):
    path = tmp_path / "out.wav"
    write_wav(path, SAMPLES[:5], 16_000)
    old = path.read_bytes()

    def blocks():
        yield SAMPLES
        raise kind("stopped")

    with pytest.raises(kind, match="stopped"):
        write_blocks(path, blocks=blocks())
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_growing_file_can_be_played_at_any_moment(tmp_path):
    path = tmp_path / "out.wav"
    write_wav(path, SAMPLES, 16_000)

    def play_after_each_block():
        heard = 0
        with writing_wav(path, 16_000, growing=True) as write:
            for block in BLOCKS:
                write(block)
                heard += len(block)
                with wave.open(str(path)) as file:
                    assert file.getnframes() == heard
                    assert len(file.readframes(heard + 1)) == 2 * heard
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play_after_each_block()
    write_wav(tmp_path / "whole.wav", SAMPLES, 16_000)
    assert path.read_bytes() == (tmp_path / "whole.wav").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("promised", [None, 1_500])
def test_two_channels(tmp_path, promised, growing):
    path, both = tmp_path / "out.wav", SAMPLES.reshape(2, 1_500)
    with writing_wav(path, 16_000, promised, channels=2, growing=growing) as write:
        for block in np.split(both, [0, 1, 700], axis=1):
            write(block)
    with wave.open(str(path)) as file:
        assert file.getparams()[:4] == (2, 2, 16_000, 1_500)
        levels = np.frombuffer(file.readframes(1_500), "<i2").reshape(1_500, 2).T
    np.testing.assert_array_equal(levels, np.rint(both * 32768))


def test_another_number_of_channels(tmp_path):
    with (
        pytest.raises(AudioError, match=r"out.wav: expected samples of 2 channels, got 3"),
        writing_wav(tmp_path / "out.wav", 16_000, channels=2) as write,
    ):
        write(SAMPLES.reshape(3, 1_000))


def test_a_disk_that_fills_up_later(tmp_path):
    path = tmp_path / "out.wav"
    with (
        full_disk(50_000),
        pytest.raises(AudioError, match=r"out.wav: expected to write a WAV file, got File too large"),
    ):
        write_blocks(path, blocks=[SAMPLES] * 20)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError), open(writer, "wb", buffering=0) as target:
        write_blocks(target)


def test_refusals(tmp_path):
    with pytest.raises(AudioError, match="expected a rate of 4000 to 384000 Hz, got 3999 Hz"), writing_wav("a", 3_999):
        pass
    with pytest.raises(AudioError, match="expected finite samples, got nan"):
        write_blocks(tmp_path / "a.wav", blocks=[SAMPLES, np.array([np.nan], np.float32)])
    assert list(tmp_path.iterdir()) == []


@given(values=st.lists(st.integers(-32768, 32767), max_size=50), rate_hz=st.sampled_from([4_000, 16_000, 384_000]))
def test_16_bits_there_and_back(tmp_path_factory, values, rate_hz):
    path = tmp_path_factory.getbasetemp() / "there.wav"
    samples = np.array(values, np.float32) / 32768
    write_wav(path, samples, rate_hz)
    with wave.open(str(path)) as file:
        assert file.getparams()[:4] == (1, 2, rate_hz, len(values))
    if values:
        np.testing.assert_array_equal(read_audio(path, rate_hz), samples)


def test_a_wav_is_rounded_and_clipped(tmp_path):
    path = tmp_path / "loud.wav"
    write_wav(path, np.array([2.0, 1.0, -1.0, -3e38, 0.6 / 32768, 0.4 / 32768], np.float32), 16_000)
    samples = read_audio(path, 16_000) * 32768
    assert samples.tolist() == [32767, 32767, -32768, -32768, 1, 0]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.wav"
    write_wav(path, np.ones(10, np.float32), 16_000)
    old = path.read_bytes()

    with full_disk(100), pytest.raises(AudioError, match=r"out.wav: expected to write a WAV file, got File too large"):
        write_wav(path, np.zeros(100, np.float32), 16_000)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_device_is_written_to_and_not_replaced():
    with pytest.raises(AudioError, match="/dev/full: expected to write a WAV file, got No space left on device"):
        write_wav("/dev/full", np.zeros(100, np.float32), 16_000)
    assert Path("/dev/full").is_char_device()


def test_what_cannot_be_written(tmp_path):
    samples = np.zeros(3, np.float32)
    with pytest.raises(AudioError, match="got No such file or directory"):
        write_wav(tmp_path / "no folder" / "a.wav", samples, 16_000)
    with pytest.raises(AudioError, match="got Is a directory"):
        write_wav(tmp_path, samples, 16_000)
    with pytest.raises(AudioError, match="expected a rate of 4000 to 384000 Hz, got 0 Hz"):
        write_wav(tmp_path / "a.wav", samples, 0)
    with pytest.raises(AudioError, match="expected mono float32 samples, got int16"):
        write_wav(tmp_path / "a.wav", np.zeros(3, np.int16), 16_000)
    assert list(tmp_path.iterdir()) == []
