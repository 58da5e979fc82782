"""Files that break off, are damaged, lie about themselves or are none at all."""

import contextlib
import errno
import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earful.audio.io import Limits, duration_hint, open_audio, open_stereo, read_audio
from earful.errors import AudioError
from tests.audio.files import KINDS, Pipe, draw, encode, keep, riff


def test_a_video_without_audio(tmp_path):
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as output:
        draw(output, output.add_stream("mpeg4", rate=25), seconds=1)
    assert keep(path)[1] == f"{path}: expected an audio stream, got a file without one (mov,mp4,m4a,3gp,3g2,mj2)"
    assert duration_hint(path) is None


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "expected audio, got an empty file"),
        (b"a", "expected audio or video, got a file of no known format, or a damaged one"),
        (b"Not a sound here.\n" * 300, "expected audio or video, got a file of no known format, or a damaged one"),
        (riff(b"", 1, 16), "expected audio, got nothing that can be decoded"),
        (encode("a.m4a")[:-2_000], "expected a whole MP4 file, got one without a readable index, cut off or damaged"),
        (riff(np.array([0, np.nan], "<f4").tobytes(), 3, 32), "expected finite samples, got nan"),
        (riff(np.array([0, 1e300], "<f8").tobytes(), 3, 64), "expected finite samples, got inf"),
        (riff(bytes(600), 1, 16, 3_999), "expected a rate of 4000 to 384000 Hz, got 3999 Hz"),
        (riff(bytes(600), 1, 16, 384_001), "expected a rate of 4000 to 384000 Hz, got 384001 Hz"),
        (riff(bytes(900), 1, 16, channels=9), "expected at most 8 channels, got 9"),
    ],
)
@pytest.mark.parametrize("source", ["path", "file", "pipe"])
def test_bad_content(tmp_path, content, message, source, capfd):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    if source == "path":
        assert keep(path)[1] == f"{path}: {message}"
    elif source == "file":
        assert keep(io.BytesIO(content))[1] == f"audio: {message}"
    else:
        assert keep(Pipe(content))[1] == f"audio: {message}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.txt", "a.mp3", "a.aac", "a.ogg", "a.flac", "a.m4a", "a.srt", "no ending"])
def test_a_text_file_of_any_name(tmp_path, name, capfd):
    path = tmp_path / name
    path.write_text("def f(x):\n    return x\n" * 200)
    assert keep(path)[1].startswith(f"{path}: expected a")
    assert capfd.readouterr() == ("", "")


def test_what_is_not_a_file(tmp_path):
    assert keep(tmp_path / "none.wav")[1] == f"{tmp_path / 'none.wav'}: expected a file, got none of that name"
    assert keep(tmp_path)[1] == f"{tmp_path}: expected a file, got a folder"
    assert "expected a readable file, got embedded null byte" in keep("a\0b.wav")[1]
    assert keep(np.zeros(3))[1] == "expected a path or a binary file object, got ndarray"
    assert "expected a binary file that waits for its bytes, got str" in keep(io.StringIO("text"))[1]
    closed = io.BytesIO()
    closed.close()
    assert "expected a readable file, got I/O operation on closed file" in keep(closed)[1]


def test_a_file_without_permission(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert keep("mine.wav")[1] == "mine.wav: expected a readable file, got Permission denied"


@pytest.mark.parametrize("kind", ["start.mp4", "parts.mp4", "a.flac", "a.mkv", "a.aac", "a.aiff", "a.wav"])
@pytest.mark.parametrize("piped", [False, True])
def test_a_file_that_breaks_off(kind, piped):
    if kind == "a.wav":
        content = riff(np.random.default_rng(0).bytes(2 * 8 * 16_000), 1, 16)
    else:
        content = encode(kind, seconds=8)
    whole = read_audio(io.BytesIO(content), 16_000)
    cut = content[: len(content) // 2]
    kept, message = keep(Pipe(cut) if piped else io.BytesIO(cut))
    assert 3.4 < len(kept) / 16_000 < 4.6
    tail = 400  # where the resampler rang out
    np.testing.assert_allclose(kept[:-tail], whole[: len(kept) - tail], atol=1e-6)
    assert message == f"audio: expected a whole file, got one that breaks off at {len(kept) / 16_000:.2f} s"
    with pytest.raises(AudioError, match="breaks off"):
        read_audio(io.BytesIO(cut), 16_000)


@pytest.mark.parametrize("kind", ["a.mp3", "a.opus", "a.g722"])
def test_a_file_that_does_not_tell_its_length_just_ends(tmp_path, kind):
    path = tmp_path / kind
    content = encode(kind, seconds=8)
    path.write_bytes(content[: len(content) // 2])
    assert 3.4 < len(read_audio(path, 16_000)) / 16_000 < 4.6


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF024, 0])
@pytest.mark.parametrize("piped", [False, True])
def test_a_wav_whose_writer_did_not_know_its_length(size, piped):
    content = riff(bytes(2 * 20_000), 1, 16, size=size)
    limits = Limits(max_s=2, max_bytes=40_000)  # counted as it comes: the header says hours
    assert len(read_audio(Pipe(content) if piped else io.BytesIO(content), 16_000, limits)) == 20_000


@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize(
    "tail", [b"", b"LIST\x0c\0\0\0INFOIART\0\0\0\0", b"junk" + struct.pack("<I", 150_000) + bytes(150_000)]
)
def test_chunks_after_the_samples_are_no_break(tail, piped):
    content = riff(bytes(2 * 20_000), 1, 16)
    content = content[:4] + struct.pack("<I", len(content) - 8 + len(tail)) + content[8:] + tail
    assert len(read_audio(Pipe(content) if piped else io.BytesIO(content), 16_000)) == 20_000


@pytest.mark.parametrize("piped", [False, True])
def test_a_chunk_after_the_samples_of_an_aiff_is_no_break(piped):
    content = encode("a.aiff") + b"ANNO" + struct.pack(">I", 150_000) + bytes(150_000)
    content = content[:4] + struct.pack(">I", len(content) - 8) + content[8:]
    assert len(read_audio(Pipe(content) if piped else io.BytesIO(content), 8_000)) == 8_000


def test_a_missing_padding_byte_is_no_break():
    content = riff(bytes(20_001), 1, 8)
    content = content[:4] + struct.pack("<I", len(content) - 8 + 1) + content[8:]
    assert len(read_audio(io.BytesIO(content), 16_000)) == 20_001


def test_a_title_in_another_alphabet():
    title = b"LIST" + struct.pack("<I", 16) + b"INFOINAM" + struct.pack("<I", 4) + b"Caf\xe9"
    content = riff(bytes(2 * 20_000), 1, 16)
    content = b"RIFF" + struct.pack("<I", len(content) - 8 + len(title)) + b"WAVE" + title + content[12:]
    assert len(read_audio(io.BytesIO(content), 16_000)) == 20_000


@pytest.mark.parametrize("tail", [bytes(3_000), b"TAG" + bytes(125), b"Lyrics and other nonsense. " * 40])
def test_what_stands_after_an_mp3_is_ignored(tail):
    assert len(read_audio(io.BytesIO(encode("a.mp3") + tail), 44_100)) == pytest.approx(44_100, abs=1_200)


def test_damage_in_the_middle_is_passed_over(capfd):
    content = bytearray(encode("a.flac", seconds=4))
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    samples = read_audio(io.BytesIO(bytes(content)), 48_000)
    assert 0.9 * 4 * 48_000 < len(samples) < 4 * 48_000
    assert capfd.readouterr() == ("", "")


def test_limits_are_counted_as_produced():
    content = riff(bytes(2 * 2 * 16_000 * 10), 1, 16, channels=2)  # 10 s, 640 000 bytes
    assert len(read_audio(io.BytesIO(content), 8_000, Limits(max_s=10, max_bytes=640_000))) == 80_000
    kept, message = keep(io.BytesIO(content), 8_000, Limits(max_s=3.5))
    assert message == "audio: expected at most 3.5 s of audio, got more"
    assert 3.2 * 8_000 < len(kept) <= 3.5 * 8_000
    kept, message = keep(io.BytesIO(content), 8_000, Limits(max_bytes=320_000))
    assert message == "audio: expected at most 320000 bytes of decoded audio, got more"
    assert 4.5 * 8_000 < len(kept) <= 5 * 8_000
    assert keep(io.BytesIO(content), 8_000, Limits(max_channels=1))[1] == "audio: expected at most 1 channels, got 2"


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile sound.aac\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{folder}/sound.aac\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{folder}/sound.aac\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_playlist_opens_nothing(tmp_path, monkeypatch, playlist):
    monkeypatch.chdir(tmp_path)
    Path("sound.aac").write_bytes(encode("a.aac"))
    assert len(read_audio("sound.aac", 16_000)) > 0
    for name in ("list.txt", "list.m3u8"):
        Path(name).write_text(playlist.format(folder=tmp_path))
        assert keep(name)[1].startswith(f"{name}: expected a")


class Failing(Pipe):
    def __init__(self, content: bytes, failure: BaseException) -> None:
        super().__init__(content)
        self.failure = failure

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        if not data:
            raise self.failure
        return data


def test_a_failing_disk_is_an_error_after_what_was_read():
    content = riff(bytes(2 * 16_000 * 20), 1, 16)[: 2 * 16_000 * 10]
    kept, message = keep(Failing(content, OSError(errno.EIO, "Input/output error")))
    assert message == "audio: expected a readable file, got Input/output error"
    assert len(kept) > 9.5 * 16_000
    assert keep(Failing(b"", OSError(errno.EIO, "Input/output error")))[1] == message


@pytest.mark.parametrize("content", [b"", riff(bytes(90_000), 1, 16, size=0xFFFFFFFF), encode("a.m4a")[:9_000]])
def test_an_interrupt_while_reading_is_an_interrupt(content):
    with pytest.raises(KeyboardInterrupt):
        read_audio(Failing(content, KeyboardInterrupt()), 16_000)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
def test_damage_never_raises_anything_else(kind, data):
    content = bytearray(encode(kind, seconds=0.2))
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = io.BytesIO(bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))]))
    file.name = kind
    with contextlib.suppress(AudioError):
        for block in open_audio(file, 16_000, Limits(max_s=60)):
            assert np.isfinite(block).all()


def test_of_both_sides_everything_before_a_file_breaks_off():
    content = riff(np.zeros(64_000, "<i2").tobytes(), 1, 16, channels=2)[:-60_000]
    blocks: list[np.ndarray] = []
    with pytest.raises(AudioError, match="expected a whole file, got one that breaks off"):
        blocks.extend(open_stereo(io.BytesIO(content), 24_000))
    assert sum(block.shape[1] for block in blocks) == (128_000 - 60_000) / 4 * 1.5
