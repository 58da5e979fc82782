"""Every answer beside the one of transformers, over random configurations."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.hf.kyutai_stt_reference import TOLERANCE, both_of
from tests.hf.reference import their_manners

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.reference
SEEDS = range(20)


@pytest.fixture(scope="module", params=SEEDS)
def both(request, tmp_path_factory):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return both_of(request.param, tmp_path_factory.mktemp("both"))


def close(here, there, tolerance=TOLERANCE):
    assert here.shape == there.shape
    torch.testing.assert_close(here, there, rtol=0, atol=tolerance * max(1.0, float(there.abs().max())))


def theirs_of(both, clips, **options):
    with their_manners():
        return both.their_processor.feature_extractor(clips, return_tensors="pt", sampling_rate=both.rate_hz, **options)


def test_inputs_are_equal_to_the_bit(both):
    forms = [both.clips, both.clips[0], [clip.tolist() for clip in both.clips], both.clips[0].astype(np.float64)]
    for clips in forms:
        ours, theirs = both.processor(clips, padding=True), theirs_of(both, clips)
        assert set(ours) == set(theirs)
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype
            assert torch.equal(ours[name], theirs[name]), name


def test_text(both):
    tokenizer = both.their_processor.tokenizer
    for text in ("one two three", "  the  dog", "été, 日本 🙂", ""):
        assert both.processor(text=text).input_ids[0].tolist() == tokenizer(text).input_ids
    start, rng = both.model.config.bos_token_id, np.random.default_rng(0)
    rows = [[start, *row] for row in rng.integers(0, len(tokenizer), (5, 30)).tolist()] + [[48_000, 3, 3, 0]]
    for skip in (False, True):
        theirs = tokenizer.batch_decode(rows, skip_special_tokens=skip)
        assert both.processor.batch_decode(rows, skip_special_tokens=skip) == theirs


@torch.no_grad()
def test_logits_states_and_loss_within_the_window(both):
    ids = both.ids(2, min(both.window, 40))
    labels = ids[..., 0].masked_fill(ids[..., 0] >= both.model.config.vocab_size, -100)
    labels[0, 1:2] = -100
    options = {"labels": labels, "output_hidden_states": True, "use_cache": False}
    ours, theirs = both.model(ids, **options), both.their_model(input_ids=ids, **options)
    close(ours.logits, theirs.logits)
    close(ours.loss, theirs.loss, TOLERANCE / 10)
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    for here, there in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        close(here, there)
    base = both.model.model(ids, use_cache=False)
    close(base.last_hidden_state, both.their_model.model(input_ids=ids, use_cache=False).last_hidden_state)
    kept = both.model(ids, logits_to_keep=2, use_cache=False).logits
    close(kept, both.their_model(input_ids=ids, logits_to_keep=2, use_cache=False).logits)


@torch.no_grad()
def test_past_the_window_theirs_agrees_only_step_by_step(both):
    """Their forward pass of a whole signal sees everything; one position at a time, with a cache, has the window."""
    steps = 40
    ids = both.ids(2, steps)
    whole = both.model(ids, use_cache=False).logits
    theirs_whole = both.their_model(input_ids=ids, use_cache=False).logits
    close(whole[:, : both.window], theirs_whole[:, : both.window])
    if both.window < steps:
        assert not torch.allclose(whole, theirs_whole, atol=1e-2)
    cache, parts = None, []
    for step in range(steps):
        output = both.their_model(input_ids=ids[:, step : step + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        parts.append(output.logits)
    close(whole, torch.cat(parts, dim=1))


@torch.no_grad()
def test_steps_with_caches(both):
    cuts = sorted({0, 1, 2, min(both.window, 20), 21, 40})
    ids = both.ids(2, cuts[-1])
    cache = their_cache = None
    for begin, end in pairwise(cuts):
        ours = both.model(ids[:, begin:end], past_key_values=cache, cache_position=torch.arange(begin, end))
        cache = ours.past_key_values
        for step in range(begin, end):  # more than one at a time are not windowed
            theirs = both.their_model(
                input_ids=ids[:, step : step + 1], past_key_values=their_cache, use_cache=True, logits_to_keep=1
            )
            their_cache = theirs.past_key_values
            close(ours.logits[:, step - begin], theirs.logits[:, 0])


@torch.no_grad()
def test_masks_positions_and_attentions(both):
    steps = min(both.window, 24)
    mask = torch.ones(2, steps, dtype=torch.int64)
    mask[0, steps - steps // 4 :] = 0  # filled from the right
    mask[1, : steps // 3] = 0  # and from the left
    options = {
        "attention_mask": mask,
        "position_ids": torch.arange(steps)[None] * 2 + 3,
        "output_attentions": True,
        "use_cache": False,
    }
    ids = both.ids(2, steps)
    both.their_model.set_attn_implementation("eager")
    theirs = both.their_model(input_ids=ids, **options)
    both.their_model.set_attn_implementation("sdpa")
    ours = both.model(ids, **options)
    seen = mask.bool()  # what a step sees that is itself masked is nobody's concern
    close(ours.logits[seen], theirs.logits[seen])
    assert len(ours.attentions) == len(theirs.attentions)
    for here, there in zip(ours.attentions, theirs.attentions, strict=True):
        close(here.transpose(1, 2)[seen], there.transpose(1, 2)[seen])


def assert_same_ids(both, ours, theirs, codes):
    """Equal in every row, but that behind a near tie anything may follow. codes: what is heard [B, codebooks, F]."""
    assert ours.shape == theirs.shape
    config = both.model.config
    start = torch.full_like(codes[..., :1], config.audio_bos_token_id)
    heard = torch.cat([start, codes], dim=-1)[..., : ours.shape[1]].transpose(1, 2)
    with torch.no_grad():
        logits = both.model(torch.cat([ours[..., None], heard], dim=-1), use_cache=False).logits[..., :-1]
    for row in range(len(ours)):
        different = (ours[row] != theirs[row]).nonzero()
        if len(different):
            first = int(different[0])
            best = logits[row, first - 1].topk(2).values
            assert best[0] - best[1] < TOLERANCE * 10, (
                f"row {row}: expected id {theirs[row, first]} at {first}, got {ours[row, first]}"
            )


def test_transcripts(both):
    """Each clip alone, as they run all rows to the end of the longest; the window of the audio is unset."""
    for clip in both.clips:
        inputs = both.processor(clip)
        with their_manners():
            theirs = both.their_model.generate(**theirs_of(both, clip), do_sample=False)
        ours = both.model.generate(**inputs)
        codes = both.model.codec_model.encode(inputs.input_values, num_quantizers=both.model.config.num_codebooks)
        assert_same_ids(both, ours, theirs, codes.audio_codes)
        assert theirs.shape[1] == 1 + inputs.input_values.shape[-1] // both.model.config.frame_size


def test_their_published_window_hears_the_first_frame_twice(both):
    """That is all that it does: the same from us, once the audio has its first frame twice."""
    inputs = both.processor(both.clips[0])
    both.their_model.generation_config.audio_window_size = 1
    both.their_model.codec_model.generation_config.use_cache = True  # as published
    with their_manners():
        theirs = both.their_model.generate(**theirs_of(both, both.clips[0]), max_new_tokens=20, do_sample=False)
    both.their_model.generation_config.audio_window_size = None
    first = inputs.input_values[..., : both.model.config.frame_size]
    twice = torch.cat([first, inputs.input_values], dim=-1)
    ours = both.model.generate(input_values=twice, max_new_tokens=20)
    codes = both.model.codec_model.encode(twice, num_quantizers=both.model.config.num_codebooks).audio_codes
    assert_same_ids(both, ours, theirs, codes)


def test_transcripts_of_a_batch(both):
    inputs = both.processor(both.clips, padding=True)
    ours = both.model.generate(**inputs)
    for row, clip in enumerate(both.clips):
        alone = both.model.generate(**both.processor(clip))[0]
        # With other rows beside it a row's sums may be taken in another order: near ties may differ.
        if not torch.equal(ours[row, : len(alone)], alone):
            codes = both.model.codec_model.encode(inputs.input_values[row : row + 1]).audio_codes
            shown = codes[:, : both.model.config.num_codebooks]
            assert_same_ids(both, ours[row : row + 1, : len(alone)], alone[None], shown)
        assert (ours[row, len(alone) :] == both.model.config.pad_token_id).all()


def test_prompts_and_ends(both):
    inputs = both.processor(both.clips[0])
    free = both.model.generate(**inputs)
    prompt = free[:, : min(5, both.window)]  # theirs sees all of a longer one
    end = int(free[0, 12])
    with their_manners():
        theirs = both.their_model.generate(**inputs, eos_token_id=end, pad_token_id=3, do_sample=False)
        prompted = both.their_model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),  # without it the frames that are waited in are masked
            max_new_tokens=6,
            **theirs_of(both, both.clips[0]),
            do_sample=False,
        )
    codes = both.model.codec_model.encode(inputs.input_values, num_quantizers=both.model.config.num_codebooks)
    ours = both.model.generate(**inputs, eos_token_id=end)
    if torch.equal(free[:, : theirs.shape[1]], theirs):
        assert torch.equal(ours, theirs)
    assert_same_ids(both, both.model.generate(prompt, **inputs, max_new_tokens=6), prompted, codes.audio_codes)


def test_what_is_saved_loads_in_theirs(both, tmp_path):
    both.model.save_pretrained(tmp_path)
    both.processor.save_pretrained(tmp_path)
    with their_manners():
        model = transformers.KyutaiSpeechToTextForConditionalGeneration.from_pretrained(tmp_path)
        processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert type(processor) is type(both.their_processor)
    expected = both.their_model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    for name in ("audio_delay_seconds", "audio_silence_prefix_seconds", "sampling_rate"):
        assert getattr(processor.feature_extractor, name) == getattr(both.processor.feature_extractor, name)
    assert processor.tokenizer("one two").input_ids == both.processor.tokenizer.encode("one two")
    assert processor.tokenizer.pad_token_id == both.processor.tokenizer.pad_token_id == 3
