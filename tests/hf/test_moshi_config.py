import pytest
import torch

from earful import MimiConfig, MoshiConfig, MoshiDepthConfig, MoshiDepthDecoder, MoshiForConditionalGeneration
from earful.models.moshi.config import MOSHI_7B

DOCUMENTED = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "audio_vocab_size": None,
    "max_position_embeddings": 3000,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "head_dim": None,
    "initializer_range": 0.02,
    "use_cache": True,
    "sliding_window": 3000,
    "attention_dropout": 0.0,
    "ffn_dim": 22528,
    "rms_norm_eps": 1e-08,
    "num_codebooks": 8,
    "tie_word_embeddings": False,
}
DOCUMENTED_DEPTH = {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "input_size": 4096,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": None,
    "audio_vocab_size": 2048,
    "max_position_embeddings": 9,
    "hidden_act": "silu",
    "head_dim": None,
    "initializer_range": 0.02,
    "use_cache": True,
    "sliding_window": 8,
    "attention_dropout": 0.0,
    "ffn_dim": 5632,
    "rms_norm_eps": 1e-08,
    "num_codebooks": 8,
    "tie_word_embeddings": False,
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
DEPTH = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 20}


def small(**changes):
    sizes = {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "ffn_dim": 40,
        "num_codebooks": 3,
        "audio_encoder_config": dict(CODEC),
        "depth_decoder_config": dict(DEPTH),
    }
    return MoshiConfig(**{**sizes, **changes})


def test_documented_defaults_in_the_documented_order():
    config, depth = MoshiConfig(*DOCUMENTED.values()), MoshiDepthConfig(*DOCUMENTED_DEPTH.values())
    assert (config, depth) == (MoshiConfig(), MoshiDepthConfig())
    derived = {"num_key_value_heads": 32, "head_dim": 128, "audio_vocab_size": 2048}
    assert {name: getattr(config, name) for name in DOCUMENTED} == {**DOCUMENTED, **derived}
    derived = {"num_key_value_heads": 16, "head_dim": 64}
    assert {name: getattr(depth, name) for name in DOCUMENTED_DEPTH} == {**DOCUMENTED_DEPTH, **derived}
    assert (config.depth_decoder_config, config.audio_encoder_config) == (depth, MimiConfig())
    assert (config.sampling_rate, config.rope_parameters) == (24_000, {"rope_type": "default", "rope_theta": 1e4})


def test_the_defaults_are_the_published_model():
    """A bare one, which transformers cannot build: it leaves the number of codes open."""
    core = MoshiConfig().to_core()
    assert (core.temporal, core.depth, core.delays) == (MOSHI_7B.temporal, MOSHI_7B.depth, MOSHI_7B.delays)
    with torch.device("meta"):
        model = MoshiForConditionalGeneration(MoshiConfig())
        depth = MoshiDepthDecoder(MoshiDepthConfig())
    spoken = sum(p.numel() for part in (model.core.temporal, model.core.depth) for p in part.parameters())
    assert round(spoken / 1e9, 2) == 7.69
    assert {n: p.shape for n, p in depth.core.named_parameters()} == {
        n: p.shape for n, p in model.core.depth.named_parameters()
    }


def test_nested_dictionaries_objects_and_the_pages_name():
    shared = {"vocab_size": 50, "input_size": 24, "num_codebooks": 3, "audio_vocab_size": 32}
    configs = [
        small(),
        small(audio_encoder_config=MimiConfig(**CODEC), depth_decoder_config=MoshiDepthConfig(**DEPTH, **shared)),
        small(depth_decoder_config=None, depth__config=DEPTH),
        small(depth_decoder_config={**DEPTH, "vocab_size": 7, "num_codebooks": 2}),  # the whole model's count
        MoshiConfig.from_dict(small().to_dict()),
    ]
    assert all(config == configs[0] for config in configs)
    given = small()
    around = MoshiConfig.from_audio_encoder_config(
        MimiConfig(**CODEC), vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, ffn_dim=40,
        num_codebooks=3, depth_decoder_config=DEPTH,
    )  # fmt: skip
    assert around == given
    with pytest.raises(ValueError, match="expected depth_decoder_config or its other name depth__config, got both"):
        small(depth__config=DEPTH)


def test_save_and_load(tmp_path):
    config = small(head_dim=10, sliding_window=9, rope_theta=5e4)
    config.other["transformers_version"] = "5.23.0"
    config.save_pretrained(tmp_path)
    assert MoshiConfig.from_pretrained(tmp_path) == config
    assert MoshiDepthConfig.from_pretrained(tmp_path) == config.depth_decoder_config
    assert config.to_dict()["transformers_version"] == "5.23.0"


def test_in_the_words_of_the_core():
    config = small(head_dim=10, sliding_window=9, rms_norm_eps=1e-6, rope_parameters={"rope_theta": 5e4})
    core = config.to_core()
    temporal, depth = core.temporal, core.depth
    assert (temporal.dim, temporal.layers, temporal.heads, temporal.head_dim, temporal.mlp_dim) == (24, 2, 3, 10, 20)
    assert (temporal.text_vocab, temporal.codebooks, temporal.audio_vocab) == (50, 6, 32)
    assert (temporal.window, temporal.norm_eps, temporal.rope_base) == (9, 1e-6, 5e4)
    assert (depth.dim, depth.layers, depth.heads, depth.head_dim, depth.mlp_dim) == (16, 1, 2, 8, 10)
    assert (depth.schedule, core.delays) == ((0, 1, 2), (0, 0, 1, 1, 0, 1, 1))
    assert core.codec == MimiConfig(**CODEC).to_core()
    assert config.depth_decoder_config.to_core()[0] == depth
    assert config.to_temporal().codebooks == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ffn_dim": 41}, "expected an even ffn_dim, got 41"),
        ({"depth_decoder_config": {"ffn_dim": 41}}, "expected an even ffn_dim, got 41"),
        ({"num_codebooks": 9}, "expected num_codebooks of at most the 8 of the codec, got 9"),
        ({"hidden_act": "relu"}, "expected hidden_act to be"),
        ({"attention_dropout": 0.1}, "expected attention_dropout to be 0, got 0.1"),
        ({"depth_decoder_config": {**DEPTH, "attention_dropout": 0.1}}, "expected attention_dropout to be 0, got 0.1"),
        ({"tie_word_embeddings": True}, "expected tie_word_embeddings to be false, got True"),
        ({"num_key_value_heads": 1}, "expected num_key_value_heads to be 3, got 1"),
        ({"audio_vocab_size": 30}, "codes of 32 values as in the codec, got 30"),
        ({"sliding_window": "all"}, "expected sliding_window to be a whole number"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "expected rope_type to be"),
        ({"audio_encoder_config": {**CODEC, "hidden_act": "relu"}}, "expected hidden_act to be"),
        ({"depth_decoder_config": MoshiDepthConfig(**DEPTH)}, "expected audio_vocab_size to be 32, got 2048"),
    ],
)
def test_refuses_what_the_network_does_not_have(change, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        MoshiForConditionalGeneration(small(**change))


def test_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="expected a config of model_type moshi, got 'mimi'"):
        MoshiConfig.from_dict({"model_type": "mimi"})
    with pytest.raises(TypeError, match="hidden_sizes"):
        small(hidden_sizes=3)
    with pytest.raises(TypeError, match="audio_encoder_config"):  # its page has one, which nothing would read
        MoshiDepthConfig(audio_encoder_config={})
    with torch.device("meta"), pytest.raises(ValueError, match="expected hidden_act to be 'silu', got 'relu'"):
        MoshiDepthDecoder(MoshiDepthConfig(hidden_act="relu"))


def test_random_weights():
    torch.manual_seed(0)
    made = MoshiForConditionalGeneration(small(initializer_range=0.3))
    for part, spread in ((made.core.temporal, 0.3), (made.core.depth, 0.02)):
        for name, parameter in part.named_parameters():
            if parameter.ndim == 1:
                assert (parameter == 1).all(), name
            else:
                assert abs(parameter.std() - spread) < spread * 4 * (2 * parameter.numel()) ** -0.5, name
