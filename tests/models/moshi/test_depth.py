"""The depth model and the whole network beside Kyutai's moshi, live, on random tiny models."""

import random
from dataclasses import replace

import pytest
import torch

from earful.checkpoint import table
from earful.models.mimi.config import MIMI
from earful.models.mimi.layouts import ATTENTION
from earful.models.moshi.config import MOSHI_7B, DepthConfig, MoshiConfig, TemporalConfig
from earful.models.moshi.layouts import kyutai_depth_rows, kyutai_rows
from earful.models.moshi.model import Moshi
from earful.testing import random_weights

TOLERANCE = 1e-4  # sums of float32 in another order; logits are of order 1
FRAMES = 24
CODEC = replace(
    MIMI, ratios=(2, 2), filters=2, dim=8, layers=1, heads=2, head_dim=4, mlp_dim=8, window=9, codebooks=4,
    codebook_size=16, codebook_dim=4,
)  # fmt: skip


def random_model(seed: int) -> Moshi:
    rng = random.Random(seed)
    heads, head_dim, depth_heads, depth_head_dim = (rng.choice([2, 3]), 8, rng.choice([1, 2]), rng.choice([6, 8]))
    own, user = rng.randint(2, 4), rng.randint(2, 4)
    dim, depth_dim, late = heads * head_dim, depth_heads * depth_head_dim, rng.choice([1, 2])
    own_delays = [0, *(rng.randint(0, late) for _ in range(own - 1))]
    user_delays = [0, *(late for _ in range(user - 1))]
    schedule = tuple(range(own)) if rng.random() < 0.6 else (0, *(1 for _ in range(own - 1)))
    config = MoshiConfig(
        TemporalConfig(
            dim=dim, layers=rng.randint(1, 3), heads=heads, head_dim=head_dim, mlp_dim=2 * int(4.125 * dim) // 3,
            window=rng.randint(6, 40), rope_base=1e4, norm_eps=1e-8, text_vocab=rng.randint(20, 50),
            codebooks=own + user, audio_vocab=16,
        ),
        DepthConfig(
            dim=depth_dim, layers=rng.randint(1, 2), heads=depth_heads, head_dim=depth_head_dim, mlp_dim=20,
            norm_eps=1e-8, schedule=schedule, low_rank=rng.choice([None, 5]),
        ),
        CODEC, delays=(0, *own_delays, *user_delays), pad_id=3, end_pad_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model = Moshi(config)
    weights = {n: w * (0.6 if w.ndim > 1 else 1) for n, w in random_weights(model, seed).items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def as_moshi(model: Moshi):
    """Kyutai's network with the same weights."""
    from moshi.models import LMModel

    config, c, d = model.config, model.config.temporal, model.config.depth
    theirs = LMModel(
        delays=list(config.delays), n_q=c.codebooks, dep_q=config.own, card=c.audio_vocab, text_card=c.text_vocab,
        dim=c.dim, num_layers=c.layers, num_heads=c.heads, hidden_scale=4.125, norm="rms_norm_f32", context=c.window,
        max_period=c.rope_base, gating="silu", causal=True, layer_scale=None, positional_embedding="rope",
        existing_text_padding_id=config.pad_id, depformer_dim=d.dim, depformer_dim_feedforward=30,
        depformer_num_layers=d.layers, depformer_num_heads=d.heads, depformer_multi_linear=True,
        depformer_weights_per_step=True, depformer_pos_emb="none", depformer_gating="silu",
        depformer_weights_per_step_schedule=list(d.schedule), depformer_low_rank_embeddings=d.low_rank,
    )  # fmt: skip
    rows = [
        *kyutai_rows(c, "temporal.", ATTENTION[1]),
        *kyutai_depth_rows(d, "depth.", ATTENTION[1]),
    ]
    ours = {name: w for name, w in model.state_dict().items() if not name.startswith("codec.")}
    theirs.load_state_dict(dict(table.save(rows, ours)))
    return theirs.eval()


def random_ids(model: Moshi, seed: int):
    c, generator = model.config.temporal, torch.Generator().manual_seed(seed)
    text = torch.randint(c.text_vocab, (2, 1, FRAMES), generator=generator)
    codes = torch.randint(c.audio_vocab, (2, c.codebooks, FRAMES), generator=generator)
    return torch.cat([text, codes], dim=1)


@torch.no_grad()
@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(20))
def test_whole_conversations_are_scored_as_by_moshi(seed):
    from moshi.utils.compile import no_compile

    model, ids = random_model(seed), random_ids(random_model(seed), seed)
    ids[:, :, 5] = -1 if seed % 2 else 0  # a frame of which nothing is known
    with no_compile():
        found = as_moshi(model)(ids)
    text, depth = model(ids)
    own = slice(1, 1 + model.config.own)
    torch.testing.assert_close(
        text[found.text_mask[:, 0]], found.text_logits[:, 0][found.text_mask[:, 0]], rtol=0, atol=TOLERANCE
    )
    for k, delay in enumerate(model.config.delays[own]):  # theirs stand at the frame, ours where they were made
        theirs, mask = found.logits[:, k, : FRAMES - delay], found.mask[:, k, : FRAMES - delay]
        assert mask.any()
        torch.testing.assert_close(depth[:, delay:, k][mask], theirs[mask], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_a_code_sees_the_codes_before_it_and_no_other():
    model, frames = random_model(3), 5
    hidden, text = torch.randn(frames, model.config.temporal.dim), torch.arange(frames)
    codes = torch.randint(16, (frames, model.config.own))
    _, logits = model.depth(hidden, text, lambda k, _: codes[:, k])
    for k in range(model.config.own):
        other = codes.clone()
        other[:, k] = (other[:, k] + 1) % 16
        _, changed = model.depth(hidden, text, lambda j, _, other=other: other[:, j])
        assert torch.equal(changed[:, : k + 1], logits[:, : k + 1])
        assert k + 1 == model.config.own or not torch.equal(changed[:, k + 1 :], logits[:, k + 1 :])
    chosen, again = model.depth(hidden, text, lambda _, row: row.argmax(-1))
    forced = model.depth(hidden, text, lambda k, _: chosen[:, k])
    assert torch.equal(forced[1], again)
    assert torch.equal(again.argmax(-1), chosen)


def test_the_published_size():
    with torch.device("meta"):
        model = Moshi(MOSHI_7B)
    parameters = sum(w.numel() for part in (model.temporal, model.depth) for w in part.parameters())
    assert round(parameters / 1e9, 2) == 7.69
    rows = [*kyutai_rows(MOSHI_7B.temporal, "temporal."), *kyutai_depth_rows(MOSHI_7B.depth, "depth.")]
    ours = {name: w for name, w in model.state_dict().items() if not name.startswith("codec.")}
    shapes = {name: tuple(w.shape) for name, w in table.save(rows, ours)}
    assert shapes["depformer.layers.5.self_attn.in_proj_weight"] == (8 * 3072, 1024)
    assert shapes["depformer.layers.0.self_attn.out_proj.weight"] == (8 * 1024, 1024)
    assert shapes["depformer.layers.0.gating.7.linear_in.weight"] == (5632, 1024)
    assert shapes["depformer_emb.6.weight"] == (2049, 1024)
    assert "depformer_emb.7.weight" not in shapes
