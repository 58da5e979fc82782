"""Random small Kyutai Speech-To-Text models in both libraries."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import earful
from earful.registry import load_model, save_model
from earful.testing import write_tiny
from tests.hf.reference import temper, their_manners

TOLERANCE = 1e-4  # of logits
FRAMES = 30  # of the longest clip, without the silences


@dataclass
class Both:
    """The same checkpoint in both libraries, and clips to transcribe."""

    model: earful.KyutaiSpeechToTextForConditionalGeneration
    processor: earful.KyutaiSpeechToTextProcessor
    their_model: object
    their_processor: object
    clips: list[np.ndarray]

    @property
    def window(self) -> int:
        return self.model.config.sliding_window

    @property
    def rate_hz(self) -> int:
        return self.processor.feature_extractor.sampling_rate

    def ids(self, rows: int, steps: int) -> torch.Tensor:
        """Random ids [rows, steps, columns] that both understand, nothing and start ids among them."""
        config, generator = self.model.config, torch.Generator().manual_seed(0)
        text = torch.randint(config.vocab_size, (rows, steps, 1), generator=generator)
        codes = torch.randint(config.codebook_vocab_size, (rows, steps, config.num_codebooks), generator=generator)
        ids = torch.cat([text, codes], dim=-1)
        return ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.1, config.audio_pad_token_id)


def sizes(seed: int) -> dict[str, dict]:
    """Parts of a config, such that windows lie below and above what is heard."""
    rng = np.random.default_rng(seed)
    pick = lambda *choices: choices[rng.integers(len(choices))]  # noqa: E731
    heads, head_dim, codebooks = pick(1, 2, 4), pick(6, 10, 16), pick(3, 5, 8)
    return {
        "temporal": {
            "dim": heads * (head_dim if seed % 3 == 1 else pick(7, 12)),  # Kyutai's layout knows no other heads
            "layers": pick(1, 2, 3),
            "heads": heads,
            "head_dim": head_dim,
            "mlp_dim": pick(21, 33, 52),
            "window": pick(2, 5, 13, 400),
            "rope_base": pick(1e3, 1e5),
            "text_vocab": pick(40, 321),
            "codebooks": codebooks,
            "audio_vocab": 16,
        },
        "codec": {
            "rate_hz": pick(1_000, 1_200),  # the second of silence behind the audio is some 20 frames
            "ratios": pick((6, 4), (5, 3, 2)),
            "dim": 24,
            "layers": pick(1, 2),
            "window": pick(4, 9, 50),
            "codebooks": codebooks,  # theirs cannot generate where the codec has more
            "codebook_size": 16,
        },
        "model": {"delay_s": pick(0.0, 0.1, 0.24), "prefix_s": pick(0.0, 0.1)},
    }


def both_of(seed: int, folder: Path) -> Both:
    """The same weights for both: written by us in their layout, by us in Kyutai's for ourselves, or by them."""
    import transformers

    core, tokenizer = load_model(write_tiny("kyutai_stt", path=folder / "sizes", seed=seed, **sizes(seed)))
    temper(core.temporal, seed)
    ours = theirs = folder / "theirs"
    save_model(core, theirs, "hf", tokenizer)
    if seed % 3 == 1:
        ours = folder / "ours"
        save_model(core, ours, "kyutai", tokenizer)
    with their_manners():
        their_model = transformers.KyutaiSpeechToTextForConditionalGeneration.from_pretrained(theirs)
        their_processor = transformers.AutoProcessor.from_pretrained(theirs)
        if seed % 3 == 2:
            ours = folder / "saved by them"
            their_model.save_pretrained(ours)
            their_processor.save_pretrained(ours)
    frame = core.config.codec.frame_samples
    rng = np.random.default_rng(seed)
    lengths = [FRAMES * frame + 7, *rng.integers(1, FRAMES * frame, rng.integers(0, 3))]
    clips = [rng.standard_normal(n).astype(np.float32) for n in lengths]
    both = Both(
        earful.KyutaiSpeechToTextForConditionalGeneration.from_pretrained(ours),
        earful.AutoProcessor.from_pretrained(ours),
        their_model.eval(),
        their_processor,
        clips,
    )
    assert both.model.core.config == replace(core.config, word_id=0)
    return both
