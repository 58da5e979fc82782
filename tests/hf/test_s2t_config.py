import inspect

import pytest

from earful import Speech2TextConfig
from earful.errors import CheckpointError
from earful.models.s2t.config import PRESETS
from earful.testing import write_tiny

DOCUMENTED = {
    "vocab_size": 10000,
    "encoder_layers": 12,
    "encoder_ffn_dim": 2048,
    "encoder_attention_heads": 4,
    "decoder_layers": 6,
    "decoder_ffn_dim": 2048,
    "decoder_attention_heads": 4,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "use_cache": True,
    "is_encoder_decoder": True,
    "activation_function": "relu",
    "d_model": 256,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "init_std": 0.02,
    "decoder_start_token_id": 2,
    "scale_embedding": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "max_source_positions": 6000,
    "max_target_positions": 1024,
    "num_conv_layers": 2,
    "conv_kernel_sizes": (5, 5),
    "conv_channels": 1024,
    "input_feat_per_channel": 80,
    "input_channels": 1,
}


def test_documented_defaults_in_the_documented_order():
    parameters = list(inspect.signature(Speech2TextConfig).parameters.values())[: len(DOCUMENTED)]
    assert {parameter.name: parameter.default for parameter in parameters} == DOCUMENTED
    assert [parameter.name for parameter in parameters] == list(DOCUMENTED)
    small = PRESETS["s2t-small-librispeech-asr"]
    core = Speech2TextConfig(attention_dropout=0.1, activation_dropout=0.1).to_core()
    assert core == small


def test_other_names():
    config = Speech2TextConfig(d_model=8, encoder_attention_heads=2, encoder_layers=3)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (8, 2, 3)
    assert Speech2TextConfig().conv_kernel_sizes == [5, 5]


def test_there_and_back(tmp_path):
    folder = write_tiny("s2t", path=tmp_path, model={"tied": False, "conv_kernels": (3,)})
    config = Speech2TextConfig.from_pretrained(folder)
    assert (config.tie_word_embeddings, config.conv_kernel_sizes, config.num_conv_layers) == (False, [3], 1)
    config.save_pretrained(tmp_path / "again")
    assert Speech2TextConfig.from_pretrained(tmp_path / "again") == config
    older = Speech2TextConfig.from_dict({**config.to_dict(), "num_beams": 7, "max_length": 50})
    assert (older.to_core().decoding.beams, older.to_core().decoding.max_length) == (7, 50)


@pytest.mark.parametrize(
    "values, error, message",
    [
        ({"num_conv_layers": 3}, ValueError, r"expected conv_kernel_sizes of 3 layers .*, got \[5, 5\]"),
        ({"pad_token_id": 0}, CheckpointError, "expected pad_token_id to be 1, got 0"),
        ({"conv_kernel_sizes": [5, 4]}, CheckpointError, "expected conv_kernel_sizes to be 1 to 8 odd sizes"),
        ({"activation_function": "tanh"}, CheckpointError, "expected activation_function to be one of relu"),
        ({"d_model": 30}, CheckpointError, "expected encoder_attention_heads to be a divisor of d_model, 30"),
    ],
)
def test_what_the_network_does_not_have(values, error, message):
    with pytest.raises(error, match=message):
        Speech2TextConfig(**values).to_core()


def test_an_unknown_setting_is_named():
    with pytest.raises(TypeError, match="d_modle"):
        Speech2TextConfig(d_modle=5)
    with pytest.raises(ValueError, match="expected a config of model_type speech_to_text, got 'mimi'"):
        Speech2TextConfig.from_dict({"model_type": "mimi"})
