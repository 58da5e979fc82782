"""The tiny checkpoints are what they claim to be, for us and for the implementation that we compare with."""

from collections import Counter

import numpy as np
import pytest
import torch

from earful.audio.mel import log_mel
from earful.registry import load_model
from earful.testing import write_tiny
from earful.text.tekken import Tekken

SHAPES = [
    {},
    {"encoder": {"window": 3}, "decoder": {"window": 4}, "audio": {"left_slots": 0, "delay_slots": 1}},
    {"encoder": {"layers": 1, "dim": 24}, "decoder": {"layers": 3, "kv_heads": 1}, "audio": {"bins": 40}},
]


def sound(seconds, rate_hz=16_000, seed=0):
    """Noise whose loudness changes from slot to slot."""
    random = np.random.default_rng(seed)
    loudness = np.repeat(random.uniform(0, 0.3, round(seconds * 25)), rate_hz // 25)
    return (random.standard_normal(len(loudness)) * loudness).astype(np.float32)


def features(model, samples):
    audio = model.config.audio
    wave = torch.from_numpy(samples)[None]
    return log_mel(wave, audio.rate_hz, audio.hop, audio.window, audio.bins, audio.log_max, center=True)


@torch.no_grad()
def greedy(model, samples):
    """Every slot decoded from the whole of what came before."""
    config = model.config
    slots = len(samples) // config.slot_samples
    heard = model.hear(features(model, samples[: slots * config.slot_samples]))
    gains = model.decoder.gains(torch.tensor([float(config.audio.delay_slots)]))
    ids = [config.ids.bos] + [config.ids.blank] * (config.audio.left_slots + config.audio.delay_slots)
    prompt = len(ids)
    while len(ids) < slots:
        x = model.decoder.embed(torch.tensor([ids])) + heard[:, : len(ids)]
        ids.append(int(model.decoder.logits(model.decoder(x, gains))[0, -1].argmax()))
    return ids[prompt:]


def weights_of(folder):
    return load_model(folder)[0].state_dict()


def test_a_tiny_codec_is_the_same_in_every_layout_and_varies_with_the_seed(tmp_path):
    first = weights_of(write_tiny("mimi", "hf", path=tmp_path / "a"))
    again = weights_of(write_tiny("mimi", "kyutai", path=tmp_path / "b"))
    other = weights_of(write_tiny("mimi", "hf", path=tmp_path / "c", seed=1))
    assert all(torch.allclose(first[name], again[name], rtol=3e-7, atol=0) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    smaller = load_model(write_tiny("mimi", path=tmp_path / "d", codec={"window": 3, "ratios": (2,)}))[0].config
    assert (smaller.window, smaller.frame_samples) == (3, 4)
    with pytest.raises(TypeError, match="expected the part codec, got decoder"):
        write_tiny("mimi", path=tmp_path / "e", decoder={"window": 3})
    with pytest.raises(TypeError, match="depth"):
        write_tiny("mimi", path=tmp_path / "e", codec={"depth": 3})


def test_the_same_seed_gives_the_same_model_in_every_layout(tmp_path):
    first = weights_of(write_tiny("voxtral", "hf", path=tmp_path / "a"))
    again = weights_of(write_tiny("voxtral", "mistral", path=tmp_path / "b"))
    other = weights_of(write_tiny("voxtral", "hf", path=tmp_path / "c", seed=1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_sizes_can_be_changed_by_part(tmp_path):
    folder = write_tiny(
        "voxtral",
        "mistral",
        path=tmp_path / "new" / "folder",
        dtype=torch.bfloat16,
        encoder={"window": 5},
        decoder={"layers": 1, "tied": False},
        audio={"hop": 320, "window": 512, "delay_slots": 9},
    )
    model, tokenizer = load_model(folder)
    config = model.config
    assert (config.encoder.window, config.decoder.layers, config.decoder.tied) == (5, 1, False)
    assert (config.audio.hop, config.audio.delay_slots, config.mels_per_slot, config.downsample) == (320, 9, 4, 2)
    assert config.decoder.vocab == Tekken.from_file(tokenizer).vocab
    with pytest.raises(TypeError, match="depth"):
        write_tiny("voxtral", path=tmp_path, encoder={"depth": 5})
    with pytest.raises(TypeError, match="expected parts of audio, decoder, encoder, ids, got encoders"):
        write_tiny("voxtral", path=tmp_path, encoders={"window": 5})
    with pytest.raises(ValueError, match="expected a family of .*voxtral, got whisper"):
        write_tiny("whisper", path=tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_varies(tmp_path, seed):
    """With the audio, and not with every sample: a test on constant ids would see nothing."""
    model, _ = load_model(write_tiny("voxtral", path=tmp_path, seed=seed))
    ids = greedy(model, sound(2.0, seed=seed))
    assert len(set(ids)) >= 6
    assert Counter(ids).most_common(1)[0][1] < 0.6 * len(ids)
    assert greedy(model, sound(2.0, seed=seed + 100)) != ids
    assert greedy(model, np.zeros(32_000, np.float32)) != ids


def test_what_was_written_before_counts(tmp_path):
    """Logits depend on the tokens, on the delay and on the audio by similar amounts."""
    model, _ = load_model(write_tiny("voxtral", path=tmp_path))
    mel = features(model, sound(1.28))
    tokens = torch.randint(40, 360, [1, 16], generator=torch.Generator().manual_seed(0))
    delay = torch.tensor([2.0])
    with torch.no_grad():
        base = model(tokens, mel, delay)
        changes = {
            "tokens": model(tokens.roll(1, -1), mel, delay) - base,
            "audio": model(tokens, mel.roll(40, -1), delay) - base,
            "delay": model(tokens, mel, delay + 1) - base,
        }
    for name, change in changes.items():
        assert 0.05 < float(change.std() / base.std()) < 2, name


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_and_runs_them(tmp_path, changes, tied):
    from transformers import AutoProcessor, VoxtralRealtimeForConditionalGeneration

    changes = {**changes, "decoder": {**changes.get("decoder", {}), "tied": tied}}
    folder = write_tiny("voxtral", "hf", path=tmp_path / "hf", **changes)
    model, _ = load_model(write_tiny("voxtral", "mistral", path=tmp_path / "mistral", **changes))
    theirs, report = VoxtralRealtimeForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(folder)
    config = model.config
    assert processor.num_delay_tokens == config.audio.delay_slots
    assert processor.audio_length_per_tok == config.mels_per_slot
    assert processor.raw_audio_length_per_tok == config.slot_samples
    inputs = processor(sound(1.6), return_tensors="pt")
    prompt = inputs["input_ids"][0].tolist()
    assert prompt == [config.ids.bos] + [config.ids.blank] * (config.audio.left_slots + config.audio.delay_slots)
    assert theirs.generation_config.pad_token_id == config.ids.filler
    generated = theirs.generate(**inputs)[0]
    assert len(generated) > len(prompt) + 5
    assert len(set(generated[len(prompt) :].tolist())) > 3
    assert processor.batch_decode(generated[None], skip_special_tokens=True)[0]
    slots = inputs["input_features"].shape[-1] // config.mels_per_slot
    tokens = torch.randint(0, 360, [1, slots], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(tokens, inputs["input_features"], num_delay_tokens=3).logits
        got = model(tokens, inputs["input_features"], torch.tensor([3.0]))
    assert (got - expected).abs().max() < 1e-4


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_transformers_writes_a_folder_that_loads(tmp_path):
    """The way back, in shards and with the file names of the current release."""
    from transformers import AutoProcessor, VoxtralRealtimeForConditionalGeneration

    folder = write_tiny("voxtral", "hf", path=tmp_path / "ours", max_shard_bytes=60_000)
    assert len(list(folder.glob("model-*.safetensors"))) > 3
    theirs = VoxtralRealtimeForConditionalGeneration.from_pretrained(folder)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    ours, again = load_model(folder)[0], load_model(tmp_path / "theirs")[0]
    assert again.config == ours.config
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())
