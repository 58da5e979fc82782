"""Every answer beside the one of transformers, over random configurations."""

import copy
import random

import numpy as np
import pytest
import torch

import earful
from earful.models.s2t.config import PAD, START
from tests.helpers import spoken_like
from tests.hf.reference import their_manners
from tests.hf.s2t_reference import TOLERANCE, both_of

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.reference
SEEDS = range(20)
RATE = {"sampling_rate": 16_000}
STATES = ("decoder_hidden_states", "encoder_hidden_states", "decoder_attentions", "encoder_attentions")


@pytest.fixture(scope="module", params=SEEDS)
def both(request, tmp_path_factory):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return both_of(request.param, tmp_path_factory.mktemp("both"))


def close(here, there):
    assert here.shape == there.shape
    torch.testing.assert_close(here, there, rtol=0, atol=TOLERANCE)


def some_ids(both, steps=12):
    """Texts of three utterances, a padding id among them."""
    ids = torch.randint(both.model.config.vocab_size, (3, steps), generator=both.generator)
    ids[:, 0], ids[0, 5] = START, PAD
    return ids


@torch.no_grad()
def test_forward(both):
    ids = some_ids(both)
    options = {"attention_mask": both.mask, "decoder_input_ids": ids}
    seen = {"output_hidden_states": True, "output_attentions": True}
    ours = both.model(both.features, **options, **seen)
    theirs = both.their_model(both.features, **options, **seen)
    close(ours.logits, theirs.logits)
    steps = both.model.core.encoder.steps(both.mask.sum(1), theirs.encoder_last_hidden_state.shape[1])
    real = torch.arange(int(steps.max())) < steps[:, None]  # what padding becomes counts for nothing
    close(ours.encoder_last_hidden_state[real], theirs.encoder_last_hidden_state[real])
    for name in (*STATES, "cross_attentions"):
        assert len(ours[name]) == len(theirs[name])
        for here, there in zip(ours[name], theirs[name], strict=True):
            if name == "encoder_attentions":
                here, there = here.transpose(1, 2)[real], there.transpose(1, 2)[real]
            elif name == "encoder_hidden_states":
                here, there = here[real], there[real]
            close(here, there)
    base = both.model.model(both.features, **options)
    close(base.last_hidden_state, both.their_model.model(both.features, **options).last_hidden_state)
    close(
        both.model(both.features, decoder_input_ids=ids).logits,
        both.their_model(both.features, decoder_input_ids=ids).logits,
    )
    every = both.mask[..., None].expand(-1, -1, 4)
    close(both.model(both.features, every, ids).logits, theirs.logits)
    given = both.model(
        attention_mask=both.mask, decoder_input_ids=ids, encoder_outputs=(theirs.encoder_last_hidden_state,)
    )
    close(given.logits, theirs.logits)
    plain = both.model(both.features, both.mask, ids, return_dict=False, use_cache=False)
    close(plain[0], both.their_model(both.features, **options, return_dict=False)[0])


@torch.no_grad()
def test_masks_of_texts_and_caches(both):
    ids = some_ids(both)
    real = torch.rand(ids.shape, generator=both.generator) < 0.8
    real[:, 0] = True
    options = {"attention_mask": both.mask, "decoder_attention_mask": real.int()}
    theirs = both.their_model(both.features, decoder_input_ids=ids, **options)
    ours = both.model(both.features, decoder_input_ids=ids, **options)
    close(ours.logits[real], theirs.logits[real])
    cache = their_cache = None
    for begin, end in ((0, 4), (4, 5), (5, 11), (11, 12)):
        step = {"decoder_input_ids": ids[:, begin:end], "use_cache": True}
        step |= {"attention_mask": both.mask, "decoder_attention_mask": real[:, :end].int()}
        ours = both.model(both.features, past_key_values=cache, cache_position=torch.arange(begin, end), **step)
        theirs = both.their_model(both.features, past_key_values=their_cache, **step)
        cache, their_cache = ours.past_key_values, theirs.past_key_values
        close(ours.logits[real[:, begin:end]], theirs.logits[real[:, begin:end]])


@torch.no_grad()
def test_loss(both):
    labels = some_ids(both)[:, 1:].contiguous()  # the reference needs it so
    labels[1, 6:] = -100
    ours = both.model(both.features, both.mask, labels=labels)
    theirs = both.their_model(both.features, attention_mask=both.mask, labels=labels)
    close(ours.loss, theirs.loss)
    close(ours.logits, theirs.logits)


@torch.no_grad()
def test_head_masks(both):
    """The reference has lost them: there the same comes of what a head hands on."""
    c, ids, theirs = both.model.config, some_ids(both), copy.deepcopy(both.their_model)
    shapes = [(c.encoder_layers, c.encoder_attention_heads)] + [(c.decoder_layers, c.decoder_attention_heads)] * 2
    masks = [torch.rand(shape, generator=both.generator).round(decimals=1) for shape in shapes]
    encoder, decoder = theirs.model.encoder.layers, theirs.model.decoder.layers
    for layers, name, mask in zip(
        (encoder, decoder, decoder), ("self_attn", "self_attn", "encoder_attn"), masks, strict=True
    ):
        for layer, heads in zip(layers, mask, strict=True):
            weight = getattr(layer, name).out_proj.weight
            weight *= heads.repeat_interleave(c.d_model // len(heads))
    names = ("head_mask", "decoder_head_mask", "cross_attn_head_mask")
    ours = both.model(both.features, both.mask, ids, **dict(zip(names, masks, strict=True)), output_attentions=True)
    close(ours.logits, theirs(both.features, attention_mask=both.mask, decoder_input_ids=ids).logits)
    for weights, heads in zip(ours.cross_attentions, masks[2], strict=True):
        close(weights.sum(-1), heads[None, :, None].expand(3, -1, ids.shape[1]))


def settings(seed):
    """Greedy and 2 to 6 beams, each with an ending, a length penalty, a first id and so many texts by chance."""
    rng = random.Random(seed)
    for beams in range(1, 7):
        yield {
            "num_beams": beams,
            "max_length": rng.choice([2, 6, 18]),
            "length_penalty": rng.choice([1.0, 1.0, 0.0, 0.6, 2.0, -0.5]),
            "early_stopping": rng.choice([True, False, "never"]),
            "forced_bos_token_id": rng.choice([None, None, 4, 7]),
            "num_return_sequences": rng.randint(1, beams),
        }


def test_generate(both):
    for asked in settings(both.seed):
        options = {"attention_mask": both.mask, "return_dict_in_generate": True, "output_scores": True, **asked}
        ours = both.model.generate(both.features, **options)
        with their_manners():
            for name in ("length_penalty", "early_stopping") if asked["num_beams"] == 1 else ():
                del options[name]
            if asked["forced_bos_token_id"] is None:  # to them this means none, also where the folder has one
                del options["forced_bos_token_id"]
            theirs = both.their_model.generate(both.features, **options)
        # Where there are fewer texts than are asked for, the reference fills up with what it gives a score of -1e9.
        found = ours.sequences_scores > -torch.inf
        if asked["num_beams"] > 1:
            assert torch.equal(found, theirs.sequences_scores > -1e5), asked
            here, there = ours.sequences_scores[found], theirs.sequences_scores[found]
            torch.testing.assert_close(here, there, rtol=1e-5, atol=TOLERANCE)  # the penalty may multiply them
        if found.all():
            assert torch.equal(ours.sequences, theirs.sequences), asked
        else:
            for here, there in zip(ours.sequences[found].tolist(), theirs.sequences[found].tolist(), strict=True):
                assert here[: len(there)] == there[: len(here)], asked


def test_texts_of_the_comparison_differ_in_length(tmp_path):
    """Else it would see little: some end by themselves, some are cut off."""
    from tests.hf.s2t_reference import random_model

    ends = []
    for seed in SEEDS:
        core = random_model(seed)
        extractor = earful.Speech2TextFeatureExtractor(num_mel_bins=core.config.audio.bins)
        clips = [spoken_like(np.random.default_rng([seed, i]), 9_000) for i in range(3)]
        inputs = extractor(clips, return_tensors="pt", **RATE)
        model = earful.Speech2TextForConditionalGeneration.holding(core, earful.Speech2TextConfig())
        ends += (model.generate(**inputs, num_beams=3, max_length=18) != PAD).sum(1).tolist()
    assert sum(3 <= length < 18 for length in ends) > len(ends) / 6
    assert sum(length == 18 for length in ends) > len(ends) / 6
