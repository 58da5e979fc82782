"""The temporal transformer: the law for its stream, ids that stand for nothing, and the published arithmetic."""

import pytest
import torch
from torch import nn

from earful.models.moshi.config import TemporalConfig
from earful.models.moshi.model import Temporal
from earful.nn.state import leaves
from earful.testing import random_weights
from tests.helpers import assert_streams_like_offline

TINY = TemporalConfig(
    dim=24,
    layers=2,
    heads=3,
    head_dim=8,
    mlp_dim=40,
    window=7,
    rope_base=1e5,
    norm_eps=1e-8,
    text_vocab=11,
    codebooks=4,
    audio_vocab=6,
)


def tiny(**changes):
    model = Temporal(TemporalConfig(**{**vars(TINY), **changes}))
    model.load_state_dict(random_weights(model, 0))
    return model.eval()


class ByPosition(nn.Module):
    """The transformer as the helper wants a layer: channels before time."""

    def __init__(self, model, chunk):
        super().__init__()
        self.model, self.chunk = model, chunk

    def init_state(self, batch):
        return self.model.init_state(batch, self.chunk)

    def forward(self, x, state=None, active=None):
        return self.model(x.transpose(1, 2), state, active).transpose(1, 2)


@pytest.mark.parametrize("window, chunk", [(7, 1), (7, 5), (1, 3), (100, 8)])
def test_streams_like_offline(window, chunk):
    layer = ByPosition(tiny(window=window), chunk)
    assert_streams_like_offline(layer, channels=24, past=12, chunk=chunk, rounds=60, atol=3e-5)


def test_a_call_longer_than_the_state_allows_is_refused():
    model = tiny()
    with pytest.raises(ValueError, match="expected at most 2 steps in a call, got 3"):
        model(torch.zeros(1, 3, 24), model.init_state(1, chunk=2))


def test_the_embedding_is_the_sum_of_all_tables():
    model = tiny()
    ids = torch.tensor([[[3, 11], [0, 6], [1, 6], [2, 6], [5, 6]]])  # [1, 5, 2]; the initial ids are the last rows
    sums = [
        model.text_embed.weight[ids[0, 0, t]]
        + sum(table.weight[ids[0, k + 1, t]] for k, table in enumerate(model.audio_embeds))
        for t in range(2)
    ]
    torch.testing.assert_close(model.embed(ids)[0], torch.stack(sums))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_minus_one_stands_for_exactly_nothing(dtype):
    model = tiny().to(dtype)
    with torch.no_grad():
        for table in [model.text_embed, *model.audio_embeds]:
            table.weight[0] = 1e30  # the row that would be looked up in its place
    assert model.embed(torch.full((2, 5, 3), -1)).equal(torch.zeros(2, 3, 24, dtype=dtype))
    only = torch.full((1, 5, 1), -1)
    only[0, 2, 0] = 4
    assert model.embed(only)[0, 0].equal(model.audio_embeds[1].weight[4])


def test_the_initial_id_has_no_logit():
    model = tiny()
    assert model.logits(model(torch.zeros(1, 1, 24))).shape == (1, 1, 11)


def test_logits_are_float32_and_states_of_the_type_of_the_weights():
    model = tiny().bfloat16()
    state = model.init_state(2)
    assert {leaf.dtype for leaf in leaves(state.layers)} == {torch.bfloat16}
    hidden = model(model.embed(torch.zeros(2, 5, 1, dtype=torch.int64)), state)
    assert hidden.dtype == torch.bfloat16
    assert model.logits(hidden).dtype == torch.float32
    assert state.pos.tolist() == [1, 1]


def test_a_label_of_training_reaches_every_weight():
    model = tiny()
    ids = torch.randint(0, 6, (2, 5, 9))
    nn.functional.cross_entropy(model.logits(model(model.embed(ids))).flatten(0, 1), ids[:, 0].flatten()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
