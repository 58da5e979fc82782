"""Beside transformers, live, on random tiny models."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from earful.generate.beam import Decoding, search
from earful.models.s2t.config import EOS, PAD, START, AudioConfig, S2tConfig, StackConfig, TextConfig
from earful.models.s2t.model import Speech2Text
from earful.models.s2t.processor import S2tText, hear
from earful.registry import load_model, save_model
from earful.testing import s2t_weights, write_tiny
from tests.helpers import spoken_like

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-4  # sums of float32 in another order; logits are of order 1
SEEDS = range(20)


def random_model(seed: int) -> Speech2Text:
    """Every size that may vary does, and so does how soon a text ends."""
    rng = random.Random(seed)
    encoder_heads, decoder_heads = rng.choice([1, 2, 3]), rng.choice([1, 2, 4])
    config = S2tConfig(
        dim=12 * rng.choice([1, 2, 3]),
        encoder=StackConfig(rng.randint(1, 3), encoder_heads, rng.randint(8, 50)),
        decoder=StackConfig(rng.randint(1, 3), decoder_heads, rng.randint(8, 50)),
        vocab=rng.randint(15, 70),
        conv_channels=2 * rng.randint(4, 20),
        conv_kernels=rng.choice([(5, 5), (3, 5), (3,), (5, 3, 3)]),
        source_frames=rng.choice([6000, 20]),  # beyond which either table grows
        target_ids=1024,
        audio=AudioConfig(16_000, rng.choice([8, 24])),
        text=TextConfig(),
        activation=rng.choice(["relu", "gelu", "gelu_new", "silu"]),
        scaled=rng.random() < 0.7,
        tied=rng.random() < 0.6,
        dropout=0.1,
    )
    with torch.device("meta"):
        model = Speech2Text(config)
    weights = s2t_weights(model, seed)
    weights["decoder.embed.weight" if config.tied else "decoder.head.weight"][EOS] *= rng.choice([0.8, 1.2, 1.6])
    model.load_state_dict(weights, assign=True)
    return model.eval()


def as_transformers(model: Speech2Text, folder):
    """What transformers makes of the folder that we write."""
    from transformers import Speech2TextForConditionalGeneration

    save_model(model, folder, "hf")
    theirs, report = Speech2TextForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return theirs.eval()


@pytest.fixture(scope="module", params=SEEDS)
def pair(request, tmp_path_factory):
    """One of the models, the same in transformers, a padded batch of features with its mask."""
    seed = request.param
    model = random_model(seed)
    rng = np.random.default_rng(seed)
    clips = [spoken_like(rng, int(length)) for length in rng.integers(2_000, 24_000, size=3)]
    features, lengths = hear(clips, model.config.audio)
    mask = (torch.arange(features.shape[1]) < lengths[:, None]).int()
    return seed, model, as_transformers(model, tmp_path_factory.mktemp("model")), features, lengths, mask


@torch.inference_mode()
def test_logits(pair):
    seed, model, theirs, features, lengths, mask = pair
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.config.vocab, (3, 12), generator=generator)
    ids[:, 0] = START
    ids[0, 5] = PAD
    expected = theirs(features, attention_mask=mask, decoder_input_ids=ids)
    encoded, steps = model.encoder(features, lengths)
    for row, count in enumerate(steps.tolist()):
        ours, reference = encoded[row, :count], expected.encoder_last_hidden_state[row, :count]
        torch.testing.assert_close(ours, reference, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(model(features, lengths, ids), expected.logits, rtol=0, atol=TOLERANCE)
    # In a batch as if alone: what the reference makes of each clip by itself.
    alone = model.decoder.logits(model.decoder(ids, model.hear(features, lengths, alone=True)))
    for row, length in enumerate(lengths.tolist()):
        single = theirs(features[row : row + 1, :length], decoder_input_ids=ids[row : row + 1]).logits[0]
        torch.testing.assert_close(alone[row], single, rtol=0, atol=TOLERANCE)
    # Without a mask, and with one for the text.
    expected = theirs(features, decoder_input_ids=ids).logits
    torch.testing.assert_close(model(features, None, ids), expected, rtol=0, atol=TOLERANCE)
    real = torch.rand(ids.shape, generator=generator) < 0.8
    real[:, 0] = True
    expected = theirs(features, attention_mask=mask, decoder_input_ids=ids, decoder_attention_mask=real.int()).logits
    ours = model.decoder.logits(model.decoder(ids, model.hear(features, lengths), real=real))
    torch.testing.assert_close(ours[real], expected[real], rtol=0, atol=TOLERANCE)


def settings(seed: int) -> list[tuple[Decoding, int | None]]:
    """Greedy and 2 to 6 beams, each with an ending, a length penalty and a first id by chance."""
    rng = random.Random(seed)
    return [
        (
            Decoding(
                beams,
                max_length=rng.choice([2, 6, 18]),
                length_penalty=rng.choice([1.0, 1.0, 0.0, 0.6, 2.0, -0.5]),
                early_stopping=rng.choice([True, False, "never"]),
            ),
            rng.choice([None, None, 4, 7]),
        )
        for beams in range(1, 7)
    ]


@torch.inference_mode()
def test_what_is_written(pair):
    seed, model, theirs, features, lengths, mask = pair
    memory = model.hear(features, lengths)
    for how, forced in settings(seed):
        state = model.decoder.init_state(len(features) * how.beams)
        found = search(model.step, state, memory, START, EOS, how, [forced] * len(features))
        beams = {"num_beams": how.beams, "early_stopping": how.early_stopping, "length_penalty": how.length_penalty}
        reference = theirs.generate(
            features,
            attention_mask=mask,
            max_length=how.max_length,
            forced_bos_token_id=forced,
            num_return_sequences=how.beams,
            output_scores=True,
            return_dict_in_generate=True,
            **(beams if how.beams > 1 else {"num_beams": 1}),
        )
        longest = reference.sequences.shape[1]
        scores = reference.sequences_scores.tolist() if how.beams > 1 else [0.0] * len(features)
        texts = list(zip(reference.sequences.tolist(), scores, strict=True))
        for row, hypotheses in enumerate(found):
            expected = texts[row * how.beams : (row + 1) * how.beams]
            for hypothesis, (ids, score) in zip(hypotheses, expected, strict=False):
                written = [START, *hypothesis.ids]
                assert written + [PAD] * (longest - len(written)) == ids, (how, forced)
                assert how.beams == 1 or hypothesis.score == pytest.approx(score, rel=1e-4, abs=TOLERANCE)
            # Where there are fewer texts than beams, the reference fills up with what it gives a score of -1e9.
            assert all(score < -1e5 for _, score in expected[len(hypotheses) :])
            assert hypotheses


def test_texts_differ_in_length():
    """Else the comparison would see little: some end by themselves, some are cut off."""
    ends = []
    for seed in SEEDS:
        model = random_model(seed)
        clips = [spoken_like(np.random.default_rng([seed, i]), 9_000) for i in range(3)]
        with torch.inference_mode():
            memory = model.hear(*hear(clips, model.config.audio))
            found = search(model.step, model.decoder.init_state(9), memory, START, EOS, Decoding(3, 18))
        ends += [len(best[0].ids) for best in found]
    assert sum(2 <= length < 17 for length in ends) > len(ends) / 6
    assert sum(length == 17 for length in ends) > len(ends) / 6


TEXTS = ["the dog is it", "three fox,  été?", "THE Dog", "", "日本 🙂 one", "<s> a </s>", "it's the thing."]


@pytest.mark.parametrize("language_set", [None, "mustc"])
@pytest.mark.parametrize("upper", [False, True])
def test_tokenizer(tmp_path, language_set, upper):
    from transformers import Speech2TextTokenizer

    folder = write_tiny("s2t", path=tmp_path, text={"language_set": language_set, "upper": upper})
    theirs = Speech2TextTokenizer.from_pretrained(folder)
    model, tokenizer = load_model(folder)
    ours = S2tText.from_file(tokenizer, model.config.text)
    assert ours.language_ids == theirs.lang_code_to_id
    rng = random.Random(0)
    texts = [*TEXTS, *("".join(rng.choices("abcdefg the'é.日 ", k=30)) for _ in range(20))]
    for language in ours.language_ids or [None]:
        if language:
            theirs.tgt_lang = language
        for text in texts:
            if "<s>" not in text:  # the reference takes the name of a special id in a text for the id
                assert ours.encode(text, language) == theirs(text).input_ids
    for _ in range(40):
        ids = rng.choices(range(model.config.vocab + 3), k=12)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, keep_special=True) == theirs.decode(ids, skip_special_tokens=False)


def test_lower_case_is_kept_where_the_reference_forgets_it(tmp_path):
    from transformers import Speech2TextTokenizer

    folder = write_tiny("s2t", path=tmp_path, text={"lower": True})
    theirs = Speech2TextTokenizer.from_pretrained(folder)
    model, tokenizer = load_model(folder)
    ours = S2tText.from_file(tokenizer, model.config.text)
    assert theirs.do_lower_case
    assert (
        ours.encode("THE dog") == ours.encode("the dog") == theirs("the dog").input_ids != theirs("THE dog").input_ids
    )


def test_features_and_texts_of_a_whole_folder(tmp_path):
    """What the documents do, with our files: processor, generate, decode."""
    from transformers import Speech2TextForConditionalGeneration, Speech2TextProcessor

    folder = write_tiny("s2t", path=tmp_path, text={"language_set": "mustc", "language": "fr"})
    processor = Speech2TextProcessor.from_pretrained(folder)
    theirs = Speech2TextForConditionalGeneration.from_pretrained(folder).eval()
    assert theirs.generation_config.num_beams == 3
    model, tokenizer = load_model(folder)
    text = S2tText.from_file(tokenizer, model.config.text)
    clips = [spoken_like(np.random.default_rng(i), length) for i, length in enumerate((16_000, 9_999, 30_000))]
    inputs = processor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
    features, lengths = hear(clips, model.config.audio)
    torch.testing.assert_close(features, inputs["input_features"], rtol=0, atol=1e-3)
    assert inputs["attention_mask"].sum(1).tolist() == lengths.tolist()
    forced = processor.tokenizer.lang_code_to_id["fr"]
    expected = processor.batch_decode(theirs.generate(**inputs, forced_bos_token_id=forced), skip_special_tokens=True)
    how = replace(model.config.decoding)
    with torch.inference_mode():
        memory = model.hear(features, lengths)
        state = model.decoder.init_state(3 * how.beams)
        found = search(model.step, state, memory, START, EOS, how, [text.language_id(None)] * 3)
    assert [text.decode(best[0].ids) for best in found] == expected
    assert len(set(expected)) == 3
