"""Random small codecs in both libraries, and how their codes are compared."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import earful
from tests.hf.reference import their_manners

TIE = 1e-4  # squared distances to two vectors that differ by less than this part of them prove nothing


@dataclass
class Codecs:
    """The same checkpoint in both libraries, and audio [2, channels, N] that ends inside a frame."""

    ours: earful.MimiModel
    theirs: object
    audio: torch.Tensor

    @property
    def frame(self) -> int:
        return self.theirs.config.frame_size

    @property
    def whole(self) -> torch.Tensor:
        return self.audio[..., : self.audio.shape[-1] // self.frame * self.frame]


def sizes(seed: int) -> dict:
    """Arguments of a config: windows lie below and above what is heard, codebooks have a space of their own or not."""
    rng = np.random.default_rng(seed)
    pick = lambda *choices: choices[rng.integers(len(choices))]  # noqa: E731
    heads, head_dim = pick(1, 2, 3), pick(4, 6, 10)
    dim = heads * head_dim
    space = pick(4, 8, dim)
    return {
        "sampling_rate": pick(24_000, 16_000),
        "audio_channels": pick(1, 1, 2),
        "hidden_size": dim,
        "num_filters": pick(4, 8),
        "num_residual_layers": pick(1, 2),
        "upsampling_ratios": pick([2, 3], [3, 2, 2], [4, 2], [5, 3], [2]),
        "kernel_size": pick(5, 7),
        "residual_kernel_size": pick(3, 5),
        "last_kernel_size": pick(3, 5),
        "dilation_growth_rate": pick(2, 3),
        "compress": pick(1, 2, 4),
        "codebook_size": pick(8, 16, 32),
        "codebook_dim": space,
        "vector_quantization_hidden_dimension": space,
        "num_quantizers": pick(3, 5, 9),
        "num_semantic_quantizers": pick(1, 2),
        "upsample_groups": dim,
        "num_hidden_layers": pick(1, 2, 3),
        "intermediate_size": pick(20, 32),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": head_dim,
        "norm_eps": pick(1e-5, 1e-3),
        "rope_parameters": {"rope_type": "default", "rope_theta": pick(1e2, 1e4)},
        "sliding_window": pick(6, 11, 21, 250),
    }


@torch.no_grad()
def temper(model: torch.nn.Module, seed: int) -> None:
    """Random weights that keep signals at their size, and codebooks in use."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.state_dict().items():
        noise = torch.randn(weight.shape, generator=generator)
        if "embed_sum" in name:
            weight.copy_(noise)
        elif "cluster_usage" in name:
            weight.copy_(0.5 + noise.abs())
        elif weight.ndim > 1:
            weight.copy_(noise / weight[0].numel() ** 0.5)
        elif "codebook" not in name:
            weight.copy_(0.1 * noise + (1.0 if "norm" in name else 0.5 if "scale" in name else 0.0))


def codecs(seed: int, folder: Path) -> Codecs:
    """The same weights for both: written by them, or once more by us."""
    import transformers

    torch.manual_seed(seed)
    theirs = transformers.MimiModel(transformers.MimiConfig(**sizes(seed))).eval()
    temper(theirs, seed)
    with their_manners():
        theirs.save_pretrained(folder / "theirs")
    ours = earful.MimiModel.from_pretrained(folder / "theirs")
    if seed % 2:
        ours.save_pretrained(folder / "ours")
        ours = earful.MimiModel.from_pretrained(folder / "ours")
    frame = theirs.config.frame_size
    frames = int(np.random.default_rng(seed).integers(2, 30))
    samples = frame * frames + seed % frame
    return Codecs(ours, theirs, 0.5 * torch.randn(2, theirs.config.audio_channels, samples))


@torch.no_grad()
def assert_same_codes(both: Codecs, ours: torch.Tensor, theirs: torch.Tensor, latents: torch.Tensor) -> None:
    """Equal codes [B, Q, T], but that from a near tie on anything may follow in a frame. latents: theirs, [B, D, T]."""
    assert ours.shape == theirs.shape
    quantizer = both.ours.core.quantizer
    for row, frame in (ours != theirs).any(1).nonzero().tolist():
        q = int((ours[row, :, frame] != theirs[row, :, frame]).nonzero()[0])
        part, first = (quantizer.semantic, 0) if q < quantizer.split else (quantizer.acoustic, quantizer.split)
        rest = part.project_in(latents[row, :, frame])
        for number, code in enumerate(theirs[row, first:q, frame]):
            rest = rest - part.codebooks[number].decode(code)
        choices = part.codebooks[q - first].decode(torch.stack([ours[row, q, frame], theirs[row, q, frame]]))
        near, far = sorted((rest - choices).square().sum(-1).tolist())
        assert far - near < TIE * far, f"row {row}: expected code {theirs[row, q, frame]} in codebook {q} of {frame}"
