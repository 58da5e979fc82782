"""The silences around audio, and text to ids."""

import numpy as np
import pytest
import torch

from earful.errors import AudioError
from earful.models.kyutai_stt.config import PRESETS
from earful.models.kyutai_stt.processor import KyutaiSttProcessor, lead_samples, tail_samples
from earful.testing import tiny_sentencepiece

CLIPS = [np.linspace(-1, 1, 5000, dtype=np.float32), np.full(1900, 0.5, np.float32)]


def processor(name):
    return KyutaiSttProcessor(PRESETS[name], tiny_sentencepiece())


def test_the_published_silences():
    assert (lead_samples(PRESETS["stt-1b-en_fr"]), tail_samples(PRESETS["stt-1b-en_fr"])) == (0, 36_000)
    assert (lead_samples(PRESETS["stt-2.6b-en"]), tail_samples(PRESETS["stt-2.6b-en"])) == (24_000, 84_000)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["stt-1b-en_fr", "stt-2.6b-en"])
def test_clips_are_padded_as_in_the_reference(name):
    from transformers import KyutaiSpeechToTextFeatureExtractor

    config = PRESETS[name]
    theirs = KyutaiSpeechToTextFeatureExtractor(
        audio_delay_seconds=config.delay_s, audio_silence_prefix_seconds=config.prefix_s
    )
    values = theirs(CLIPS, padding=True, return_tensors="pt", sampling_rate=24_000).input_values
    assert torch.equal(processor(name).whole(CLIPS), values)


def test_what_is_no_audio_is_refused():
    with pytest.raises(AudioError, match="expected mono float32 samples, got int16"):
        processor("stt-1b-en_fr").whole([np.zeros(10, np.int16)])


def test_text_and_ids():
    both = processor("stt-1b-en_fr")
    ids = both.encode("one dog")
    assert both.decode([3, 0, *ids, 3, 0]) == "one dog"
