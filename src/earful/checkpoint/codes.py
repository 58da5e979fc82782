"""Files of codes: one tensor in a safetensors file, and what it takes to make audio of it again.

tensor `codes`: int16, or int32 for large codebooks, [codebooks, frames]
metadata `earful_codes`: JSON with `samples`, how long the audio was; `rate_hz`, `frame_samples` and `codebook_size` of
the codec; `model`, the name that it was loaded by; `vectors`, a digest of what its codes stand for
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import read_header, read_metadata, save_tensors
from earful.errors import CheckpointError

KEY = "earful_codes"
MOST = 1 << 40  # of any number that a file says

Codes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class About:
    """What a file says of its codes."""

    samples: int
    rate_hz: int
    frame_samples: int
    codebook_size: int
    model: str
    vectors: str


def type_of(codebook_size: int) -> type[np.integer[Any]]:
    """The smallest type of tensors that holds the codes of a codebook."""
    return np.int16 if codebook_size <= 1 << 15 else np.int32


def write_codes(path: Path, codes: Codes, about: About) -> None:
    """codes: integers [codebooks, frames]. Whole or not at all; raises `CheckpointError` when it cannot write."""
    small = torch.from_numpy(codes.astype(type_of(about.codebook_size)))
    save_tensors(path, {"codes": small}, {KEY: json.dumps(asdict(about))})


def read_codes(path: Path) -> tuple[Codes, About]:
    """The codes [codebooks, frames] of a file as they are stored, and what it says of them.

    Raises `CheckpointError` for another kind of file, and for one that contradicts itself.
    """
    entries, metadata = read_header(path), read_metadata(path)
    if KEY not in metadata or set(entries) != {"codes"}:
        raise CheckpointError(f"{path}: expected codes as `earful codec encode` writes them, got another kind of file")
    try:
        said = Fields(json.loads(metadata.values[KEY]), f"{path}: {KEY}")
    except (TypeError, ValueError, RecursionError):
        raise metadata.unfit(KEY, "JSON") from None
    about = About(
        samples=said.whole("samples", 1, MOST),
        rate_hz=said.whole("rate_hz", 1, MOST),
        frame_samples=said.whole("frame_samples", 1, MOST),
        codebook_size=said.whole("codebook_size", 1, MOST),
        model=said.text("model"),
        vectors=said.text("vectors"),
    )
    entry = entries["codes"]
    frames = -(-about.samples // about.frame_samples)
    if entry.dtype not in (torch.int16, torch.int32) or len(entry.shape) != 2 or entry.shape[1] != frames:
        raise CheckpointError(
            f"{path}: expected int16 or int32 codes of shape [codebooks, {frames}] for {about.samples} samples, "
            f"got {entry.dtype} {list(entry.shape)}"
        )
    return entry.read().numpy(), about
