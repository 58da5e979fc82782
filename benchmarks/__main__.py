"""`python -m benchmarks`: what `make bench` runs. See README.md here."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import checkpoint, floor, kyutai_stt, moshi, s2t
from benchmarks.report import Json, markdown
from earful.api import BUILTIN

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("earful", "transformers")
FAMILIES = ("voxtral", "kyutai_stt", "s2t", "moshi")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory beside transformers.")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use (default 2)")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of the timed clips (default 12)")
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the stream for memory (default 10)")
    parser.add_argument("--only", choices=FAMILIES, help="one family instead of all")
    parser.add_argument("--skip-memory", action="store_true", help="leave out the long streams")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--save", metavar="NAME", help="write the numbers to benchmarks/results/NAME.json")
    return parser.parse_args()


def measure(options: argparse.Namespace, *words: object, module: str = "benchmarks.subjects") -> Json:
    """One task in a process of its own, whose threads stay on their cores. words: the library, the task, and so on."""
    print(*words[:2], "...", file=sys.stderr, flush=True)
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "OMP_PROC_BIND": "true", "HF_HUB_OFFLINE": "1"}
    if options.quick:
        env["NO_TORCH_COMPILE"] = "1"  # moshi compiles parts of itself, which takes longer than the rest
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def run(options: argparse.Namespace, folder: Path) -> Json:
    torch.set_num_threads(options.threads)
    found: Json = {
        "machine": floor.machine(),
        "threads": options.threads,
        "versions": {name: version(name) for name in ("torch", "transformers", "moshi")},
        "bandwidth": floor.bandwidth(2**22, 1) if options.quick else floor.bandwidth(),
    }
    for family, run_it in zip(FAMILIES, (run_voxtral, run_kyutai_stt, run_s2t, run_moshi), strict=True):
        if options.only in (None, family):
            found[family] = run_it(options, folder / family)
    return found


def run_kyutai_stt(options: argparse.Namespace, folder: Path) -> Json:
    kyutai_stt.write_checkpoints(folder)

    def of_all(task: str, size: str) -> Json:
        words = (task, size, folder)
        return {name: measure(options, name, *words, module="benchmarks.kyutai_stt") for name in kyutai_stt.SUBJECTS}

    written = [found["ids"] for found in of_all("ids", "tiny").values()]
    sizes = ("tiny",) if options.quick else kyutai_stt.PUBLISHED
    return {
        "same_ids": max(same(written[0], theirs) for theirs in written[1:]),
        "speed": {size: of_all("speed", size) for size in sizes},
    }


def run_s2t(options: argparse.Namespace, folder: Path) -> Json:
    found: Json = {}
    for size in ("tiny",) if options.quick else s2t.SIZES:
        s2t.write_checkpoint(size, folder / size)
        found[size] = {name: measure(options, name, size, folder / size, module="benchmarks.s2t") for name in LIBRARIES}
    return found


def run_moshi(options: argparse.Namespace, folder: Path) -> Json:
    size = moshi.TINY if options.quick else moshi.HALF
    return {size: {name: measure(options, name, size, module="benchmarks.moshi") for name in moshi.SUBJECTS}}


def run_voxtral(options: argparse.Namespace, folder: Path) -> Json:
    sizes, clip_s = (checkpoint.TINY, 1.0) if options.quick else (checkpoint.BIG, options.seconds)
    parameters = checkpoint.write(folder, sizes)
    found: Json = {
        "sizes": vars(sizes),
        "parameters": parameters,
        "weight_bytes": 2 * parameters,
        "clip_s": clip_s,
        "stream_s": 0.0 if options.skip_memory else 6.0 if options.quick else 60 * options.minutes,
    }
    found["speed"] = {name: measure(options, name, "speed", folder, clip_s, "bfloat16") for name in LIBRARIES}
    found["builtin"] = measure(options, "earful", "builtin", BUILTIN, 1.0 if options.quick else 60.0, "float32")
    ids_s = 1.0 if options.quick else 3.0
    written = [measure(options, name, "ids", folder, ids_s, "float32") for name in LIBRARIES]
    found["same_ids"] = {task: same(*(ids[task] for ids in written)) for task in ("offline", "live")}
    if stream_s := found["stream_s"]:
        found["memory"] = {name: measure(options, name, "memory", folder, stream_s, "bfloat16") for name in LIBRARIES}
        found["builtin"] |= measure(options, "earful", "memory", BUILTIN, stream_s, "float32")
    return found


def same(ours: list[int], theirs: list[int]) -> int:
    """How many ids agree before the first that does not; -1 for all, as far as both go: each leaves out another end."""
    pairs = list(zip(ours, theirs, strict=False))
    assert len(pairs) >= max(len(ours), len(theirs)) - 2, f"expected as many ids, got {len(ours)} and {len(theirs)}"
    return next((i for i, (a, b) in enumerate(pairs) if a != b), -1)


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        found = run(options, Path(folder))
    print(markdown(found))
    if options.save:
        (RESULTS / f"{options.save}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
