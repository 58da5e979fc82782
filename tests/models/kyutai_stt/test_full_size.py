"""stt-1b-en_fr at its full size with random weights: written, read and heard with, in 6 GB. Takes 5 GB of disk."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import earful
from earful import registry
from earful.events import Text
from earful.models.kyutai_stt.config import PRESETS
from earful.testing import tiny_sentencepiece
from earful.text.sentencepiece import Piece, SentencePiece

CONFIG = PRESETS["stt-1b-en_fr"]
LAYOUTS = ("kyutai", "hf")
MOST_BYTES = 6e9
SECONDS = 3.0


def write(layout: str, folder: Path) -> None:
    model = registry.FAMILIES["kyutai_stt"].build(CONFIG)
    for name, part in model.named_children():
        part.to(torch.float32 if name == "codec" else torch.bfloat16).to_empty(device="cpu")
    noise = 0.02 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for tensor in (*model.parameters(), *model.buffers()):
        for piece in tensor.data.view(-1).split(len(noise)):
            piece.copy_(noise[: len(piece)])
    tiny = tiny_sentencepiece().pieces
    more = (Piece(f"piece{i}", -100.0) for i in range(CONFIG.temporal.text_vocab - len(tiny)))
    SentencePiece([*tiny, *more]).save(folder / "tokenizer.model")
    registry.save_model(model, folder / layout, layout, folder / "tokenizer.model")


def hear(layout: str, folder: Path) -> str:
    samples = 0.1 * np.random.default_rng(0).standard_normal(int(SECONDS * 24_000)).astype(np.float32)
    model, said = earful.load(folder / layout), []
    with model.stream() as session:
        for piece in np.split(samples, range(1920, len(samples), 1920)):
            said += session.feed(piece)
        said += session.finish()
    return "".join(event.text for event in said if isinstance(event, Text))


def ran(task: str, layout: str, folder: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "tests.models.kyutai_stt.test_full_size", task, layout, str(folder)]
    root = Path(__file__).parents[3]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True, cwd=root).stdout)


@pytest.mark.slow
def test_it_is_written_read_and_heard_with_in_6_gb(tmp_path):
    texts = set()
    for layout in LAYOUTS:
        for task in ("write", "hear"):
            found = ran(task, layout, tmp_path)
            assert found["bytes"] < MOST_BYTES, (task, layout, found)
        texts.add(found["text"])
    assert len(texts) == 1


if __name__ == "__main__":
    task, layout, folder = sys.argv[1:]
    with torch.inference_mode():
        text = {"write": write, "hear": hear}[task](layout, Path(folder))
    print(json.dumps({"text": text, "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
