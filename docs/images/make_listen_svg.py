"""Draws listen.svg: what `earful listen` shows in the middle of a recording. `python docs/images/make_listen_svg.py`"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

import earful
from earful.audio.io import open_audio
from earful.cli.listen import BLOCK_S, Captions

HERE = Path(__file__).parent
CLIPS = sorted((HERE.parents[1] / "tests" / "data" / "librivox").glob("*.flac"))
UNTIL_S = 14.0  # where the picture is taken


def main() -> None:
    model = earful.load()
    captions = Captions("built-in English", None)
    step = round(BLOCK_S * model.rate_hz)
    with model.stream() as session:
        for clip in CLIPS:
            for block in open_audio(clip, model.rate_hz):
                for start in range(0, len(block), step):
                    piece = block[start : start + step]
                    events = session.feed(piece)
                    captions.heard(piece, model.rate_hz, captions.heard_s)
                    captions.take(events)
                    if captions.heard_s > UNTIL_S:
                        return draw(captions)


def draw(captions: Captions) -> None:
    console = Console(record=True, width=80, force_terminal=True)
    console.print("[dim]$[/] earful listen", highlight=False)
    console.print(captions.picture())
    console.save_svg(str(HERE / "listen.svg"), title="earful listen")


if __name__ == "__main__":
    main()
