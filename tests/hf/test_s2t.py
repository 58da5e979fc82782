import inspect

import numpy as np
import pytest
import torch

import earful
from earful.errors import CheckpointError
from earful.models.s2t.config import EOS, PAD, START
from earful.testing import write_tiny
from tests.helpers import spoken_like

Model = earful.Speech2TextForConditionalGeneration
RATE = {"sampling_rate": 16_000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny("s2t", path=tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder):
    return Model.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(folder):
    return earful.Speech2TextProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def inputs(processor):
    clips = [spoken_like(np.random.default_rng(length), length) for length in (9_000, 16_000, 5_000)]
    return processor(clips, padding=True, return_tensors="pt", **RATE)


def some_ids(model, rows=3, steps=9):
    ids = torch.randint(4, model.config.vocab_size, (rows, steps), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = START
    return ids


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[1, 2], [4], [8]])
def test_any_cuts_with_a_cache_give_the_whole(model, inputs, cuts):
    ids = some_ids(model)
    whole = model(**inputs, decoder_input_ids=ids, use_cache=False)
    assert whole.past_key_values is None
    parts, cache = [], None
    for begin, end in zip([0, *cuts], [*cuts, 9], strict=True):
        # What is heard is in the cache, so that it need not be given again.
        given = {**inputs} if cache is None else {}
        part = {"decoder_input_ids": ids[:, begin:end], "cache_position": torch.arange(begin, end)}
        output = model(**given, **part, past_key_values=cache)
        cache = output.past_key_values
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, rtol=0, atol=1e-4)
    assert output.encoder_last_hidden_state is None


@torch.no_grad()
def test_embeddings_stand_for_ids(model, inputs):
    ids = some_ids(model)
    embedded = model.core.decoder.embed(ids) * model.config.d_model**0.5
    expected = model(**inputs, decoder_input_ids=ids)
    output = model(**inputs, decoder_inputs_embeds=embedded)
    torch.testing.assert_close(output.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        output.encoder_last_hidden_state,
        model(encoder_outputs=output.to_tuple()[-1:], decoder_input_ids=ids).encoder_last_hidden_state,
    )


@torch.no_grad()
def test_one_head_mask_for_all_layers(model, inputs):
    given = {**inputs, "decoder_input_ids": some_ids(model)}
    masks = {"head_mask": torch.tensor([0.0, 1.0]), "decoder_head_mask": torch.tensor([1.0, 0.0, 1.0])}
    every = {name: mask.expand(2, -1) for name, mask in masks.items()}
    masked = model(**given, **masks).logits
    assert torch.equal(masked, model(**given, **every).logits)
    assert not torch.allclose(masked, model(**given).logits, atol=1e-3)
    ones = model(**given, head_mask=torch.ones(2), cross_attn_head_mask=torch.ones(2, 3)).logits
    torch.testing.assert_close(ones, model(**given).logits, rtol=0, atol=1e-4)


def test_training_learns_the_labels(folder, inputs):
    model = Model.from_pretrained(folder).train()
    labels = model.generate(**inputs, num_beams=1)[:, 1:].flip(0)  # each has to write what another one says
    labels[labels == PAD] = -100
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        output = model(**inputs, labels=labels)
        assert output.past_key_values is None
        output.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(output.loss.item())
    assert losses[-1] < losses[0] / 2


@torch.no_grad()
def test_a_mask_keeps_padding_from_being_heard(model, inputs):
    expected = model.generate(**inputs)
    longer = torch.nn.functional.pad(inputs.input_features, (0, 0, 0, 40))
    mask = torch.nn.functional.pad(inputs.attention_mask, (0, 40))
    assert torch.equal(model.generate(longer, attention_mask=mask), expected)
    ids = some_ids(model)
    masked, heard = model(longer, mask, ids).logits, model(longer, decoder_input_ids=ids).logits
    # The longest one had no padding behind it so far, whose first frame is heard a little, as in the reference.
    plain = model(**inputs, decoder_input_ids=ids).logits
    torch.testing.assert_close(masked[[0, 2]], plain[[0, 2]], rtol=0, atol=1e-4)
    assert not torch.allclose(masked, heard, atol=0.1)


def test_silence_and_short_clips_have_the_empty_text(model, processor):
    silence = processor(np.zeros(16_000, np.float32), return_tensors="pt", **RATE)
    assert (silence.input_features == 0).all()
    assert (model(**silence, decoder_input_ids=torch.tensor([[START]])).logits).isfinite().all()
    assert model.generate(**silence, return_dict_in_generate=True, output_scores=True).sequences_scores.isfinite().all()
    clip = spoken_like(np.random.default_rng(0), 8_000)
    for short in (np.zeros(399, np.float32), np.zeros(1, np.float32), np.zeros(0, np.float32)):
        alone = processor(short, return_tensors="pt", **RATE)
        assert alone.input_features.shape == (1, 0, 20)
        assert model.generate(**alone).tolist() == [[START, EOS]]
        both = processor([short, clip], padding=True, return_tensors="pt", **RATE)
        ids = model.generate(**both, num_return_sequences=2)
        assert processor.batch_decode(ids, skip_special_tokens=True)[:2] == ["", ""]
        expected = model.generate(**processor(clip, return_tensors="pt", **RATE))[0]
        assert torch.equal(ids[2][: len(expected)], expected)
    with pytest.raises(ValueError, match="expected at least 1 frame of features, got 0"):
        model(**alone, decoder_input_ids=torch.tensor([[START]]))


def test_texts_by_chance(model, inputs):
    torch.manual_seed(0)
    options = {"do_sample": True, "return_dict_in_generate": True, "output_scores": True}
    drawn = model.generate(**inputs, **options, temperature=2.0, num_return_sequences=8)
    assert len({tuple(row) for row in drawn.sequences[:8].tolist()}) > 4
    scores = drawn.sequences_scores.view(3, 8)
    assert (scores.diff(dim=1) <= 0).all()
    assert (drawn.sequences[:, 0] == START).all()
    # One id to draw from is what is likeliest.
    greedy = model.generate(**inputs, num_beams=1)
    assert torch.equal(model.generate(**inputs, do_sample=True, top_k=1), greedy)
    forced = model.generate(**inputs, do_sample=True, forced_bos_token_id=[7, None, 9])
    assert (forced[0, 1], forced[2, 1]) == (7, 9)


def test_each_utterance_may_have_a_first_id_of_its_own(model, inputs):
    forced = model.generate(**inputs, forced_bos_token_id=[7, None, 9])
    alone = model.generate(inputs.input_features[:1], attention_mask=inputs.attention_mask[:1], forced_bos_token_id=7)
    assert torch.equal(forced[0, : alone.shape[1]], alone[0])
    free = model.generate(**inputs)
    assert torch.equal(forced[1][: free.shape[1]], free[1][: forced.shape[1]])


def test_lengths(model, inputs):
    assert model.generate(**inputs, max_length=4).shape[1] == 4
    assert model.generate(**inputs, max_new_tokens=3).shape[1] == 4
    assert model.generate(**inputs, num_beams=1).shape[1] <= 24  # of the checkpoint


def test_what_is_written_does_not_depend_on_the_way_in(model, inputs):
    expected = model.generate(inputs.input_features, attention_mask=inputs.attention_mask)
    assert torch.equal(model.generate(inputs=inputs.input_features, attention_mask=inputs.attention_mask), expected)
    assert torch.equal(model.generate(**inputs), expected)
    as_bool = {"attention_mask": inputs.attention_mask.bool()}
    assert torch.equal(model.generate(inputs.input_features, **as_bool), expected)
    assert torch.equal(model.generate(**inputs, return_dict_in_generate=True).sequences, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back(tmp_path, tied):
    folder = write_tiny("s2t", path=tmp_path / "a", model={"tied": tied, "activation": "gelu"})
    for kind in (Model, earful.Speech2TextModel):
        model = kind.from_pretrained(folder)
        model.save_pretrained(tmp_path / kind.__name__)
        again = kind.from_pretrained(tmp_path / kind.__name__)
        assert again.core.config == model.core.config
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
        assert not again.training
        assert earful.Speech2TextProcessor.from_pretrained(tmp_path / kind.__name__).tokenizer.vocab_size


def test_a_model_of_a_configuration(tmp_path):
    config = earful.Speech2TextConfig(
        d_model=16,
        vocab_size=30,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=20,
        decoder_ffn_dim=20,
        conv_channels=12,
        input_feat_per_channel=8,
        conv_kernel_sizes=(3, 5),
        init_std=0.1,
    )
    torch.manual_seed(0)
    model = Model(config)
    assert model.config is config
    assert (model.core.decoder.embed.weight[PAD] == 0).all()
    assert 0.08 < model.core.encoder.layers[0].mlp.up.weight.std() < 0.12
    assert model.model.core is model.core
    model.save_pretrained(tmp_path)  # has no vocabulary
    again = Model.from_pretrained(tmp_path)
    assert again.config.conv_kernel_sizes == [3, 5]
    assert torch.equal(again.core.decoder.embed.weight, model.core.decoder.embed.weight)
    assert again.eval().generate(torch.randn(1, 20, 8)).shape[0] == 1


def test_types(folder, inputs):
    model = Model.from_pretrained(folder, dtype="bfloat16")
    assert model.dtype == model.model.dtype == torch.bfloat16
    assert model.device == torch.device("cpu")
    assert model(**inputs, decoder_input_ids=some_ids(model)).logits.dtype == torch.float32
    assert model.generate(**inputs).dtype == torch.int64
    with pytest.raises(CheckpointError, match="expected a Speech2Text model, got VoxtralRealtime"):
        Model.from_pretrained(write_tiny("voxtral", path=folder.parent / "other"))


def test_settings_of_the_config_choose_the_outputs(folder, inputs):
    model = Model.from_pretrained(folder)
    model.config.output_attentions = model.config.output_hidden_states = True
    model.config.return_dict = False
    found = model(**inputs, decoder_input_ids=some_ids(model))
    assert isinstance(found, tuple)
    assert [len(part) for part in found[1:]] == [3, 2, 2, 3, 3, 2]


ORDER = [
    "input_features", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "head_mask",
    "decoder_head_mask", "cross_attn_head_mask", "encoder_outputs", "past_key_values", "decoder_inputs_embeds",
    "labels", "use_cache", "output_attentions", "output_hidden_states", "return_dict", "cache_position",
]  # fmt: skip


def test_arguments_stand_in_the_order_of_the_page():
    assert list(inspect.signature(Model.forward).parameters)[1:] == ORDER
    bare = [name for name in ORDER if name != "labels"]
    assert list(inspect.signature(earful.Speech2TextModel.forward).parameters)[1:] == bare
    assert Model.main_input_name == "input_features"


FEATURES = torch.zeros(2, 9, 20)
IDS = torch.full((2, 3), START)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"decoder_input_ids": IDS}, "exactly one of input_features and encoder_outputs, got neither"),
        ({"input_features": FEATURES}, "exactly one of decoder_input_ids and decoder_inputs_embeds, got neither"),
        ({"input_features": FEATURES[..., :5], "decoder_input_ids": IDS}, r"shape \[B, F, 20\], got \[2, 9, 5\]"),
        ({"input_features": FEATURES, "decoder_input_ids": IDS[:1]}, "a text for each of 2 utterances, got 1"),
        (
            {"input_features": FEATURES, "decoder_input_ids": IDS, "attention_mask": torch.ones(2, 8)},
            r"attention_mask of shape \[2, 9\], got \[2, 8\]",
        ),
        (
            {"input_features": FEATURES, "decoder_input_ids": IDS, "attention_mask": torch.arange(9).expand(2, -1) > 3},
            "ones, then zeros, got a one behind a zero",
        ),
        (
            {"input_features": FEATURES, "decoder_input_ids": IDS, "decoder_attention_mask": torch.ones(2, 2)},
            r"shape \[B, 3\], got \[2, 2\]",
        ),
        (
            {"input_features": FEATURES, "decoder_input_ids": IDS, "head_mask": torch.ones(3)},
            r"head mask of shape \[2\] or \[2, 2\], got \[3\]",
        ),
        ({"input_features": FEATURES, "decoder_input_ids": IDS, "labels": IDS[:, 1:]}, r"labels of shape \[2, 3\]"),
        (
            {"input_features": FEATURES, "decoder_input_ids": IDS, "cache_position": torch.arange(1, 4)},
            "cache_position of 0 to 2",
        ),
    ],
)
def test_inputs_that_do_not_fit(model, given, message):
    with pytest.raises(ValueError, match=message):
        model(**given)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"inputs": FEATURES, "input_features": FEATURES}, "exactly one of inputs and input_features, got inputs and"),
        (
            {"inputs": FEATURES, "num_beams": 2, "num_return_sequences": 3},
            "num_return_sequences of 1 to the 2 beams, got 3",
        ),
        ({"inputs": FEATURES, "num_beams": 2, "do_sample": True}, "expected one beam with sampling, got 2"),
        ({"inputs": FEATURES, "temperature": 0.5}, "expected do_sample=True with temperature"),
        ({"inputs": FEATURES, "max_length": 5, "max_new_tokens": 4}, "expected max_new_tokens or max_length, got both"),
        ({"inputs": FEATURES, "num_beams": 0}, "at least 1 beam, got 0"),
        ({"inputs": FEATURES, "forced_bos_token_id": [5]}, "a first id for each of 2 utterances, got 1"),
        (
            {"inputs": FEATURES, "num_return_sequences": 0},
            "num_return_sequences of 1 to the 3 beams, got 0",
        ),
    ],
)
def test_requests_that_do_not_fit(model, given, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**given)


def test_unknown_arguments_are_named(model):
    with pytest.raises(TypeError, match="no_repeat_ngram_size"):
        model.generate(FEATURES, no_repeat_ngram_size=3)
    with pytest.raises(TypeError, match="token_type_ids"):
        model(FEATURES, decoder_input_ids=IDS, token_type_ids=IDS)
