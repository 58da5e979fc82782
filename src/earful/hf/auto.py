"""The processor or the feature extractor that fits a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from earful.checkpoint.fields import Fields
from earful.checkpoint.hub import fetch
from earful.errors import CheckpointError
from earful.hf.encodec import EncodecFeatureExtractor
from earful.hf.features import VoxtralRealtimeFeatureExtractor
from earful.hf.kyutai_stt_processor import (
    KyutaiSpeechToTextFeatureExtractor,
    KyutaiSpeechToTextProcessor,
    KyutaiSpeechToTextTokenizer,
)
from earful.hf.processor import VoxtralRealtimeProcessor
from earful.hf.s2t_processor import Speech2TextFeatureExtractor, Speech2TextProcessor
from earful.registry import recognise

Extractor = EncodecFeatureExtractor | Speech2TextFeatureExtractor | VoxtralRealtimeFeatureExtractor
Processor = KyutaiSpeechToTextProcessor | Speech2TextProcessor | VoxtralRealtimeProcessor
PROCESSORS: Mapping[str, type[Processor]] = {
    "kyutai_stt": KyutaiSpeechToTextProcessor,
    "s2t": Speech2TextProcessor,
    "voxtral": VoxtralRealtimeProcessor,
}
EXTRACTORS: Mapping[str, type[Extractor]] = {
    "kyutai_stt": KyutaiSpeechToTextFeatureExtractor,
    "mimi": EncodecFeatureExtractor,
    "moshi": EncodecFeatureExtractor,
    "s2t": Speech2TextFeatureExtractor,
    "voxtral": VoxtralRealtimeFeatureExtractor,
}
# Of the families whose pages load a tokenizer by itself; Moshi's vocabulary is a file of the same kind.
TOKENIZERS = {"kyutai_stt": KyutaiSpeechToTextTokenizer, "moshi": KyutaiSpeechToTextTokenizer}
# Files in which the class is named, under which key, and in which block; a processor may be saved without its model.
PROCESSOR_NAMES = [
    ("processor_config.json", "processor_class", None),
    ("preprocessor_config.json", "processor_class", None),
]
EXTRACTOR_NAMES = [
    ("preprocessor_config.json", "feature_extractor_type", None),
    ("processor_config.json", "feature_extractor_type", "feature_extractor"),
]

C = TypeVar("C")


class AutoProcessor:
    """Not to be made: `from_pretrained` returns the processor of the checkpoint's own class."""

    def __init__(self) -> None:
        raise TypeError("expected AutoProcessor.from_pretrained(source), got AutoProcessor()")

    @staticmethod
    def from_pretrained(source: str | Path, *, revision: str | None = None) -> Processor:
        """Of a folder or a hub id in any known layout; raises `CheckpointError` for what cannot be read."""
        folder = fetch(source, revision)
        return named(folder, PROCESSORS, PROCESSOR_NAMES).from_pretrained(folder)


class AutoFeatureExtractor:
    """Not to be made: `from_pretrained` returns the feature extractor of the checkpoint's own class."""

    def __init__(self) -> None:
        raise TypeError("expected AutoFeatureExtractor.from_pretrained(source), got AutoFeatureExtractor()")

    @staticmethod
    def from_pretrained(source: str | Path, *, revision: str | None = None) -> Extractor:
        """Of a folder or a hub id in any known layout; raises `CheckpointError` for what cannot be read."""
        folder = fetch(source, revision)
        return named(folder, EXTRACTORS, EXTRACTOR_NAMES).from_pretrained(folder)


class AutoTokenizer:
    """Not to be made: `from_pretrained` returns the tokenizer of the checkpoint's family."""

    def __init__(self) -> None:
        raise TypeError("expected AutoTokenizer.from_pretrained(source), got AutoTokenizer()")

    @staticmethod
    def from_pretrained(source: str | Path, *, revision: str | None = None) -> KyutaiSpeechToTextTokenizer:
        """Of a folder or a hub id in any known layout; raises `CheckpointError` for what cannot be read."""
        folder = fetch(source, revision)
        return named(folder, TOKENIZERS, []).from_pretrained(folder)


def named(folder: Path, kinds: Mapping[str, type[C]], places: Sequence[tuple[str, str, str | None]]) -> type[C]:
    """The class that a folder's files name, or else that of its family. Raises `CheckpointError` for no such family."""
    by_name = {kind.__name__: kind for kind in kinds.values()}
    for file, key, block in places:
        if (folder / file).is_file():
            settings = Fields.from_file(folder / file)
            found = (settings.block(block, {}) if block else settings).values.get(key)
            if isinstance(found, str) and found in by_name:
                return by_name[found]
    family = recognise(folder)[0]
    if family not in kinds:
        raise CheckpointError(f"{folder}: expected a checkpoint of {', '.join(kinds)}, got one of {family}")
    return kinds[family]
