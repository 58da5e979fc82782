"""The Voxtral Realtime network: a causal audio encoder, a projector, and a decoder that writes one token per slot.

x[t] = embedding of token t + audio vector t, for every slot of 80 ms; the decoder predicts token t + 1.
Source: model card and paper of Voxtral Realtime (Mistral AI 2026); constants in this folder's README.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.models.voxtral.config import DecoderConfig, EncoderConfig, VoxtralConfig
from earful.nn.attention import KV, Attention, View, advance, step_view
from earful.nn.conv import CausalConv1d, ConvState
from earful.nn.mlp import GatedMLP
from earful.nn.norm import RMSNorm
from earful.nn.rope import Rope


@dataclass
class EncoderState:
    conv1: ConvState
    conv2: ConvState
    layers: list[KV]
    pos: Tensor  # [B] int64, encoder frames so far


@dataclass
class DecoderState:
    layers: list[KV]
    pos: Tensor  # [B] int64, slots so far


class EncoderBlock(nn.Module):
    def __init__(self, c: EncoderConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(c.dim, c.norm_eps)
        self.attn = Attention(c.dim, c.heads, c.kv_heads, c.head_dim, qv_bias=True, out_bias=True)
        self.mlp_norm = RMSNorm(c.dim, c.norm_eps)
        self.mlp = GatedMLP(c.dim, c.mlp_dim, down_bias=True)

    def forward(self, x: Tensor, rope: Rope, view: View, kv: KV | None) -> Tensor:  # x: [B, T, D]
        x = x + self.attn(self.attn_norm(x), rope, view, kv)
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """mel: [B, M, F], F even -> [B, F / 2, D]. Without a state, mel is a whole signal."""

    def __init__(self, c: EncoderConfig) -> None:
        super().__init__()
        self.config = c
        self.conv1 = CausalConv1d(c.mels, c.dim, kernel=3)
        self.conv2 = CausalConv1d(c.dim, c.dim, kernel=3, stride=2)
        self.layers = nn.ModuleList(EncoderBlock(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.dim, c.norm_eps)

    def init_state(self, batch: int, chunk: int) -> EncoderState:
        """A fresh state for calls of at most `chunk` encoder frames."""
        capacity = self.config.window + chunk - 1
        return EncoderState(
            self.conv1.init_state(batch),
            self.conv2.init_state(batch),
            [block.attn.init_state(batch, capacity) for block in self.layers],  # type: ignore[operator, union-attr]
            torch.zeros(batch, dtype=torch.int64, device=self.norm.weight.device),
        )

    def embed(self, mel: Tensor, state: EncoderState | None = None, active: Tensor | None = None) -> Tensor:
        """The convolutions alone. mel: [B, M, F] -> [B, F / 2, D]."""
        conv1, conv2 = (state.conv1, state.conv2) if state else (None, None)
        x = F.gelu(self.conv1(mel, conv1, active))
        x = F.gelu(self.conv2(x, conv2, active))
        return x.transpose(1, 2).contiguous()  # the products of every block are several times slower otherwise

    def forward(self, mel: Tensor, state: EncoderState | None = None, active: Tensor | None = None) -> Tensor:
        return self.attend(self.embed(mel, state, active), state, active)

    def attend(self, x: Tensor, state: EncoderState | None = None, active: Tensor | None = None) -> Tensor:
        """The transformer alone. x: [B, T, D] -> [B, T, D]."""
        c = self.config
        rope, view = step_view(x, state, c)
        for i, block in enumerate(self.layers):
            x = block(x, rope, view, state.layers[i] if state else None)
        if state:
            advance(state.pos, x.shape[1], active)
        return self.norm(x)  # type: ignore[no-any-return]


class Projector(nn.Module):
    """Joins the encoder frames of a slot. x: [B, T, D_enc] -> [B, T / downsample, D]."""

    def __init__(self, encoder_dim: int, dim: int, downsample: int) -> None:
        super().__init__()
        self.downsample = downsample
        self.linear1 = nn.Linear(encoder_dim * downsample, dim, bias=False)
        self.linear2 = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (-1, self.downsample)).flatten(2)  # [B, slots, downsample * D_enc]
        return self.linear2(F.gelu(self.linear1(x)))  # type: ignore[no-any-return]


class DelayGain(nn.Module):
    """From the embedding of a delay to a gain per dimension. [B, D] -> [B, D]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(x)))  # type: ignore[no-any-return]


class DecoderBlock(nn.Module):
    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(c.dim, c.norm_eps)
        self.attn = Attention(c.dim, c.heads, c.kv_heads, c.head_dim)
        self.mlp_norm = RMSNorm(c.dim, c.norm_eps)
        self.mlp = GatedMLP(c.dim, c.mlp_dim)
        self.ada = DelayGain(c.dim, c.ada_dim)

    def forward(self, x: Tensor, gain: Tensor, rope: Rope, view: View, kv: KV | None) -> Tensor:
        """x: [B, T, D]; gain: [B, 1, D], from the delay."""
        x = x + self.attn(self.attn_norm(x), rope, view, kv)
        y = self.mlp_norm(x)
        return x + self.mlp(torch.addcmul(y, y, gain))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """x: [B, T, D], tokens and audio summed; gains: [B, layers, D] -> [B, T, D], normalised for the head."""

    def __init__(self, c: DecoderConfig) -> None:
        super().__init__()
        self.config = c
        self.embed = nn.Embedding(c.vocab, c.dim)
        self.layers = nn.ModuleList(DecoderBlock(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.dim, c.norm_eps)
        self.head = None if c.tied else nn.Linear(c.dim, c.vocab, bias=False)

    def init_state(self, batch: int, chunk: int) -> DecoderState:
        """A fresh state for calls of at most `chunk` slots."""
        capacity = self.config.window + chunk - 1
        layers = [block.attn.init_state(batch, capacity) for block in self.layers]  # type: ignore[operator, union-attr]
        return DecoderState(layers, torch.zeros(batch, dtype=torch.int64, device=self.norm.weight.device))

    def gains(self, delay: Tensor) -> Tensor:
        """delay: [B] in slots -> [B, layers, D]; the same for every slot of a session."""
        half = self.config.dim // 2
        rate = torch.exp(torch.arange(half, device=delay.device) * (-math.log(10_000) / half))
        angle = delay.float()[:, None] * rate  # [B, D / 2]
        condition = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.norm.weight.dtype)
        return torch.stack([block.ada(condition) for block in self.layers], dim=1)  # type: ignore[operator]

    def forward(
        self, x: Tensor, gains: Tensor, state: DecoderState | None = None, active: Tensor | None = None
    ) -> Tensor:
        rope, view = step_view(x, state, self.config)
        for i, block in enumerate(self.layers):
            x = block(x, gains[:, i, None], rope, view, state.layers[i] if state else None)
        if state:
            advance(state.pos, x.shape[1], active)
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., V] float32."""
        logits: Tensor = F.linear(x, self.embed.weight) if self.head is None else self.head(x)
        return logits.float()


class VoxtralRealtime(nn.Module):
    """The whole network. Weights live here; what a stream remembers lives in the states of `init_state`."""

    def __init__(self, config: VoxtralConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.projector = Projector(config.encoder.dim, config.decoder.dim, config.downsample)
        self.decoder = Decoder(config.decoder)

    def hear(self, mel: Tensor, state: EncoderState | None = None, active: Tensor | None = None) -> Tensor:
        """mel: [B, M, slots * mels_per_slot] -> audio vectors [B, slots, D]."""
        return self.projector(self.encoder(mel, state, active))  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, mel: Tensor, delay: Tensor) -> Tensor:
        """Teacher-forced logits of whole signals, the training path.

        tokens: [B, T] int64, one per slot; mel: [B, M, T * mels_per_slot]; delay: [B] slots -> [B, T, V] float32.
        """
        x = self.decoder.embed(tokens) + self.hear(mel)
        return self.decoder.logits(self.decoder(x, self.decoder.gains(delay)))
