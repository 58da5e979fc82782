import pytest
import torch
import torch.nn.functional as F

import earful
from earful.nn import attention
from earful.nn.passes import CHUNK
from earful.nn.state import leaves
from earful.testing import write_tiny

STEPS, TEXT, CODES, Q = 50, 320, 32, 3  # of the tiny model; its window has 20 positions
Model = earful.MoshiForConditionalGeneration


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny("moshi", path=tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder):
    return Model.from_pretrained(folder)


@pytest.fixture(scope="module")
def frames():
    """Text and codes of both voices, 50 frames in two rows."""
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(TEXT, (2, STEPS), generator=generator),
        "moshi_audio_codes": torch.randint(CODES, (2, Q, STEPS), generator=generator),
        "user_audio_codes": torch.randint(CODES, (2, Q, STEPS), generator=generator),
    }


def part(frames, begin, end):
    return {name: ids[..., begin:end] for name, ids in frames.items()}


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[6, 7, 8], [1, 49], [21, 40]])
def test_any_cuts_with_a_cache_give_the_whole(model, frames, cuts):
    whole = model(**frames, use_cache=False)
    assert whole.past_key_values is None
    parts, cache = [], None
    for begin, end in zip([0, *cuts], [*cuts, STEPS], strict=True):
        output = model(**part(frames, begin, end), past_key_values=cache)
        cache = output.past_key_values
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole.logits, rtol=0, atol=1e-4)
    assert {leaf.shape[2] for leaf in leaves(cache.layers)} == {20 + CHUNK - 1}


@torch.no_grad()
def test_inputs_in_other_forms(model, frames):
    expected = model(**frames, use_cache=False).logits
    temporal = model.core.temporal
    embeds = temporal.text_embed(frames["input_ids"])
    for k, table in enumerate(temporal.audio_embeds):
        voice = frames["moshi_audio_codes" if k < Q else "user_audio_codes"]
        embeds = embeds + table(voice[:, k % Q])
    torch.testing.assert_close(model(inputs_embeds=embeds, use_cache=False).logits, expected, rtol=0, atol=1e-5)
    mask = torch.ones(2, STEPS)
    torch.testing.assert_close(model(**frames, attention_mask=mask, use_cache=False).logits, expected)
    text = {"input_ids": frames["input_ids"], "use_cache": False}
    nothing = {"moshi_audio_codes": torch.full((2, Q, STEPS), -1), "user_audio_codes": torch.full((2, Q, STEPS), -1)}
    assert torch.equal(model(**text).logits, model(**text, **nothing).logits)
    torch.testing.assert_close(model(**text).logits, model.decoder(**text).logits)


@torch.no_grad()
def test_waveforms_are_their_codes(model):
    generator, frame = torch.Generator().manual_seed(0), model.config.audio_encoder_config.frame_size
    waves = torch.randn(2, 1, 6 * frame - 5, generator=generator)
    codes = model.audio_encoder.encode(waves, num_quantizers=Q).audio_codes
    assert codes.shape == (2, Q, 6)
    ids = torch.zeros(2, 6, dtype=torch.int64)
    by_codes = model(ids, user_audio_codes=codes, moshi_audio_codes=codes.flip(0))
    assert torch.equal(model(ids, user_input_values=waves, moshi_input_values=waves.flip(0)).logits, by_codes.logits)
    first = model(ids, user_audio_codes=codes, user_input_values=0 * waves, moshi_audio_codes=codes.flip(0))
    assert torch.equal(first.logits, by_codes.logits)  # codes count where both are given
    half = waves.to(torch.bfloat16)
    assert model(ids, user_input_values=half, moshi_input_values=half).logits.shape == (2, 6, TEXT)


@torch.no_grad()
@pytest.mark.parametrize("cached, large", [(False, False), (True, False), (True, True)])
def test_padding_on_the_left_changes_nothing(model, frames, cached, large, monkeypatch):
    if large:  # a ring of this model is small; large ones are looked at in another way
        monkeypatch.setattr(attention, "LARGE", 0)
        monkeypatch.setattr(attention, "MANY", 1)
    fill, own = 25, part(frames, 0, 12)
    start = model.get_unconditional_inputs(2)
    filled = {name: torch.cat([start[name].expand(*ids.shape[:-1], fill), ids], dim=-1) for name, ids in own.items()}
    mask = torch.ones(2, fill + 12, dtype=torch.int64)
    mask[:, :fill] = 0
    alone = model(**own, use_cache=False).logits[:, -1]
    padded = model(**filled, attention_mask=mask, use_cache=cached).logits[:, -1]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-4)  # angles count by their differences


@torch.no_grad()
def test_get_unconditional_inputs(model):
    inputs = model.get_unconditional_inputs(num_samples=4)
    assert {name: (ids.shape, ids.unique().tolist()) for name, ids in inputs.items()} == {
        "input_ids": ((4, 1), [TEXT]),
        "user_audio_codes": ((4, Q, 1), [CODES]),
        "moshi_audio_codes": ((4, Q, 1), [CODES]),
        "attention_mask": ((4, 1), [1]),
    }
    assert model(**inputs).logits.shape == (4, 1, TEXT)


# -------------------------------------------------------------------------------------------------------- training


def labelled(frames):
    return {**frames, "text_labels": frames["input_ids"], "audio_labels": frames["moshi_audio_codes"]}


def test_labels_may_be_the_inputs_and_leak_nothing(model, frames):
    """A frame is predicted from those before it: text and first code of frame p at position p, the others at p + 1."""
    with torch.no_grad():
        before = model(**labelled(frames))
        for name, ids in frames.items():
            changed = {**frames, name: ids.clone()}
            changed[name][..., 10] = (ids[..., 10] + 1) % CODES
            after = model(**labelled(changed))
            same = torch.isclose(before.logits, after.logits, rtol=0, atol=1e-5).all(-1)
            assert same[:, :11].all()
            assert not same[:, 11:13].any()
            logits = [output.audio_logits.unflatten(0, (2, STEPS)) for output in (before, after)]
            same = torch.isclose(*logits, rtol=0, atol=1e-5).all(-1)  # [B, T, Q]
            assert same[:, :10].all()
            # In position 10 the codes behind the text id see it, and those behind the first code see that.
            assert same[:, 10, 0].all() == (name != "input_ids")
            assert same[:, 10].all() == (name == "user_audio_codes")


def test_the_losses_add_up_and_count_what_is_asked(folder, frames):
    model = Model.from_pretrained(folder)
    given = labelled(frames)
    given["text_labels"] = given["text_labels"].clone()
    given["text_labels"][0, 5:9] = -100
    given["audio_labels"] = given["audio_labels"].clone()
    given["audio_labels"][1, :, 30:] = -100
    output = model(**given)
    text = F.cross_entropy(output.logits.flatten(0, 1), given["text_labels"].flatten(), ignore_index=-100)
    logits = output.audio_logits.unflatten(0, (2, STEPS))
    parts = [F.cross_entropy(logits[:, :, 0].flatten(0, 1), given["audio_labels"][:, 0].flatten(), reduction="none")]
    for k in (1, 2):
        late = given["audio_labels"][:, k, :-1].flatten()
        parts.append(F.cross_entropy(logits[:, 1:, k].flatten(0, 1), late, reduction="none"))
    counted = STEPS + 30 + 2 * (STEPS - 1 + 30)
    torch.testing.assert_close(output.depth_loss, torch.cat(parts).sum() / counted)
    torch.testing.assert_close(output.loss, text + output.depth_loss)
    only_text = model(**{**given, "audio_labels": None})
    torch.testing.assert_close(only_text.loss, text)
    assert only_text.audio_logits is None
    torch.testing.assert_close(model(**{**given, "text_labels": None}).loss, output.depth_loss)
    output.loss.backward()
    for name, parameter in model.core.named_parameters():
        assert (parameter.grad is None) == name.startswith("codec."), name


@torch.no_grad()
def test_what_is_unknown_costs_nothing(model, frames):
    unknown = {name: ids.clone() for name, ids in frames.items()}
    for ids in unknown.values():
        ids[..., 40:] = -1
    loss = model(**labelled(unknown)).loss
    torch.testing.assert_close(loss, model(**labelled(part(unknown, 0, 41))).loss)  # the codes of frame 39 are late


@torch.no_grad()
def test_labels_of_filled_up_rows(model, frames):
    whole = model(**labelled(part(frames, 0, 30)), attention_mask=torch.ones(2, 30))
    torch.testing.assert_close(whole.loss, model(**labelled(part(frames, 0, 30))).loss)
    mask = torch.ones(2, STEPS)
    mask[:, 30:] = 0
    given = labelled(frames)
    given["text_labels"] = given["text_labels"].masked_fill(mask == 0, -100)
    given["audio_labels"] = given["audio_labels"].masked_fill(mask[:, None] == 0, -100)
    output = model(**given, attention_mask=mask)
    torch.testing.assert_close(output.logits[:, :30], whole.logits, rtol=0, atol=1e-4)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(20))
def test_losses_are_those_of_kyutai(seed, tmp_path):
    """From logits and masks of their training pass, over random delays and numbers of codebooks."""
    from moshi.utils.compile import no_compile

    from earful.registry import save_model
    from earful.testing import tiny_sentencepiece
    from tests.models.moshi.models import as_moshi, random_model

    core = random_model(seed)
    tiny_sentencepiece().save(tmp_path / "tokenizer.model")
    save_model(core, tmp_path / "model", "kyutai", tmp_path / "tokenizer.model")
    model, c, own = Model.from_pretrained(tmp_path / "model"), core.config.temporal, 1 + core.config.own
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(c.text_vocab, (2, 1, 24), generator=generator)
    ids = torch.cat([text, torch.randint(c.audio_vocab, (2, c.codebooks, 24), generator=generator)], dim=1)
    ids[:, :, 5] = -1
    with no_compile(), torch.no_grad():
        theirs = as_moshi(core)(ids)
        output = model(
            ids[:, 0], moshi_audio_codes=ids[:, 1:own], user_audio_codes=ids[:, own:], text_labels=ids[:, 0],
            audio_labels=ids[:, 1:own],
        )  # fmt: skip
    said = F.cross_entropy(theirs.logits[theirs.mask], ids[:, 1:own][theirs.mask])
    written = F.cross_entropy(theirs.text_logits[theirs.text_mask], ids[:, :1][theirs.text_mask])
    torch.testing.assert_close(output.depth_loss, said, rtol=0, atol=1e-4)
    torch.testing.assert_close(output.loss, said + written, rtol=0, atol=1e-4)


# --------------------------------------------------------------------------------------------------------- outputs


@torch.no_grad()
def test_outputs(model, frames):
    asked = {"output_hidden_states": True, "output_attentions": True}
    output = model(**labelled(frames), **asked)
    assert output.keys() == [
        *("loss", "logits", "last_hidden_state", "hidden_states", "attentions"),
        *("depth_loss", "audio_logits", "depth_hidden_states", "depth_attentions"),
    ]
    assert [state.shape for state in output.hidden_states] == [(2, STEPS, 48)] * 3
    assert [weights.shape for weights in output.attentions] == [(2, 4, STEPS, STEPS)] * 2
    assert torch.equal(output.decoder_hidden_states[-1], output.last_hidden_state)
    assert output.decoder_attentions is output.attentions
    assert [state.shape for state in output.depth_hidden_states] == [(2 * STEPS, Q, 32)] * 3
    assert [weights.shape for weights in output.depth_attentions] == [(2 * STEPS, 2, Q, Q)] * 2
    for weights in output.depth_attentions:
        assert torch.allclose(weights.sum(-1), torch.ones(2 * STEPS, 2, Q))
        assert (weights.triu(1) == 0).all()
    plain = model(**labelled(frames), **asked, return_dict=False)
    assert torch.equal(plain[0], output.loss)
    assert torch.equal(plain[6], output.audio_logits)


@torch.no_grad()
def test_outputs_that_the_config_asks_for(folder, frames):
    model = Model.from_pretrained(folder)
    assert list(model(**frames)) == ["logits", "last_hidden_state", "past_key_values"]
    model.config.output_hidden_states = model.config.output_attentions = True
    assert list(model(**frames)) == ["logits", "last_hidden_state", "hidden_states", "attentions"]
    model.config.return_dict = False
    assert isinstance(model(**frames), tuple)
    assert isinstance(model.decoder(frames["input_ids"]), tuple)
    assert isinstance(model.decoder.model(frames["input_ids"]), tuple)


@torch.no_grad()
def test_the_depth_decoder_by_itself(folder, model):
    generator = torch.Generator().manual_seed(0)
    hidden, text = torch.randn(5, 1, 48, generator=generator), torch.randint(TEXT, (5, 1), generator=generator)
    codes = torch.randint(CODES, (5, Q), generator=generator)
    depth = earful.MoshiDepthDecoder.from_pretrained(folder)
    _, expected = model.core.depth(hidden[:, 0], text[:, 0], lambda k, _: codes[:, k])
    ids = torch.cat([text, codes[:, :-1]], dim=1)
    whole = depth(ids, hidden, labels=codes)
    torch.testing.assert_close(whole.logits, expected)
    torch.testing.assert_close(whole.loss, F.cross_entropy(expected.flatten(0, 1), codes.flatten()))
    cache, parts = None, []
    for k in range(Q):
        output = depth(ids[:, k : k + 1], hidden, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        parts.append(output.logits)
    assert torch.equal(torch.cat(parts, dim=1), whole.logits)
    embeds = torch.stack([depth.core.text_embed(text[:, 0]), depth.core.audio_embeds[0](codes[:, 0])], dim=1)
    assert torch.equal(depth(inputs_embeds=embeds, last_hidden_state=hidden).logits, whole.logits[:, :2])
    made = depth.generate(text, hidden, do_sample=False)
    assert torch.equal(made[:, :1], text)
    assert torch.equal(depth(made[:, :-1], hidden).logits.argmax(-1), made[:, 1:])
    with pytest.raises(ValueError, match="expected ids or embeddings of 1 to 3 places"):
        depth(made, hidden)
    with pytest.raises(ValueError, match=r"expected last_hidden_state of shape \[5, 1, 48\], got \[5, 48\]"):
        depth(ids, hidden[:, 0])
    with pytest.raises(ValueError, match="expected an attention_mask of ones"):
        depth(ids, hidden, attention_mask=torch.zeros(5, Q))


@torch.no_grad()
def test_parts_share_their_weights(folder, model, frames):
    assert model.decoder.core is model.decoder.model.core is model.core.temporal
    assert model.depth_decoder.core is model.core.depth
    assert model.audio_encoder.core is model.core.codec
    ids = frames["input_ids"]
    for kind, shared in ((earful.MoshiForCausalLM, model.decoder), (earful.MoshiModel, model.decoder.model)):
        alone = kind.from_pretrained(folder)
        assert not alone.training
        assert torch.equal(alone(ids).last_hidden_state, shared(ids).last_hidden_state)
    made = earful.MoshiForCausalLM(model.config)
    assert made(ids).logits.shape == (2, STEPS, TEXT)
    assert not any("audio" in name for name, _ in made.named_parameters())
    kept = model.decoder(ids, use_cache=False, logits_to_keep=2)
    torch.testing.assert_close(kept.logits, model.decoder(ids, use_cache=False).logits[:, -2:])
    assert kept.last_hidden_state.shape == (2, 2, 48)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input_ids": None, "moshi_audio_codes": None, "user_audio_codes": None}, "or waveforms, got none of them"),
        ({"inputs_embeds": torch.zeros(2, STEPS, 48)}, "expected inputs_embeds or ids and audio"),
        ({"input_ids": torch.ones(2, 7).long()}, r"expected moshi_audio_codes of shape \[2, 3, 7\]"),
        ({"user_audio_codes": torch.ones(2, 4, STEPS).long()}, r"user_audio_codes of shape \[2, 3, 50\].*\[2, 4, 50\]"),
        ({"attention_mask": torch.ones(2, 7)}, r"expected attention_mask of shape \[B, 50\], got \[2, 7\]"),
        ({"text_labels": torch.ones(2, 7).long()}, r"expected labels of shape \[2, 50\]"),
        ({"audio_labels": torch.ones(2, 7, STEPS).long()}, r"expected audio_labels of shape \[2, 3, 50\]"),
        ({"text_labels": torch.ones(2, STEPS).long(), "user_audio_codes": None}, "expected whole conversations"),
        ({"use_cache": True, "output_attentions": True}, "expected no cache with attention weights"),
    ],
)
def test_refusals(model, frames, change, message):
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        model(**{**frames, **change})


def test_unknown_arguments_are_named(model):
    for call in (model, model.generate, model.decoder, model.decoder.generate, model.depth_decoder):
        with pytest.raises(TypeError, match="num_beems"):
            call(num_beems=3)
    with pytest.raises(TypeError, match="depth_decoder_num_beems"):
        model.generate(depth_decoder_num_beems=3)


# --------------------------------------------------------------------------------------------- loading and saving


@pytest.mark.parametrize("layout", ["hf", "kyutai"])
def test_layouts_give_the_same_model(layout, model, tmp_path):
    other = Model.from_pretrained(str(write_tiny("moshi", layout, path=tmp_path)))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert other.config.to_core() == model.config.to_core()
    assert earful.MoshiConfig.from_pretrained(tmp_path) == other.config
    assert other.generation_config == model.generation_config
    assert earful.AutoFeatureExtractor.from_pretrained(tmp_path).sampling_rate == 4800
    assert earful.AutoTokenizer.from_pretrained(tmp_path).encode("<pad><unk>") == [3, 0]


def test_the_codec_stays_in_float32(tmp_path):
    stored = write_tiny("moshi", path=tmp_path, dtype=torch.bfloat16)
    for asked, got in [({}, torch.bfloat16), ({"dtype": "float32"}, torch.float32)]:
        model = Model.from_pretrained(stored, **asked)
        assert {p.dtype for p in model.core.temporal.parameters()} == {model.dtype} == {got}
        assert {p.dtype for p in model.audio_encoder.parameters()} == {torch.float32}
        output = model.generate(max_new_tokens=4)
        assert output.audio_sequences.dtype == torch.float32


def test_saved_with_its_tokenizer_and_its_choice(folder, tmp_path):
    model = Model.from_pretrained(folder)
    model.generation_config["temperature"] = 0.3
    model.save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert (again.config, again.generation_config) == (model.config, model.generation_config)
    tokenizer = earful.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(tokenizer.encode("the dog")) == "the dog"


def test_another_config(folder, tmp_path):
    config = earful.MoshiConfig.from_pretrained(folder)
    config.use_cache = False
    model = Model.from_pretrained(folder, config=config)
    assert model.config is config
    with torch.no_grad():
        assert model(**model.get_unconditional_inputs()).past_key_values is None
    config.sliding_window = 9
    with pytest.raises(ValueError, match="expected a config with the sizes of the checkpoint, got others"):
        Model.from_pretrained(folder, config=config)


def test_another_kind_of_model(tmp_path):
    folder = write_tiny("mimi", path=tmp_path)
    for kind in (Model, earful.MoshiForCausalLM, earful.MoshiModel, earful.MoshiDepthDecoder):
        with pytest.raises(earful.CheckpointError, match="expected a Moshi model, got Mimi"):
            kind.from_pretrained(folder)


def test_the_automatic_tokenizer(tmp_path):
    with pytest.raises(TypeError, match="expected AutoTokenizer.from_pretrained"):
        earful.AutoTokenizer()
    with pytest.raises(earful.CheckpointError, match="expected a checkpoint of kyutai_stt, moshi, got one of mimi"):
        earful.AutoTokenizer.from_pretrained(write_tiny("mimi", path=tmp_path))


def test_moves_as_modules_do(folder):
    model = Model.from_pretrained(folder).to("meta").train()
    assert (model.device.type, model.training, model.decoder.training) == ("meta", True, True)
