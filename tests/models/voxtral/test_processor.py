import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earful.errors import AudioError, CheckpointError
from earful.models.voxtral.processor import (
    PUBLISHED_AUDIO,
    PUBLISHED_IDS,
    VoxtralProcessor,
    to_16_bit,
    to_float,
)
from earful.testing import write_tiny
from earful.text.bpe import tiny_tekken
from earful.text.tekken import Tekken

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
PUBLISHED = VoxtralProcessor(tiny_tekken(hop=160, window=400, bins=128, left_slots=32, delay_slots=6))
SHORT_HOPS = VoxtralProcessor(tiny_tekken(hop=160, window=400, bins=20, left_slots=2, delay_slots=1))
LONG_HOPS = VoxtralProcessor(tiny_tekken(hop=320, window=512, bins=20, left_slots=2, delay_slots=3))


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, count, dtype=np.int16)


def test_published_geometry():
    assert PUBLISHED.audio == PUBLISHED_AUDIO
    assert PUBLISHED.right_slots == 17
    assert PUBLISHED.mels_per_slot == 8
    assert PUBLISHED.slot_samples == 1280
    assert PUBLISHED.first_mels == 56
    assert PUBLISHED.first_samples == 9000
    assert PUBLISHED.chunk_samples == 1680
    assert PUBLISHED.prompt == [1] + [32] * 38


def test_published_constants_are_those_of_the_files():
    mel = json.loads((GOLDEN / "voxtral_params.json").read_text())
    for key in ("multimodal", "whisper_model_args", "encoder_args", "audio_encoding_args"):
        mel = mel[key]
    a = PUBLISHED_AUDIO
    got = [a.rate_hz, a.hop, a.window, a.bins, a.log_max, a.rate_hz / mel["frame_rate"]]
    keys = ("sampling_rate", "hop_length", "window_size", "num_mel_bins", "global_log_mel_max")
    assert got == [*(mel[key] for key in keys), PUBLISHED.slot_samples]
    config = json.loads((GOLDEN / "voxtral_config.json").read_text())
    assert a.delay_slots == config["default_num_delay_tokens"]
    assert PUBLISHED.ids == PUBLISHED_IDS


@pytest.mark.parametrize("delay", [1, 3, 12, 30])
def test_delay_moves_prompt_and_padding(delay):
    core = VoxtralProcessor(tiny_tekken(hop=160, window=400, bins=20, left_slots=32, delay_slots=delay))
    assert core.right_slots == delay + 11
    assert len(core.prompt) == 33 + delay
    assert core.first_mels == 8 * (delay + 1)


@pytest.mark.parametrize("samples, frames", [(0, 392), (1, 400), (399, 400), (12345, 472), (16000, 496), (38400, 632)])
def test_frames_of_a_clip(samples, frames):
    assert PUBLISHED.whole([noise(samples)]).shape == (1, 128, frames)


def test_rows_of_a_batch_are_padded_by_themselves():
    clips = [noise(5000), noise(1281), noise(1)]
    batch = SHORT_HOPS.whole(clips)
    for row, clip in zip(batch, clips, strict=True):
        alone = SHORT_HOPS.whole([clip])[0]
        torch.testing.assert_close(row[:, : alone.shape[1]], alone, rtol=0, atol=1e-6)
        assert (row[:, alone.shape[1] :] == row[0, 0]).all()  # silence


@pytest.mark.parametrize("core", [SHORT_HOPS, LONG_HOPS])
@given(samples=st.integers(0, 9000))
def test_a_stream_in_chunks_has_the_features_of_the_whole(core, samples):
    clip = noise(samples, seed=samples)
    a, slot = core.audio, core.slot_samples
    heard = -(-samples // slot) + core.right_slots
    padded = np.pad(clip, (0, heard * slot - samples + a.window // 2 + slot))
    chunks = [core.first([padded[: core.first_samples]])]
    assert chunks[0].shape[-1] == a.left_slots * core.mels_per_slot + core.first_mels
    for number in range(a.delay_slots + 1, heard):
        start = number * slot - a.window // 2
        chunks.append(core.later([padded[start : start + core.chunk_samples]]))
        assert chunks[-1].shape[-1] == core.mels_per_slot
    torch.testing.assert_close(torch.cat(chunks, -1), core.whole([clip]), rtol=0, atol=1e-5)


def test_floats_become_16_bit_samples_downwards():
    step = 1 / 32768
    clip = np.array([0.0, step, 1.99 * step, -0.01 * step, -step, 1.0, -1.0, 7.0, -7.0, 1e-12, -1e-12, 1 - 1e-9])
    expected = [0, 1, 1, -1, -1, 32767, -32768, 32767, -32768, 0, 0, 32767]
    assert (to_16_bit(clip) * 32768).tolist() == expected
    assert (to_16_bit(clip.astype(np.float32)) * 32768).tolist() == expected


@given(st.lists(st.integers(-32768, 32767)))
def test_16_bit_samples_stay_what_they_are(values):
    clip = np.array(values, np.int16)
    for form in (clip, to_float(clip), to_float(clip).astype(np.float64)):
        got = to_16_bit(form)
        assert got.dtype == np.float32
        assert (got * 32768).tolist() == values


@pytest.mark.parametrize(
    "clip, message",
    [
        (np.zeros((2, 3), np.float32), "mono"),
        (np.array([0.0, np.nan]), "finite"),
        (np.zeros(3, np.int32), "float32 samples, got int32"),
        (np.zeros((2, 3), np.int16), "mono"),
    ],
)
def test_refuses_what_is_no_clip(clip, message):
    for features in (SHORT_HOPS.whole, SHORT_HOPS.first, SHORT_HOPS.later):
        with pytest.raises(AudioError, match=message):
            features([clip])


@pytest.mark.parametrize("layout", ["hf", "mistral"])
@pytest.mark.parametrize("log_max", [1.5, 0.25, None])
def test_folders(layout, log_max, tmp_path):
    folder = write_tiny("voxtral", layout, path=tmp_path / "there", audio={"log_max": log_max})
    core = VoxtralProcessor.from_folder(folder)
    assert core.audio.log_max == log_max
    core.save(tmp_path / "again")
    again = VoxtralProcessor.from_folder(tmp_path / "again")
    assert again.audio == core.audio
    assert again.ids == core.ids
    assert again.tekken.to_json() == core.tekken.to_json()
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["processor_config.json", "tekken.json"]


def test_folder_with_the_older_name(tmp_path):
    SHORT_HOPS.tekken.save(tmp_path / "tekken.json")
    assert VoxtralProcessor.from_folder(tmp_path).audio.log_max == 1.5
    (tmp_path / "preprocessor_config.json").write_text('{"global_log_mel_max": 2.0}')
    assert VoxtralProcessor.from_folder(tmp_path).audio.log_max == 2.0


def test_refuses_folders_without_what_it_needs(tmp_path):
    with pytest.raises(CheckpointError, match="tekken.json"):
        VoxtralProcessor.from_folder(tmp_path)
    silent = {**SHORT_HOPS.tekken.to_json(), "audio": None}
    with pytest.raises(CheckpointError, match="expected an audio block, got none"):
        VoxtralProcessor(Tekken.from_json(silent))


def test_text():
    core = SHORT_HOPS
    ids = core.encode(" one🦉")  # whose last character is a piece for each of its bytes
    mixed = [core.ids.bos, *ids[:-1], core.ids.blank, core.ids.word, ids[-1]]
    assert core.decode(mixed) == " one🦉"
    assert core.decode(mixed, keep_special=True) == "<s> one\ufffd[STREAMING_PAD][STREAMING_WORD]\ufffd"
    with pytest.raises(ValueError, match="expected an id of 0"):
        core.decode([core.tekken.vocab], keep_special=True)
