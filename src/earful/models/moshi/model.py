"""Moshi's transformer over time: one text id and one frame of audio codes go in, logits of the next text id come out.

x[p] = embedding of the text id + sum of the embeddings of the frame's codes.
Source: Moshi (Défossez et al. 2024), section 3.4; the sizes are those of the checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from earful.models.moshi.config import TemporalConfig
from earful.nn.attention import KV, Attention, View
from earful.nn.mlp import GatedMLP
from earful.nn.norm import RMSNorm
from earful.nn.rope import Rope


@dataclass
class TemporalState:
    layers: list[KV]
    pos: Tensor  # [B] int64, positions so far


class Block(nn.Module):
    def __init__(self, c: TemporalConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(c.dim, c.norm_eps)
        self.attn = Attention(c.dim, c.heads, c.heads, c.head_dim)
        self.mlp_norm = RMSNorm(c.dim, c.norm_eps)
        self.mlp = GatedMLP(c.dim, c.mlp_dim)

    def forward(self, x: Tensor, rope: Rope, view: View, kv: KV | None) -> Tensor:  # x: [B, T, D]
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
        self.norm = RMSNorm(c.dim, c.norm_eps)
        self.text_head = nn.Linear(c.dim, c.text_vocab, bias=False)

    def init_state(self, batch: int, chunk: int = 1) -> TemporalState:
        """A fresh state for calls of at most `chunk` positions."""
        capacity = self.config.window + chunk - 1
        layers = [block.attn.init_state(batch, capacity) for block in self.layers]  # type: ignore[operator, union-attr]
        return TemporalState(layers, torch.zeros(batch, dtype=torch.int64, device=self.norm.weight.device))

    def embed(self, ids: Tensor) -> Tensor:
        """ids: [B, 1 + codebooks, T] int64, text first; -1 stands for exactly nothing -> [B, T, D].

        Summed in float32, so that the order of the tables does not matter in any type.
        """
        known = (ids >= 0)[..., None]  # [B, 1 + codebooks, T, 1]
        rows = ids.clamp(min=0)
        total = self.text_embed(rows[:, 0]).float() * known[:, 0]
        for k, table in enumerate(self.audio_embeds, 1):
            total = torch.addcmul(total, table(rows[:, k]).float(), known[:, k])
        return total.to(self.norm.weight.dtype)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, state: TemporalState | None = None, active: Tensor | None = None) -> Tensor:
        """x: [B, T, D] -> [B, T, D] after the last norm. Without a state, x is a whole signal.

        active: [B] bool, slots whose state moves on, None for all.
        """
        c, steps = self.config, x.shape[1]
        positions = torch.arange(steps, device=x.device)[None]  # [1, T]
        if state is None:
            view = View.whole(steps, c.window, x.dtype, x.device)
        else:
            positions = positions + state.pos[:, None]  # [B, T]
            view = View.ring(state.pos, steps, c.window, state.layers[0].keys.shape[2], x.dtype)
        rope = Rope.at(positions, c.head_dim, c.rope_base, x.dtype)
        for i, block in enumerate(self.layers):
            x = block(x, rope, view, state.layers[i] if state else None)
        if state:
            state.pos.add_(steps if active is None else steps * active)
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., text_vocab] float32. The initial id has no logit: it can never be chosen."""
        return self.text_head(hidden).float()  # type: ignore[no-any-return]
