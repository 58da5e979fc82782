"""Moshi at the published widths with random weights, beside Kyutai's own package.

`python -m benchmarks.moshi NAME SIZE` prints JSON: a process each. A tick of 80 ms is timed whole, from the samples
that a session hears to those that it says, and in its parts, with windows that are full from the first call on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.kyutai_stt import Pace, filled, pace, tensor_bytes, vocabulary
from benchmarks.subjects import Json
from earful.models.mimi.config_kyutai import mimi_config
from earful.models.moshi.config import MOSHI_7B, MoshiConfig
from earful.models.moshi.model import Moshi as Network
from earful.models.moshi.stream import Chance, MoshiStream, streams
from earful.nn.state import nbytes
from earful.stream.engine import Engine

SESSIONS = (1, 2, 4)
HALF, SHALLOW, TINY = "half", "shallow", "tiny"  # of moshiko's depth over time; the whole would need 21 GB
LAYERS = {HALF: 16, SHALLOW: 2}
PARTS = ("temporal", "depth", "codec")
# What is told of graphics cards that are not here: their makers' figures, in bytes a second.
CARDS = {"L4": 300e9, "RTX 4090": 1008e9, "A100 80 GB": 2039e9, "H100 SXM": 3350e9}


class Subject(Protocol):
    """One way to hold a conversation; each method times one call of all sessions."""

    def tick(self, batch: int, pace: Pace) -> Json:
        """Everything, from samples to samples, and the bytes of state of a session."""

    def temporal(self, batch: int, pace: Pace) -> Json:
        """From ids to the text id."""

    def depth(self, batch: int, pace: Pace) -> Json:
        """From what that made to the codes of the voice."""

    def codec(self, batch: int, pace: Pace) -> Json:
        """From samples to codes, and from codes to samples."""


class Earful:
    def __init__(self, config: MoshiConfig) -> None:
        self.config = config
        model = build(config)
        for name, part in model.named_children():
            part.to(torch.float32 if name == "codec" else torch.bfloat16).to_empty(device="cpu")
        filled(model)
        with TemporaryDirectory() as scratch:
            vocabulary(config.temporal.text_vocab).save(Path(scratch) / "tokenizer.model")
            self.stream: MoshiStream = streams(model.eval(), Path(scratch) / "tokenizer.model")[1]

    def tick(self, batch: int, pace: Pace) -> Json:
        engine = Engine(self.stream, batch)
        lanes = [engine.open(chance=Chance(seed=number)) for number in range(batch)]
        for position, window in (
            (engine.state.hearing.transformer.pos, self.config.codec.window),
            (engine.state.speaking.transformer.pos, self.config.codec.window),
            (engine.state.temporal.pos, self.config.temporal.window),
        ):
            position.add_(window)
        samples = frames(self.config, 1).flatten().numpy()

        def frame() -> None:
            for lane in lanes:
                lane.framer.feed(samples)
            engine.pump()

        return pace(frame) | {"state_bytes": nbytes(engine.state) // batch}

    def temporal(self, batch: int, pace: Pace) -> Json:
        state, model = self._state(batch), self.stream.model
        ids = torch.zeros(batch, 1 + self.config.temporal.codebooks, 1, dtype=torch.int64)

        def write() -> Tensor:
            hidden = model.temporal(model.temporal.embed(ids), state.temporal)[:, 0]
            return self.stream._choose(state, model.temporal.logits(hidden), state.temporal.pos, 0)

        return pace(write)

    def depth(self, batch: int, pace: Pace) -> Json:
        state, position = self._state(batch), torch.zeros(batch, dtype=torch.int64)
        hidden = torch.randn(batch, self.config.temporal.dim).bfloat16()
        text = torch.zeros(batch, dtype=torch.int64)

        def choose(k: int, logits: Tensor) -> Tensor:
            return self.stream._choose(state, logits, position, 1 + k)

        return pace(lambda: self.stream.model.depth(hidden, text, choose))

    def codec(self, batch: int, pace: Pace) -> Json:
        state, codec, heard = self._state(batch), self.stream.model.codec, frames(self.config, batch)
        codes = torch.zeros(batch, self.config.own, 1, dtype=torch.int64)

        def both() -> None:
            codec.encode(heard, self.stream.user, state.hearing)
            codec.decode(codes, state.speaking)

        return pace(both)

    def _state(self, batch: int) -> Any:
        """Of sessions with the default sampling, their windows full."""
        state, chance = self.stream.init_state(batch), Chance()
        state.temperature.copy_(torch.tensor([chance.text_temperature, chance.temperature]))
        state.top_k.copy_(torch.tensor([chance.text_top_k, chance.top_k]))
        state.hearing.transformer.pos.fill_(self.config.codec.window)
        state.speaking.transformer.pos.fill_(self.config.codec.window)
        state.temporal.pos.fill_(self.config.temporal.window)
        return state


class Moshi:
    """As its own programs run it: compiled where it compiles itself, sampling as by default."""

    def __init__(self, config: MoshiConfig) -> None:
        from moshi.models import LMGen, LMModel, loaders

        self.config = config
        with torch.device("meta"):
            model = LMModel(**kyutai_arguments(config), dtype=torch.bfloat16)
        self.model = filled(model.to_empty(device="cpu").eval())
        self.mimi = loaders.get_mimi(None, mimi_config(config.codec), num_codebooks=config.own)
        self.generation = LMGen(self.model)  # type: ignore[arg-type]

    def tick(self, batch: int, pace: Pace) -> Json:
        heard = frames(self.config, batch)

        def frame() -> None:
            said = self.generation.step(self.mimi.encode(heard))
            if said is not None:  # the first is
                self.mimi.decode(said[:, 1:])

        with self.mimi.streaming(batch), self.generation.streaming(batch):
            found = pace(frame)
            state = self._state_bytes(self.model) + self._state_bytes(self.mimi)
        return found | {"state_bytes": state // batch}

    def temporal(self, batch: int, pace: Pace) -> Json:
        from moshi.utils.sampling import sample_token

        ids = torch.zeros(batch, 1 + self.config.temporal.codebooks, 1, dtype=torch.int64)
        generation = self.generation

        def write() -> Tensor:
            _, logits = self.model.forward_text(ids)  # type: ignore[operator]
            return sample_token(logits.float(), True, generation.temp_text, generation.top_k_text)  # type: ignore[no-any-return]

        with generation.streaming(batch):
            return pace(write)

    def depth(self, batch: int, pace: Pace) -> Json:
        hidden = torch.randn(batch, 1, self.config.temporal.dim).bfloat16()
        text = torch.zeros(batch, dtype=torch.int64)
        with self.generation.streaming(batch):
            return pace(lambda: self.generation.depformer_step(text, hidden))

    def codec(self, batch: int, pace: Pace) -> Json:
        heard, codes = frames(self.config, batch), torch.zeros(batch, self.config.own, 1, dtype=torch.int64)

        def both() -> None:
            self.mimi.encode(heard)
            self.mimi.decode(codes)

        with self.mimi.streaming(batch):
            return pace(both)

    def _state_bytes(self, model: nn.Module) -> int:
        return sum(tensor_bytes(getattr(module, "_streaming_state", None)) for module in model.modules())


SUBJECTS: dict[str, Callable[[MoshiConfig], Subject]] = {"earful": Earful, "moshi": Moshi}


def config_of(size: str) -> MoshiConfig:
    """moshiko, with fewer layers over time or, to see that everything runs, narrow in every way."""
    if size != TINY:
        return replace(MOSHI_7B, temporal=replace(MOSHI_7B.temporal, layers=LAYERS[size]))
    temporal = {"dim": 64, "layers": 1, "heads": 2, "head_dim": 32, "mlp_dim": 176, "window": 50, "text_vocab": 400}
    depth = {"dim": 32, "layers": 1, "heads": 2, "head_dim": 16, "mlp_dim": 88}
    codec = {"filters": 4, "dim": 32, "layers": 1, "heads": 2, "head_dim": 16, "mlp_dim": 64, "codebook_dim": 16}
    return replace(
        MOSHI_7B,
        temporal=replace(MOSHI_7B.temporal, **temporal),
        depth=replace(MOSHI_7B.depth, **depth),
        codec=replace(MOSHI_7B.codec, **codec),
    )


def kyutai_arguments(config: MoshiConfig) -> Json:
    """What Kyutai's network is built from. Its inner widths are two thirds of what it is told."""
    c, d = config.temporal, config.depth
    return {
        "delays": list(config.delays), "n_q": c.codebooks, "dep_q": config.own, "card": c.audio_vocab,
        "text_card": c.text_vocab, "existing_text_padding_id": config.pad_id, "dim": c.dim, "num_layers": c.layers,
        "num_heads": c.heads, "hidden_scale": 1.5 * c.mlp_dim / c.dim, "norm": "rms_norm_f32", "context": c.window,
        "max_period": c.rope_base, "gating": "silu", "causal": True, "layer_scale": None,
        "positional_embedding": "rope", "depformer_dim": d.dim, "depformer_dim_feedforward": 3 * d.mlp_dim // 2,
        "depformer_num_layers": d.layers, "depformer_num_heads": d.heads, "depformer_multi_linear": True,
        "depformer_weights_per_step": True, "depformer_pos_emb": "none", "depformer_gating": "silu",
    }  # fmt: skip


def build(config: MoshiConfig) -> Network:
    """Without memory for its weights."""
    with torch.device("meta"):
        return Network(config)


def frames(config: MoshiConfig, batch: int) -> Tensor:
    """A frame of noise for each session: [batch, 1, frame_samples]."""
    return 0.1 * torch.randn(batch, 1, config.codec.frame_samples, generator=torch.Generator().manual_seed(0))


def weight_bytes(config: MoshiConfig) -> dict[str, int]:
    """What a tick reads of the weights, in bfloat16, the codec in float32; of the tables of ids it is a few rows."""
    model = build(config)
    temporal = (*model.temporal.layers.parameters(), *model.temporal.text_head.parameters())
    depth = [weight for name, weight in model.depth.named_parameters() if "embed" not in name]
    codec = sum(weight.numel() for weight in model.codec.parameters())
    searched = config.own * config.codec.codebook_size * config.codec.codebook_dim
    return {
        "temporal": 2 * sum(weight.numel() for weight in temporal),
        "depth": 2 * sum(weight.numel() for weight in depth),
        "codec": 4 * (codec + searched),
    }


def parameter_bytes(config: MoshiConfig) -> int:
    """Of the whole model in memory, tables of ids included."""
    model = build(config)
    return sum((4 if name.startswith("codec.") else 2) * w.numel() for name, w in model.named_parameters())


def window_bytes(config: MoshiConfig) -> int:
    """What a session whose window is full reads and keeps of the past in bfloat16, over time."""
    c = config.temporal
    return 2 * 2 * c.layers * c.window * c.heads * c.head_dim


def card_estimate(config: MoshiConfig) -> Json:
    """For cards that are not here, of moshiko whole: the least that reading takes for a tick, and the memory."""
    read, window = sum(weight_bytes(config).values()), window_bytes(config)
    return {
        "bytes": {"weights": read, "session": window, "model": parameter_bytes(config)},
        "ms": {
            card: {str(n): 1e3 * (read + n * window) / bandwidth for n in SESSIONS} for card, bandwidth in CARDS.items()
        },
    }


def speed(subject: Subject) -> Json:
    """Milliseconds of a tick of so many sessions, by what is measured."""
    found: Json = {name: {} for name in ("tick", *PARTS)}
    for batch in SESSIONS:  # from few to many, as our own weights are laid out anew for more than one session
        for name, of_one in found.items():
            of_one[str(batch)] = getattr(subject, name)(batch, pace)
    return found


def main(name: str, size: str) -> None:
    config = config_of(size)
    with torch.inference_mode():
        found = speed(SUBJECTS[name](config))
    if name == "earful":
        found |= {"weight_bytes": weight_bytes(config), "cards": card_estimate(MOSHI_7B)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
