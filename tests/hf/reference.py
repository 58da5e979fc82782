"""Random small models in both libraries, and how their answers are compared."""

import math
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import earful
from earful.registry import load_model, save_model
from earful.testing import write_tiny

GENTLE = 24  # models of a lower seed do not multiply rounding errors; others write more lively transcripts
GEOMETRIES = [{"hop": 160, "window": 400}, {"hop": 160, "window": 400}, {"hop": 320, "window": 512}]


@contextmanager
def their_manners():
    """Warnings of theirs pass: transformers warns of what it does by design."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass
class Pair:
    """The same checkpoint in both libraries, and clips to transcribe."""

    model: earful.VoxtralRealtimeForConditionalGeneration
    processor: earful.VoxtralRealtimeProcessor
    their_model: object
    their_processor: object
    clips: list[np.ndarray]
    tolerance: float  # of logits

    @property
    def prompt(self) -> int:
        return len(self.processor.core.prompt)


def sizes(seed: int) -> tuple[dict, list[np.ndarray]]:
    """Parts of a config and clips, such that windows lie below and above what is heard."""
    rng = np.random.default_rng(seed)
    pick = lambda *choices: choices[rng.integers(len(choices))]  # noqa: E731
    heads, kv_heads = pick(1, 2, 3), pick(1, 2, 3)
    delay = 1 + seed if seed < 4 else int(rng.integers(1, 31))
    changes = {
        "audio": {
            **pick(*GEOMETRIES),
            "bins": pick(16, 24, 40),
            "left_slots": int(rng.integers(1, 7)),
            "delay_slots": delay,
            "log_max": pick(1.5, 1.5, 0.5),
        },
        "encoder": {
            "dim": pick(12, 20, 36),
            "layers": pick(1, 2, 3),
            "heads": heads,
            "kv_heads": heads,
            "head_dim": pick(6, 10, 16),
            "mlp_dim": pick(28, 44),
            "window": pick(3, 7, 18, 50, 750),
            "rope_base": pick(1e4, 1e6),
        },
        "decoder": {
            "dim": pick(14, 24, 40),
            "layers": pick(1, 2, 3),
            "heads": kv_heads * pick(1, 2, 4),
            "kv_heads": kv_heads,
            "head_dim": pick(4, 14, 18),
            "mlp_dim": pick(26, 52),
            "window": pick(2, 5, 13, 40, 8192),
            "rope_base": pick(1e4, 1e6),
            "norm_eps": pick(1e-5, 1e-4),
            "tied": bool(seed % 4),
        },
    }
    changes["encoder"]["mels"] = changes["audio"]["bins"]
    lengths = rng.integers(1, 20_000, rng.integers(1, 4))
    clips = [(0.2 * rng.standard_normal(n)).astype(np.float32) for n in lengths]
    return changes, clips


def temper(core: torch.nn.Module, seed: int) -> None:
    """Random weights that keep signals and the differences between them at their size."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in core.state_dict().items():
        noise = torch.randn(weight.shape, generator=generator)
        flat = 0.1 * noise + ("norm" in name)
        weight.copy_(1.2 * noise / weight[0].numel() ** 0.5 if weight.ndim > 1 else flat)


def pair(seed: int, folder: Path) -> Pair:
    """The same weights for both: written by us in their layout, by us in Mistral's for ourselves, or by them."""
    import transformers

    changes, clips = sizes(seed)
    core, tokenizer = load_model(write_tiny("voxtral", path=folder / "sizes", **changes))
    lively = seed >= GENTLE
    if not lively:
        temper(core, seed)
    ours = theirs = folder / "theirs"
    save_model(core, theirs, "hf", tokenizer)
    if seed % 3 == 1:
        ours = folder / "ours"
        save_model(core, ours, "mistral", tokenizer)
    with their_manners():
        their_model = transformers.VoxtralRealtimeForConditionalGeneration.from_pretrained(theirs)
        their_processor = transformers.AutoProcessor.from_pretrained(theirs)
        if seed % 3 == 2:
            ours = folder / "saved by them"
            their_model.save_pretrained(ours)
            their_processor.save_pretrained(ours)
            if not (ours / "tekken.json").exists():
                shutil.copy(theirs / "tekken.json", ours)
    return Pair(
        earful.VoxtralRealtimeForConditionalGeneration.from_pretrained(ours),
        earful.AutoProcessor.from_pretrained(ours),
        their_model.eval(),
        their_processor,
        clips,
        2e-3 if lively else 1e-4,
    )


def assert_same_ids(both: Pair, ours: torch.Tensor, theirs: torch.Tensor, logits: torch.Tensor) -> None:
    """Equal ids in every row, but that behind a near tie of theirs anything may follow.

    logits: theirs [B, T, V] for their ids, so that logits[:, t] gives id t + 1.
    """
    assert ours.shape == theirs.shape
    for row in range(len(ours)):
        different = (ours[row] != theirs[row]).nonzero()
        if len(different):
            first = int(different[0])
            assert first >= both.prompt
            best = logits[row, first - 1].topk(2).values
            assert best[0] - best[1] < both.tolerance, (
                f"row {row}: expected id {theirs[row, first]} at {first}, got {ours[row, first]}"
            )


def chunks(processor, samples: np.ndarray, slots: int) -> list[torch.Tensor]:
    """Features of a stream in the documents' cuts: the first chunk and then `slots` slots."""
    extractor = processor.feature_extractor
    whole = np.concatenate([samples, np.zeros((slots + 40) * processor.raw_audio_length_per_tok, np.float32)])
    first = processor(
        whole[: processor.num_samples_first_audio_chunk],
        is_streaming=True,
        is_first_audio_chunk=True,
        return_tensors="pt",
        sampling_rate=16_000,
    )
    found = [first.input_features]
    for number in range(slots):
        frame = processor.num_mel_frames_first_audio_chunk + number * processor.audio_length_per_tok
        start = frame * extractor.hop_length - extractor.win_length // 2
        found.append(
            processor(
                whole[start : start + processor.num_samples_per_audio_chunk],
                is_streaming=True,
                is_first_audio_chunk=False,
                return_tensors="pt",
                sampling_rate=16_000,
            ).input_features
        )
    return found


def stream_of(samples: np.ndarray, processor) -> int:
    """How many slots lie behind the first chunk of a stream with all its right padding."""
    heard = math.ceil(len(samples) / processor.raw_audio_length_per_tok) + processor.num_right_pad_tokens
    return heard - processor.num_delay_tokens - 1
