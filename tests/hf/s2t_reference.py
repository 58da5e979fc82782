"""Random small Speech2Text models in both libraries."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import earful
from earful.models.s2t.config import EOS, AudioConfig, S2tConfig, StackConfig, TextConfig
from earful.models.s2t.model import Speech2Text
from earful.registry import save_model
from earful.testing import s2t_weights
from tests.helpers import spoken_like
from tests.hf.reference import their_manners

TOLERANCE = 1e-4  # sums of float32 in another order; logits are of order 1


@dataclass
class Both:
    """The same checkpoint in both libraries, and a padded batch of features with its mask."""

    seed: int
    model: earful.Speech2TextForConditionalGeneration
    their_model: object
    features: torch.Tensor
    mask: torch.Tensor

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def random_model(seed: int) -> Speech2Text:
    """Every size that may vary does, and so does how soon a text ends."""
    rng = random.Random(seed)
    encoder_heads, decoder_heads = rng.choice([1, 2, 3]), rng.choice([1, 2, 4])
    config = S2tConfig(
        dim=12 * rng.choice([1, 2, 3]),
        encoder=StackConfig(rng.randint(1, 3), encoder_heads, rng.randint(8, 50)),
        decoder=StackConfig(rng.randint(1, 3), decoder_heads, rng.randint(8, 50)),
        vocab=rng.randint(15, 70),
        conv_channels=2 * rng.randint(4, 20),
        conv_kernels=rng.choice([(5, 5), (3, 5), (3,), (5, 3, 3)]),
        source_frames=rng.choice([6000, 20]),  # beyond which either table grows
        target_ids=1024,
        audio=AudioConfig(16_000, rng.choice([8, 24])),
        text=TextConfig(),
        activation=rng.choice(["relu", "gelu", "gelu_new", "silu"]),
        scaled=rng.random() < 0.7,
        tied=rng.random() < 0.6,
        dropout=0.1,
        first_id=random.Random(-1 - seed).choice([None, None, 7]),
    )
    with torch.device("meta"):
        model = Speech2Text(config)
    weights = s2t_weights(model, seed)
    weights["decoder.embed.weight" if config.tied else "decoder.head.weight"][EOS] *= rng.choice([0.8, 1.2, 1.6])
    model.load_state_dict(weights, assign=True)
    return model.eval()


def both_of(seed: int, folder: Path) -> Both:
    """The same weights for both, written by us or by them."""
    import transformers

    core = random_model(seed)
    ours = theirs = folder / "theirs"
    save_model(core, theirs, "hf")
    with their_manners():
        kind = transformers.Speech2TextForConditionalGeneration
        their_model, report = kind.from_pretrained(theirs, output_loading_info=True, attn_implementation="eager")
        assert not any(report.values()), report
        if seed % 2:
            ours = folder / "saved by them"
            their_model.save_pretrained(ours)
    rng = np.random.default_rng(seed)
    clips = [spoken_like(rng, int(length)) for length in rng.integers(2_000, 24_000, size=3)]
    extractor = earful.Speech2TextFeatureExtractor(num_mel_bins=core.config.audio.bins)
    inputs = extractor(clips, padding=True, return_tensors="pt", sampling_rate=16_000)
    model = earful.Speech2TextForConditionalGeneration.from_pretrained(ours)
    return Both(seed, model, their_model.eval(), inputs.input_features, inputs.attention_mask)
