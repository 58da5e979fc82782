import json
from pathlib import Path

import pytest
import torch

from earful import (
    VoxtralRealtimeConfig,
    VoxtralRealtimeEncoder,
    VoxtralRealtimeEncoderConfig,
    VoxtralRealtimeForConditionalGeneration,
    VoxtralRealtimeTextConfig,
)
from earful.registry import load_model
from earful.testing import write_tiny

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "golden" / "voxtral_config.json").read_text())


def test_documented_defaults():
    """As the page lists them, and the text model's as the page describes them: those of the published model."""
    encoder = {
        "vocab_size": 131072,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "activation_function": "gelu",
        "num_mel_bins": 128,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "max_position_embeddings": 1500,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_window": 750,
        "head_dim": 64,
    }
    got = VoxtralRealtimeEncoderConfig().to_dict()
    assert {name: got[name] for name in encoder} == encoder
    whole = {
        "projector_hidden_act": "gelu",
        "audio_length_per_tok": 8,
        "default_num_delay_tokens": 6,
        "downsample_factor": 4,
    }
    got = VoxtralRealtimeConfig().to_dict()
    assert {name: got[name] for name in whole} == whole
    assert got["model_type"] == "voxtral_realtime"
    assert got["audio_config"]["model_type"] == "voxtral_realtime_encoder"
    assert got["text_config"]["model_type"] == "voxtral_realtime_text"


def test_defaults_are_the_published_model():
    got, published = VoxtralRealtimeConfig().to_dict(), VoxtralRealtimeConfig.from_dict(GOLDEN).to_dict()
    for part in ("audio_config", "text_config"):
        assert got[part] == {name: published[part][name] for name in got[part]}
    with torch.device("meta"):
        model = VoxtralRealtimeForConditionalGeneration(VoxtralRealtimeConfig())
    assert sum(p.numel() for p in model.parameters()) == 4_429_679_360


def test_nested_dictionaries_and_objects():
    first = VoxtralRealtimeConfig(
        audio_config={"hidden_size": 20}, text_config=VoxtralRealtimeTextConfig(hidden_size=6)
    )
    second = VoxtralRealtimeConfig.from_dict({"audio_config": {"hidden_size": 20}, "text_config": {"hidden_size": 6}})
    assert first == second
    assert (first.audio_config.hidden_size, first.text_config.hidden_size, first.hidden_size) == (20, 6, 6)
    assert first.audio_config.num_hidden_layers == 32


def test_unknown_arguments_are_refused_but_unknown_keys_of_a_file_are_kept():
    with pytest.raises(TypeError, match="hidden_sizes"):
        VoxtralRealtimeConfig(hidden_sizes=3)
    config = VoxtralRealtimeConfig.from_dict({**GOLDEN, "transformers_version": "5.9"})
    assert config.to_dict()["transformers_version"] == "5.9"
    assert VoxtralRealtimeConfig.from_dict(config.to_dict()) == config


def test_a_change_of_a_dictionary_is_not_a_change_of_the_config():
    values = VoxtralRealtimeConfig().to_dict()
    config = VoxtralRealtimeConfig.from_dict(values)
    values["audio_config"]["rope_parameters"]["rope_theta"] = 1.0
    config.to_dict()["text_config"]["rope_parameters"]["rope_theta"] = 1.0
    assert config == VoxtralRealtimeConfig()


def test_save_and_load(tmp_path):
    config = VoxtralRealtimeConfig(audio_config={"hidden_size": 24}, default_num_delay_tokens=3)
    config.save_pretrained(tmp_path)
    assert VoxtralRealtimeConfig.from_pretrained(tmp_path) == config
    assert VoxtralRealtimeEncoderConfig.from_pretrained(tmp_path) == config.audio_config
    assert VoxtralRealtimeTextConfig.from_pretrained(str(tmp_path)) == config.text_config


@pytest.mark.parametrize("layout", ["hf", "mistral"])
def test_of_a_checkpoint(layout, tmp_path):
    folder = write_tiny("voxtral", layout, path=tmp_path, encoder={"rope_base": 1e4}, decoder={"norm_eps": 1e-4})
    config, core = VoxtralRealtimeConfig.from_pretrained(folder), load_model(folder)[0].config
    assert config.audio_config.to_core() == core.encoder
    assert config.text_config.to_core(tied=True) == core.decoder
    assert config.to_core().mels_per_slot == core.mels_per_slot
    assert config.default_num_delay_tokens == core.audio.delay_slots


def test_refuses_configs_of_other_models():
    for kind in (VoxtralRealtimeConfig, VoxtralRealtimeTextConfig):
        with pytest.raises(ValueError, match="expected a config of model_type voxtral_realtime.*, got 'whisper'"):
            kind.from_dict({"model_type": "whisper"})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"projector_hidden_act": "relu"}, "expected projector_hidden_act to be 'gelu', got 'relu'"),
        ({"audio_length_per_tok": 6}, "expected audio_length_per_tok to be 8, got 6"),
        ({"audio_config": {"hidden_act": "relu"}}, "expected hidden_act to be 'silu', got 'relu'"),
        ({"audio_config": {"activation_function": "relu"}}, "expected activation_function to be 'gelu'"),
        ({"audio_config": {"attention_dropout": 0.1}}, "expected attention_dropout to be 0, got 0.1"),
        ({"text_config": {"sliding_window": None}}, "expected sliding_window to be a number of steps, got None"),
        ({"text_config": {"rope_parameters": {"rope_type": "yarn"}}}, "expected rope_type to be"),
        ({"text_config": {"hidden_act": "gelu"}}, "expected hidden_act to be 'silu', got 'gelu'"),
    ],
)
def test_refuses_what_the_network_does_not_have(change, message):
    config = VoxtralRealtimeConfig.from_dict(change)
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        VoxtralRealtimeForConditionalGeneration(config)


def small(**changes):
    audio = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 6}
    text = {**audio, "hidden_size": 12, "num_key_value_heads": 1, "vocab_size": 50}
    return VoxtralRealtimeConfig.from_dict({"audio_config": audio, "text_config": text, **changes})


def test_random_weights():
    config = small()
    config.audio_config.initializer_range, config.text_config.initializer_range = 0.5, 0.1
    torch.manual_seed(0)
    model = VoxtralRealtimeForConditionalGeneration(config)
    for name, parameter in model.core.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == float(name.endswith("norm.weight"))).all(), name
        else:
            spread = 0.5 if name.startswith("encoder") else 0.1
            error = spread * 4 * (2 * parameter.numel()) ** -0.5
            assert abs(parameter.std() - spread) < error, name
    alone = VoxtralRealtimeEncoder(config.audio_config)
    assert abs(alone.core.conv2.conv.weight.std() - 0.5) < 0.06


@pytest.mark.parametrize("tied", [True, False])
def test_tied_or_not(tied):
    model = VoxtralRealtimeForConditionalGeneration(small(tie_word_embeddings=tied))
    assert (model.core.decoder.head is None) == tied
