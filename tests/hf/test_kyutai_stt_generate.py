import numpy as np
import pytest
import torch

import earful
from earful.models.kyutai_stt.decode import CHUNK_FRAMES
from earful.testing import write_tiny

Model = earful.KyutaiSpeechToTextForConditionalGeneration
FRAMES, START, PAD = 40, 320, 3


class Recorder:
    """A streamer that keeps what it is told."""

    def __init__(self):
        self.told = []

    def put(self, value):
        self.told.append(value.clone())

    def end(self):
        self.told.append("end")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny("kyutai_stt", path=tmp_path_factory.mktemp("tiny"), model={"prefix_s": 0.16})


@pytest.fixture(scope="module")
def model(folder):
    return Model.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(folder):
    return earful.AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def given(model):
    """Audio of 40 frames and a bit in two rows."""
    samples = FRAMES * model.config.frame_size + 7
    return {"input_values": torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(0))}


@pytest.fixture(scope="module")
def free(model, given):
    return model.generate(**given)


def noise(samples, seed):
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def test_lengths(model, given, free):
    assert free.shape == (2, 1 + FRAMES)
    assert (free[:, 0] == START).all()
    assert all(len(row.unique()) > 8 for row in free)
    assert (free[:, 1:] < START).all()  # the start id cannot be written
    assert CHUNK_FRAMES < FRAMES
    for limit, length in [
        ({"max_new_tokens": 3}, 1 + 3),
        ({"max_new_tokens": 1000}, 1 + FRAMES),
        ({"max_length": 9}, 9),
        ({"max_length": 1000}, 1 + FRAMES),
    ]:
        assert torch.equal(model.generate(**given, **limit), free[:, :length])


@pytest.mark.parametrize("samples, frames", [(7, FRAMES), (-1, FRAMES - 1), (-376, FRAMES - 1), (-384, FRAMES - 1)])
def test_a_part_of_a_frame_is_not_heard(model, given, free, samples, frames):
    cut = given["input_values"][..., : FRAMES * model.config.frame_size + samples]
    assert torch.equal(model.generate(input_values=cut), free[:, : 1 + frames])


def test_what_is_written_is_what_the_forward_pass_says(model, given, free):
    """Position p hears frame p - 1; transformers by default hears the first frame twice and then one too early."""
    codes = model.codec_model.encode(given["input_values"]).audio_codes[..., :FRAMES]
    heard = torch.cat([torch.full((2, 6, 1), 32), codes], dim=-1).transpose(1, 2)
    with torch.no_grad():
        logits = model(torch.cat([free[..., None], heard], dim=-1), use_cache=False).logits[..., :-1]
    assert torch.equal(logits[:, :-1].argmax(-1), free[:, 1:])


def test_prompts(model, given, free):
    for length in (1, 2, 17, FRAMES):
        assert torch.equal(model.generate(free[:, :length], **given), free)
    assert torch.equal(model.generate(free[:, :5], **given, max_new_tokens=6), free[:, :11])
    other = model.generate(torch.tensor([[START, 20, 30]] * 2), **given)
    assert other[:, :3].tolist() == [[START, 20, 30]] * 2
    assert not torch.equal(other, free)


def test_the_stray_start_id_of_published_files(folder, given, free):
    model = Model.from_pretrained(folder)
    model.config.bos_token_id = 48_000
    assert torch.equal(model.generate(**given), free)  # not what stands in its place in their table
    asked = model.generate(torch.full((2, 1), 48_000), **given)
    assert (asked[:, 0] == 48_000).all()  # what is given is given back
    assert torch.equal(asked[:, 1:], free[:, 1:])
    model.config.bos_token_id = 7  # a text id is taken at its word
    assert (model.generate(**given)[:, 0] == 7).all()


def test_going_on_with_a_cache(model, given, free):
    """As much of the audio as there is so far, and the state that has heard it."""
    frame = model.config.frame_size
    ids, cache = None, None
    for frames in (3, 4, 21, FRAMES):
        output = model.generate(
            ids,
            input_values=given["input_values"][..., : frames * frame],
            past_key_values=cache,
            return_dict_in_generate=True,
        )
        ids, cache = output.sequences, output.past_key_values
        assert torch.equal(ids, free[:, : 1 + frames])
        assert cache.pos.tolist() == [frames] * 2
        assert list(output) == ["sequences", "past_key_values"]


@pytest.mark.parametrize("counts", [[40_000, 9_000, 20_000], [383, 384, 385]])
def test_rows_stop_at_their_own_end(model, processor, counts):
    clips = [noise(samples, seed) for seed, samples in enumerate(counts)]
    inputs = processor(clips, padding=True)
    together = model.generate(**inputs)
    for row, clip in enumerate(clips):
        alone = model.generate(**processor(clip))
        assert torch.equal(together[row, : alone.shape[1]], alone[0])
        assert (together[row, alone.shape[1] :] == PAD).all()
        silence = int(0.16 * 4800) + int(1.4 * 4800)
        assert alone.shape[1] == 1 + (len(clip) + silence) // 384
    assert together.shape[1] == 1 + inputs.input_values.shape[-1] // 384


def test_rows_without_a_mask_run_to_the_end(model, processor):
    inputs = processor([noise(20_000, 0), noise(5_000, 1)])
    masked, whole = model.generate(**inputs), model.generate(input_values=inputs.input_values)
    assert torch.equal(masked[0], whole[0])
    end = 1 + (5_000 + 7_488) // 384
    assert torch.equal(masked[1, :end], whole[1, :end])
    assert (masked[1, end:] == PAD).all()
    assert not (whole[1, end:] == PAD).all()
    filled = model.generate(**inputs, pad_token_id=0)
    assert (filled[1, end:] == 0).all()


def test_an_end_stops_and_fills(model, given, free):
    end = int(free[0, 15])
    for ends in (end, [end, 319]):
        written = model.generate(**given, eos_token_id=ends)
        for row, own in zip(written, free, strict=True):
            after = (own[1:] == end).nonzero()
            stop = 2 + int(after[0]) if len(after) else 1 + FRAMES
            assert torch.equal(row[:stop], own[:stop])
            assert (row[stop:] == PAD).all()
    alone = model.generate(input_values=given["input_values"][:1], eos_token_id=end)
    assert alone.shape[1] == 2 + int((free[0, 1:] == end).nonzero()[0])


def test_the_configs_ends_and_fillers(folder, given, free):
    model = Model.from_pretrained(folder)
    model.config.eos_token_id, model.config.pad_token_id = int(free[0, 15]), 5
    assert torch.equal(model.generate(**given), model.generate(**given, eos_token_id=int(free[0, 15]), pad_token_id=5))
    assert torch.equal(model.generate(**given, eos_token_id=[]), free)


def test_chance(model, given, free):
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(model.generate(**given, do_sample=True, temperature=2.0, top_k=100, top_p=0.99))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(model.generate(**given, do_sample=True, top_k=1), free)
    wild = model.generate(**given, do_sample=True, temperature=1e4, top_k=10_000)
    assert (wild[:, 1:] < START).all()


def test_what_a_streamer_is_told(model, processor, given, free):
    recorder = Recorder()
    model.generate(**given, streamer=recorder)
    assert recorder.told.pop() == "end"
    assert torch.equal(recorder.told[0], free[:, :1])
    assert torch.equal(torch.stack(recorder.told[1:], 1), free[:, 1:])
    streamer = earful.TextIteratorStreamer(processor.tokenizer, skip_special_tokens=True)
    one = model.generate(input_values=given["input_values"][:1], streamer=streamer)
    assert "".join(streamer) == processor.decode(one[0], skip_special_tokens=True)


def test_half_precision(folder, given):
    model = Model.from_pretrained(folder, dtype=torch.bfloat16)
    halved = {"input_values": given["input_values"].to(torch.bfloat16)}
    assert model.generate(**given).shape == model.generate(**halved).shape == (2, 1 + FRAMES)


def test_results_may_be_trained_on(folder, given):
    model = Model.from_pretrained(folder)
    ids = model.generate(**given)
    assert not ids.is_inference()
    embeds = model.core.temporal.text_embed(ids)
    model(inputs_embeds=embeds, labels=ids).loss.backward()


@pytest.mark.parametrize("layout", ["hf", "kyutai"])
def test_the_text_is_that_of_transcribe(layout, tmp_path):
    folder = write_tiny("kyutai_stt", layout, path=tmp_path, model={"prefix_s": 0.16})
    model, processor = Model.from_pretrained(folder), earful.AutoProcessor.from_pretrained(folder)
    speech = earful.load(folder)
    for seed, samples in enumerate([384 * 50, 384 * 50 + 100, 20_000]):
        clip = noise(samples, seed)
        ids = model.generate(**processor(clip))
        assert processor.batch_decode(ids, skip_special_tokens=True) == [speech.transcribe(clip).text]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"max_new_tokens": 0}, "expected room for more ids than the 1 of the prompt, got a length of 1"),
        ({"input_values": torch.zeros(2, 1, 383)}, "got a length of 1"),
        ({"max_length": 9, "max_new_tokens": 2}, "expected max_new_tokens or max_length, got both"),
        ({"temperature": 0.5}, "expected do_sample=True with temperature, top_k and top_p, got False"),
        ({"attention_mask": torch.tensor([[0], [1]])}, "expected an attention_mask of ones"),
        ({"do_sample": True, "top_k": 0}, "expected top_k of at least 1, got 0"),
        ({"input_values": torch.zeros(2, 384 * 5)}, r"expected input_values of shape \[B, 1, N\], got \[2, 1920\]"),
        ({"padding_mask": torch.ones(2, 5)}, r"expected padding_mask of shape \[2, 15367\], got \[2, 5\]"),
        ({"input_ids": torch.ones(3, 2, dtype=torch.int64)}, r"expected input_ids of shape \[2, L\], got \[3, 2\]"),
    ],
)
def test_refusals(model, given, change, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**{**given, **change})


def test_a_cache_without_its_ids(model, given):
    output = model.generate(**given, max_new_tokens=3, return_dict_in_generate=True)
    with pytest.raises(ValueError, match="expected input_ids of more than the 3 positions in past_key_values, got 1"):
        model.generate(**given, past_key_values=output.past_key_values)
