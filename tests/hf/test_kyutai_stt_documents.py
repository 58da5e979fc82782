"""Every piece of code of the Hugging Face pages on Kyutai Speech-To-Text, with `earful` in its import line.

The model is a tiny one under the published name, `load_dataset` gives clips of this repository, and the import of the
library that it comes from is left out.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import earful
from earful.audio.io import read_audio

RECORDING = sorted((Path(__file__).resolve().parents[1] / "data" / "librivox").glob("*.flac"))[0]
LENGTHS = (40_000, 25_000, 32_000, 40_000)
PUBLISHED_PARAMETERS = 2_617_000_000  # of the language model, as the page's "2.6b" says, to 1 %


@dataclass
class Audio:
    sampling_rate: int


class DataSet:
    """As much of a data set of 🤗 Datasets as the pages use; arrays are float64 there too."""

    def __init__(self, *_args: str, split: str) -> None:
        self.rate_hz = 16_000

    def cast_column(self, column: str, kind: Audio) -> "DataSet":
        assert column == "audio"
        self.rate_hz = kind.sampling_rate
        return self

    def __getitem__(self, index: int) -> dict:
        samples = read_audio(RECORDING, self.rate_hz)[index * 9_000 :][: LENGTHS[index]]
        return {"audio": {"array": samples.astype(np.float64)}}


def run(code: str) -> dict:
    names: dict = {"load_dataset": DataSet, "Audio": Audio, "__name__": "__main__"}
    exec(compile(code, "document", "exec"), names)
    return names


OFFLINE = """
import torch
from earful import infer_device, KyutaiSpeechToTextProcessor, KyutaiSpeechToTextForConditionalGeneration

# 1. load the model and the processor
torch_device = infer_device()
model_id = "kyutai/stt-2.6b-en-trfs"

processor = KyutaiSpeechToTextProcessor.from_pretrained(model_id)
model = KyutaiSpeechToTextForConditionalGeneration.from_pretrained(model_id, device_map=torch_device, dtype="auto")

# 2. load audio samples
ds = load_dataset(
    "hf-internal-testing/librispeech_asr_dummy", "clean", split="validation"
)
ds = ds.cast_column("audio", Audio(sampling_rate=24000))

# 3. prepare the model inputs
inputs = processor(
    ds[0]["audio"]["array"],
)
inputs.to(model.device)

# 4. infer the model
output_tokens = model.generate(**inputs)

# 5. decode the generated tokens
print(processor.batch_decode(output_tokens, skip_special_tokens=True))
"""

BATCHED = """
import torch
from earful import infer_device, KyutaiSpeechToTextProcessor, KyutaiSpeechToTextForConditionalGeneration

# 1. load the model and the processor
torch_device = infer_device()
model_id = "kyutai/stt-2.6b-en-trfs"

processor = KyutaiSpeechToTextProcessor.from_pretrained(model_id)
model = KyutaiSpeechToTextForConditionalGeneration.from_pretrained(model_id, device_map=torch_device, dtype="auto")

# 2. load audio samples
ds = load_dataset(
    "hf-internal-testing/librispeech_asr_dummy", "clean", split="validation"
)
ds = ds.cast_column("audio", Audio(sampling_rate=24000))

# 3. prepare the model inputs
audio_arrays = [ds[i]["audio"]["array"] for i in range(4)]
inputs = processor(audio_arrays, return_tensors="pt", padding=True)
inputs = inputs.to(model.device)

# 4. infer the model
output_tokens = model.generate(**inputs)

# 5. decode the generated tokens
decoded_outputs = processor.batch_decode(output_tokens, skip_special_tokens=True)
for output in decoded_outputs:
    print(output)
"""

CONFIGURATION = """
from earful import KyutaiSpeechToTextConfig, KyutaiSpeechToTextForConditionalGeneration

# Initializing a KyutaiSpeechToTextConfig
configuration = KyutaiSpeechToTextConfig()

# Initializing a model
model = KyutaiSpeechToTextForConditionalGeneration(configuration)

# Accessing the model configuration
configuration = model.config
"""

FORWARD = """
import torch
from earful import KyutaiSpeechToTextProcessor, KyutaiSpeechToTextForConditionalGeneration

torch_device = "cuda" if torch.cuda.is_available() else "cpu"
model_id = "kyutai/stt-2.6b-en-trfs"

processor = KyutaiSpeechToTextProcessor.from_pretrained(model_id)
model = KyutaiSpeechToTextForConditionalGeneration.from_pretrained(model_id, device_map=torch_device)

ds = load_dataset(
    "hf-internal-testing/librispeech_asr_dummy", "clean", split="validation"
)

ds = ds.cast_column("audio", Audio(sampling_rate=24000))
inputs = processor(
    ds[0]["audio"]["array"],
)
inputs.to(torch_device)

output_tokens = model.generate(**inputs)
print(processor.batch_decode(output_tokens, skip_special_tokens=True))
"""

# The page's source has the same two examples in the names of older releases.
OLDER = {
    "from earful import infer_device, ": "from earful import ",
    "torch_device = infer_device()": 'torch_device = "cuda" if torch.cuda.is_available() else "cpu"',
    'dtype="auto"': 'torch_dtype="auto"',
    ".to(model.device)": ".to(torch_device)",
}


def older(code: str) -> str:
    for printed, old in OLDER.items():
        assert code.count(printed) == 1
        code = code.replace(printed, old)
    return code


def frames(samples: int) -> int:
    """With 0.4 s of delay in the tiny model, and the second behind it."""
    return (samples + 33_600) // 1920


@pytest.mark.parametrize("code", [OFFLINE, older(OFFLINE), FORWARD], ids=["offline", "older", "forward"])
def test_offline(hub, capsys, code):
    names = run(code)
    ids = names["output_tokens"]
    text = names["processor"].decode(ids[0], skip_special_tokens=True)
    assert capsys.readouterr().out == f"{[text]}\n"
    assert ids.shape == (1, 1 + frames(LENGTHS[0]))
    assert text.strip()
    assert names["model"].device.type == names["torch_device"]


@pytest.mark.parametrize("code", [BATCHED, older(BATCHED)], ids=["batched", "older"])
def test_batched(hub, capsys, code):
    names = run(code)
    texts = names["decoded_outputs"]
    assert capsys.readouterr().out == "".join(text + "\n" for text in texts)
    assert len(set(texts)) == 4
    for row, samples in enumerate(LENGTHS):
        ids = names["output_tokens"][row]
        assert (ids[1 + frames(samples) :] == 3).all()
        alone = names["model"].generate(**names["processor"](names["audio_arrays"][row]).to(names["torch_device"]))
        assert torch.equal(ids[: 1 + frames(samples)], alone[0])


def test_configuration():
    with torch.device("meta"):
        names = run(CONFIGURATION)
    parameters = sum(p.numel() for p in names["model"].core.temporal.parameters())
    assert abs(parameters / PUBLISHED_PARAMETERS - 1) < 0.01
    assert isinstance(names["configuration"], earful.KyutaiSpeechToTextConfig)


def test_the_automatic_device():
    assert earful.infer_device() == ("cuda" if torch.cuda.is_available() else "cpu")
