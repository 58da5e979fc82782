"""The processor that fits a checkpoint."""

from __future__ import annotations

from pathlib import Path

from earful.checkpoint.fields import Fields, read_json
from earful.checkpoint.files import fetch
from earful.hf.processor import VoxtralRealtimeProcessor
from earful.registry import recognise

FAMILIES = {"voxtral": VoxtralRealtimeProcessor}


class AutoProcessor:
    """Not to be made: `from_pretrained` returns the processor of the checkpoint's own class."""

    def __init__(self) -> None:
        raise TypeError("expected AutoProcessor.from_pretrained(source), got AutoProcessor()")

    @staticmethod
    def from_pretrained(source: str | Path, *, revision: str | None = None) -> VoxtralRealtimeProcessor:
        """Of a folder or a hub id in any known layout; raises `CheckpointError` for what cannot be read."""
        folder = fetch(source, revision)
        by_name = {kind.__name__: kind for kind in FAMILIES.values()}
        if (folder / "processor_config.json").is_file():  # a processor may be saved without its model
            settings = Fields(read_json(folder / "processor_config.json"), str(folder / "processor_config.json"))
            if kind := by_name.get(settings.values.get("processor_class", "")):
                return kind.from_pretrained(folder)
        return FAMILIES[recognise(folder)[0]].from_pretrained(folder)
