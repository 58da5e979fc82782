"""Beside the two reference implementations, live: transformers and Kyutai's moshi, on random tiny codecs."""

import json
import random
from dataclasses import replace

import pytest
import torch

from earful.checkpoint import table
from earful.models.mimi.config import MIMI, MimiConfig
from earful.models.mimi.config_hf import config_json
from earful.models.mimi.config_kyutai import mimi_config
from earful.models.mimi.layouts import hf_table, kyutai_table
from earful.models.mimi.model import Mimi
from earful.registry import load_model, save_model
from earful.testing import mimi_weights, write_tiny

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-4  # of the largest value, which is of order 1 to 10: sums of float32 in another order
TIE = 1e-3  # between the two nearest vectors of a codebook, in squared distance of order 1


def random_config(rng: random.Random) -> MimiConfig:
    """Every size that may vary does; frames of 8 to 200 samples."""
    heads, dim = rng.choice([1, 2, 3]), rng.choice([12, 24, 36])
    return replace(
        MIMI,
        rate_hz=24_000,
        ratios=tuple(rng.choice([2, 3, 4, 5]) for _ in range(rng.choice([2, 2, 3]))),
        filters=rng.choice([4, 8]),
        residual_layers=rng.choice([1, 2]),
        kernel=rng.choice([5, 7]),
        residual_kernel=rng.choice([2, 3]),
        last_kernel=rng.choice([3, 5]),
        dilation_base=rng.choice([2, 3]),
        compress=rng.choice([1, 2, 4]),
        dim=dim,
        layers=rng.choice([1, 2]),
        heads=heads,
        head_dim=dim // heads,
        mlp_dim=rng.choice([20, 40]),
        window=rng.randint(6, 21),
        rope_base=rng.choice([100.0, 1e4]),
        codebooks=rng.randint(3, 8),
        semantic_codebooks=rng.choice([1, 1, 2]),
        codebook_size=rng.choice([16, 64]),
        codebook_dim=rng.choice([10, dim]),  # equal to dim: transformers has no projections
    )


def random_mimi(config: MimiConfig, seed: int) -> Mimi:
    with torch.device("meta"):
        model = Mimi(config)
    weights = mimi_weights(model, seed)
    if config.dim == config.codebook_dim:
        weights |= {name: torch.eye(config.dim) for name in weights if "project" in name}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def as_transformers(model: Mimi):
    from transformers import MimiConfig as TheirConfig
    from transformers import MimiModel

    theirs = MimiModel(TheirConfig(**config_json(model.config)))
    theirs.load_state_dict(dict(table.save(hf_table(model.config, naming="memory"), model.state_dict())))
    return theirs.eval()


def as_kyutai(model: Mimi):
    from moshi.models import loaders

    theirs = loaders.get_mimi(None, mimi_config(model.config), num_codebooks=model.config.codebooks)
    theirs.load_state_dict(dict(table.save(kyutai_table(model.config), model.state_dict())))
    return theirs.eval()


def assert_near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    scale = max(1.0, float(theirs.abs().max()))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE * scale)


def assert_codes(model: Mimi, latents: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor) -> int:
    """Equal but at ties; once a code differs the later ones of its frame and half refine something else. Returns how
    many differ."""
    assert ours.shape == theirs.shape
    split = model.config.semantic_codebooks
    halves = [(model.quantizer.semantic, slice(None, split)), (model.quantizer.acoustic, slice(split, None))]
    for quantizer, part in halves:
        x, agreed = quantizer.project_in(latents.transpose(1, 2)), torch.ones_like(ours[:, 0], dtype=torch.bool)
        for book, mine, other in zip(
            quantizer.codebooks, ours[:, part].unbind(1), theirs[:, part].unbind(1), strict=True
        ):
            gap = (x - book.decode(other)).square().sum(-1) - (x - book.decode(mine)).square().sum(-1)  # [B, T]
            assert float((gap * agreed).abs().max()) < TIE * max(1.0, float(x.square().sum(-1).max()))
            x, agreed = x - book.decode(mine), agreed & (mine == other)
    return int((ours != theirs).sum())


@torch.no_grad()
def test_twenty_random_codecs_are_those_of_both_references():
    total = differing = 0
    for seed in range(20):
        rng = random.Random(seed)
        config = random_config(rng)
        model = random_mimi(config, seed)
        hugging_face, kyutai = as_transformers(model), as_kyutai(model)
        generator = torch.Generator().manual_seed(seed)
        samples = torch.randn(2, 1, config.frame_samples * rng.randint(24, 39), generator=generator)
        latents, codes = model.latents(samples), model.encode(samples)
        assert_near(latents, kyutai.encode_to_latent(samples, quantize=False))
        total += 2 * codes.numel()
        differing += assert_codes(model, latents, codes, hugging_face.encode(samples).audio_codes)
        differing += assert_codes(model, latents, codes, kyutai.encode(samples))
        assert len(codes.unique()) > config.codebook_size // 2
        few = rng.randint(config.semantic_codebooks + 1, config.codebooks)
        for part in (codes, codes[:, :few]):
            audio = model.decode(part)
            assert audio.shape == samples.shape
            assert_near(audio, hugging_face.decode(part).audio_values)
            assert_near(audio, kyutai.decode(part))
    assert differing <= total / 1000, f"{differing} of {total} codes differ"


@torch.no_grad()
@pytest.mark.parametrize("missing", [1, 100, 383])
def test_a_last_frame_that_is_not_whole_is_filled_as_kyutai_does(tmp_path, missing):
    model, _ = load_model(write_tiny("mimi", path=tmp_path))
    theirs = as_kyutai(model)
    samples = torch.randn(1, 1, 384 * 9 - missing, generator=torch.Generator().manual_seed(0))
    assert model.encode(samples).shape == (1, 6, 9)
    assert_near(model.latents(samples), theirs.encode_to_latent(samples, quantize=False))


@torch.no_grad()
def test_streams_are_those_of_kyutai_inside_the_window(tmp_path):
    """Beyond it Kyutai's ring loses keys that its first query still needs; ours does not."""
    model, _ = load_model(write_tiny("mimi", path=tmp_path, codec={"window": 40}))
    theirs = as_kyutai(model)
    samples = torch.randn(2, 1, 384 * 18, generator=torch.Generator().manual_seed(0))
    encoding, decoding = model.init_encode_state(2, 3), model.init_decode_state(2, 3)
    with theirs.streaming(2):
        for begin in range(0, 18, 3):
            part = samples[..., 384 * begin : 384 * (begin + 3)]
            codes = model.encode(part, state=encoding)
            assert torch.equal(codes, theirs.encode(part))
            assert_near(model.decode(codes, decoding), theirs.decode(codes))


@torch.no_grad()
def test_files_go_from_one_library_to_the_other(tmp_path):
    from moshi.models import loaders
    from transformers import MimiModel

    model, _ = load_model(write_tiny("mimi", "hf", path=tmp_path / "ours"))
    samples = torch.randn(1, 1, 384 * 20, generator=torch.Generator().manual_seed(0))
    codes = model.encode(samples)
    theirs = MimiModel.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(theirs.encode(samples).audio_codes, codes)
    theirs.save_pretrained(tmp_path / "theirs")
    again, _ = load_model(tmp_path / "theirs")
    assert again.config == model.config
    save_model(again, tmp_path / "kyutai", "kyutai")
    config = json.loads((tmp_path / "kyutai" / "mimi_config.json").read_text())
    kyutai = loaders.get_mimi(tmp_path / "kyutai" / "mimi.safetensors", config, num_codebooks=6)
    assert torch.equal(kyutai.encode(samples), codes)
    written = json.loads((tmp_path / "theirs" / "config.json").read_text())
    written.pop("transformers_version")
    assert written == config_json(model.config)
