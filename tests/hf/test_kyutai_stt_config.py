import pytest
import torch

from earful import (
    KyutaiSpeechToTextConfig,
    KyutaiSpeechToTextForConditionalGeneration,
    KyutaiSpeechToTextModel,
    MimiConfig,
)

DOCUMENTED = {
    "codebook_vocab_size": 2049,
    "vocab_size": 4001,
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "max_position_embeddings": 750,
    "rope_theta": 100000.0,
    "hidden_act": "silu",
    "head_dim": None,
    "initializer_range": 0.02,
    "use_cache": True,
    "sliding_window": 375,
    "attention_dropout": 0.0,
    "ffn_dim": 11264,
    "rms_norm_eps": 1e-08,
    "num_codebooks": 32,
    "audio_bos_token_id": 2048,
    "audio_pad_token_id": 69569,
    "tie_word_embeddings": False,
    "pad_token_id": 3,
    "bos_token_id": 48000,
    "codec_config": None,
}
CODEC = {
    "num_filters": 4,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
    "upsampling_ratios": [4, 3],
    "num_quantizers": 8,
    "codebook_size": 32,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "upsample_groups": 16,
}


def small(**changes):
    sizes = {
        "codebook_vocab_size": 33,
        "vocab_size": 51,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "ffn_dim": 40,
        "num_codebooks": 6,
        "audio_bos_token_id": 32,
        "codec_config": dict(CODEC),
    }
    return KyutaiSpeechToTextConfig(**{**sizes, **changes})


def test_documented_defaults_in_the_documented_order():
    config = KyutaiSpeechToTextConfig(*DOCUMENTED.values())
    assert config == KyutaiSpeechToTextConfig()
    derived = {"num_key_value_heads": 32, "head_dim": 64, "codec_config": MimiConfig()}
    assert {name: getattr(config, name) for name in DOCUMENTED} == {**DOCUMENTED, **derived}
    assert config.frame_size == 1920
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 1e5}


def test_the_defaults_are_the_published_model():
    with torch.device("meta"):
        model = KyutaiSpeechToTextForConditionalGeneration(KyutaiSpeechToTextConfig())
    # 48 blocks of 4 attention and 3 gate matrices and 2 norms; the tables of text and codes; head and last norm
    expected = 48 * (4 * 2048**2 + 3 * 2048 * 5632 + 2 * 2048) + (4001 + 32 * 2049 + 4000 + 1) * 2048
    assert sum(p.numel() for p in model.core.temporal.parameters()) == expected
    assert model.codec_model.config.num_quantizers == 32


def test_nested_dictionaries_objects_and_the_other_name():
    configs = [
        small(),
        small(codec_config=MimiConfig(**CODEC)),
        small(codec_config=None, audio_encoder_config=CODEC),
        KyutaiSpeechToTextConfig.from_dict(small().to_dict()),
    ]
    assert all(config == configs[0] for config in configs)
    assert configs[0].frame_size == 24
    with pytest.raises(ValueError, match="expected codec_config or its other name audio_encoder_config, got both"):
        small(audio_encoder_config=CODEC)
    with pytest.raises(TypeError, match="depth__config"):  # of Moshi's page; there is no depth decoder here
        small(depth__config={})


def test_both_names_of_the_rotary_base():
    assert small(rope_theta=5e4).rope_parameters["rope_theta"] == 5e4
    newer = small(rope_parameters={"rope_type": "default", "rope_theta": 5e4})
    assert newer == small(rope_theta=5e4)
    assert newer.to_temporal().rope_base == 5e4
    assert newer.to_dict()["rope_theta"] == newer.to_dict()["rope_parameters"]["rope_theta"] == 5e4


def test_start_ids():
    assert KyutaiSpeechToTextConfig().start_ids == (4000, 2048)
    assert small(bos_token_id=7).start_ids == (7, 32)
    assert small(bos_token_id=51).start_ids == (50, 32)
    assert small(bos_token_id=None, audio_bos_token_id=None).start_ids == (50, 32)


def test_save_and_load(tmp_path):
    config = small(head_dim=10, sliding_window=9, bos_token_id=50)
    config.other["transformers_version"] = "5.23.0"
    config.save_pretrained(tmp_path)
    assert KyutaiSpeechToTextConfig.from_pretrained(tmp_path) == config
    assert config.to_dict()["transformers_version"] == "5.23.0"


def test_in_the_words_of_the_core():
    core = small(head_dim=10, sliding_window=9, rms_norm_eps=1e-6, pad_token_id=5).to_core()
    temporal = core.temporal
    assert (temporal.dim, temporal.layers, temporal.heads, temporal.head_dim, temporal.mlp_dim) == (24, 2, 3, 10, 20)
    assert (temporal.text_vocab, temporal.codebooks, temporal.audio_vocab) == (50, 6, 32)
    assert (temporal.window, temporal.norm_eps, temporal.rope_base) == (9, 1e-6, 1e5)
    assert (core.codec, core.pad_id) == (small().codec_config.to_core(), 5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ffn_dim": 41}, "expected an even ffn_dim, got 41"),
        ({"hidden_act": "relu"}, "expected hidden_act to be 'silu', got 'relu'"),
        ({"attention_dropout": 0.1}, "expected attention_dropout to be 0, got 0.1"),
        ({"tie_word_embeddings": True}, "expected tie_word_embeddings to be False, got True"),
        ({"num_key_value_heads": 1}, "expected num_key_value_heads to be 3, got 1"),
        ({"sliding_window": None}, "expected sliding_window to be a number of steps, got None"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "expected a rope_type of default, got yarn"),
        ({"codec_config": {**CODEC, "hidden_act": "relu"}}, "expected hidden_act to be"),
    ],
)
def test_refuses_what_the_network_does_not_have(change, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        KyutaiSpeechToTextForConditionalGeneration(small(**change))


def test_refuses_configs_of_other_models():
    with pytest.raises(ValueError, match="expected a config of model_type kyutai_speech_to_text, got 'moshi'"):
        KyutaiSpeechToTextConfig.from_dict({"model_type": "moshi"})
    with pytest.raises(TypeError, match="hidden_sizes"):
        small(hidden_sizes=3)


def test_random_weights():
    torch.manual_seed(0)
    for model in (KyutaiSpeechToTextForConditionalGeneration, KyutaiSpeechToTextModel):
        made = model(small(initializer_range=0.3)).core
        for name, parameter in getattr(made, "temporal", made).named_parameters():
            if parameter.ndim == 1:
                assert (parameter == 1).all(), name
            else:
                assert abs(parameter.std() - 0.3) < 0.3 * 4 * (2 * parameter.numel()) ** -0.5, name
