"""What is wrong with a folder, and what a layout cannot say."""

import json
from dataclasses import replace

import pytest
import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import load_tensors, save_weights
from earful.errors import CheckpointError
from earful.models.moshi.config import MOSHI_7B
from earful.models.moshi.config_hf import from_hf
from earful.models.moshi.config_kyutai import to_kyutai
from earful.registry import load_model


def conditions(**changes):
    lut = {"dim": 6, "n_bins": 5, "possible_values": ["bad", "good"], "tokenizer": "noop"} | changes
    return {"mood": {"type": "lut", "lut": lut}}


SUM = {"sum": ["mood"], "cross": [], "prepend": []}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "hibiki"}, "expected model_type to be \"moshi\", got 'hibiki'"),
        ({"model_type": "tts"}, "expected model_type to be \"moshi\", got 'tts'"),
        ({"norm": "rms_norm"}, "expected norm to be one of rms_norm_f32, layer_norm, got 'rms_norm'"),
        ({"cross_attention": True}, "expected cross_attention to be false, got True"),
        ({"demux_second_stream": True}, "expected demux_second_stream to be false, got True"),
        ({"text_card_out": 5}, "expected text_card_out to be 320, got 5"),
        ({"depformer_multi_linear": False}, "expected depformer_multi_linear to be true, got False"),
        ({"depformer_weights_per_step": False}, "expected depformer_weights_per_step to be true, got False"),
        ({"depformer_pos_emb": "rope"}, "expected depformer_pos_emb to be one of none, sin, got 'rope'"),
        ({"depformer_norm": "rms_norm_f32"}, "expected depformer_norm to be null, got 'rms_norm_f32'"),
        ({"depformer_dim_feedforward": [63, 66, 66]}, "expected depformer_dim_feedforward to be a whole number of 2"),
        ({"depformer_num_heads": 5}, "expected depformer_num_heads to be a divisor of 32, got 5"),
        ({"depformer_weights_per_step_schedule": [0, 1]}, "expected depformer_weights_per_step_schedule to be 3 whole"),
        ({"depformer_weights_per_step_schedule": [0, 1, 3]}, "to be 3 whole numbers of 0 to 2, got \\[0, 1, 3\\]"),
        ({"delays": [0] * 6}, "expected delays to be 7 whole numbers of 0 to 256, got \\[0, 0"),
        ({"delays": [0] * 6 + [-1]}, "expected delays to be 7 whole numbers"),
        ({"delays": None}, "expected delays to be 7 whole numbers"),
        ({"extra_heads_num_heads": 4}, "expected extra_heads_num_heads to be 0, got 4"),
        ({"n_q": 3, "delays": [0] * 4}, "expected codebooks of a user beside the voice's 3, got 3 in all"),
        ({"n_q": 12, "delays": [0] * 13}, "expected at most the 6 codebooks of the codec, got 3 of the voice and 9 of"),
        ({"card": 64}, "expected codes of 32 values as in the codec, got 64"),
        ({"existing_text_end_padding_id": 3}, "expected two different ids below 320 .*, got 3 and 3"),
        ({"moshi_name": "../model.safetensors"}, "expected moshi_name to be the name of a file in the same folder"),
        ({"mimi_name": "mimi.pt"}, "expected mimi_name to be a safetensors file: .* never opened"),
        ({"conditioners": {"mood": {"type": "tensor"}}, "fuser": SUM}, "expected type to be \"lut\", got 'tensor'"),
        ({"conditioners": conditions()}, "expected fuser, an object, got no such key"),
        ({"conditioners": conditions(), "fuser": {"cross": ["mood"]}}, "fuser: expected cross to be \\[\\], got"),
        ({"conditioners": conditions(), "fuser": {"sum": []}}, "expected sum to be all of \\['mood'\\], got \\[\\]"),
        ({"conditioners": {"{i}": {}}, "fuser": SUM}, "expected conditioners to be at most 32 with plain names"),
        ({"conditioners": conditions(possible_values=None), "fuser": SUM}, "expected possible_values to be 1 to 5 tex"),
        ({"conditioners": conditions(possible_values=["a", "a"]), "fuser": SUM}, "to be texts that differ, got"),
        ({"conditioners": conditions(learn_padding=False), "fuser": SUM}, "expected learn_padding to be true"),
        ({"conditioners": conditions(), "fuser": SUM}, "got 3 missing: condition_provider.conditioners.mood.embed.wei"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(tiny, tmp_path, change, message):
    for path in tiny["kyutai"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    document = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ffn_dim": 121}, "expected ffn_dim to be an even number, got 121"),
        ({"num_key_value_heads": 2}, "expected num_key_value_heads to be 4, got 2"),
        ({"head_dim": 11}, "expected an even head_dim, got 11"),
        ({"hidden_act": "relu"}, 'expected hidden_act to be "silu"'),
        ({"rope_parameters": {"rope_type": "yarn"}}, 'expected rope_type to be "default"'),
        ({"num_codebooks": 7}, "expected at most the 6 codebooks of the codec, got 7 of the voice and 7 of the user"),
        ({"audio_vocab_size": 64}, "expected codes of 32 values as in the codec, got 64"),
        ({"depth_decoder_config": {"hidden_act": "relu"}}, 'depth_decoder_config: expected hidden_act to be "silu"'),
        ({"depth_decoder_config": {"ffn_dim": 3}}, "expected ffn_dim to be an even number, got 3"),
    ],
)
def test_a_config_of_hugging_face_that_cannot_be_used_is_named(tiny, change, message):
    document = json.loads((tiny["hf"] / "config.json").read_text()) | change
    with pytest.raises(CheckpointError, match=message):
        from_hf(Fields(document, "config.json"))


@pytest.mark.parametrize("part", ["temporal", "depth"])
@pytest.mark.parametrize("changes", [{"head_dim": 10}, {"norm_eps": 1e-5}])
def test_a_model_that_kyutai_cannot_describe(part, changes):
    config = replace(MOSHI_7B, **{part: replace(getattr(MOSHI_7B, part), **changes)})
    with pytest.raises(CheckpointError, match="Kyutai's layout cannot say otherwise"):
        to_kyutai(config)


def test_tensors_that_are_not_there_are_named(folder):
    tensors = load_tensors(folder / "model.safetensors")
    del tensors["linears.2.weight"]
    save_weights(folder, {**tensors, "depformer.extra": torch.zeros(2)}.items())
    with pytest.raises(
        CheckpointError, match=r"got 1 missing: linears.2.weight; 1 not of this model: depformer.extra$"
    ):
        load_model(folder)
