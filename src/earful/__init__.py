"""Live speech models: audio goes in while it is spoken, words come out a moment later."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Large tensors in huge pages, where Linux grants these: weights are read a tenth faster.
# torch looks at it once, when it makes its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from earful.api import SpeechModel as SpeechModel
    from earful.api import load as load
    from earful.errors import AudioError as AudioError
    from earful.errors import CheckpointError as CheckpointError
    from earful.errors import EarfulError as EarfulError
    from earful.errors import EngineFull as EngineFull
    from earful.errors import StreamClosed as StreamClosed
    from earful.events import Audio as Audio
    from earful.events import Pause as Pause
    from earful.events import Text as Text
    from earful.events import Word as Word
    from earful.hf import AutoFeatureExtractor as AutoFeatureExtractor
    from earful.hf import AutoProcessor as AutoProcessor
    from earful.hf import AutoTokenizer as AutoTokenizer
    from earful.hf import BatchFeature as BatchFeature
    from earful.hf import EncodecFeatureExtractor as EncodecFeatureExtractor
    from earful.hf import KyutaiSpeechToTextConfig as KyutaiSpeechToTextConfig
    from earful.hf import KyutaiSpeechToTextFeatureExtractor as KyutaiSpeechToTextFeatureExtractor
    from earful.hf import KyutaiSpeechToTextForConditionalGeneration as KyutaiSpeechToTextForConditionalGeneration
    from earful.hf import KyutaiSpeechToTextModel as KyutaiSpeechToTextModel
    from earful.hf import KyutaiSpeechToTextProcessor as KyutaiSpeechToTextProcessor
    from earful.hf import MimiConfig as MimiConfig
    from earful.hf import MimiModel as MimiModel
    from earful.hf import MoshiConfig as MoshiConfig
    from earful.hf import MoshiDepthConfig as MoshiDepthConfig
    from earful.hf import MoshiDepthDecoder as MoshiDepthDecoder
    from earful.hf import MoshiForCausalLM as MoshiForCausalLM
    from earful.hf import MoshiForConditionalGeneration as MoshiForConditionalGeneration
    from earful.hf import MoshiModel as MoshiModel
    from earful.hf import Speech2TextConfig as Speech2TextConfig
    from earful.hf import Speech2TextFeatureExtractor as Speech2TextFeatureExtractor
    from earful.hf import Speech2TextForConditionalGeneration as Speech2TextForConditionalGeneration
    from earful.hf import Speech2TextModel as Speech2TextModel
    from earful.hf import Speech2TextProcessor as Speech2TextProcessor
    from earful.hf import Speech2TextTokenizer as Speech2TextTokenizer
    from earful.hf import TextIteratorStreamer as TextIteratorStreamer
    from earful.hf import VoxtralRealtimeConfig as VoxtralRealtimeConfig
    from earful.hf import VoxtralRealtimeEncoder as VoxtralRealtimeEncoder
    from earful.hf import VoxtralRealtimeEncoderConfig as VoxtralRealtimeEncoderConfig
    from earful.hf import VoxtralRealtimeFeatureExtractor as VoxtralRealtimeFeatureExtractor
    from earful.hf import VoxtralRealtimeForConditionalGeneration as VoxtralRealtimeForConditionalGeneration
    from earful.hf import VoxtralRealtimeProcessor as VoxtralRealtimeProcessor
    from earful.hf import VoxtralRealtimeTextConfig as VoxtralRealtimeTextConfig
    from earful.hf import infer_device as infer_device
    from earful.models.moshi.stream import Chance as Chance
    from earful.stream.session import Session as Session
    from earful.stream.transcript import Segment as Segment
    from earful.stream.transcript import Transcript as Transcript

# Where each public name lives. It is imported when it is first asked for, so that `import earful` stays instant.
_NAMES_OF = {
    "earful.api": ("load", "SpeechModel"),
    "earful.errors": ("EarfulError", "CheckpointError", "AudioError", "StreamClosed", "EngineFull"),
    "earful.events": ("Text", "Word", "Pause", "Audio"),
    "earful.models.moshi.stream": ("Chance",),
    "earful.stream.session": ("Session",),
    "earful.stream.transcript": ("Transcript", "Segment"),
    "earful.hf": (
        "AutoFeatureExtractor",
        "AutoProcessor",
        "AutoTokenizer",
        "BatchFeature",
        "EncodecFeatureExtractor",
        "KyutaiSpeechToTextConfig",
        "KyutaiSpeechToTextFeatureExtractor",
        "KyutaiSpeechToTextForConditionalGeneration",
        "KyutaiSpeechToTextModel",
        "KyutaiSpeechToTextProcessor",
        "MimiConfig",
        "MimiModel",
        "MoshiConfig",
        "MoshiDepthConfig",
        "MoshiDepthDecoder",
        "MoshiForCausalLM",
        "MoshiForConditionalGeneration",
        "MoshiModel",
        "Speech2TextConfig",
        "Speech2TextFeatureExtractor",
        "Speech2TextForConditionalGeneration",
        "Speech2TextModel",
        "Speech2TextProcessor",
        "Speech2TextTokenizer",
        "TextIteratorStreamer",
        "VoxtralRealtimeConfig",
        "VoxtralRealtimeEncoder",
        "VoxtralRealtimeEncoderConfig",
        "VoxtralRealtimeFeatureExtractor",
        "VoxtralRealtimeForConditionalGeneration",
        "VoxtralRealtimeProcessor",
        "VoxtralRealtimeTextConfig",
        "infer_device",
    ),
}
_HOME = {name: module for module, names in _NAMES_OF.items() for name in names}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'earful' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
