"""Draws listen.svg: what `earful listen` shows in the middle of a recording. `python docs/images/make_listen_svg.py`"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

import earful
from earful.cli.captions import Captions, Samples
from earful.cli.listen import played

HERE = Path(__file__).parent
CLIPS = sorted((HERE.parents[1] / "tests" / "data" / "librivox").glob("*.flac"))
UNTIL_S = 14.0  # where the picture is taken


def main() -> None:
    model = earful.load()
    captions = Captions("built-in English", model.delay_s)
    lines = []
    with model.stream() as session:
        for block in blocks(model.rate_hz):
            events = session.feed(block)
            captions.heard(block, model.rate_hz, captions.heard_s)
            lines += captions.take(events)
            if captions.heard_s > UNTIL_S:
                break
    console = Console(record=True, width=80, force_terminal=True)
    console.print("[dim]$[/] earful listen", highlight=False)
    for line in lines:
        console.print(line, highlight=False, markup=False)
    console.print(captions.picture())
    drawing = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="earful listen"), flags=re.DOTALL)
    (HERE / "listen.svg").write_text(drawing, encoding="utf-8")  # without fonts from elsewhere


def blocks(rate_hz: int) -> Iterator[Samples]:
    for clip in CLIPS:
        yield from played(str(clip), rate_hz, fast=True)


if __name__ == "__main__":
    main()
