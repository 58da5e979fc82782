"""Every answer beside the one of transformers, over random configurations."""

import pytest
import torch

from tests.hf.moshi_reference import GREEDY, TOLERANCE, both_of
from tests.hf.reference import their_manners

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.reference
SEEDS = range(20)
NEW = 8


@pytest.fixture(scope="module", params=SEEDS)
def both(request, tmp_path_factory):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return both_of(request.param, tmp_path_factory.mktemp("both"))


def close(here, there, tolerance=TOLERANCE):
    assert here.shape == there.shape
    torch.testing.assert_close(here, there, rtol=0, atol=tolerance * max(1.0, float(there.abs().max())))


@torch.no_grad()
def test_text_logits_and_states(both):
    columns = both.frames(2, both.steps)
    config = both.model.config
    columns["input_ids"][:, 0] = config.vocab_size
    columns["moshi_audio_codes"][..., 0] = columns["user_audio_codes"][:, 1:, :2] = config.audio_vocab_size
    options = {"use_cache": False, "output_hidden_states": True}
    ours, theirs = both.model(**columns, **options), both.their_model(**columns, **options)
    close(ours.logits, theirs.logits)
    close(ours.last_hidden_state, theirs.last_hidden_state)
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    for here, there in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        close(here, there)


@torch.no_grad()
def test_text_alone(both):
    ids = both.frames(2, both.steps)["input_ids"]
    labels = ids.clone()
    labels[0, 1:2] = -100
    ours = both.model.decoder(ids, labels=labels, use_cache=False, logits_to_keep=0)
    theirs = both.their_model.decoder(input_ids=ids, labels=labels, use_cache=False)
    close(ours.logits, theirs.logits)
    close(ours.loss, theirs.loss, TOLERANCE / 10)
    base = both.model.decoder.model(ids, use_cache=False)
    close(base.last_hidden_state, both.their_model.decoder.model(input_ids=ids, use_cache=False).last_hidden_state)


@torch.no_grad()
def test_depth_logits(both):
    """With their eager attention a code also sees those behind it."""
    config, frames = both.model.config, both.frames(1, 9)
    hidden = torch.randn(9, 1, config.hidden_size, generator=torch.Generator().manual_seed(both.seed))
    codes = frames["moshi_audio_codes"][0].T
    ids = torch.cat([frames["input_ids"].T, codes[:, :-1]], dim=1)
    ours = both.model.depth_decoder(ids, hidden, labels=codes, use_cache=False)
    theirs = both.their_model.depth_decoder(input_ids=ids, last_hidden_state=hidden, labels=codes, use_cache=False)
    close(ours.logits, theirs.logits)
    close(ours.loss, theirs.loss, TOLERANCE / 10)


@torch.no_grad()
def test_the_loss_of_the_depth_decoder_is_theirs_once_it_is_shifted(both):
    """Theirs gives the depth decoder the state that has heard the frame which it is to make."""
    frames, config = both.frames(2, both.steps), both.model.config
    codes = frames["moshi_audio_codes"]
    ours = both.model(**frames, text_labels=frames["input_ids"], audio_labels=codes)
    start = torch.full_like(codes[..., :1], config.audio_vocab_size)
    late = torch.cat([start, codes[..., :-1]], dim=-1)
    late[:, 0] = codes[:, 0]
    ids = torch.cat([frames["input_ids"][:, None], late], dim=1).transpose(1, 2).flatten(0, 1)
    theirs = both.their_model.depth_decoder(
        input_ids=ids[:, :-1], last_hidden_state=ours.last_hidden_state.flatten(0, 1)[:, None], labels=ids[:, 1:]
    )
    close(ours.audio_logits, theirs.logits)
    close(ours.depth_loss, theirs.loss, TOLERANCE / 10)


def same(ours, theirs):
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(ours.audio_codes, theirs.audio_codes)
    close(ours.audio_sequences, theirs.audio_sequences)


def test_conversations_from_the_start(both):
    """Of their three answers the one that neither begins twice nor masks its beginning; see docs/huggingface.md."""
    count = min(NEW, both.model.config.sliding_window - 1)
    start = both.model.get_unconditional_inputs(2)
    with their_manners():
        theirs = both.their_model.generate(**start, concat_unconditional_inputs=False, max_new_tokens=count, **GREEDY)
    same(both.model.generate(**start, max_new_tokens=count, **GREEDY), theirs)


def test_prompts(both):
    window = both.model.config.sliding_window
    count = min(NEW, window - 1)
    prompt = both.frames(2, max(1, min(window - 1 - count, 7)))
    for with_start in (True, False):
        options = {"concat_unconditional_inputs": with_start, "max_new_tokens": count, **GREEDY}
        with their_manners():
            theirs = both.their_model.generate(**prompt, **options)
        same(both.model.generate(**prompt, **options), theirs)


def test_what_is_saved_loads_in_theirs(both, tmp_path):
    both.model.save_pretrained(tmp_path)
    with their_manners():
        model = transformers.MoshiForConditionalGeneration.from_pretrained(tmp_path)
    expected = both.their_model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
