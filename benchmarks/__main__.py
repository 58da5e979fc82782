"""`python -m benchmarks [--quick] [--output FOLDER]`: measures, prints a table, and keeps it as JSON and Markdown."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.floor import machine, read_bandwidth
from benchmarks.models import write_random

ROWS = {  # key -> what it says, whether less is better
    "offline_ms_per_slot": ("offline, ms per 80 ms of audio", True),
    "offline_x": ("offline, times real time", False),
    "step_ms": ("streaming step of 80 ms, median ms", True),
    "step_ms_p95": ("streaming step, 95th percentile ms", True),
    "first_text_ms": ("first id, ms after the audio that it needs", True),
    "resident_mb_60s": ("resident MB after 1 minute of stream", True),
    "resident_mb_600s": ("resident MB after 10 minutes of stream", True),
}


def measure(what: str, folder: Path | None, seconds: float, stream_s: float, dtype: str | None) -> dict[str, Any]:
    arguments = [what, str(folder or "-"), str(seconds), str(stream_s), dtype or "-"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", *arguments], stdout=subprocess.PIPE, env=environment, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def compare(quick: bool, minutes: float) -> dict[str, Any]:
    """Everything, one process after the other on the same machine."""
    torch.set_num_threads(1 if quick else os.cpu_count() or 1)
    seconds, stream_s = (3.0, 3.0) if quick else (20.0, 60 * minutes)
    bandwidth = read_bandwidth()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "random"
        model = write_random(folder, quick)
        parameters = sum(p.numel() for p in model.parameters())
        del model
        result = {
            "machine": machine(),
            "parameters": parameters,
            "read_gb_s": bandwidth / 1e9,
            "floor_ms": 1e3 * 2 * parameters / bandwidth,
            "earful": measure("earful", folder, seconds, stream_s, "bfloat16"),
            "transformers": measure("transformers", folder, seconds, min(stream_s, 61.0), "bfloat16"),
            "float32": measure("ids", folder, min(seconds, 8.0), 0, None),
            "builtin": measure("earful", None, 60.0 if not quick else 3.0, stream_s, None),
        }
    return result


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    ours, theirs, builtin = result["earful"], result["transformers"], result["builtin"]
    lines = [
        f"Machine: {result['machine']}; reads {result['read_gb_s']:.1f} GB/s.",
        "",
        f"Voxtral Realtime, {result['parameters'] / 1e6:.0f} M random parameters in bfloat16: reading them once takes "
        f"{result['floor_ms']:.1f} ms, the floor of a step. Ids of `generate` in float32 equal: "
        f"{'yes' if result['float32']['equal'] else 'NO'} ({result['float32']['ids']} ids).",
        "",
        "| | earful | transformers | ratio | earful, built-in model |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, (label, less) in ROWS.items():
        if key not in ours:
            continue
        ratio = f"{theirs[key] / ours[key] if less else ours[key] / theirs[key]:.1f} ×" if key in theirs else ""
        cells = [f"{r[key]:.1f}" if key in r else "" for r in (ours, theirs)]
        lines.append(f"| {label} | {cells[0]} | {cells[1]} | {ratio} | {builtin.get(key, float('nan')):.1f} |")
    lines.append(
        f"| state of a stream, MB | {ours['bytes_per_stream'] / 1e6:.1f} | | | {builtin['bytes_per_stream'] / 1e6:.1f} |"
    )
    lines.append(
        f"| step over floor | {ours['step_ms'] / result['floor_ms']:.1f} × | {theirs['step_ms'] / result['floor_ms']:.1f} × | | |"
    )
    same = all(r["streams_like_offline"] for r in (ours, builtin))
    return "\n".join([*lines, "", f"Streamed text equals offline text: {'yes' if same else 'NO'}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    parser.add_argument("--minutes", type=float, default=10.2, help="of stream")
    parser.add_argument("--output", type=Path, help="a folder for voxtral.json and voxtral.md")
    arguments = parser.parse_args()
    result = compare(arguments.quick, arguments.minutes)
    text = table(result)
    print(text)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "voxtral.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (arguments.output / "voxtral.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
