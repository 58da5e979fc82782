"""Beside transformers, live: what the names of the documents do not reach; for the rest see tests/hf."""

import pytest
import torch

from earful.models.s2t.processor import S2tText
from earful.registry import load_model
from earful.testing import write_tiny
from tests.hf.s2t_reference import TOLERANCE, both_of

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]


@torch.inference_mode()
@pytest.mark.parametrize("seed", [1, 4, 10])
def test_in_a_batch_as_if_alone(seed, tmp_path):
    """What the reference makes of each clip by itself."""
    both = both_of(seed, tmp_path)
    core, lengths = both.model.core, both.mask.sum(1)
    ids = torch.randint(core.config.vocab, (3, 12), generator=both.generator)
    alone = core.decoder.logits(core.decoder(ids, core.hear(both.features, lengths, alone=True)))
    for row, length in enumerate(lengths.tolist()):
        single = both.their_model(both.features[row : row + 1, :length], decoder_input_ids=ids[row : row + 1]).logits[0]
        torch.testing.assert_close(alone[row], single, rtol=0, atol=TOLERANCE)


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
