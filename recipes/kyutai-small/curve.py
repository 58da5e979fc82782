"""Adds the word error rate of a run, as it stands, to its wer.jsonl: `python3 curve.py RUN MANIFEST...`.

RUN/model must be the latest: `earful train` with the same options and `--steps 1` writes it without training further.
"""

import json
import sys
from pathlib import Path

import earful
from earful.train.run import draw_curves
from earful.train.score import hypotheses, read_references, scores


def main(run: Path, manifests: list[Path]) -> None:
    model = earful.load(run / "model", dtype="float32")
    row = {"step": json.loads((run / "state.json").read_text(encoding="utf-8"))["step"]}
    for manifest in manifests:
        references = read_references(manifest)
        texts = dict(hypotheses(model, references, batch=8, delay_s=None))
        *_, everything = scores(references, [texts[number] for number in range(len(references))])
        row[manifest.parent.name] = round(100 * everything.wer, 2)
    with (run / "wer.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(row)
    draw_curves(run, run / "curves.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
