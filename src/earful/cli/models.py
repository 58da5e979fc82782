"""`earful models`, `earful convert` and `earful doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.text import Text

from earful import api, registry
from earful.checkpoint.hub import cached, fetch, hub_cache
from earful.checkpoint.pickled import Pickled
from earful.cli import fail
from earful.cli.options import Dtype
from earful.errors import EarfulError

PUBLISHED = {
    "mistralai/Voxtral-Mini-4B-Realtime-2602": "Voxtral Realtime, 13 languages, 8.9 GB",
    "kyutai/stt-1b-en_fr": "Kyutai Speech-To-Text, English and French, 2.4 GB",
    "kyutai/stt-2.6b-en": "Kyutai Speech-To-Text, English, 5.6 GB",
    "kyutai/moshiko-pytorch-bf16": "Moshi, a man's voice that listens while it speaks, English, 15.8 GB",
    "kyutai/moshika-pytorch-bf16": "Moshi, a woman's voice, 15.8 GB",
    "facebook/s2t-small-librispeech-asr": "Speech2Text, English, 118 MB",
    "facebook/s2t-medium-mustc-multilingual-st": "Speech2Text, English speech to 8 languages, 285 MB",
    "kyutai/mimi": "Mimi, a codec for speech, 385 MB",
}
EXTRAS = {  # what each needs
    "voxtral": ("tiktoken",),
    "mic": ("sounddevice",),
    "train": ("accelerate", "matplotlib", "peft", "tiktoken"),
    "eval": ("jiwer", "whisper_normalizer"),
}


def register(app: typer.Typer) -> None:
    app.command()(models)
    app.command()(convert)
    app.command()(doctor)


def models() -> None:
    """What can be loaded: the built-in model, and published ones with where they are on this machine."""
    size = sum(file.stat().st_size for file in api.BUILTIN.iterdir())
    rows = [("built-in", f"small live English, {size / 1e6:.0f} MB", str(api.BUILTIN))]
    for name, what in PUBLISHED.items():
        rows.append((name, what, str(cached(name) or f"not here yet: --model {name} fetches it")))
    console = Console(highlight=False)
    for name, what, where in rows:
        console.print(Text.assemble((name, "bold"), f" {what}\n    {where}"), soft_wrap=True)


def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint folder or a hub id.")],
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    layout: Annotated[str, typer.Option(help="hf, mistral or kyutai, as the model has them.")] = "hf",
    dtype: Dtype = None,
) -> None:
    """Write a checkpoint in another layout, in another precision, or both; pickled weights become safetensors."""
    if dtype not in (None, *api.DTYPES):
        raise ValueError(f"expected a dtype of {', '.join(api.DTYPES)}, got {dtype!r}")
    if target.exists() and any(target.iterdir()):
        raise EarfulError(f"{target}: expected a new or empty folder, got one with files in it")
    folder = fetch(source, pickled=True)
    opened = registry.open_checkpoint(folder, pickled=True)
    model, tokenizer = registry.load_model(folder, dtype=api.DTYPES[dtype] if dtype else None, opened=opened)
    registry.save_model(model, target, layout, tokenizer)
    if isinstance(weights := opened[2], Pickled):
        fail(f"{weights.where}: pickled weights can run code where other programs load them: use {target} instead")
    count = sum(p.numel() for p in model.parameters())
    size = f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:_}".replace("_", " ")
    typer.echo(f"{target}: {layout} layout, {size} parameters")


def doctor() -> None:
    """What is wrong on this machine, and the fix."""
    broken = False
    console = Console(highlight=False)
    for name, found, fix, essential in checks():
        mark, colour = ("ok", "green") if fix is None else ("broken", "red") if essential else ("missing", "yellow")
        line = f" {name}: {found}" + (f" -> {fix}" if fix else "")
        console.print(Text.assemble((f"{mark:>7}", colour), line), soft_wrap=True)
        broken |= essential and fix is not None
    raise typer.Exit(1 if broken else 0)


def checks() -> Iterator[tuple[str, str, str | None, bool]]:
    """Name, what was found, how to mend it (None when it is well), and whether nothing works without it."""
    python = platform.python_version()
    yield "python", python, None if sys.version_info >= (3, 11) else "install Python 3.11 or newer", True
    devices = ["cpu"] + [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    yield "torch", f"{torch.__version__}, {', '.join(devices)}, {threads}", None, True
    for extra, modules in EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        fix = f"pip install 'earful[{extra}]'" if absent else None
        yield f"extra {extra}", f"{', '.join(absent)} not installed" if absent else "installed", fix, False
    if importlib.util.find_spec("sounddevice"):
        yield "microphone", *_tried(_microphones, "connect one, or give its system a driver"), False
    yield "downloads", *_tried(_cache, "set HF_HOME to a folder that can be written to"), False
    yield "built-in model", *_tried(_hear_demo, "install earful again"), True


def _tried(check: Callable[[], str], fix: str) -> tuple[str, str | None]:
    try:
        return check(), None
    except (EarfulError, OSError) as error:
        return str(error), fix


def _microphones() -> str:
    from earful.audio.microphone import microphones

    found = microphones()
    if not found:
        raise OSError("none found")
    return ", ".join(found)


def _cache() -> str:
    folder = hub_cache()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder} cannot be written to")
    return str(folder)


def _hear_demo() -> str:
    transcript = api.load().transcribe(api.BUILTIN / "demo.flac")
    return f"heard {len(transcript.words)} words in {transcript.duration_s:.1f} s of demo.flac"
