"""The codec under the documents' names: streams, refusals, files. Numbers are compared in test_mimi_parity.py."""

import numpy as np
import pytest
import torch

from earful import AutoFeatureExtractor, EncodecFeatureExtractor, MimiConfig, MimiModel, VoxtralRealtimeFeatureExtractor
from earful.errors import CheckpointError
from earful.hf.mimi import CHUNK_FRAMES
from earful.testing import write_tiny

FRAMES = 2 * CHUNK_FRAMES + 5  # the window is 10 steps, 5 frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny("mimi", path=tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def model(folder):
    return MimiModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def audio(model):
    """[2, 1, N] of whole frames."""
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(2, 1, FRAMES * model.config.frame_size, generator=generator)


@pytest.fixture(scope="module")
def codes(model, audio):
    return model.encode(audio).audio_codes


CUTS = [[FRAMES], [1] * FRAMES, [3, 1, FRAMES - 4], [CHUNK_FRAMES, FRAMES - CHUNK_FRAMES]]


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("name", ["encoder_past_key_values", "padding_cache"])
def test_encoding_streams_like_offline(model, audio, codes, cuts, name):
    cache, parts = {}, []
    for piece in audio.split([frames * model.config.frame_size for frames in cuts], dim=-1):
        output = model.encode(piece, use_streaming=not cache, **cache)
        assert output.encoder_past_key_values is output.padding_cache
        assert cache.get(name) in (None, output[name])
        cache = {name: output[name]}
        parts.append(output.audio_codes)
    assert torch.equal(torch.cat(parts, dim=-1), codes)


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_decoding_streams_like_offline(model, codes, cuts):
    """Which the reference's decoder does not: it begins its convolutions anew with each call."""
    state, parts = None, []
    for piece in codes.split(cuts, dim=-1):
        output = model.decode(piece, decoder_past_key_values=state, use_cache=state is None)
        state = output.decoder_past_key_values
        parts.append(output.audio_values)
    whole = model.decode(codes).audio_values
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole.detach(), atol=1e-5, rtol=0)


def test_forward_streams_both_ways(model, audio, codes):
    states, parts = {}, []
    for piece in audio.split(4 * model.config.frame_size, dim=-1):
        output = model(piece, use_streaming=True, use_cache=True, **states)
        states = {name: output[name] for name in ("encoder_past_key_values", "decoder_past_key_values")}
        parts.append(output.audio_values)
    torch.testing.assert_close(torch.cat(parts, dim=-1), model.decode(codes).audio_values.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("streaming", [True, False])
def test_streams_where_the_config_says_so(folder, audio, codes, streaming):
    model = MimiModel.from_pretrained(folder)
    model.config.use_streaming = model.config.use_cache = streaming
    with torch.no_grad():
        output = model(audio)
    assert (output.encoder_past_key_values is not None) == streaming
    assert (output.decoder_past_key_values is not None) == streaming
    assert torch.equal(output.audio_codes, codes)
    assert model(audio).decoder_past_key_values is None  # it would hold on to the graph
    assert model.encode(audio, use_streaming=False).padding_cache is None


def test_a_refused_piece_leaves_the_stream_as_it_was(model, audio, codes):
    frame = model.config.frame_size
    state = model.encode(audio[..., :frame], use_streaming=True).padding_cache
    for wrong in (frame - 1, (CHUNK_FRAMES + 1) * frame + 1):
        with pytest.raises(ValueError, match=f"expected whole frames of {frame} samples in a stream, got {wrong}"):
            model.encode(audio[..., :wrong], padding_cache=state)
    rest = model.encode(audio[..., frame:], padding_cache=state).audio_codes
    assert torch.equal(rest, codes[..., 1:])


def test_audio_is_as_long_as_what_came_in(model, audio, codes):
    ragged = audio[..., : 3 * model.config.frame_size + 7]
    assert model(ragged).audio_values.shape == ragged.shape
    assert model(ragged, padding_mask=torch.ones(2, 100)).audio_values.shape == (2, 1, 100)
    assert model(ragged, audio_codes=codes[..., :1]).audio_values.shape == (2, 1, model.config.frame_size)
    assert model.decode(codes, torch.ones(2, 9)).audio_values.shape == (2, 1, 9)


def test_tuples(model, audio, codes):
    got, values = model(audio, return_dict=False)
    assert torch.equal(got, codes)
    assert torch.equal(model.decode(codes, return_dict=False)[0], values)
    got, state, same = model.encode(audio, use_streaming=True, return_dict=False)
    assert torch.equal(got, codes)
    assert state is same


def test_gradients_reach_the_decoder_but_no_stream(model, codes):
    model.decode(codes[..., :2]).audio_values.square().mean().backward()
    assert model.core.decoder.first.conv.weight.grad.abs().sum() > 0
    model.zero_grad()
    assert not model.decode(codes[..., :2], use_cache=True).audio_values.requires_grad


def test_refusals(model, audio, codes):
    frame = model.config.frame_size
    for shape in ([2, frame], [2, 2, frame], [2, 1, 0]):
        with pytest.raises(ValueError, match=r"expected input_values of shape \[B, 1, N\], got"):
            model.encode(torch.zeros(shape))
    for count in (0, 7):
        with pytest.raises(ValueError, match=f"expected num_quantizers of 1 to 6, got {count}"):
            model(audio, num_quantizers=count)
    for wrong in (codes[0], codes[:, :0], torch.cat([codes, codes], dim=1)):
        with pytest.raises(ValueError, match=r"expected audio_codes of shape \[B, 1 to 6, frames\], got"):
            model.decode(wrong)
    for least, most in ((0, 32), (-1, 31)):
        with pytest.raises(ValueError, match=f"expected codes of 0 to 31, got {least} to {most}"):
            model.decode(torch.tensor([[[least, most]]]))
    states = [model.encode(audio[..., :frame], use_streaming=True).padding_cache for _ in range(2)]
    with pytest.raises(ValueError, match="expected encoder_past_key_values and padding_cache of one call"):
        model.encode(audio, encoder_past_key_values=states[0], padding_cache=states[1])
    with pytest.raises(TypeError, match="output_attentions"):
        model.encode(audio, output_attentions=True)


def test_types_and_devices(folder):
    for name in ("auto", "float32", torch.float32):
        assert MimiModel.from_pretrained(folder, dtype=name, device_map={"": "cpu"}).dtype == torch.float32
    for options in ({"dtype": "bfloat16"}, {"torch_dtype": torch.float16}):
        with pytest.raises(ValueError, match="expected a codec in float32, got torch"):
            MimiModel.from_pretrained(folder, **options)
    with pytest.raises(ValueError, match="expected dtype or its old name torch_dtype, got both"):
        MimiModel.from_pretrained(folder, dtype="auto", torch_dtype="auto")
    assert MimiModel.from_pretrained(folder).to("meta").device.type == "meta"
    assert not MimiModel.from_pretrained(folder).training


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_stored_in_another_type_it_is_float32(stored, tmp_path):
    folder = write_tiny("mimi", path=tmp_path, dtype=stored)
    assert {p.dtype for p in MimiModel.from_pretrained(folder).parameters()} == {torch.float32}


def test_layouts_give_the_same_model(folder, model, audio, codes, tmp_path):
    other = write_tiny("mimi", "kyutai", path=tmp_path)
    again = MimiModel.from_pretrained(other)
    assert torch.equal(again.encode(audio).audio_codes, codes)
    assert again.config.to_core() == model.config.to_core()
    assert MimiConfig.from_pretrained(other).to_core() == model.config.to_core()
    extractor = EncodecFeatureExtractor.from_pretrained(other)
    assert extractor == AutoFeatureExtractor.from_pretrained(other)
    assert extractor == EncodecFeatureExtractor.from_pretrained(folder)
    assert extractor.sampling_rate == model.config.sampling_rate


def test_saved_settings_come_back(folder, tmp_path):
    model = MimiModel.from_pretrained(folder)
    model.config.use_streaming, model.config.initializer_range = True, 0.5
    model.config.other["colour"] = "red"
    model.save_pretrained(tmp_path)
    again = MimiModel.from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_another_family_is_refused(tmp_path):
    folder = write_tiny("voxtral", path=tmp_path)
    with pytest.raises(CheckpointError, match="expected a Mimi model, got VoxtralRealtime"):
        MimiModel.from_pretrained(folder)
    assert isinstance(AutoFeatureExtractor.from_pretrained(folder), VoxtralRealtimeFeatureExtractor)


def test_extractors_by_the_name_in_their_file(tmp_path):
    EncodecFeatureExtractor(feature_size=2).save_pretrained(tmp_path)  # without a model
    assert AutoFeatureExtractor.from_pretrained(tmp_path) == EncodecFeatureExtractor(feature_size=2)
    with pytest.raises(TypeError, match=r"expected AutoFeatureExtractor.from_pretrained\(source\)"):
        AutoFeatureExtractor()


def test_random_weights():
    config = MimiConfig(
        hidden_size=48, num_filters=16, num_hidden_layers=2, intermediate_size=64, num_attention_heads=4,
        num_key_value_heads=4, upsample_groups=48, codebook_size=16, codebook_dim=12, num_quantizers=3,
        vector_quantization_hidden_dimension=12, initializer_range=0.5, layer_scale_initial_scale=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    core = MimiModel(config).core
    block = core.encoder_transformer.layers[0]
    assert abs(block.attn.q.weight.std() - 0.5) < 0.05
    assert (block.attn_scale.weight == 0.3).all()
    assert (block.attn_norm.weight == 1).all()
    assert abs(core.decoder.last.conv.weight.std() - (2 / (16 * 3)) ** 0.5) < 0.06


SNIPPET = """
from earful import AutoFeatureExtractor, MimiModel

dataset = load_dataset("hf-internal-testing/ashraq-esc50-1-dog-example")
audio_sample = dataset["train"]["audio"][0]["array"]

model_id = "kyutai/mimi"
model = MimiModel.from_pretrained(model_id)
feature_extractor = AutoFeatureExtractor.from_pretrained(model_id)

inputs = feature_extractor(raw_audio=audio_sample, return_tensors="pt")

outputs = model(**inputs)
audio_codes = outputs.audio_codes
audio_values = outputs.audio_values
"""
USAGE = """
from earful import MimiModel, AutoFeatureExtractor
librispeech_dummy = load_dataset("hf-internal-testing/librispeech_asr_dummy", "clean", split="validation")

# load model and feature extractor
model = MimiModel.from_pretrained("kyutai/mimi")
feature_extractor = AutoFeatureExtractor.from_pretrained("kyutai/mimi")

audio_sample = librispeech_dummy[-1]["audio"]["array"]
inputs = feature_extractor(raw_audio=audio_sample, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt")

encoder_outputs = model.encode(inputs["input_values"], inputs["padding_mask"])
audio_values = model.decode(encoder_outputs.audio_codes, inputs["padding_mask"])[0]
# or the equivalent with a forward pass
again = model(inputs["input_values"], inputs["padding_mask"]).audio_values
"""


@pytest.fixture
def named(hub):
    """The names of the documents: a data set of one clip, and a tiny codec in the hub client's cache."""
    clip = {"array": np.random.default_rng(0).standard_normal(5_000)}
    rows = {"train": {"audio": [clip]}, -1: {"audio": clip}}
    return {"load_dataset": lambda *names, split=None: rows}


def test_the_class_docstring_of_the_page(named):
    with pytest.warns(UserWarning, match="expected sampling_rate"):
        exec(SNIPPET, named)
    assert named["audio_values"].shape == (1, 1, 5_000)
    assert named["audio_codes"].shape[2] == -(-5_000 // named["model"].config.frame_size)


def test_the_usage_example_of_the_page(named):
    exec(USAGE, named)
    assert named["audio_values"].shape == (1, 1, 5_000)
    assert torch.equal(named["audio_values"], named["again"])
