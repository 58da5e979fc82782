"""Moshi: a transformer over time writes text, and one over the codes of a frame speaks.

Over time x[p] = embedding of the text id + sum of the embeddings of the frame's codes; over the codes of one frame
x[k] = projection of what the first one made of the frame + embedding of the id before: the text, then code k - 1.
Source: Moshi (Défossez et al. 2024), section 3.4; the sizes are those of the checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.models.mimi.model import Mimi
from earful.models.moshi.config import ConditionConfig, DepthConfig, MoshiConfig, TemporalConfig
from earful.nn.attention import KV, Attention, View, advance, positions, step_view, view_of
from earful.nn.mlp import MLP, GatedMLP
from earful.nn.norm import norm_of
from earful.nn.rope import sinusoids, unturned


@dataclass
class TemporalState:
    layers: list[KV]
    pos: Tensor  # [B] int64, positions so far


class Block(nn.Module):
    def __init__(self, c: TemporalConfig) -> None:
        super().__init__()
        self.attn_norm = norm_of(c.norm, c.dim, c.norm_eps)
        self.attn = Attention(c.dim, c.heads, c.heads, c.head_dim)
        self.mlp_norm = norm_of(c.norm, c.dim, c.norm_eps)
        self.mlp = GatedMLP(c.dim, c.mlp_dim) if c.gated else MLP(c.dim, c.mlp_dim)

    def forward(self, x: Tensor, rope: Callable[[Tensor], Tensor], view: View, kv: KV | None) -> Tensor:
        # x: [B, T, D]
        x = x + self.attn(self.attn_norm(x), rope, view, kv)
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


class Temporal(nn.Module):
    """The whole transformer, from ids to logits, in three steps: `embed`, `forward`, `logits`."""

    def __init__(self, config: TemporalConfig) -> None:
        super().__init__()
        self.config = c = config
        self.text_embed = nn.Embedding(c.text_vocab + 1, c.dim)
        self.audio_embeds = nn.ModuleList(nn.Embedding(c.audio_vocab + 1, c.dim) for _ in range(c.codebooks))
        self.layers = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = norm_of(c.norm, c.dim, c.norm_eps)
        self.text_head = nn.Linear(c.dim, c.text_vocab, bias=False)

    def init_state(self, batch: int, chunk: int = 1) -> TemporalState:
        """A fresh state for calls of at most `chunk` positions."""
        capacity = self.config.window + chunk - 1
        layers = [block.attn.init_state(batch, capacity) for block in self.layers]  # type: ignore[operator, union-attr]
        return TemporalState(layers, torch.zeros(batch, dtype=torch.int64, device=self.norm.weight.device))

    def embed(self, ids: Tensor, told: Tensor | None = None) -> Tensor:
        """ids: [B, 1 + codebooks, T] int64, text first; -1 stands for exactly nothing -> [B, T, D].

        told: float32 [B, 1, D] or [1, D], which is added to every position. Summed in float32, so that the order of the
        tables does not matter in any type.
        """
        known = (ids >= 0)[..., None]  # [B, 1 + codebooks, T, 1]
        rows = ids.clamp(min=0)
        total = self.text_embed(rows[:, 0]).float() * known[:, 0]
        for k, table in enumerate(self.audio_embeds, 1):
            total = torch.addcmul(total, table(rows[:, k]).float(), known[:, k])
        if told is not None:
            total = total + told
        return total.to(self.norm.weight.dtype)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, state: TemporalState | None = None, active: Tensor | None = None) -> Tensor:
        """x: [B, T, D] -> [B, T, D] after the last norm. Without a state, x is a whole signal.

        active: [B] bool, slots whose state moves on, None for all.
        """
        c = self.config
        turn: Callable[[Tensor], Tensor] = unturned
        if c.rotary:
            turn, view = step_view(x, state, c)
        else:
            view = view_of(x, state, c.window)
            x = x + sinusoids(positions(x, state), c.dim, c.rope_base, x.dtype)
        for i, block in enumerate(self.layers):
            x = block(x, turn, view, state.layers[i] if state else None)
        if state:
            advance(state.pos, x.shape[1], active)
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., text_vocab] float32. The initial id has no logit: it can never be chosen."""
        return self.text_head(hidden).float()  # type: ignore[no-any-return]


class DepthAttention(nn.Module):
    """Attention to the codes before, in the order in which they are made."""

    joined: ClassVar = {"qkv": ("q", "k", "v")}

    def __init__(self, c: DepthConfig) -> None:
        super().__init__()
        self.heads = c.heads
        width = c.heads * c.head_dim
        self.q, self.k, self.v = (nn.Linear(c.dim, width, bias=False) for _ in range(3))
        self.o = nn.Linear(width, c.dim, bias=False)
        self.qkv: nn.Module | None = None  # see nn/linear.py

    def forward(self, x: Tensor, kv: list[Tensor]) -> Tensor:
        """x: [N, D] -> [N, D]; kv: [N, 2, H, K] of every code before, to which this one's is added."""
        x = torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1) if self.qkv is None else self.qkv(x)
        x = x.unflatten(-1, (3, self.heads, -1))  # [N, 3, H, K]
        kv.append(x[:, 1:])
        keys, values = torch.stack(kv, dim=3).unbind(1)  # [N, H, codes so far, K]
        y = F.scaled_dot_product_attention(x[:, 0, :, None], keys, values)  # [N, H, 1, K]
        return self.o(y.flatten(1))  # type: ignore[no-any-return]


class DepthBlock(nn.Module):
    """The norms are the same for every code, the rest is one of `weight_sets`."""

    def __init__(self, c: DepthConfig) -> None:
        super().__init__()
        self.attn_norm = norm_of(c.norm, c.dim, c.norm_eps)
        self.attn = nn.ModuleList(DepthAttention(c) for _ in range(c.weight_sets))
        self.mlp_norm = norm_of(c.norm, c.dim, c.norm_eps)
        self.mlp = nn.ModuleList(GatedMLP(c.dim, c.mlp_dim) for _ in range(c.weight_sets))

    def forward(self, x: Tensor, weights: int, kv: list[Tensor]) -> Tensor:  # x: [N, D]
        x = x + self.attn[weights](self.attn_norm(x), kv)
        return x + self.mlp[weights](self.mlp_norm(x))  # type: ignore[no-any-return]


class Table(nn.Module):
    """Embeddings, in a low rank where there is one. ids: [N] int64, -1 stands for exactly nothing -> [N, D]."""

    def __init__(self, rows: int, c: DepthConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(rows, c.low_rank or c.dim)
        self.widen = None if c.low_rank is None else nn.Linear(c.low_rank, c.dim, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids.clamp(min=0)) * (ids >= 0)[:, None]
        return x if self.widen is None else self.widen(x)  # type: ignore[no-any-return]


class Depth(nn.Module):
    """Makes the codes of a frame one by one; nothing of a frame is left for the next."""

    def __init__(self, config: DepthConfig, temporal: TemporalConfig) -> None:
        super().__init__()
        self.config = c = config
        self.inputs = nn.ModuleList(nn.Linear(temporal.dim, c.dim, bias=False) for _ in range(c.weight_sets))
        self.text_embed = Table(temporal.text_vocab + 1, c)
        self.audio_embeds = nn.ModuleList(Table(temporal.audio_vocab + 1, c) for _ in range(c.codebooks - 1))
        self.layers = nn.ModuleList(DepthBlock(c) for _ in range(c.layers))
        self.heads = nn.ModuleList(nn.Linear(c.dim, temporal.audio_vocab, bias=False) for _ in range(c.codebooks))

    def forward(self, hidden: Tensor, text: Tensor, choose: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Every code of N frames.

        hidden: [N, D] of the transformer over time, normalised; text: [N] int64, the ids just written;
        choose: number of the code and its logits [N, audio_vocab] float32 -> the code [N] int64. What was really said
        in training, a sample in life. Returns codes [N, codebooks] and logits [N, codebooks, audio_vocab].
        """
        caches: list[list[Tensor]] = [[] for _ in self.layers]
        before, codes, all_logits = self.text_embed(text), [], []
        for k, weights in enumerate(self.config.schedule):
            x = self.enter(k, hidden, before)
            for block, kv in zip(self.layers, caches, strict=True):
                x = block(x, weights, kv)
            all_logits.append(self.heads[k](x).float())
            codes.append(choose(k, all_logits[-1]))
            if k + 1 < self.config.codebooks:
                before = self.audio_embeds[k](codes[-1])
        return torch.stack(codes, dim=1), torch.stack(all_logits, dim=1)

    def enter(self, k: int, hidden: Tensor, before: Tensor) -> Tensor:
        """What the blocks take in for code k. hidden: [N, temporal D]; before: [N, D] of the id before -> [N, D]."""
        c = self.config
        x: Tensor = self.inputs[c.schedule[k]](hidden) + before
        if c.sinusoid_base is None:
            return x
        return x + sinusoids(torch.tensor([k], device=x.device), c.dim, c.sinusoid_base, x.dtype)


class Condition(nn.Module):
    """What a value adds to the input of every position, or what is added where none is given: float32 [D]."""

    def __init__(self, c: ConditionConfig, dim: int) -> None:
        super().__init__()
        self.config = c
        self.table = nn.Embedding(c.rows + 1, c.dim)
        self.widen = nn.Linear(c.dim, dim, bias=False)
        self.none = nn.Parameter(torch.zeros(dim))

    def forward(self, value: str | None) -> Tensor:
        if value is None:
            return self.none
        if value not in self.config.values:
            raise ValueError(f"expected {self.config.name} of {', '.join(self.config.values)}, got {value!r}")
        row: Tensor = self.table.weight[self.config.values.index(value)]
        return self.widen(row)  # type: ignore[no-any-return]


class Moshi(nn.Module):
    """The whole network. The codec and the conditions are float32 whatever the type of the rest."""

    def __init__(self, config: MoshiConfig) -> None:
        super().__init__()
        self.config = config
        self.temporal = Temporal(config.temporal)
        self.depth = Depth(config.depth, config.temporal)
        self.conditions = nn.ModuleList(Condition(c, config.temporal.dim) for c in config.conditions)
        self.codec = Mimi(config.codec)

    def told(self, values: Mapping[str, str | None]) -> Tensor:
        """What the conditions add to the input of every position, those without a value included: float32 [D].

        Raises ValueError for a condition or a value that the model does not have.
        """
        names = [c.name for c in self.config.conditions]
        for name in values:
            if name not in names:
                raise ValueError(f"expected conditions of {', '.join(names) or 'no name'}, got {name!r}")
        total = torch.zeros(self.config.temporal.dim, device=self.temporal.norm.weight.device)
        for name, condition in zip(names, self.conditions, strict=True):
            total = total + condition(values.get(name))
        return total

    def start(self, batch: int) -> Tensor:
        """The ids of the first position: int64 [batch, channels, 1]."""
        c = self.config.temporal
        ids = torch.full((batch, 1 + c.codebooks, 1), c.audio_vocab, device=self.temporal.norm.weight.device)
        ids[:, 0] = c.text_vocab
        return ids

    def delayed(self, ids: Tensor) -> Tensor:
        """Each channel as late as its delay, initial ids before. ids: [B, channels, T] -> the same shape."""
        steps, start = ids.shape[-1], self.start(len(ids))
        late = [
            torch.cat([start[:, j].expand(-1, delay), ids[:, j]], dim=-1)[:, :steps]
            for j, delay in enumerate(self.config.delays)
        ]
        return torch.stack(late, dim=1)

    def forward(self, ids: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Teacher-forced logits of whole conversations, the training path.

        ids: [B, channels, T] int64, text, own codes, user's codes, frame by frame, -1 where nothing is known.
        told: float32 [B, D] or [D], of `told`; None for no values.
        Returns text logits [B, T, text_vocab] and own codes' [B, T, codebooks, audio_vocab], both float32, position p
        of the channels as they are delayed: `delayed(ids)[..., p]` has been seen up to p - 1, and in the depth of p
        the ids before.
        """
        late = self.delayed(ids)
        inputs = torch.cat([self.start(len(ids)), late[..., :-1]], dim=-1)
        told = self.told({}) if told is None else told
        hidden = self.temporal(self.temporal.embed(inputs, told[..., None, :]))  # [B, T, D]
        said = late[:, 1 : 1 + self.config.own].transpose(1, 2).flatten(0, 1)  # [B T, codebooks]
        _, logits = self.depth(hidden.flatten(0, 1), late[:, 0].flatten(), lambda k, _: said[:, k])
        return self.temporal.logits(hidden), logits.unflatten(0, (len(ids), -1))
