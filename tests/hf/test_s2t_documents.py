"""Every piece of code of the Hugging Face page on Speech2Text, with `earful` in its import line.

The models are tiny ones under the published names, `load_dataset` gives clips of this repository, and the import of the
library that it comes from is left out, as are the prompts and what the page prints.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import earful
from earful.audio.io import read_audio

RECORDING = sorted((Path(__file__).resolve().parents[1] / "data" / "librivox").glob("*.flac"))[0]
PUBLISHED_PARAMETERS = 29_536_256


class DataSet:
    """As much of a data set of 🤗 Datasets as the page uses; arrays are float64 there too."""

    def __init__(self, *_args: str, split: str) -> None: ...

    def __getitem__(self, index: int) -> dict:
        samples = read_audio(RECORDING, 16_000)[index * 9_000 :][:30_000]
        return {"audio": {"array": samples.astype(np.float64), "sampling_rate": 16_000}}


def run(code: str) -> dict:
    names: dict = {"load_dataset": DataSet, "__name__": "__main__"}
    exec(compile(code, "document", "exec"), names)
    return names


RECOGNITION = """
import torch
from earful import Speech2TextProcessor, Speech2TextForConditionalGeneration

model = Speech2TextForConditionalGeneration.from_pretrained("facebook/s2t-small-librispeech-asr")
processor = Speech2TextProcessor.from_pretrained("facebook/s2t-small-librispeech-asr")


ds = load_dataset("hf-internal-testing/librispeech_asr_demo", "clean", split="validation")

inputs = processor(ds[0]["audio"]["array"], sampling_rate=ds[0]["audio"]["sampling_rate"], return_tensors="pt")
generated_ids = model.generate(inputs["input_features"], attention_mask=inputs["attention_mask"])

transcription = processor.batch_decode(generated_ids, skip_special_tokens=True)
"""

TRANSLATION = """
import torch
from earful import Speech2TextProcessor, Speech2TextForConditionalGeneration

model = Speech2TextForConditionalGeneration.from_pretrained("facebook/s2t-medium-mustc-multilingual-st")
processor = Speech2TextProcessor.from_pretrained("facebook/s2t-medium-mustc-multilingual-st")

ds = load_dataset("hf-internal-testing/librispeech_asr_demo", "clean", split="validation")

inputs = processor(ds[0]["audio"]["array"], sampling_rate=ds[0]["audio"]["sampling_rate"], return_tensors="pt")
generated_ids = model.generate(
    inputs["input_features"],
    attention_mask=inputs["attention_mask"],
    forced_bos_token_id=processor.tokenizer.lang_code_to_id["fr"],
)

translation = processor.batch_decode(generated_ids, skip_special_tokens=True)
"""

CONFIGURATION = """
from earful import Speech2TextConfig, Speech2TextModel

# Initializing a Speech2Text s2t_transformer_s style configuration
configuration = Speech2TextConfig()

# Initializing a model (with random weights) from the s2t_transformer_s style configuration
model = Speech2TextModel(configuration)

# Accessing the model configuration
configuration = model.config
"""

BARE = """
import torch
from earful import Speech2TextModel, AutoFeatureExtractor

model = Speech2TextModel.from_pretrained("facebook/s2t-small-librispeech-asr")
feature_extractor = AutoFeatureExtractor.from_pretrained("facebook/s2t-small-librispeech-asr")
ds = load_dataset("hf-internal-testing/librispeech_asr_dummy", "clean", split="validation")
inputs = feature_extractor(
    ds[0]["audio"]["array"], sampling_rate=ds[0]["audio"]["sampling_rate"], return_tensors="pt"
)
input_features = inputs.input_features
decoder_input_ids = torch.tensor([[1, 1]]) * model.config.decoder_start_token_id
last_hidden_state = model(input_features, decoder_input_ids=decoder_input_ids).last_hidden_state
shape = list(last_hidden_state.shape)
"""

FORWARD = """
import torch
from earful import Speech2TextProcessor, Speech2TextForConditionalGeneration

model = Speech2TextForConditionalGeneration.from_pretrained("facebook/s2t-small-librispeech-asr")
processor = Speech2TextProcessor.from_pretrained("facebook/s2t-small-librispeech-asr")


ds = load_dataset("hf-internal-testing/librispeech_asr_dummy", "clean", split="validation")

inputs = processor(
    ds[0]["audio"]["array"], sampling_rate=ds[0]["audio"]["sampling_rate"], return_tensors="pt"
)
input_features = inputs.input_features

generated_ids = model.generate(inputs=input_features)

transcription = processor.batch_decode(generated_ids, skip_special_tokens=True)[0]
"""


def test_recognition(hub):
    names, forward = run(RECOGNITION), run(FORWARD)
    assert names["generated_ids"].shape[0] == 1
    assert names["transcription"][0].strip()
    assert names["transcription"] == [forward["transcription"]]
    assert names["inputs"]["input_features"].shape == (1, 186, 20)
    assert names["inputs"]["attention_mask"].all()


def test_translation(hub):
    names = run(TRANSLATION)
    assert names["generated_ids"][0, :2].tolist() == [2, 5]
    assert names["translation"][0].strip()
    assert "<" not in names["translation"][0]
    other = names["model"].generate(**names["inputs"], forced_bos_token_id=11)
    assert names["processor"].batch_decode(other, skip_special_tokens=True) != names["translation"]


def test_configuration():
    with torch.device("meta"):
        names = run(CONFIGURATION)
    assert sum(p.numel() for p in names["model"].parameters()) == PUBLISHED_PARAMETERS
    assert isinstance(names["configuration"], earful.Speech2TextConfig)


def test_the_bare_model(hub):
    assert run(BARE)["shape"] == [1, 2, 256]


@pytest.mark.parametrize(
    "kind, expected",
    [
        (earful.AutoProcessor, earful.Speech2TextProcessor),
        (earful.AutoFeatureExtractor, earful.Speech2TextFeatureExtractor),
    ],
)
def test_the_automatic_classes(hub, kind, expected):
    assert type(kind.from_pretrained("facebook/s2t-small-librispeech-asr")) is expected
