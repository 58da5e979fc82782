import pytest
import torch

import earful
from earful.nn.state import leaves, nbytes
from earful.testing import write_tiny

STEPS, COLUMNS, TEXT, CODES = 50, 7, 320, 32  # of the tiny model; its window has 20 positions
Model = earful.KyutaiSpeechToTextForConditionalGeneration
Base = earful.KyutaiSpeechToTextModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny("kyutai_stt", path=tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder):
    return Model.from_pretrained(folder)


@pytest.fixture(scope="module")
def ids(model):
    """Text and codes of 50 frames in two rows, the first position with the start ids."""
    generator = torch.Generator().manual_seed(0)
    assert (model.config.vocab_size, model.config.codebook_vocab_size) == (TEXT + 1, CODES + 1)
    text = torch.randint(TEXT, (2, STEPS, 1), generator=generator)
    codes = torch.randint(CODES, (2, STEPS, COLUMNS - 1), generator=generator)
    found = torch.cat([text, codes], dim=-1)
    found[:, 0] = torch.tensor([TEXT] + [CODES] * (COLUMNS - 1))
    return found


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[6, 7, 8], [1, 2, 49], [20], [21, 40]])
def test_any_cuts_with_a_cache_give_the_whole(model, ids, cuts):
    whole = model(ids, use_cache=False)
    assert whole.past_key_values is None
    parts, cache = [], None
    for begin, end in zip([0, *cuts], [*cuts, STEPS], strict=True):
        output = model(ids[:, begin:end], past_key_values=cache, cache_position=torch.arange(begin, end))
        cache = output.past_key_values
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_cache_does_not_grow(model, ids):
    cache = model(ids[:, :6]).past_key_values
    before = [(leaf.data_ptr(), leaf.shape) for leaf in leaves(cache)]
    size = nbytes(cache)
    for step in range(6, STEPS):
        assert model(ids[:, step : step + 1], past_key_values=cache).past_key_values is cache
    assert [(leaf.data_ptr(), leaf.shape) for leaf in leaves(cache)] == before
    assert nbytes(cache) == size


@torch.no_grad()
def test_the_window_holds_without_a_cache(model, ids):
    """The reference sees everything in a pass over a whole signal, and only the window step by step."""
    changed = ids.clone()
    changed[:, 3, 1:] = (changed[:, 3, 1:] + 1) % CODES
    before, after = model(ids, use_cache=False).logits, model(changed, use_cache=False).logits
    differs = ~torch.isclose(before, after, rtol=0, atol=1e-5).all(-1)
    layers, window = model.config.num_hidden_layers, model.config.sliding_window
    reach = 3 + layers * (window - 1)  # each layer hands on what it saw
    assert differs[:, 3:20].all()
    assert not differs[:, :3].any()
    assert not differs[:, reach + 1 :].any()
    assert reach + 1 < STEPS


def test_caches_are_made_unless_gradients_are_taken(model, ids):
    assert model(ids).past_key_values is None
    with torch.no_grad():
        assert model(ids).past_key_values is not None
        assert model(ids, use_cache=False).past_key_values is None
        assert model(ids, output_attentions=True).past_key_values is None
        assert model.model(ids).past_key_values is not None


def test_labels_and_gradients(folder, ids):
    model = Model.from_pretrained(folder)
    labels = ids[..., 0].clone()
    labels[0, 5:9] = -100
    output = model(ids, labels=labels)
    logits = output.logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    trained = dict(model.core.temporal.named_parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    assert all(p.grad is None for p in model.codec_model.parameters())


@torch.no_grad()
def test_ids_that_stand_for_nothing_and_for_the_start(model, ids):
    config = model.config
    nothing = ids.clone()
    nothing[0, 4, 2:4] = config.audio_pad_token_id
    nothing[1, 7, 0] = config.audio_pad_token_id
    minus = ids.clone()
    minus[0, 4, 2:4] = minus[1, 7, 0] = -1
    embedded = model.model.embed(nothing)
    assert torch.equal(embedded, model.model.embed(minus))
    tables = model.core.temporal.audio_embeds
    removed = sum(tables[k].weight[ids[0, 4, 1 + k]] for k in (1, 2))
    torch.testing.assert_close(embedded[0, 4], model.model.embed(ids)[0, 4] - removed, rtol=0, atol=1e-5)
    published = Model.from_pretrained(model.tokenizer_file.parent)
    published.config.bos_token_id = 48_000  # an id of no text, as in the published files
    stray = ids.clone()
    stray[:, 0, 0] = 48_000
    assert torch.equal(published.model.embed(stray), model.model.embed(ids))


@torch.no_grad()
def test_inputs_in_other_forms(model, ids):
    expected = model(ids, use_cache=False).logits
    embeds = model.model.embed(ids)
    torch.testing.assert_close(model(inputs_embeds=embeds, use_cache=False).logits, expected)
    mask, positions = torch.ones(2, STEPS), torch.arange(STEPS)[None]
    torch.testing.assert_close(model(ids, mask, positions, use_cache=False).logits, expected)
    half = Model(model.config).to(torch.bfloat16)
    assert half(ids).logits.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("cached", [False, True])
def test_padding_on_the_left_changes_nothing(model, ids, cached):
    fill = 32
    filled = torch.cat([ids[:, :1].expand(-1, fill, -1), ids[:, :12]], dim=1)
    mask = torch.ones(2, fill + 12, dtype=torch.int64)
    mask[:, :fill] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    alone = model(ids[:, :12], use_cache=False).logits[:, -1]
    padded = model(filled, mask, positions, use_cache=cached).logits[:, -1]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-4)


@torch.no_grad()
def test_logits_to_keep_and_the_start_ids_column(model, ids):
    whole = model(ids, use_cache=False).logits
    assert whole.shape == (2, STEPS, model.config.vocab_size)
    assert (whole[..., -1] == 0).all()
    torch.testing.assert_close(model(ids, use_cache=False, logits_to_keep=3).logits, whole[:, -3:])
    some = torch.tensor([0, 5, 7])
    torch.testing.assert_close(model(ids, use_cache=False, logits_to_keep=some).logits, whole[:, some])


@torch.no_grad()
def test_outputs(model, ids):
    output = model(ids, use_cache=False, labels=ids[..., 0], output_hidden_states=True, output_attentions=True)
    assert output.keys() == ["loss", "logits", "hidden_states", "attentions"]
    assert [state.shape for state in output.hidden_states] == [(2, STEPS, 48)] * 3
    assert [weights.shape for weights in output.attentions] == [(2, 4, STEPS, STEPS)] * 2
    assert torch.allclose(output.attentions[0].sum(-1), torch.ones(2, 4, STEPS))
    assert (output.attentions[0][:, :, 30, :11] == 0).all()
    plain = model(ids, use_cache=False, labels=ids[..., 0], return_dict=False)
    assert torch.equal(plain[0], output.loss)
    assert torch.equal(plain[1], output.logits)
    base = model.model(ids)
    assert list(base) == ["last_hidden_state", "past_key_values"]
    torch.testing.assert_close(base.last_hidden_state, output.hidden_states[-1], rtol=0, atol=1e-5)
    assert isinstance(model.model(ids, return_dict=False), tuple)


@torch.no_grad()
def test_outputs_that_the_config_asks_for(folder, ids):
    model = Model.from_pretrained(folder)
    model.config.output_hidden_states = model.config.output_attentions = True
    assert list(model(ids)) == ["logits", "hidden_states", "attentions"]
    assert list(model(ids, output_hidden_states=False, output_attentions=False)) == ["logits", "past_key_values"]
    model.config.return_dict = False
    assert isinstance(model(ids), tuple)
    assert isinstance(model.model(ids), tuple)


def test_parts_share_their_weights(folder, model, ids):
    assert model.model.core is model.core.temporal
    assert model.codec_model.core is model.core.codec
    alone = Base.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(alone(ids).last_hidden_state, model.model(ids).last_hidden_state)
    assert not alone.training
    samples = torch.randn(1, 1, 5 * model.config.frame_size, generator=torch.Generator().manual_seed(0))
    assert model.codec_model.encode(samples).audio_codes.shape == (1, 6, 5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input_ids": None}, "expected exactly one of input_ids and inputs_embeds, got neither"),
        ({"inputs_embeds": torch.zeros(2, STEPS, 48)}, "got input_ids and inputs_embeds"),
        ({"input_ids": torch.ones(2, 7, dtype=torch.int64)}, r"input_ids of shape \[B, T, 7\], got \[2, 7\]"),
        ({"input_ids": torch.ones(2, 7, 5, dtype=torch.int64)}, r"of shape \[B, T, 7\], got \[2, 7, 5\]"),
        ({"attention_mask": torch.ones(2, 7)}, r"expected attention_mask of shape \[B, 50\], got \[2, 7\]"),
        ({"cache_position": torch.arange(1, 51)}, "expected cache_position of 0 to 49, got"),
        ({"labels": torch.ones(2, 7, dtype=torch.int64)}, r"expected labels of shape \[2, 50\]"),
        ({"use_cache": True, "output_attentions": True}, "expected no cache with attention weights"),
    ],
)
def test_refusals(model, ids, change, message):
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        model(**{"input_ids": ids, **change})


def test_unknown_arguments_are_named(model):
    for call in (model, model.generate, model.model, Model.from_pretrained):
        with pytest.raises(TypeError, match="num_beams"):
            call(num_beams=3)


# --------------------------------------------------------------------------------------------- loading and saving


@pytest.mark.parametrize("layout", ["hf", "kyutai"])
def test_layouts_give_the_same_model(layout, model, tmp_path):
    other = Model.from_pretrained(str(write_tiny("kyutai_stt", layout, path=tmp_path)))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert other.config.to_core().temporal == model.config.to_core().temporal
    assert earful.KyutaiSpeechToTextConfig.from_pretrained(tmp_path) == other.config
    assert not other.training


def test_a_model_with_heads_for_pauses_transcribes_but_has_no_such_layout(tmp_path):
    folder = write_tiny("kyutai_stt", "kyutai", path=tmp_path / "candle", model={"vad_heads": 4})
    model = Model.from_pretrained(folder)
    assert model.generate(input_values=torch.zeros(1, 1, 4 * model.config.frame_size)).shape == (1, 5)
    with pytest.raises(earful.CheckpointError, match="expected no VAD heads"):
        model.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_codec_stays_in_float32(name, folder, tmp_path):
    stored = write_tiny("kyutai_stt", path=tmp_path, dtype=torch.bfloat16)
    for source, asked, got in [
        (stored, "auto", torch.bfloat16),
        (stored, None, torch.bfloat16),
        (folder, torch.float16, torch.float16),
        (stored, "float32", torch.float32),
    ]:
        model = Model.from_pretrained(source, **{name: asked})
        assert model.dtype == got
        assert {p.dtype for p in model.core.temporal.parameters()} == {got}
        assert {p.dtype for p in model.codec_model.parameters()} == {torch.float32}
        assert Base.from_pretrained(source, **{name: asked}).dtype == got


def test_saved_with_its_tokenizer(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert again.config == model.config
    processor = earful.AutoProcessor.from_pretrained(tmp_path)
    assert processor.feature_extractor.audio_delay_seconds == 0.4
    assert processor.decode(processor.tokenizer.encode("the dog")) == "the dog"


def test_made_from_a_config(model, folder, tmp_path):
    torch.manual_seed(0)
    made = Model(earful.KyutaiSpeechToTextConfig.from_pretrained(folder))
    made.save_pretrained(tmp_path)
    earful.AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), made.parameters(), strict=True))


def test_another_kind_of_model(tmp_path):
    folder = write_tiny("mimi", path=tmp_path)
    with pytest.raises(earful.CheckpointError, match="expected a KyutaiStt model, got Mimi"):
        Model.from_pretrained(folder)


def test_moves_as_modules_do(folder):
    model = Model.from_pretrained(folder).to("meta").train()
    assert (model.device.type, model.training, model.model.training) == ("meta", True, True)
