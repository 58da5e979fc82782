import pytest
import torch

import earful
from earful.testing import write_tiny

TEXT, CODES, Q, FRAME = 320, 32, 3, 384  # of the tiny model; its window has 20 positions
Model = earful.MoshiForConditionalGeneration
GREEDY = {"do_sample": False, "depth_decoder_do_sample": False, "return_audio_codes": True}
FRAMES, NEW = 7, 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny("moshi", path=tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder):
    return Model.from_pretrained(folder)


@pytest.fixture(scope="module")
def waves():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 1, FRAMES * FRAME - 9, generator=generator) for name in ("user", "moshi")}


@pytest.fixture(scope="module")
def prompt(model, waves):
    """Text and codes of 7 frames in two rows."""
    ids = torch.randint(TEXT, (2, FRAMES), generator=torch.Generator().manual_seed(0))
    codes = {
        f"{name}_audio_codes": model.audio_encoder.encode(wave, num_quantizers=Q).audio_codes
        for name, wave in waves.items()
    }
    return {"input_ids": ids, **codes}


@pytest.fixture(scope="module")
def free(model, prompt):
    return model.generate(**prompt, max_new_tokens=NEW, **GREEDY)


def same(here, there):
    assert torch.equal(here.sequences, there.sequences)
    assert torch.equal(here.audio_codes, there.audio_codes)
    torch.testing.assert_close(here.audio_sequences, there.audio_sequences)


def test_lengths_and_prompts(model, prompt, free):
    assert free.sequences.shape == (2, 1 + FRAMES + NEW)
    assert (free.sequences[:, 0] == TEXT).all()
    assert torch.equal(free.sequences[:, 1 : 1 + FRAMES], prompt["input_ids"])
    assert free.audio_codes.shape == (2, Q, FRAMES + NEW - 1)
    assert torch.equal(free.audio_codes[..., :FRAMES], prompt["moshi_audio_codes"])
    assert free.audio_sequences.shape == (2, 1, (FRAMES + NEW - 1) * FRAME)
    assert all(len(row.unique()) > 4 for row in free.sequences[:, 1 + FRAMES :])
    for limit, length in [({"max_new_tokens": 3}, 3), ({"max_length": 12}, 4), ({"max_new_tokens": 1}, 1)]:
        output = model.generate(**prompt, **limit, **GREEDY)
        assert torch.equal(output.sequences, free.sequences[:, : 1 + FRAMES + length])
        assert torch.equal(output.audio_codes, free.audio_codes[..., : FRAMES + length - 1])
    assert model.generate(**GREEDY).sequences.shape == (1, 1 + 20)
    silent = model.generate(max_new_tokens=1, **GREEDY)  # the acoustic codes of its first frame would come next
    assert (silent.audio_codes.shape, silent.audio_sequences.shape) == ((1, Q, 0), (1, 1, 0))


def test_waveforms_are_their_codes(model, prompt, waves, free):
    values = {f"{name}_input_values": wave for name, wave in waves.items()}
    same(model.generate(prompt["input_ids"], **values, max_new_tokens=NEW, **GREEDY), free)
    silence = {name: 0 * wave for name, wave in values.items()}
    same(model.generate(**prompt, **silence, max_new_tokens=NEW, **GREEDY), free)  # codes count where both are given


def test_unconditional_inputs_are_no_inputs(model):
    free = model.generate(max_new_tokens=NEW, **GREEDY)
    assert free.sequences.shape == (1, 1 + NEW)
    assert free.audio_codes.shape == (1, Q, NEW - 1)
    for concat in (True, False):  # a start that is there already is not put before itself
        four = model.generate(
            **model.get_unconditional_inputs(4), concat_unconditional_inputs=concat, max_new_tokens=NEW, **GREEDY
        )
        for row in range(4):
            assert torch.equal(four.sequences[row], free.sequences[0])
            assert torch.equal(four.audio_codes[row], free.audio_codes[0])
        assert four.audio_sequences.shape == (4, 1, (NEW - 1) * FRAME)


def assert_rescored(model, prompt, output):
    """Behind the prompt the user is silent; scored as in training, each id is the likeliest."""
    delays = model.core.config.delays[1 : 1 + Q]
    silence = model.audio_encoder.encode(torch.zeros(1, 1, FRAME), num_quantizers=Q).audio_codes
    codes, count = output.audio_codes, FRAMES + NEW - max(delays)
    assert codes.shape[-1] == count
    text = output.sequences[:, 1 : 1 + count]
    user = torch.cat([prompt["user_audio_codes"], silence.expand(2, -1, count - FRAMES)], dim=-1)
    with torch.no_grad():
        scored = model(
            text, user_audio_codes=user, moshi_audio_codes=codes, text_labels=text, audio_labels=codes, use_cache=False
        )
    assert torch.equal(scored.logits[:, FRAMES:].argmax(-1), text[:, FRAMES:])
    said = scored.audio_logits.unflatten(0, (2, count)).argmax(-1)  # [B, T, Q]
    for k, delay in enumerate(delays):
        assert torch.equal(said[:, FRAMES + delay :, k], codes[:, k, FRAMES : count - delay])


def test_what_is_written_and_said_is_what_the_forward_pass_says(model, prompt, free):
    assert_rescored(model, prompt, free)


def test_other_delays_and_weights_that_codes_share(prompt, tmp_path):
    """As Kyutai's layout can say, and Hugging Face's cannot."""
    changes = {"model": {"delays": (0, 0, 2, 1, 0, 2, 2)}, "depth": {"schedule": (0, 1, 1)}}
    model = Model.from_pretrained(write_tiny("moshi", "kyutai", path=tmp_path / "kyutai", **changes))
    output = model.generate(**prompt, max_new_tokens=NEW, **GREEDY)
    assert torch.equal(output.audio_codes[..., :FRAMES], prompt["moshi_audio_codes"])
    assert_rescored(model, prompt, output)
    assert torch.equal(
        model.generate(**prompt, max_new_tokens=1, **GREEDY).audio_codes, prompt["moshi_audio_codes"]
    )  # nothing new is whole
    with pytest.raises(earful.CheckpointError, match="expected"):
        model.save_pretrained(tmp_path / "hf")


def test_a_start_among_the_inputs(model, prompt, free):
    start = model.get_unconditional_inputs(2)
    begun = {name: torch.cat([start[name], ids], dim=-1) for name, ids in prompt.items()}
    same(model.generate(**begun, max_new_tokens=NEW, **GREEDY), free)
    alone = model.generate(**prompt, concat_unconditional_inputs=False, max_new_tokens=4, **GREEDY)
    assert alone.sequences.shape == (2, FRAMES + 4)
    assert torch.equal(alone.audio_codes[..., :FRAMES], prompt["moshi_audio_codes"])


def test_embeddings(model, prompt, free):
    ids = torch.cat([prompt["input_ids"][:, None], prompt["moshi_audio_codes"], prompt["user_audio_codes"]], dim=1)
    columns = torch.cat([model.core.start(2), model.core.delayed(ids)], dim=-1)
    embeds = model.core.temporal.embed(columns)
    start = model.get_unconditional_inputs(2)
    begun = {name: torch.cat([start[name], prompt[name]], dim=-1) for name in prompt if name != "input_ids"}
    output = model.generate(inputs_embeds=embeds, **begun, max_new_tokens=NEW, **GREEDY)
    assert torch.equal(output.sequences, free.sequences[:, 1 + FRAMES :])  # there are no ids of the prompt
    assert torch.equal(output.audio_codes, free.audio_codes)
    first = model.generate(inputs_embeds=embeds[:, :1], max_new_tokens=NEW, **GREEDY)  # of the start alone
    unconditional = model.generate(max_new_tokens=NEW, **GREEDY)
    assert torch.equal(first.sequences[:1], unconditional.sequences[:, 1:])
    assert torch.equal(first.audio_codes[:1], unconditional.audio_codes)
    without = model.generate(inputs_embeds=embeds, max_new_tokens=5, **GREEDY)  # what was said before is not known
    assert (without.sequences.shape, without.audio_codes.shape) == ((2, 5), (2, Q, 4))
    assert torch.equal(without.sequences[:, 0], free.sequences[:, 1 + FRAMES])


def test_special_ids_never_reach_the_codec(model, prompt, monkeypatch):
    seen = []
    decode = type(model.core.codec).decode
    monkeypatch.setattr(type(model.core.codec), "decode", lambda *args: seen.append(args[1]) or decode(*args))
    model.generate(**model.get_unconditional_inputs(2), max_new_tokens=9)
    model.generate(**prompt, max_new_tokens=9, num_beams=3, do_sample=False)
    model.generate(**prompt, max_new_tokens=9, eos_token_id=list(range(TEXT)))
    assert len(seen) == 3
    assert all(codes.min() >= 0 and codes.max() < CODES for codes in seen)
    for name in ("moshi_audio_codes", "user_audio_codes"):
        for bad in (CODES, -1):
            wrong = prompt[name].clone()
            wrong[0, 1, 3] = bad
            with pytest.raises(ValueError, match=f"expected {name} of 0 to 31 behind the start"):
                model.generate(**{**prompt, name: wrong}, max_new_tokens=2)
    with pytest.raises(ValueError, match="expected input_ids of 0 to 319 behind the start"):
        model.generate(**{**prompt, "input_ids": prompt["input_ids"] + 1000}, max_new_tokens=2)


def test_what_is_returned(model, prompt, free):
    options = {**GREEDY, "max_new_tokens": 4}
    ids = model.generate(**prompt, **{**options, "return_audio_codes": None}, return_audio_waveforms=False)
    assert torch.equal(ids, free.sequences[:, : 1 + FRAMES + 4])
    fields = {
        ("audio_sequences", "sequences"): {"return_audio_codes": None},
        ("sequences", "audio_codes"): {"return_audio_waveforms": False},
        ("audio_sequences", "sequences", "audio_codes"): {},
        ("sequences",): {
            "return_audio_waveforms": False, "return_audio_codes": False, "return_dict_in_generate": True,
        },
    }  # fmt: skip
    for names, change in fields.items():
        assert tuple(model.generate(**prompt, **{**options, **change})) == names


# ---------------------------------------------------------------------------------------------------------- search


def log_likelihood(model, prompt, output):
    """Of the new text ids, given what was said beside them."""
    rows, count = len(output.sequences), output.audio_codes.shape[-1]
    times = rows // len(prompt["input_ids"])
    silence = model.audio_encoder.encode(torch.zeros(1, 1, FRAME), num_quantizers=Q).audio_codes
    user = prompt["user_audio_codes"].repeat_interleave(times, 0)
    user = torch.cat([user, silence.expand(rows, -1, count - FRAMES)], dim=-1)
    ids = torch.cat([output.sequences[:, None, 1 : 1 + count], output.audio_codes, user], dim=1)
    with torch.no_grad():
        text, _ = model.core(torch.cat([ids, ids[..., -1:]], dim=-1))  # what its last column hears is not known yet
    likely = text.log_softmax(-1)[:, FRAMES:].gather(2, output.sequences[:, 1 + FRAMES :, None])[..., 0]
    return likely.sum(-1)


def test_beams(model, prompt, free):
    options = {**GREEDY, "max_new_tokens": 6}
    found = model.generate(**prompt, num_beams=4, num_return_sequences=3, **options)
    assert found.sequences.shape == (6, 1 + FRAMES + 6)
    assert found.audio_codes.shape == (6, Q, FRAMES + 5)
    scores = found.sequences_scores.view(2, 3)
    assert (scores.diff() <= 0).all()
    torch.testing.assert_close(log_likelihood(model, prompt, found) / 6, found.sequences_scores, rtol=0, atol=1e-4)
    assert len({tuple(row) for row in found.sequences.tolist()}) == 6
    best = model.generate(**prompt, num_beams=4, **options)
    assert torch.equal(best.sequences, found.sequences[::3])
    assert torch.equal(best.audio_codes, found.audio_codes[::3])
    greedy = model.generate(**prompt, **options)
    assert (best.sequences_scores >= log_likelihood(model, prompt, greedy) / 6 - 1e-4).all()
    assert torch.equal(model.generate(**prompt, num_beams=1, **options).sequences, greedy.sequences)
    torch.manual_seed(0)
    drawn = model.generate(**prompt, **{**options, "do_sample": True}, num_beams=3, num_return_sequences=2)
    assert drawn.sequences.shape == (4, 1 + FRAMES + 6)


def test_beams_of_codes(model, prompt):
    """The likeliest codes of a frame, whatever the text is written by."""
    output = model.generate(**prompt, max_new_tokens=1, return_audio_waveforms=False, do_sample=False)
    hidden = torch.randn(3, 1, 48, generator=torch.Generator().manual_seed(0))
    text = torch.tensor([[1], [2], [300]])
    depth = model.depth_decoder
    found = depth.generate(text, hidden, do_sample=False, num_beams=CODES**2)
    every = torch.cartesian_prod(*[torch.arange(CODES)] * Q)
    with torch.no_grad():
        for row in range(3):
            ids = torch.cat([text[row].expand(len(every), 1), every], dim=1)
            logits = depth(ids[:, :-1], hidden[row].expand(len(every), 1, -1), use_cache=False).logits
            likely = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).sum((1, 2))
            assert torch.equal(found[row], ids[likely.argmax()])
    assert output.shape == (2, 1 + FRAMES + 1)
    for options in ({"depth_do_sample": True}, {"depth_decoder_do_sample": True, "depth_decoder_num_beams": 5}):
        assert model.generate(**prompt, max_new_tokens=2, do_sample=False, **options).sequences.shape[1] == 3 + FRAMES


def test_chance(model, prompt, free):
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(model.generate(**prompt, max_new_tokens=8, num_return_sequences=2, return_audio_codes=True))
    same(drawn[0], drawn[1])  # by default ids are drawn, as the model's generation_config says
    assert not torch.equal(drawn[0].sequences, drawn[2].sequences)
    assert drawn[0].sequences.shape == (4, 1 + FRAMES + 8)
    assert not torch.equal(drawn[0].sequences[0], drawn[0].sequences[1])
    assert torch.equal(drawn[0].sequences[:2, : 1 + FRAMES], free.sequences[:1, : 1 + FRAMES].expand(2, -1))
    sure = model.generate(**prompt, max_new_tokens=NEW, top_k=1, depth_top_k=1, return_audio_codes=True)
    same(sure, free)


def test_the_generation_config_counts_where_nothing_is_asked(folder, prompt, free):
    model = Model.from_pretrained(folder)
    model.generation_config = {"do_sample": True, "temp": 0.0, "top_k": 25, "depth_decoder_config": {}}
    same(model.generate(**prompt, max_new_tokens=NEW, return_audio_codes=True), free)  # a temperature by another name
    model.generation_config = {}
    same(model.generate(**prompt, max_new_tokens=NEW, return_audio_codes=True), free)
    torch.manual_seed(0)
    model.generation_config = {"do_sample": True, "top_k": 0, "temperature": 1e3}  # of all ids alike
    wild = model.generate(**prompt, max_new_tokens=60, num_return_sequences=4, return_audio_waveforms=False)
    assert len(wild[:, 1 + FRAMES :].unique()) > 100
    model.generation_config = {"do_sample": "yes"}
    with pytest.raises(ValueError, match="generation_config.json: expected do_sample to be true or false"):
        model.generate(**prompt)


class Recorder:
    """A streamer that keeps what it is told."""

    def __init__(self):
        self.told = []

    def put(self, value):
        self.told.append(value.clone())

    def end(self):
        self.told.append("end")


def test_streamers_and_ends(model, prompt, free):
    recorder = Recorder()
    model.generate(**prompt, max_new_tokens=NEW, streamer=recorder, **GREEDY)
    assert recorder.told.pop() == "end"
    assert torch.equal(recorder.told[0], free.sequences[:, : 1 + FRAMES])
    assert torch.equal(torch.stack(recorder.told[1:], 1), free.sequences[:, 1 + FRAMES :])
    end = int(free.sequences[0, 1 + FRAMES + 5])
    ended = model.generate(**prompt, max_new_tokens=NEW, eos_token_id=end, pad_token_id=3, **GREEDY)
    for row, own in zip(ended.sequences, free.sequences, strict=True):
        after = (own[1 + FRAMES :] == end).nonzero()
        stop = 2 + FRAMES + int(after[0]) if len(after) else len(own)
        assert torch.equal(row[:stop], own[:stop])
        assert (row[stop:] == 3).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input_ids": None}, "text and both voices or nothing at all, got no input_ids"),
        ({"user_audio_codes": None}, "got no user_audio_codes or user_input_values"),
        (
            {"moshi_audio_codes": None, "user_audio_codes": None},
            "got no moshi_audio_codes or moshi_input_values and no",
        ),
        ({"input_ids": torch.ones(2, 5).long()}, r"expected moshi_audio_codes of shape \[2, 3, 5\]"),
        ({"inputs_embeds": torch.zeros(2, FRAMES, 48)}, "expected input_ids or inputs_embeds, got both"),
        ({"max_new_tokens": 0}, "expected room for more ids than the 8 of the prompt"),
        ({"max_length": 9, "max_new_tokens": 2}, "expected max_new_tokens or max_length, got both"),
        ({"attention_mask": torch.tensor([[0] * 7, [1] * 7])}, "expected an attention_mask of ones"),
        ({"temperature": 0.5, "do_sample": False}, "expected do_sample=True with temperature"),
        ({"depth_temperature": 0.5, "depth_do_sample": False}, "expected do_sample=True with temperature"),
        ({"depth_decoder_max_length": 7}, "expected a max_length of 4, got 7"),
        ({"num_return_sequences": 2, "do_sample": False}, "expected one sequence without beams and chance"),
        ({"num_beams": 2, "num_return_sequences": 3}, "at most the 2 beams, got 3"),
        ({"num_beams": 2, "eos_token_id": 3}, "expected one beam with a streamer or ids that end a text, got more"),
    ],
)
def test_refusals(model, prompt, change, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**{**prompt, **change})


# ------------------------------------------------------------------------------------------------------ text alone


def test_text_alone(folder, prompt):
    model = earful.MoshiForCausalLM.from_pretrained(folder)
    ids = prompt["input_ids"]
    written = model.generate(ids, max_length=30, do_sample=False)
    assert written.shape == (2, 30)
    assert torch.equal(written[:, :FRAMES], ids)
    with torch.no_grad():
        assert torch.equal(model(written, use_cache=False).logits[:, FRAMES - 1 : -1].argmax(-1), written[:, FRAMES:])
    assert model.generate(ids).shape == (2, FRAMES + 20)
    found = model.generate(ids, max_new_tokens=5, do_sample=False, num_beams=3, num_return_sequences=3)
    assert found.shape == (6, FRAMES + 5)
    assert torch.equal(found[::3], model.generate(ids, max_new_tokens=5, do_sample=False, num_beams=3))
    torch.manual_seed(0)
    assert model.generate(ids, max_new_tokens=5, num_return_sequences=3).shape == (6, FRAMES + 5)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_prompts_of_several_lengths(folder, prompt, options):
    model = earful.MoshiForCausalLM.from_pretrained(folder)
    ids, mask = prompt["input_ids"].clone(), torch.ones(2, FRAMES, dtype=torch.int64)
    ids[1, :4], mask[1, :4] = 3, 0
    together = model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False, **options)
    alone = model.generate(ids[1:, 4:], max_new_tokens=20, do_sample=False, **options)
    assert torch.equal(together[1, 4:], alone[0])
    assert torch.equal(together[:1], model.generate(ids[:1], max_new_tokens=20, do_sample=False, **options))
