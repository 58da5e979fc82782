"""Old checkpoints, whose weights lie in a pickle: listed by a process of its own, which runs nothing of the file.

Only `earful convert` opens them. What that process says is believed as little as a safetensors header is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from earful.checkpoint import unpickle
from earful.checkpoint.fields import Fields, shown
from earful.checkpoint.files import Entry, Weights, entry_of
from earful.errors import CheckpointError


class Pickled(Weights):
    """The tensors of an old checkpoint, and the settings beside them: numbers, texts and flags by name."""

    def __init__(self, entries: Mapping[str, Entry], where: str, settings: Mapping[str, Any]) -> None:
        super().__init__(entries, where)
        self.settings = settings


def open_pickled(path: Path) -> Pickled:
    """The weights of a pytorch_model.bin, or of a fairseq .pt; nothing of them is in memory until it is read.

    Raises `CheckpointError` for a file that holds anything but tensors and settings, is damaged, or says that it holds
    more than it does.
    """
    # By its path and isolated, so that no other module can take its place, and nothing else of ours is loaded.
    command = [sys.executable, "-I", unpickle.__file__, str(path.absolute())]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    try:
        listed = Fields(json.loads(done.stdout), str(path))
    except ValueError as error:  # the system ended it, or it ended itself
        raise CheckpointError(f"{path}: expected a list of tensors, got none (exit code {done.returncode})") from error
    if "refused" in listed:
        raise CheckpointError(f"{path}: {listed.text('refused')}")
    size = path.stat().st_size
    entries = {name: entry_of(path, name, about, 0) for name, about in listed.block("tensors").values.items()}
    for name, entry in entries.items():
        if entry.start + entry.nbytes > size:
            raise CheckpointError(f"{path}: expected {shown(name)} within {size} bytes, got one beyond them")
    return Pickled(entries, str(path), listed.block("settings").values)
