"""The Speech2Text network: convolutions that quarter the rate, a Transformer encoder, and a decoder that looks at it.

Nothing here is causal but the decoder: an utterance is heard whole before anything is written.
Source: Wang et al. 2020 (fairseq S2T); Vaswani et al. 2017, with the norms first; constants in this folder's README.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.models.s2t.config import PAD, S2tConfig, StackConfig
from earful.nn.attention import KV, View
from earful.nn.linear import PackedLinear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
}
GROWTH = 32  # positions by which a cache grows: what is not used is reordered too
Watch = list[Tensor] | None  # gathers the weights of each attention
Heads = Tensor | None  # [H], by which the weights of each head are multiplied


@dataclass
class Memory:
    """What the decoder looks at: the keys and values of each layer, made once for an utterance."""

    layers: list[KV]  # [U, H, S, K] each
    mask: Tensor  # [U, 1, 1, S] additive


@dataclass
class DecoderState:
    layers: list[KV]
    pos: Tensor  # [R] int64, ids so far; the same in every row


def together(memories: Sequence[Memory]) -> Memory:
    """Memories of utterances of any length as one."""
    longest = max(memory.mask.shape[-1] for memory in memories)
    room = [longest - memory.mask.shape[-1] for memory in memories]

    def joined(parts: Iterable[Tensor]) -> Tensor:  # [U, H, S, K] each
        return torch.cat([F.pad(part, (0, 0, 0, more)) for part, more in zip(parts, room, strict=True)])

    layers = zip(*(memory.layers for memory in memories), strict=True)
    masks = (F.pad(memory.mask, (0, more), value=-math.inf) for memory, more in zip(memories, room, strict=True))
    return Memory(
        [KV(joined(kv.keys for kv in of), joined(kv.values for kv in of)) for of in layers], torch.cat([*masks])
    )


@functools.lru_cache(maxsize=8)
def position_table(rows: int, dim: int, device: torch.device) -> Tensor:
    """Position table [rows, dim] float32: sines, then cosines; row `PAD` is zeros. Shared: not to be written to."""
    with torch.inference_mode(False):
        half = dim // 2
        rate = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10_000) / (half - 1)))
        angle = torch.arange(rows, dtype=torch.float32)[:, None] * rate
        table = torch.cat([angle.sin(), angle.cos(), torch.zeros(rows, dim % 2)], dim=1)
        table[PAD] = 0
        return table.to(device)


def positions(real: Tensor, before: Tensor, x: Tensor) -> Tensor:
    """What is added to x for where each step stands: [B, T, D].

    real: [B, T] bool, False for padding, which is not counted within a call; before: [B] steps in earlier calls.
    """
    rows = (real.long().cumsum(1) + before[:, None]) * real + PAD  # [B, T]
    table = position_table(1 << int(rows.max()).bit_length(), x.shape[-1], x.device)
    return table[rows].to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention with a bias everywhere, to the same signal or to another."""

    joined: ClassVar = {"kv": ("k", "v")}

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.kv: nn.Module | None = None  # see nn/linear.py

    def project(self, x: Tensor) -> KV:
        """Keys and values of x: [B, S, D] -> [B, H, S, K] each."""
        both = (self.k(x), self.v(x)) if self.kv is None else self.kv(x).chunk(2, dim=-1)
        return KV(*(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in both))

    def forward(self, x: Tensor, kv: KV, mask: Tensor, watch: Watch = None, heads: Heads = None) -> Tensor:
        """x: [n * U, T, D], kv of U rows, mask [U, 1, 1 or T, S]: n rows that look at the same stand together."""
        rows = len(kv.keys)
        q = self.q(x).view(rows, -1, self.heads, x.shape[-1] // self.heads).transpose(1, 2)  # [U, H, n * T, K]
        drop = self.dropout if self.training else 0.0
        if watch is None and heads is None:
            y = F.scaled_dot_product_attention(q, kv.keys, kv.values, attn_mask=mask, dropout_p=drop)
        else:
            weights = ((q * q.shape[-1] ** -0.5) @ kv.keys.transpose(-1, -2) + mask).softmax(-1)
            if heads is not None:
                weights = weights * heads.to(weights.dtype)[:, None, None]
            if watch is not None:
                watch.append(weights)
            y = F.dropout(weights, drop) @ kv.values
        return self.o(y.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class MLP(nn.Module):
    def __init__(self, c: S2tConfig, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(c.dim, hidden), nn.Linear(hidden, c.dim)
        self.activation, self.dropout = ACTIVATIONS[c.activation], c.activation_dropout

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.up, PackedLinear) and self.activation is F.relu:
            return self.down(self.up(x, then="relu"))
        return self.down(F.dropout(self.activation(self.up(x)), self.dropout, self.training))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    def __init__(self, c: S2tConfig) -> None:
        super().__init__()
        self.dropout = c.dropout
        self.attn_norm, self.attn = nn.LayerNorm(c.dim), Attention(c.dim, c.encoder.heads, c.attention_dropout)
        self.mlp_norm, self.mlp = nn.LayerNorm(c.dim), MLP(c, c.encoder.mlp_dim)

    def forward(self, x: Tensor, mask: Tensor, watch: Watch, heads: Heads = None) -> Tensor:  # x: [B, S, D]
        y = self.attn_norm(x)
        x = x + F.dropout(self.attn(y, self.attn.project(y), mask, watch, heads), self.dropout, self.training)
        x = x + F.dropout(self.mlp(self.mlp_norm(x)), self.dropout, self.training)
        if x.dtype == torch.float16:  # may overflow
            x = x.clamp(-HALF_MOST, HALF_MOST)
        return x


HALF_MOST = torch.finfo(torch.float16).max - 1000


class DecoderBlock(nn.Module):
    def __init__(self, c: S2tConfig) -> None:
        super().__init__()
        self.dropout = c.dropout
        self.attn_norm, self.attn = nn.LayerNorm(c.dim), Attention(c.dim, c.decoder.heads, c.attention_dropout)
        self.cross_norm, self.cross = nn.LayerNorm(c.dim), Attention(c.dim, c.decoder.heads, c.attention_dropout)
        self.mlp_norm, self.mlp = nn.LayerNorm(c.dim), MLP(c, c.decoder.mlp_dim)

    def forward(
        self,
        x: Tensor,
        view: View,
        kv: KV | None,
        memory: KV,
        mask: Tensor,
        watch: tuple[Watch, Watch],
        heads: tuple[Heads, Heads] = (None, None),
    ) -> Tensor:  # x: [R, T, D]
        y = self.attn_norm(x)
        seen = self.attn.project(y)
        if kv is not None:
            seen = KV(*kv.write(seen.keys, seen.values, view))
        x = x + F.dropout(self.attn(y, seen, view.mask, watch[0], heads[0]), self.dropout, self.training)
        y = self.cross(self.cross_norm(x), memory, mask, watch[1], heads[1])
        x = x + F.dropout(y, self.dropout, self.training)
        return x + F.dropout(self.mlp(self.mlp_norm(x)), self.dropout, self.training)


def left_out(stack: StackConfig, training: bool) -> bool:
    """Whether chance leaves out a layer."""
    return training and stack.layer_drop > 0 and float(torch.rand(())) < stack.layer_drop


class Encoder(nn.Module):
    """Features [B, F, bins] and the frames of each [B] -> [B, S, D] and the steps of each [B]."""

    def __init__(self, c: S2tConfig) -> None:
        super().__init__()
        self.config = c
        count = len(c.conv_kernels)
        self.convs = nn.ModuleList(
            nn.Conv1d(
                c.audio.bins if i == 0 else c.conv_channels // 2,
                2 * c.dim if i == count - 1 else c.conv_channels,
                kernel,
                stride=2,
                padding=kernel // 2,
            )
            for i, kernel in enumerate(c.conv_kernels)
        )
        self.layers = nn.ModuleList(EncoderBlock(c) for _ in range(c.encoder.layers))
        self.norm = nn.LayerNorm(c.dim)

    def embed(self, features: Tensor, lengths: Tensor, alone: bool = False) -> tuple[Tensor, Tensor]:
        """The convolutions. alone: padding between them is zeros, as if each utterance were not in a batch.

        An utterance of no frames counts as one of all frames. Raises ValueError where there is no frame at all.
        """
        if features.shape[1] < 1:
            raise ValueError(f"expected at least 1 frame of features, got {features.shape[1]}")
        x, real = features.transpose(1, 2), lengths  # [B, bins, F]
        for conv in self.convs:
            x, real = F.glu(conv(x), dim=1), halved(real)
            if alone:
                x = x * (torch.arange(x.shape[-1], device=x.device) < real[:, None])[:, None]
        return x.transpose(1, 2).contiguous(), self.steps(lengths, x.shape[-1])

    def steps(self, frames: Tensor, most: int) -> Tensor:
        """Steps that so many frames of each utterance become: [B] -> [B], of no frames and too many `most`."""
        for _ in self.convs:
            frames = halved(frames)
        return torch.where(frames > 0, frames.clamp(max=most), most)

    def enter(
        self, features: Tensor, lengths: Tensor | None = None, alone: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What goes into the first block [B, S, D], the mask for each, and the steps of each utterance [B]."""
        c = self.config
        if lengths is None:
            lengths = torch.full((len(features),), features.shape[1], device=features.device)
        x, lengths = self.embed(features, lengths, alone)
        real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # [B, S]
        x = c.scale * x + positions(real, torch.zeros_like(lengths), x)
        return F.dropout(x, c.dropout, self.training), additive(real, x.dtype), lengths

    def forward(
        self, features: Tensor, lengths: Tensor | None = None, alone: bool = False, watch: Watch = None
    ) -> tuple[Tensor, Tensor]:
        x, mask, lengths = self.enter(features, lengths, alone)
        for block in self.layers:
            if not left_out(self.config.encoder, self.training):
                x = block(x, mask, watch)
        return self.norm(x), lengths


def halved(lengths: Tensor) -> Tensor:
    """Steps behind a convolution of stride 2."""
    return (lengths - 1).div(2, rounding_mode="floor") + 1


def additive(real: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, S] bool -> [B, 1, 1, S], 0 or -inf."""
    return torch.zeros(real.shape, dtype=dtype, device=real.device).masked_fill_(~real, float("-inf"))[:, None, None]


class Decoder(nn.Module):
    """Ids [R, T] and what U utterances left in memory -> [R, T, D]; R is a multiple of U, rows of one stand together.

    Without a state the ids are whole texts, with one they follow what the state has seen.
    """

    def __init__(self, c: S2tConfig) -> None:
        super().__init__()
        self.config = c
        self.embed = nn.Embedding(c.vocab, c.dim, padding_idx=PAD)
        self.layers = nn.ModuleList(DecoderBlock(c) for _ in range(c.decoder.layers))
        self.norm = nn.LayerNorm(c.dim)
        self.head = None if c.tied else nn.Linear(c.dim, c.vocab, bias=False)

    def init_state(self, rows: int) -> DecoderState:
        """A fresh state, which grows."""
        c, weight = self.config, self.norm.weight
        shape = (rows, c.decoder.heads, GROWTH, c.dim // c.decoder.heads)
        return DecoderState(
            [KV(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in self.layers],
            torch.zeros(rows, dtype=torch.int64, device=weight.device),
        )

    def remember(self, encoded: Tensor, lengths: Tensor) -> Memory:
        """What the encoder gave, [U, S, D] and [U], as the decoder looks at it."""
        real = torch.arange(encoded.shape[1], device=encoded.device) < lengths[:, None]
        projected = [block.cross.project(encoded) for block in self.layers]  # type: ignore[operator, union-attr]
        layers = [KV(kv.keys.contiguous(), kv.values.contiguous()) for kv in projected]  # read again in every step
        return Memory(layers, additive(real, encoded.dtype))

    def forward(
        self,
        ids: Tensor,
        memory: Memory,
        state: DecoderState | None = None,
        real: Tensor | None = None,
        watch: tuple[Watch, Watch] = (None, None),
    ) -> Tensor:
        """real: [R, S] bool of all ids so far, False for those that no other one sees, None for none."""
        x, view = self.enter(self.config.scale * self.embed(ids), ids != PAD, state, real)
        for i, block in enumerate(self.layers):
            if not left_out(self.config.decoder, self.training):
                kv = state.layers[i] if state else None
                x = block(x, view, kv, memory.layers[i], memory.mask, watch)
        if state:
            state.pos.add_(ids.shape[1])
        return self.norm(x)  # type: ignore[no-any-return]

    def enter(
        self, x: Tensor, counted: Tensor, state: DecoderState | None = None, real: Tensor | None = None
    ) -> tuple[Tensor, View]:
        """What goes into the first block, and what each step may see.

        x: [R, T, D] embeddings; counted: [R, T] bool, False for padding, which has no position; real: as of `forward`.
        """
        steps = x.shape[1]
        pos = torch.zeros(len(x), dtype=torch.int64, device=x.device) if state is None else state.pos
        x = F.dropout(x + positions(counted, pos, x), self.config.dropout, self.training)
        view = View.whole(steps, steps, x.dtype, x.device) if state is None else grown(state, steps, x.dtype)
        if real is not None:
            mask = view.mask + additive(real, x.dtype)
            view = replace(view, mask=torch.maximum(mask, own(steps, mask)))
        return x, view

    def logits(self, x: Tensor) -> Tensor:
        """x: [..., D] -> [..., V] float32."""
        y: Tensor = F.linear(x, self.embed.weight) if self.head is None else self.head(x)
        return y.float()


def own(steps: int, mask: Tensor) -> Tensor:
    """[T, S] additive like the mask [..., T, S]: each step sees itself, so that padding has something to see."""
    step, own = torch.arange(steps, device=mask.device), torch.full_like(mask[0, 0], float("-inf"))
    own[step, step + mask.shape[-1] - steps] = 0
    return own


def grown(state: DecoderState, steps: int, dtype: torch.dtype) -> View:
    """What the next steps may see, once there is room for them."""
    known = int(state.pos.max()) + steps
    more = math.ceil((known - state.layers[0].keys.shape[2]) / GROWTH) * GROWTH
    if more > 0:
        for kv in state.layers:
            kv.keys, kv.values = F.pad(kv.keys, (0, 0, 0, more)), F.pad(kv.values, (0, 0, 0, more))
    query = state.pos[:, None] + torch.arange(steps, device=state.pos.device)  # [R, T]
    unseen = torch.arange(known, device=query.device) > query[:, :, None]  # [R, T, S]
    mask = torch.zeros(unseen.shape, dtype=dtype, device=query.device).masked_fill_(unseen, float("-inf"))
    return View(mask[:, None], (torch.arange(len(query), device=query.device)[:, None], query))


class Speech2Text(nn.Module):
    """Features [B, F, bins], frames of each [B] and ids [B, T] -> logits of the ids that follow [B, T, V]."""

    def __init__(self, config: S2tConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def hear(self, features: Tensor, lengths: Tensor | None = None, alone: bool = False) -> Memory:
        """The encoder, and what the decoder keeps of it.

        CPUs hear one utterance after the other, since padding would take as long as speech: each with as much of its
        padding as its last step can hear.
        """
        if lengths is None or features.device.type != "cpu" or torch.is_grad_enabled():
            return self.decoder.remember(*self.encoder(features, lengths, alone))
        reach = 0 if alone else sum(kernel // 2 << i for i, kernel in enumerate(self.config.conv_kernels))
        memories = []
        for row, frames in zip(features, lengths, strict=True):
            heard = row[: int(frames) + reach] if frames > 0 else row
            encoded, steps = self.encoder(heard[None], frames[None], alone)
            memories.append(self.decoder.remember(encoded[:, : int(steps)], steps))
        return together(memories)

    def forward(self, features: Tensor, lengths: Tensor | None, ids: Tensor) -> Tensor:
        return self.decoder.logits(self.decoder(ids, self.hear(features, lengths)))

    def step(self, ids: Tensor, state: DecoderState, memory: Memory) -> Tensor:
        """One id for each row: [R] -> logits [R, V]; for `generate.beam.search`."""
        return self.decoder.logits(self.decoder(ids[:, None], memory, state)[:, 0])
