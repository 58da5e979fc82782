"""What this machine can do at best: no step is faster than its weights can be read."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from earful.nn.linear import PackedLinear, packs

BYTES = 512 * 2**20  # far more than any cache holds


def machine() -> str:
    """The processor in words, without the machine's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    features = next((line for line in lines if line.startswith("flags")), "")
    kinds = [kind for kind in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if kind in features.split()]
    return f"{names[0] if names else platform.machine()} ({kinds[0] if kinds else platform.system()})"


@torch.inference_mode()
def bandwidth(nbytes: int = BYTES, repeats: int = 7) -> float:
    """Bytes a second that this machine reads from memory: the best of some ways to read a lot, with torch's threads."""
    words = torch.ones(nbytes // 8, dtype=torch.int64)
    single = words.view(torch.float32)
    probes: list[Callable[[], object]] = [words.sum, single.sum, lambda: torch.dot(single, single)]
    side = 1024
    for dtype in (torch.bfloat16, torch.float32):
        if packs(torch.empty(0, dtype=dtype)):
            probes.append(_products(nbytes // (side * 4 * side * dtype.itemsize), side, dtype))
    return nbytes / min(_best(probe, repeats) for probe in probes)


def _products(count: int, side: int, dtype: torch.dtype) -> Callable[[], list[Tensor]]:
    """One row times many matrices."""
    layers = [PackedLinear(torch.nn.Linear(side, 4 * side, bias=False, dtype=dtype)) for _ in range(max(1, count))]
    row = torch.ones(1, side, dtype=dtype)
    return lambda: [layer(row) for layer in layers]


def _best(probe: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        probe()
        times.append(time.perf_counter() - begin)
    return min(times[1:])
