import pytest
import torch

import earful
from earful.nn.state import leaves, nbytes

SLOTS, PER_SLOT = 40, 8  # as the fixture has them
Model = earful.VoxtralRealtimeForConditionalGeneration
CACHES = ("past_key_values", "encoder_past_key_values", "padding_cache")


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def cut(inputs, begin, end):
    features = inputs["input_features"][..., begin * PER_SLOT : end * PER_SLOT]
    return {**inputs, "input_ids": inputs["input_ids"][:, begin:end], "input_features": features}


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[6, 7, 8], [1, 2, 39], [20]])
def test_any_cuts_with_caches_give_the_whole(model, inputs, cuts):
    whole = model(**inputs, use_cache=False)
    assert (whole.past_key_values, whole.encoder_past_key_values, whole.padding_cache) == (None, None, None)
    parts, caches = [], {}
    for begin, end in zip([0, *cuts], [*cuts, SLOTS], strict=True):
        output = model(**cut(inputs, begin, end), **caches)
        caches = {name: output[name] for name in CACHES}
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_caches_do_not_grow(model, inputs):
    output = model(**cut(inputs, 0, 6))
    caches = {name: output[name] for name in CACHES}
    before = [(leaf.data_ptr(), leaf.shape) for cache in caches.values() for leaf in leaves(cache)]
    size = nbytes(list(caches.values()))
    for begin in range(6, SLOTS):
        again = model(**cut(inputs, begin, begin + 1), **caches)
        assert all(again[name] is cache for name, cache in caches.items())
    assert [(leaf.data_ptr(), leaf.shape) for cache in caches.values() for leaf in leaves(cache)] == before
    assert nbytes(list(caches.values())) == size


def test_caches_are_made_unless_gradients_are_taken(model, inputs):
    assert model(**inputs).past_key_values is None
    with torch.no_grad():
        assert model(**inputs).past_key_values is not None
        assert model(**inputs, use_cache=False).past_key_values is None
        assert model(**inputs, output_attentions=True).past_key_values is None
        assert model.get_audio_features(inputs["input_features"]).padding_cache is None
        assert model.get_audio_features(inputs["input_features"], use_cache=True).padding_cache is not None


def test_gradients(folder, inputs):
    model = Model.from_pretrained(folder)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_inputs_in_other_forms(model, inputs):
    expected = model(**inputs, use_cache=False).logits
    embeds = model.core.decoder.embed(inputs["input_ids"])
    frames = model.core.encoder.embed(inputs["input_features"])
    before = embeds.clone()
    delay = torch.tensor([2, 2])
    output = model(inputs_embeds=embeds, encoder_inputs_embeds=frames, num_delay_tokens=delay, use_cache=False)
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-4)
    assert torch.equal(embeds, before)
    default = model(inputs["input_ids"], inputs["input_features"], use_cache=False)
    assert torch.equal(default.logits, expected)  # the checkpoint's delay is 2
    half = Model(model.config).to(torch.bfloat16)
    assert half(inputs["input_ids"], inputs["input_features"]).logits.dtype == torch.float32


@torch.no_grad()
def test_each_row_may_have_its_own_delay(model, inputs):
    alone = [
        model(**{**inputs, "num_delay_tokens": delay}, use_cache=False).logits[row] for row, delay in enumerate([1, 9])
    ]
    both = model(**{**inputs, "num_delay_tokens": torch.tensor([1, 9])}, use_cache=False).logits
    torch.testing.assert_close(both, torch.stack(alone), rtol=0, atol=1e-4)
    assert not torch.allclose(alone[1], model(**inputs, use_cache=False).logits[1], atol=1e-2)


@torch.no_grad()
def test_logits_to_keep(model, inputs):
    whole = model(**inputs, use_cache=False).logits
    torch.testing.assert_close(model(**inputs, use_cache=False, logits_to_keep=3).logits, whole[:, -3:])
    some = torch.tensor([0, 5, 7])
    torch.testing.assert_close(model(**inputs, use_cache=False, logits_to_keep=some).logits, whole[:, some])


@torch.no_grad()
def test_outputs(model, inputs):
    output = model(**inputs, use_cache=False, labels=inputs["input_ids"], output_hidden_states=True)
    assert output.keys() == list(output) == ["loss", "logits", "hidden_states"]
    assert output[0] is output["loss"] is output.loss
    assert output[1:] == output.to_tuple()[1:]
    assert "attentions" not in output
    assert len(output) == 3
    assert dict(**output)["logits"] is output.logits
    plain = model(**inputs, use_cache=False, labels=inputs["input_ids"], return_dict=False)
    assert torch.equal(plain[0], output.loss)
    assert torch.equal(plain[1], output.logits)
    heard = model.get_audio_features(inputs["input_features"], use_cache=False, return_dict=False)
    assert [part.shape for part in heard] == [(2, SLOTS * 4, 20), (2, SLOTS, 36)]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input_ids": None}, "expected exactly one of input_ids and inputs_embeds, got neither"),
        ({"inputs_embeds": random(2, SLOTS, 36)}, "got input_ids and inputs_embeds"),
        ({"input_features": None}, "exactly one of input_features and encoder_inputs_embeds, got neither"),
        ({"encoder_inputs_embeds": random(2, 4 * SLOTS, 20)}, "got input_features and encoder_inputs_embeds"),
        ({"input_ids": torch.ones(2, 7, dtype=torch.int64)}, r"ids of shape \[2, 40\], one per slot of audio"),
        ({"input_features": random(2, 24, 36)}, "expected whole slots of 8 mel frames, 4 behind the convolutions"),
        ({"attention_mask": torch.ones(2, 7)}, r"expected attention_mask of shape \[B, 40\], got \[2, 7\]"),
        ({"cache_position": torch.arange(1, 41)}, "expected cache_position of 0 to 39, got"),
        ({"labels": torch.ones(2, 7, dtype=torch.int64)}, r"expected labels of shape \[2, 40\]"),
        ({"use_cache": True, "output_attentions": True}, "expected no cache with attention weights"),
    ],
)
def test_refusals(model, inputs, change, message):
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        model(**{**inputs, **change})


def test_unknown_arguments_are_named(model, inputs):
    for call in (model, model.generate, model.get_audio_features, model.audio_tower):
        with pytest.raises(TypeError, match="num_beams"):
            call(num_beams=3)
