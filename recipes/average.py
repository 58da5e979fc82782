"""The mean of the weights of several stages of one run: `python3 average.py OUT MODEL=SHARE MODEL=SHARE...`.

Shares are of one; the other files are copied from the last MODEL. Averaged weights are often better than any of those
they come from where all have come from the same beginning (model soups, Wortsman et al. 2022).
"""

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file


def main(out: str, *shared: str) -> int:
    models = [(Path(folder), float(share)) for folder, _, share in (text.rpartition("=") for text in shared)]
    total = sum(share for _, share in models)
    if not models or abs(total - 1) > 1e-6:
        print(f"the shares must add up to 1, got {total:g}", file=sys.stderr)
        return 1
    last = models[-1][0]
    means = {}
    for file in last.glob("*.safetensors"):
        stages = [(load_file(folder / file.name), share) for folder, share in models]
        if any(weights.keys() != stages[-1][0].keys() for weights, _ in stages):
            print(f"{file.name}: expected models of the same weights, got different names", file=sys.stderr)
            return 1
        means[file.name] = {
            name: sum(share * weights[name].double() for weights, share in stages).to(tensor.dtype)
            for name, tensor in stages[-1][0].items()
        }
    shutil.copytree(last, out)
    for name, mean in means.items():
        save_file(mean, Path(out) / name, {"format": "pt"})
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
