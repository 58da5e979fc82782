import pytest
import torch

from earful import MimiConfig, MimiModel
from earful.errors import CheckpointError
from earful.models.mimi.config import MIMI
from earful.testing import write_tiny


def test_defaults_are_the_published_model():
    config = MimiConfig()
    assert config.to_core() == MIMI
    assert (config.frame_rate, config.frame_size, config.encodec_frame_rate) == (12.5, 1920, 25)
    assert (config.latent_stride, config.latent_dim, config.num_codebooks, config.head_dim) == (2, 512, 32, 64)
    assert config.upsampling_ratios == [8, 6, 5, 4]
    with torch.device("meta"):
        model = MimiModel(config)
    assert sum(p.numel() for p in model.parameters()) == 79_308_609


def test_old_files_mean_the_same():
    old = {"model_type": "mimi", "rope_theta": 500.0, "frame_rate": 12.5, "chunk_in_sec": None, "head_dim": None}
    config = MimiConfig.from_dict(old)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 500.0}
    assert config.to_dict()["chunk_in_sec"] is None
    assert MimiConfig.from_dict({"_frame_rate": None}) == MimiConfig()
    assert MimiConfig.from_dict({"_frame_rate": 12.5}) == MimiConfig()
    assert MimiConfig.from_dict(config.to_dict()) == config


def test_a_change_of_a_dictionary_is_not_a_change_of_the_config():
    values = MimiConfig().to_dict()
    config = MimiConfig.from_dict(values)
    values["upsampling_ratios"].append(9)
    config.to_dict()["rope_parameters"]["rope_theta"] = 1.0
    assert config == MimiConfig()


def test_of_a_checkpoint(tmp_path):
    folder = write_tiny("mimi", path=tmp_path, codec={"window": 7, "rope_base": 100.0})
    config = MimiConfig.from_pretrained(folder)
    assert (config.sliding_window, config.rope_parameters["rope_theta"]) == (7, 100.0)
    config.save_pretrained(tmp_path / "again")
    assert MimiConfig.from_pretrained(tmp_path / "again") == config


def test_halves():
    for name in ("encoder_config", "decoder_config"):
        config = MimiConfig.from_dict({name: None})
        assert getattr(config, name) is None
        assert config.to_dict()[name] is None
        core = config.to_core()
        assert (core.encodes, core.decodes) == (name != "encoder_config", name != "decoder_config")
        with pytest.raises(ValueError, match=f"expected {name} to be None or left out"):
            MimiConfig(**{name: {"hidden_size": 3}})
    assert not {"encoder_config", "decoder_config"} & MimiConfig().to_dict().keys()
    with pytest.raises(ValueError, match="expected an encoder, a decoder or both, got neither"):
        MimiConfig(encoder_config=None, decoder_config=None)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_semantic_quantizers": 32}, "expected num_semantic_quantizers below the 32 quantizers in all, got 32"),
        ({"codebook_size": 1000}, "expected codebook_size to be a power of 2, got 1000"),
        ({"codebook_size": 0}, "expected codebook_size to be a power of 2, got 0"),
        ({"model_type": "encodec"}, "expected a config of model_type mimi, got 'encodec'"),
    ],
)
def test_refused_at_once(change, message):
    with pytest.raises(ValueError, match=message):
        MimiConfig.from_dict(change)


@pytest.mark.parametrize(
    "change",
    [
        {"use_causal_conv": False},
        {"pad_mode": "reflect"},
        {"trim_right_ratio": 0.5},
        {"use_conv_shortcut": True},
        {"hidden_act": "relu"},
        {"attention_bias": True},
        {"num_key_value_heads": 4},
        {"upsample_groups": 1},
        {"vector_quantization_hidden_dimension": 128},
        {"frame_rate": 25.0},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        {"sliding_window": None},
    ],
    ids=str,
)
def test_refuses_what_the_network_does_not_have(change):
    (name,) = change
    with pytest.raises(CheckpointError, match="rope_type" if name == "rope_parameters" else name):
        MimiModel(MimiConfig(**change))
    with pytest.raises(ValueError, match="expected attention_dropout to be 0, got 0.1"):
        MimiModel(MimiConfig(attention_dropout=0.1))


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="hidden_sizes"):
        MimiConfig(hidden_sizes=3)
