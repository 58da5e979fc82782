"""Every piece of code of the Hugging Face page on Voxtral Realtime, with `earful` in its import line.

The model is a tiny one under the published name, and `load_dataset` gives the clips of this repository.
"""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import earful
from earful.audio.io import read_audio

CLIPS = sorted((Path(__file__).resolve().parents[1] / "data" / "librivox").glob("*.flac"))[:2]
NAME = "mistralai/Voxtral-Mini-4B-Realtime-2602"


@dataclass
class Feature:
    sampling_rate: int = 16_000


class DataSet:
    """As much of a data set of 🤗 Datasets as the page uses; arrays are float64 there too."""

    features = {"audio": Feature()}  # noqa: RUF012

    def __init__(self, *_args: str, split: str) -> None:
        audio = [read_audio(path, 16_000)[:40_000].astype(np.float64) for path in CLIPS]
        self.rows = [{"audio": {"array": array}, "text": "ONE TWO"} for array in audio]

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]

    def sort(self, _column: str) -> "DataSet":
        return self


def run(code: str, **names: object) -> dict:
    names |= {"load_dataset": DataSet, "__name__": "__main__"}
    exec(compile(code, "document", "exec"), names)
    return names


OFFLINE = """
import torch
from earful import VoxtralRealtimeForConditionalGeneration, AutoProcessor

repo_id = "mistralai/Voxtral-Mini-4B-Realtime-2602"

processor = AutoProcessor.from_pretrained(repo_id)
model = VoxtralRealtimeForConditionalGeneration.from_pretrained(repo_id, device_map="auto")

ds = load_dataset("hf-internal-testing/librispeech_asr_dummy", "clean", split="validation")
audio = ds[0]["audio"]["array"]

inputs = processor(audio, return_tensors="pt")
inputs = inputs.to(model.device, dtype=model.dtype)

outputs = model.generate(**inputs)
decoded_outputs = processor.batch_decode(outputs, skip_special_tokens=True)

print(decoded_outputs[0])
"""

BATCHED = """
import torch
from earful import VoxtralRealtimeForConditionalGeneration, AutoProcessor

repo_id = "mistralai/Voxtral-Mini-4B-Realtime-2602"

processor = AutoProcessor.from_pretrained(repo_id)
model = VoxtralRealtimeForConditionalGeneration.from_pretrained(repo_id, device_map="auto")

ds = load_dataset("hf-internal-testing/librispeech_asr_dummy", "clean", split="validation")
audio = [ds[i]["audio"]["array"] for i in range(2)]

inputs = processor(audio, return_tensors="pt")
inputs = inputs.to(model.device, dtype=model.dtype)

outputs = model.generate(**inputs)
decoded_outputs = processor.batch_decode(outputs, skip_special_tokens=True)

for decoded_output in decoded_outputs:
    print(decoded_output)
"""

STREAMING = """
from earful import (
    VoxtralRealtimeProcessor,
    VoxtralRealtimeForConditionalGeneration,
    TextIteratorStreamer,
)
from threading import Thread
import numpy as np

model_id = "mistralai/Voxtral-Mini-4B-Realtime-2602"
processor = VoxtralRealtimeProcessor.from_pretrained(model_id)
model = VoxtralRealtimeForConditionalGeneration.from_pretrained(model_id, device_map="cuda:0")

ds = load_dataset("hf-internal-testing/librispeech_asr_dummy", "clean", split="validation")
audio = ds[0]["audio"]["array"]
# Manually pad the audio to account for right padding tokens required by the model
xaudio = np.pad(audio, (0, processor.num_right_pad_tokens * processor.raw_audio_length_per_tok))

first_chunk_inputs = processor(
    audio[:processor.num_samples_first_audio_chunk],
    is_streaming=True,
    is_first_audio_chunk=True,
    return_tensors="pt"
)
first_chunk_inputs.to(model.device, dtype=model.dtype)

def input_features_generator():
    yield first_chunk_inputs.input_features

    mel_frame_idx = processor.num_mel_frames_first_audio_chunk
    hop_length = processor.feature_extractor.hop_length
    win_length = processor.feature_extractor.win_length

    start_idx = mel_frame_idx * hop_length - win_length // 2
    end_idx = start_idx + processor.num_samples_per_audio_chunk

    while (end_idx:=start_idx + processor.num_samples_per_audio_chunk) < audio.shape[0]:
        inputs = processor(
            audio[start_idx:end_idx],
            is_streaming=True,
            is_first_audio_chunk=False,
            return_tensors="pt"
        )
        inputs.to(model.device, dtype=model.dtype)
        yield inputs.input_features

        mel_frame_idx += processor.audio_length_per_tok
        start_idx = mel_frame_idx * hop_length - win_length // 2

streamer = TextIteratorStreamer(processor.tokenizer, skip_special_tokens=True, clean_up_tokenization_spaces=True)
generate_kwargs = {
    "input_ids": first_chunk_inputs.input_ids,
    "input_features": input_features_generator(),
    "num_delay_tokens": first_chunk_inputs.num_delay_tokens,
    "streamer": streamer,
}
thread = Thread(target=model.generate, kwargs=generate_kwargs)
thread.start()

# Iterate over the streamer to get text chunks as they are generated
print("Model output (streaming):", end=" ", flush=True)
for text_chunk in streamer:
    print(text_chunk, end="", flush=True)
"""

CONFIGURATION = """
from earful import VoxtralRealtimeForConditionalGeneration, VoxtralRealtimeConfig

# Initializing a VoxtralRealtime configuration
configuration = VoxtralRealtimeConfig()

# Initializing a model with random weights
model = VoxtralRealtimeForConditionalGeneration(configuration)

# Accessing the model configuration
configuration = model.config
"""

ENCODER_CONFIGURATION = """
from earful import VoxtralRealtimeEncoderConfig, VoxtralRealtimeEncoder

# Initializing a VoxtralRealtimeEncoderConfig
configuration = VoxtralRealtimeEncoderConfig()

# Initializing a VoxtralRealtimeEncoder (with random weights)
model = VoxtralRealtimeEncoder(configuration)

# Accessing the model configuration
configuration = model.config
"""

FORWARD = """
import torch
from earful import VoxtralRealtimeForConditionalGeneration, AutoProcessor

repo_id = "mistralai/Voxtral-Mini-4B-Realtime-2602"

processor = AutoProcessor.from_pretrained(repo_id)
model = VoxtralRealtimeForConditionalGeneration.from_pretrained(repo_id, dtype=torch.bfloat16, device_map="auto")

ds = load_dataset("hf-internal-testing/librispeech_asr_dummy", "clean", split="validation")
audio = ds[0]["audio"]["array"]

inputs = processor(audio, return_tensors="pt")
inputs = inputs.to(model.device, dtype=model.dtype)

outputs = model.generate(**inputs)
processor.batch_decode(outputs, skip_special_tokens=True)
"""

LOSS = """
from earful import AutoProcessor, VoxtralRealtimeForConditionalGeneration
import torch

dataset = load_dataset("hf-internal-testing/librispeech_asr_demo", "clean", split="validation")
dataset = dataset.sort("id")
sampling_rate = dataset.features["audio"].sampling_rate

processor = AutoProcessor.from_pretrained("mistralai/Voxtral-Mini-4B-Realtime-2602")
model = VoxtralRealtimeForConditionalGeneration.from_pretrained("mistralai/Voxtral-Mini-4B-Realtime-2602")

# audio file is decoded on the fly
inputs = processor(dataset[0]["audio"]["array"], sampling_rate=sampling_rate, return_tensors="pt")
"""
LOSS_LOGITS = """
with torch.no_grad():
    logits = model(**inputs).logits
predicted_ids = torch.argmax(logits, dim=-1)
"""
LOSS_LABELS = """
# transcribe speech
transcription = processor.batch_decode(predicted_ids)
transcription[0]

inputs["labels"] = processor(text=dataset[0]["text"], return_tensors="pt").input_ids

# compute loss
loss = model(**inputs).loss
round(loss.item(), 2)
"""


def test_offline(hub, capsys):
    names = run(OFFLINE)
    assert capsys.readouterr().out == names["decoded_outputs"][0] + "\n"
    slots = -(-40_000 // 1280) + names["processor"].num_right_pad_tokens + 3  # of which the tiny model hears 3 before
    assert names["outputs"].shape == (1, slots)
    assert names["decoded_outputs"][0].strip()


def test_batched(hub, capsys):
    names = run(BATCHED)
    assert capsys.readouterr().out == "".join(text + "\n" for text in names["decoded_outputs"])
    assert len(set(names["decoded_outputs"])) == 2


def test_forward_example(hub):
    names = run(FORWARD)
    assert names["model"].dtype == names["inputs"].input_features.dtype == torch.bfloat16
    assert names["inputs"].input_ids.dtype == torch.int64


def device_here(code: str) -> str:
    """Written for the first GPU; the tests do without."""
    assert code.count('"cuda:0"') == 1
    return code if torch.cuda.is_available() else code.replace('"cuda:0"', '"cpu"')


@pytest.fixture
def joined(monkeypatch):
    """Generation in the snippets' threads: what it returned, once it is done."""
    results = []
    generate = earful.VoxtralRealtimeForConditionalGeneration.generate

    def recorded(*args, **kwargs):
        results.append(generate(*args, **kwargs))

    monkeypatch.setattr(earful.VoxtralRealtimeForConditionalGeneration, "generate", recorded)
    yield results
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(timeout=20)


def last_slots(names: dict, ids: torch.Tensor) -> int:
    """How many slots of the offline sequence a stream has not written."""
    inputs = names["processor"](names["audio"], return_tensors="pt")
    return inputs.input_features.shape[-1] // names["processor"].audio_length_per_tok - (ids.shape[1] - 1)


def test_streaming_as_printed_loses_the_end(hub, joined, capsys):
    names = run(device_here(STREAMING))
    names["thread"].join()
    printed = capsys.readouterr().out.removeprefix("Model output (streaming): ")
    (ids,) = joined
    assert printed == names["processor"].decode(ids[0], skip_special_tokens=True, clean_up_tokenization_spaces=True)
    assert last_slots(names, ids) >= names["processor"].num_right_pad_tokens


def corrected(code: str) -> str:
    """The padding reaches the loop, is whole slots and ends where the last window does, and the last chunk counts."""
    changes = [
        (
            "xaudio = np.pad(audio, (0, processor.num_right_pad_tokens * processor.raw_audio_length_per_tok))",
            "slot = processor.raw_audio_length_per_tok\n"
            "right = -len(audio) % slot + processor.num_right_pad_tokens * slot\n"
            "padded = np.pad(audio, (0, right + processor.feature_extractor.win_length // 2))",
        ),
        ("audio[:processor", "padded[:processor"),
        (") < audio.shape[0]:", ") <= padded.shape[0]:"),
        ("audio[start_idx:end_idx]", "padded[start_idx:end_idx]"),
    ]
    for printed, right in changes:
        assert code.count(printed) == 1
        code = code.replace(printed, right)
    return code


def test_streaming_corrected_is_offline(hub, joined, capsys):
    names = run(device_here(corrected(STREAMING)))
    names["thread"].join()
    (ids,) = joined
    assert last_slots(names, ids) == 0
    processor = names["processor"]
    inputs = processor(names["audio"], return_tensors="pt").to(names["model"].device)
    names["model"].generate(**inputs)
    # The clips are 16-bit recordings, so that offline changes no sample; a stream also uses the last slot.
    assert torch.equal(joined[1], ids[:, :-1])


def test_configuration(hub):
    with torch.device("meta"):  # 4.4 billion parameters
        names = run(CONFIGURATION)
    assert sum(p.numel() for p in names["model"].parameters()) == 4_429_679_360
    assert names["configuration"].text_config.hidden_size == 3072


def test_encoder_configuration(hub):
    with torch.device("meta"):
        names = run(ENCODER_CONFIGURATION)
    assert names["configuration"].hidden_size == 1280
    assert len(names["model"].core.layers) == 32


def test_loss_as_printed_cannot_be_computed(hub):
    # The prompt has fewer ids than the audio has slots, but the sum of both is what the decoder takes.
    names = run(LOSS)
    with pytest.raises(ValueError, match="one per slot of audio"):
        run(LOSS_LOGITS, **names)


def test_loss_corrected(hub):
    # An id for every slot of the audio: here the model's own transcript; then the labels are those ids.
    names = run(LOSS + "inputs['input_ids'] = model.generate(**inputs)\ndel inputs['attention_mask']\n" + LOSS_LOGITS)
    labels = names["processor"](text=names["dataset"][0]["text"], return_tensors="pt").input_ids
    assert names["processor"].decode(labels[0]) == "ONE TWO"
    with pytest.raises(ValueError, match=r"expected labels of shape \[1, 48\], one per logit, got \[1, 7\]"):
        run(LOSS_LABELS, **names)  # the ids of the text alone say nothing of when a word is written
    own = LOSS_LABELS.replace(
        'processor(text=dataset[0]["text"], return_tensors="pt").input_ids', 'inputs["input_ids"]'
    )
    names = run(own, **names)
    expected = torch.nn.functional.cross_entropy(names["logits"][0, :-1], names["inputs"].labels[0, 1:])
    torch.testing.assert_close(names["loss"], expected)
    names["loss"].backward()
    assert all(p.grad is not None for p in names["model"].parameters())
