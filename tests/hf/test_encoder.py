import torch

from earful import VoxtralRealtimeEncoder

FRAMES = 160  # behind the convolutions


@torch.no_grad()
def test_is_the_one_of_the_model(model, folder, inputs):
    features = inputs["input_features"]
    whole = model.get_audio_features(features, use_cache=False).last_hidden_state
    for encoder in (model.audio_tower, VoxtralRealtimeEncoder.from_pretrained(folder)):
        torch.testing.assert_close(encoder(features, use_cache=False).last_hidden_state, whole)
        assert encoder.config == model.config.audio_config


@torch.no_grad()
def test_in_cuts(model, inputs):
    encoder, features = model.audio_tower, inputs["input_features"]
    whole = encoder(features, use_cache=False, output_hidden_states=True)
    first = encoder(features[..., :26], use_cache=True, use_padding_cache=True)
    assert first.padding_cache is first.past_key_values
    second = encoder(
        features[..., 26:],
        past_key_values=first.past_key_values,
        padding_cache=first.padding_cache,
        cache_position=torch.arange(13, FRAMES),
    )
    parts = torch.cat([first.last_hidden_state, second.last_hidden_state], 1)
    torch.testing.assert_close(parts, whole.last_hidden_state, rtol=0, atol=1e-4)
    assert torch.equal(whole.hidden_states[0], model.core.encoder.embed(features))


@torch.no_grad()
def test_padding_alone(model, inputs):
    encoder, features = model.audio_tower, inputs["input_features"]
    first = encoder(features[..., :26], use_cache=False, use_padding_cache=True)
    assert first.past_key_values is None
    second = encoder(features[..., 26:], use_cache=False, padding_cache=first.padding_cache)
    expected = encoder(inputs_embeds=model.core.encoder.embed(features)[:, 13:], use_cache=False)
    torch.testing.assert_close(second.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-4)
