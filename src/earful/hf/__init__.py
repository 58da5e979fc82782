"""The names, arguments and defaults of the Hugging Face documents, over earful's own models; translation only."""

from earful.hf.auto import AutoFeatureExtractor as AutoFeatureExtractor
from earful.hf.auto import AutoProcessor as AutoProcessor
from earful.hf.auto import AutoTokenizer as AutoTokenizer
from earful.hf.config import VoxtralRealtimeConfig as VoxtralRealtimeConfig
from earful.hf.config import VoxtralRealtimeEncoderConfig as VoxtralRealtimeEncoderConfig
from earful.hf.config import VoxtralRealtimeTextConfig as VoxtralRealtimeTextConfig
from earful.hf.encodec import EncodecFeatureExtractor as EncodecFeatureExtractor
from earful.hf.encoder import VoxtralRealtimeEncoder as VoxtralRealtimeEncoder
from earful.hf.features import BatchFeature as BatchFeature
from earful.hf.features import VoxtralRealtimeFeatureExtractor as VoxtralRealtimeFeatureExtractor
from earful.hf.kyutai_stt import (
    KyutaiSpeechToTextForConditionalGeneration as KyutaiSpeechToTextForConditionalGeneration,
)
from earful.hf.kyutai_stt import KyutaiSpeechToTextModel as KyutaiSpeechToTextModel
from earful.hf.kyutai_stt_config import KyutaiSpeechToTextConfig as KyutaiSpeechToTextConfig
from earful.hf.kyutai_stt_processor import KyutaiSpeechToTextFeatureExtractor as KyutaiSpeechToTextFeatureExtractor
from earful.hf.kyutai_stt_processor import KyutaiSpeechToTextProcessor as KyutaiSpeechToTextProcessor
from earful.hf.loading import infer_device as infer_device
from earful.hf.mimi import MimiModel as MimiModel
from earful.hf.mimi_config import MimiConfig as MimiConfig
from earful.hf.moshi import MoshiForConditionalGeneration as MoshiForConditionalGeneration
from earful.hf.moshi_config import MoshiConfig as MoshiConfig
from earful.hf.moshi_config import MoshiDepthConfig as MoshiDepthConfig
from earful.hf.moshi_depth import MoshiDepthDecoder as MoshiDepthDecoder
from earful.hf.moshi_text import MoshiForCausalLM as MoshiForCausalLM
from earful.hf.moshi_text import MoshiModel as MoshiModel
from earful.hf.processor import VoxtralRealtimeProcessor as VoxtralRealtimeProcessor
from earful.hf.s2t import Speech2TextForConditionalGeneration as Speech2TextForConditionalGeneration
from earful.hf.s2t import Speech2TextModel as Speech2TextModel
from earful.hf.s2t_config import Speech2TextConfig as Speech2TextConfig
from earful.hf.s2t_processor import Speech2TextFeatureExtractor as Speech2TextFeatureExtractor
from earful.hf.s2t_processor import Speech2TextProcessor as Speech2TextProcessor
from earful.hf.s2t_tokenizer import Speech2TextTokenizer as Speech2TextTokenizer
from earful.hf.streamer import TextIteratorStreamer as TextIteratorStreamer
from earful.hf.voxtral import VoxtralRealtimeForConditionalGeneration as VoxtralRealtimeForConditionalGeneration
