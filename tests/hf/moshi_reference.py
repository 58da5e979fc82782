"""Random small Moshi models in both libraries."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import earful
from earful.registry import load_model, save_model
from earful.testing import write_tiny
from tests.hf.reference import temper, their_manners

TOLERANCE = 1e-4  # of logits
GREEDY = {"do_sample": False, "depth_decoder_do_sample": False, "return_audio_codes": True}


@dataclass
class Both:
    """The same checkpoint in both libraries."""

    model: earful.MoshiForConditionalGeneration
    their_model: object
    seed: int

    @property
    def steps(self) -> int:
        """Positions that their pass over a whole signal, which sees all of it, agrees on."""
        return min(self.model.config.sliding_window, 24)

    def frames(self, rows: int, steps: int) -> dict[str, torch.Tensor]:
        """Random text and codes of both voices."""
        config, generator = self.model.config, torch.Generator().manual_seed(self.seed)
        shape = (rows, config.num_codebooks, steps)
        return {
            "input_ids": torch.randint(config.vocab_size, (rows, steps), generator=generator),
            "moshi_audio_codes": torch.randint(config.audio_vocab_size, shape, generator=generator),
            "user_audio_codes": torch.randint(config.audio_vocab_size, shape, generator=generator),
        }


def sizes(seed: int) -> dict[str, dict]:
    """Parts of a config, such that windows lie below and above what is heard."""
    rng = np.random.default_rng(seed)
    pick = lambda *choices: choices[rng.integers(len(choices))]  # noqa: E731
    heads, head_dim, depth_heads, depth_head_dim = pick(1, 2, 3), pick(6, 10, 16), pick(1, 2, 4), pick(6, 10)
    kyutai = seed % 3 == 1  # that layout knows no other widths of heads
    own = pick(2, 3, 5)
    return {
        "temporal": {
            "dim": heads * (head_dim if kyutai else pick(7, 12)),
            "layers": pick(1, 2, 3),
            "heads": heads,
            "head_dim": head_dim,
            "mlp_dim": pick(21, 33, 52),
            "window": pick(3, 14, 40, 400),
            "rope_base": pick(1e3, 1e4),
            "text_vocab": pick(40, 320),
            "audio_vocab": 16,
        },
        "depth": {
            "dim": depth_heads * (depth_head_dim if kyutai else pick(8, 14)),
            "layers": pick(1, 2, 3),
            "heads": depth_heads,
            "head_dim": depth_head_dim,
            "mlp_dim": pick(18, 27),
            "schedule": tuple(range(own)),
        },
        "codec": {
            "ratios": pick((6, 4), (5, 3, 2)),
            "dim": 24,
            "layers": 1,
            "window": pick(4, 50),
            "codebooks": own + int(rng.integers(0, 3)),
            "codebook_size": 16,
        },
    }


def both_of(seed: int, folder: Path) -> Both:
    """The same weights for both: written by us in their layout, by us in Kyutai's for ourselves, or by them."""
    import transformers

    core, tokenizer = load_model(write_tiny("moshi", path=folder / "sizes", seed=seed, **sizes(seed)))
    temper(core.temporal, seed)
    temper(core.depth, seed)
    ours = theirs = folder / "theirs"
    save_model(core, theirs, "hf", tokenizer)
    if seed % 3 == 1:
        ours = folder / "ours"
        save_model(core, ours, "kyutai", tokenizer)
    with their_manners():
        their_model = transformers.MoshiForConditionalGeneration.from_pretrained(theirs)
        if seed % 3 == 2:
            ours = folder / "saved by them"
            their_model.save_pretrained(ours)
            (ours / "tokenizer.json").write_bytes((theirs / "tokenizer.json").read_bytes())
    both = Both(earful.MoshiForConditionalGeneration.from_pretrained(ours), their_model.eval(), seed)
    assert both.model.core.config == core.config
    return both
