"""Random tiny Moshi models, what they say live, and the same models in Kyutai's moshi."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from earful.checkpoint import table
from earful.events import Audio, Text
from earful.models.mimi.config import MIMI
from earful.models.mimi.layouts import ATTENTION
from earful.models.moshi.config import ConditionConfig, DepthConfig, MoshiConfig, TemporalConfig
from earful.models.moshi.layouts import kyutai_depth_rows, kyutai_rows
from earful.models.moshi.model import Moshi
from earful.models.moshi.stream import Chance, MoshiStream
from earful.stream.engine import Engine
from earful.testing import random_weights, tiny_sentencepiece

CODEC = replace(
    MIMI, ratios=(2, 2), filters=2, dim=8, layers=1, heads=2, head_dim=4, mlp_dim=8, window=9, codebooks=4,
    codebook_size=16, codebook_dim=4,
)  # fmt: skip


GREEDY = Chance(temperature=0, text_temperature=0)


EARLY = range(20, 24)  # seeds of the network that Kyutai's own tests have, in parts or whole


def random_model(seed: int, conditions: tuple[ConditionConfig, ...] = ()) -> Moshi:
    rng = random.Random(seed)
    ungated, unturned, layer_norm, told = (seed == EARLY[-1] or seed == early for early in EARLY)
    norm = {"norm": "layer" if layer_norm else "rms", "norm_eps": 1e-5 if layer_norm else 1e-8}
    heads, head_dim, depth_heads, depth_head_dim = (rng.choice([2, 3]), 8, rng.choice([1, 2]), rng.choice([6, 8]))
    own, user = rng.randint(2, 4), rng.randint(2, 4)
    dim, depth_dim, late = heads * head_dim, depth_heads * depth_head_dim, rng.choice([1, 2])
    own_delays = [0, *(rng.randint(0, late) for _ in range(own - 1))]
    user_delays = [0, *(late for _ in range(user - 1))]
    schedule = tuple(range(own)) if rng.random() < 0.6 else (0, *(1 for _ in range(own - 1)))
    config = MoshiConfig(
        TemporalConfig(
            dim=dim, layers=rng.randint(1, 3), heads=heads, head_dim=head_dim, mlp_dim=2 * int(4.125 * dim) // 3,
            window=rng.randint(6, 40), rope_base=1e4, text_vocab=rng.randint(20, 50),
            codebooks=own + user, audio_vocab=16, gated=not ungated, rotary=not unturned, **norm,
        ),
        DepthConfig(
            dim=depth_dim, layers=rng.randint(1, 2), heads=depth_heads, head_dim=depth_head_dim, mlp_dim=20,
            schedule=schedule, low_rank=rng.choice([None, 5]), sinusoid_base=1e4 if told else None, **norm,
        ),
        CODEC, delays=(0, *own_delays, *user_delays), pad_id=3, end_pad_id=0, conditions=conditions,
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
        dim=c.dim, num_layers=c.layers, num_heads=c.heads, hidden_scale=4.125 if c.gated else c.mlp_dim / c.dim,
        norm={"rms": "rms_norm_f32", "layer": "layer_norm"}[c.norm], context=c.window, max_period=c.rope_base,
        gating="silu" if c.gated else "none", causal=True, layer_scale=None,
        positional_embedding="rope" if c.rotary else "sin",
        existing_text_padding_id=config.pad_id, depformer_dim=d.dim, depformer_dim_feedforward=30,
        depformer_num_layers=d.layers, depformer_num_heads=d.heads, depformer_multi_linear=True,
        depformer_weights_per_step=True, depformer_pos_emb="none" if d.sinusoid_base is None else "sin",
        depformer_gating="silu",
        depformer_weights_per_step_schedule=list(d.schedule), depformer_low_rank_embeddings=d.low_rank,
    )  # fmt: skip
    rows = [
        *kyutai_rows(c, "temporal.", ATTENTION[1]),
        *kyutai_depth_rows(d, "depth.", ATTENTION[1]),
    ]
    ours = {name: w for name, w in model.state_dict().items() if not name.startswith("codec.")}
    theirs.load_state_dict(dict(table.save(rows, ours)))
    return theirs.eval()


def stream_of(seed: int, conditions: tuple[ConditionConfig, ...] = ()) -> MoshiStream:
    return MoshiStream(random_model(seed, conditions), tiny_sentencepiece())


def audio(stream: MoshiStream, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


def answer(
    stream: MoshiStream, samples: np.ndarray, cuts: Sequence[int] = (), **options: Any
) -> tuple[str, np.ndarray]:
    """What is written and said to all of it, heard alone."""
    engine = Engine(stream, 1)
    lane = engine.open(**options)
    for piece in np.split(samples, cuts):
        lane.framer.feed(piece)
        engine.pump()
    engine.finish(lane, len(samples) / stream.rate_hz)
    engine.pump()
    return written(lane.events)


def written(events) -> tuple[str, np.ndarray]:
    text = "".join(event.text for event in events if isinstance(event, Text))
    return text, np.concatenate([event.samples for event in events if isinstance(event, Audio)])


@torch.inference_mode()
def stepped(stream: MoshiStream, samples: torch.Tensor, options: Sequence[dict[str, Any]] = ()):
    """Own channels of every frame, int64 [B, 1 + own, T], and what they sound like. samples: [B, T * hop].

    options: of each session, beside `GREEDY`.
    """
    state = stream.init_state(len(samples))
    for slot in range(len(samples)):
        stream.open(state, slot, chance=GREEDY, **(options[slot] if options else {}))
    frames, sound = [], []
    for piece in samples.split(stream.hop, dim=-1):
        row = stream.step(state, piece, [1] * len(samples))
        frames.append(state.made.flip(-1).gather(2, stream.ages.expand(len(samples), -1, -1)))
        sound.append(row[:, 0, 1:])
    return torch.cat(frames, dim=-1)[..., stream.late :], torch.cat(sound[stream.late :], dim=-1)
