"""The Mimi network: samples to codes and back, both causal.

encode: samples ─ encoder ─ transformer ─ downsample ─ quantizer ─ codes
decode: codes ─ quantizer ─ upsample ─ transformer ─ decoder ─ samples
Source: Moshi (Défossez et al. 2024, section 3.3); constants in this folder's README.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.models.mimi.config import STEPS_PER_FRAME, MimiConfig
from earful.nn.attention import KV, Attention, View, advance, step_view
from earful.nn.conv import (
    CausalConv1d,
    CausalConvTranspose1d,
    ConvState,
    OverlapState,
    ReplicateConv1d,
    ReplicateState,
)
from earful.nn.mlp import MLP
from earful.nn.norm import LayerScale
from earful.nn.rope import Rope
from earful.nn.rvq import ResidualQuantizer


@dataclass
class StageState:
    residuals: list[ConvState]
    resample: ConvState | OverlapState


@dataclass
class ConvsState:
    first: ConvState
    stages: list[StageState]
    last: ConvState


@dataclass
class TransformerState:
    layers: list[KV]
    pos: Tensor  # [B] int64, steps so far


@dataclass
class EncodeState:
    encoder: ConvsState
    transformer: TransformerState
    downsample: ReplicateState


@dataclass
class DecodeState:
    upsample: OverlapState
    transformer: TransformerState
    decoder: ConvsState


class Residual(nn.Module):
    """x: [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int, kernel: int, dilation: int, compress: int) -> None:
        super().__init__()
        self.narrow = CausalConv1d(channels, channels // compress, kernel, dilation=dilation)
        self.widen = CausalConv1d(channels // compress, channels, kernel=1)  # no past, so no state

    def forward(self, x: Tensor, state: ConvState | None, active: Tensor | None) -> Tensor:
        return x + self.widen(F.elu(self.narrow(F.elu(x), state, active)))  # type: ignore[no-any-return]


def residuals(channels: int, c: MimiConfig) -> nn.ModuleList:
    dilations = [c.dilation_base**j for j in range(c.residual_layers)]
    return nn.ModuleList(Residual(channels, c.residual_kernel, dilation, c.compress) for dilation in dilations)


class EncoderStage(nn.Module):
    """x: [B, C, T] -> [B, 2 C, T / ratio]."""

    def __init__(self, channels: int, ratio: int, c: MimiConfig) -> None:
        super().__init__()
        self.residuals = residuals(channels, c)
        self.resample = CausalConv1d(channels, 2 * channels, 2 * ratio, ratio)

    def forward(self, x: Tensor, state: StageState | None, active: Tensor | None) -> Tensor:
        for j, block in enumerate(self.residuals):
            x = block(x, state.residuals[j] if state else None, active)
        return self.resample(F.elu(x), state.resample if state else None, active)  # type: ignore[no-any-return]


class DecoderStage(nn.Module):
    """x: [B, 2 C, T] -> [B, C, T * ratio]."""

    def __init__(self, channels: int, ratio: int, c: MimiConfig) -> None:
        super().__init__()
        self.resample = CausalConvTranspose1d(2 * channels, channels, 2 * ratio, ratio)
        self.residuals = residuals(channels, c)

    def forward(self, x: Tensor, state: StageState | None, active: Tensor | None) -> Tensor:
        x = self.resample(F.elu(x), state.resample if state else None, active)
        for j, block in enumerate(self.residuals):
            x = block(x, state.residuals[j] if state else None, active)
        return x


class Convs(nn.Module):
    """A convolution, stages that change the rate, a convolution."""

    def __init__(self, first: CausalConv1d, stages: list[nn.Module], last: CausalConv1d) -> None:
        super().__init__()
        self.first, self.stages, self.last = first, nn.ModuleList(stages), last

    def init_state(self, batch: int) -> ConvsState:
        stages = [
            StageState([block.narrow.init_state(batch) for block in stage.residuals], stage.resample.init_state(batch))  # type: ignore[operator, union-attr]
            for stage in self.stages
        ]
        return ConvsState(self.first.init_state(batch), stages, self.last.init_state(batch))

    def forward(self, x: Tensor, state: ConvsState | None = None, active: Tensor | None = None) -> Tensor:
        x = self.first(x, state.first if state else None, active)
        for i, stage in enumerate(self.stages):
            x = stage(x, state.stages[i] if state else None, active)
        return self.last(F.elu(x), state.last if state else None, active)  # type: ignore[no-any-return]


def encoder(c: MimiConfig) -> Convs:
    """samples: [B, channels, N] -> [B, D, N / hop]."""
    widths = [c.filters * 2**i for i in range(len(c.ratios) + 1)]
    stages: list[nn.Module] = [EncoderStage(w, r, c) for w, r in zip(widths, reversed(c.ratios), strict=False)]
    first = CausalConv1d(c.channels, c.filters, c.kernel)
    return Convs(first, stages, CausalConv1d(widths[-1], c.dim, c.last_kernel))


def decoder(c: MimiConfig) -> Convs:
    """[B, D, T] -> samples [B, channels, T * hop]."""
    widths = [c.filters * 2**i for i in range(len(c.ratios), -1, -1)]
    stages: list[nn.Module] = [DecoderStage(w, r, c) for w, r in zip(widths[1:], c.ratios, strict=True)]
    first = CausalConv1d(c.dim, widths[0], c.kernel)
    return Convs(first, stages, CausalConv1d(c.filters, c.channels, c.last_kernel))


class Block(nn.Module):
    def __init__(self, c: MimiConfig) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(c.dim, c.norm_eps)
        self.attn = Attention(c.dim, c.heads, c.heads, c.head_dim)
        self.attn_scale = LayerScale(c.dim)
        self.mlp_norm = nn.LayerNorm(c.dim, c.norm_eps)
        self.mlp = MLP(c.dim, c.mlp_dim)
        self.mlp_scale = LayerScale(c.dim)

    def forward(self, x: Tensor, rope: Rope, view: View, kv: KV | None) -> Tensor:  # x: [B, T, D]
        x = x + self.attn_scale(self.attn(self.attn_norm(x), rope, view, kv))
        return x + self.mlp_scale(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """x: [B, D, T] -> [B, D, T]. Without a state, x is a whole signal. No norm behind the last block."""

    def __init__(self, c: MimiConfig) -> None:
        super().__init__()
        self.config = c
        self.layers = nn.ModuleList(Block(c) for _ in range(c.layers))

    def init_state(self, batch: int, chunk: int) -> TransformerState:
        """A fresh state for calls of at most `chunk` steps."""
        capacity = self.config.window + chunk - 1
        rings = [block.attn.init_state(batch, capacity) for block in self.layers]  # type: ignore[operator, union-attr]
        return TransformerState(rings, torch.zeros(batch, dtype=torch.int64, device=rings[0].keys.device))

    def forward(self, x: Tensor, state: TransformerState | None = None, active: Tensor | None = None) -> Tensor:
        x = x.transpose(1, 2).contiguous()  # [B, T, D]
        rope, view = step_view(x, state, self.config)
        for i, block in enumerate(self.layers):
            x = block(x, rope, view, state.layers[i] if state else None)
        if state:
            advance(state.pos, x.shape[1], active)
        return x.transpose(1, 2)


class SplitQuantizer(nn.Module):
    """The first codebooks hold what is said, the others how it sounds; both start from the vector itself."""

    def __init__(self, c: MimiConfig) -> None:
        super().__init__()
        self.split = c.semantic_codebooks
        self.semantic = ResidualQuantizer(c.dim, self.split, c.codebook_size, c.codebook_dim)
        self.acoustic = ResidualQuantizer(c.dim, c.codebooks - self.split, c.codebook_size, c.codebook_dim)

    def encode(self, x: Tensor, codebooks: int) -> Tensor:
        """x: [B, T, D] -> int64 [B, codebooks, T]."""
        codes = self.semantic.encode(x, min(codebooks, self.split))
        if codebooks <= self.split:
            return codes
        return torch.cat([codes, self.acoustic.encode(x, codebooks - self.split)], dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes: int64 [B, Q, T] -> [B, T, D]."""
        x = self.semantic.decode(codes[:, : self.split])
        return x if codes.shape[1] <= self.split else x + self.acoustic.decode(codes[:, self.split :])


class Mimi(nn.Module):
    """The whole codec, or one half of it, in float32.

    Weights live here; what a stream remembers lives in the two states. Asking for a half that the config leaves out
    raises ValueError.
    """

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.config = config
        kernel, stride = 2 * STEPS_PER_FRAME, STEPS_PER_FRAME
        if config.encodes:
            self.encoder = encoder(config)
            self.encoder_transformer = Transformer(config)
            self.downsample = ReplicateConv1d(config.dim, config.dim, kernel, stride, bias=False)
        self.quantizer = SplitQuantizer(config)
        if config.decodes:
            self.upsample = CausalConvTranspose1d(config.dim, config.dim, kernel, stride, False, groups=config.dim)
            self.decoder_transformer = Transformer(config)
            self.decoder = decoder(config)

    def init_encode_state(self, batch: int, chunk: int = 1) -> EncodeState:
        """A fresh state for calls of at most `chunk` frames."""
        self._require("encode", self.config.encodes)
        transformer = self.encoder_transformer.init_state(batch, chunk * STEPS_PER_FRAME)
        return EncodeState(self.encoder.init_state(batch), transformer, self.downsample.init_state(batch))

    def init_decode_state(self, batch: int, chunk: int = 1) -> DecodeState:
        """A fresh state for calls of at most `chunk` frames."""
        self._require("decode", self.config.decodes)
        transformer = self.decoder_transformer.init_state(batch, chunk * STEPS_PER_FRAME)
        return DecodeState(self.upsample.init_state(batch), transformer, self.decoder.init_state(batch))

    def latents(self, samples: Tensor, state: EncodeState | None = None, active: Tensor | None = None) -> Tensor:
        """What the codes stand for. samples: [B, channels, N] -> [B, D, T], T frames.

        Offline zeros fill up the last frame. With a state N must be of whole frames, else ValueError; so too for N = 0.
        """
        self._require("encode", self.config.encodes)
        frame, length = self.config.frame_samples, samples.shape[-1]
        if not length or (state and length % frame):
            raise ValueError(f"expected {f'a multiple of {frame}' if state else 'some'} samples, got {length}")
        if state:
            self._fits(state.transformer, length // frame)
        x = F.pad(samples, (0, -length % frame))
        x = self.encoder(x, state.encoder if state else None, active)
        x = self.encoder_transformer(x, state.transformer if state else None, active)
        return self.downsample(x, state.downsample if state else None, active)  # type: ignore[no-any-return]

    def encode(
        self,
        samples: Tensor,
        codebooks: int | None = None,
        state: EncodeState | None = None,
        active: Tensor | None = None,
    ) -> Tensor:
        """samples: [B, channels, N] -> codes int64 [B, Q, T], of the first `codebooks` or of all. Lengths as `latents`.

        Raises ValueError for a number of codebooks that the model does not have.
        """
        codebooks = self.codebooks_of(codebooks)
        return self.quantizer.encode(self.latents(samples, state, active).transpose(1, 2), codebooks)

    def codebooks_of(self, codebooks: int | None) -> int:
        """The number that is asked for, or all; raises ValueError for one that the model does not have."""
        most = self.config.codebooks
        if codebooks is not None and not 1 <= codebooks <= most:
            raise ValueError(f"expected 1 to {most} codebooks, got {codebooks}")
        return codebooks or most

    def decode(self, codes: Tensor, state: DecodeState | None = None, active: Tensor | None = None) -> Tensor:
        """codes: int64 [B, Q, T] of the first Q codebooks -> samples [B, channels, T * frame_samples].

        Raises ValueError for a number of codebooks that the model does not have.
        """
        self._require("decode", self.config.decodes)
        self.codebooks_of(codes.shape[1])
        if not codes.shape[2]:
            raise ValueError("expected some frames, got 0")
        if state:
            self._fits(state.transformer, codes.shape[2])
        x = self.quantizer.decode(codes).transpose(1, 2)  # [B, D, T]
        x = self.upsample(x, state.upsample if state else None, active)
        x = self.decoder_transformer(x, state.transformer if state else None, active)
        return self.decoder(x, state.decoder if state else None, active)  # type: ignore[no-any-return]

    def _fits(self, state: TransformerState, frames: int) -> None:
        """Refuse a call before it has changed anything."""
        most = (state.layers[0].keys.shape[2] - self.config.window + 1) // STEPS_PER_FRAME
        if frames > most:
            raise ValueError(f"expected at most {most} frames in a call, as the state was made for, got {frames}")

    def _require(self, verb: str, has: bool) -> None:
        if not has:
            raise ValueError(f"expected a codec that can {verb}, got only the other half of one")
