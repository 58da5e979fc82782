"""Every piece of code of the Hugging Face page on Moshi, with `earful` in its import line.

The models are tiny ones under the published names. `load_dataset` gives a clip of this repository, and the import of
the library that it comes from is left out.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import earful
from earful.audio.io import read_audio
from tests.hf.test_moshi_config import CODEC, DEPTH

RECORDING = sorted((Path(__file__).resolve().parents[1] / "data" / "librivox").glob("*.flac"))[0]
SAMPLES, Q = 10_000, 3


@dataclass
class Audio:
    sampling_rate: int


class DataSet:
    """As much of a data set of 🤗 Datasets as the page uses; arrays are float64 there too."""

    def __init__(self, *_args: str, split: str) -> None:
        self.rate_hz = 16_000

    def cast_column(self, column: str, kind: Audio) -> "DataSet":
        assert column == "audio"
        self.rate_hz = kind.sampling_rate
        return self

    def __getitem__(self, index: int) -> dict:
        return {"audio": {"array": read_audio(RECORDING, self.rate_hz)[:SAMPLES].astype(np.float64)}}


def run(code: str, **names: object) -> dict:
    """As the page prints it, with prompts."""
    plain = "\n".join(line[4:] for line in code.splitlines() if line.startswith((">>>", "...")))
    names |= {"load_dataset": DataSet, "Audio": Audio, "__name__": "__main__"}
    exec(compile(plain, "document", "exec"), names)
    return names


GENERATION = """
>>> import torch, math
>>> from earful import MoshiForConditionalGeneration, AutoFeatureExtractor, AutoTokenizer, infer_device


>>> librispeech_dummy = load_dataset("hf-internal-testing/librispeech_asr_dummy", "clean", split="validation")
>>> feature_extractor = AutoFeatureExtractor.from_pretrained("kyutai/moshiko-pytorch-bf16")
>>> tokenizer = AutoTokenizer.from_pretrained("kyutai/moshiko-pytorch-bf16")
>>> device = infer_device()
>>> dtype = torch.bfloat16

>>> # prepare user input audio 
>>> librispeech_dummy = librispeech_dummy.cast_column("audio", Audio(sampling_rate=feature_extractor.sampling_rate))
>>> audio_sample = librispeech_dummy[-1]["audio"]["array"]
>>> user_input_values = feature_extractor(raw_audio=audio_sample, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt").to(device=device, dtype=dtype)

>>> # prepare moshi input values - we suppose moshi didn't say anything while the user spoke
>>> moshi_input_values = torch.zeros_like(user_input_values.input_values)

>>> # prepare moshi input ids - we suppose moshi didn't say anything while the user spoke
>>> num_tokens = math.ceil(moshi_input_values.shape[-1] * waveform_to_token_ratio)
>>> input_ids = torch.ones((1, num_tokens), device=device, dtype=torch.int64) * tokenizer.encode("<pad>")[0]

>>> # generate 25 new tokens (around 2s of audio)
>>> output = model.generate(input_ids=input_ids, user_input_values=user_input_values.input_values, moshi_input_values=moshi_input_values, max_new_tokens=25)

>>> text_tokens = output.sequences
>>> audio_waveforms = output.audio_sequences
"""  # noqa: E501, W291

CONFIGURATION = """
>>> from earful import (
...     MoshiConfig,
...     MoshiForConditionalGeneration,
... )

>>> configuration = MoshiConfig()

>>> # Initializing a MoshiForConditionalGeneration (with random weights) from the kmhf/hf-moshiko style configuration
>>> model = MoshiForConditionalGeneration(configuration)

>>> # Accessing the model configuration
>>> configuration = model.config
"""
SAVING = """
>>> # Saving the model, including its configuration
>>> model.save_pretrained("kmhf/hf-moshiko")

>>> # loading model and config from pretrained folder
>>> moshi_config = MoshiConfig.from_pretrained("kmhf/hf-moshiko")
>>> model = MoshiForConditionalGeneration.from_pretrained("kmhf/hf-moshiko", config=moshi_config)
"""

DEPTH_CONFIGURATION = """
>>> from earful import (
...     MoshiDepthConfig,
...     MoshiDepthDecoder,
... )

>>> configuration = MoshiDepthConfig()

>>> # Initializing a MoshiDepthDecoder (with random weights) from the kmhf/hf-moshiko style configuration
>>> model = MoshiDepthDecoder(configuration)

>>> # Accessing the model configuration
>>> configuration = model.config
"""

TEXT = """
>>> from earful import AutoTokenizer, MoshiForCausalLM

>>> model = MoshiForCausalLM.from_pretrained("kmhf/hf-moshiko")
>>> tokenizer = AutoTokenizer.from_pretrained("kmhf/hf-moshiko")

>>> prompt = "What is your favorite condiment?"
>>> inputs = tokenizer(prompt, return_tensors="pt")

>>> # Generate
>>> generate_ids = model.generate(inputs.input_ids, max_length=30)
>>> text = tokenizer.batch_decode(generate_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)[0]
"""

FORWARD = """
>>> from earful import MoshiForConditionalGeneration
>>> import torch

>>> model = MoshiForConditionalGeneration.from_pretrained("kmhf/hf-moshiko")
>>> inputs = moshi.get_unconditional_inputs()

>>> logits = model(**inputs, ).logits
>>> logits.shape  # (bsz, seq_len, text_vocab_size)
"""

UNCONDITIONAL = """
>>> from earful import MoshiForConditionalGeneration

>>> model = MoshiForConditionalGeneration.from_pretrained("kmhf/hf-moshiko-pytorch-bf16")

>>> # get the unconditional (or 'null') inputs for the model
>>> unconditional_inputs = model.get_unconditional_inputs(num_samples=1)
>>> audio_samples = model.generate(**unconditional_inputs, max_new_tokens=256)
"""


@pytest.fixture(scope="module")
def model(hub):
    return earful.MoshiForConditionalGeneration.from_pretrained("kmhf/hf-moshiko", device_map=earful.infer_device())


def test_generation(model):
    """The page leaves two names open: the model, and how many frames there are to a sample."""
    ratio = model.config.audio_encoder_config.frame_rate / model.config.sampling_rate
    names = run(GENERATION, model=model, waveform_to_token_ratio=ratio)
    frames = -(-SAMPLES // 384)
    assert names["text_tokens"].shape == (1, 1 + frames + 25)
    assert (names["text_tokens"][0, 1 : 1 + frames] == 3).all()
    assert names["audio_waveforms"].shape == (1, 1, (frames + 24) * 384)
    assert names["user_input_values"].input_values.dtype == torch.bfloat16


def test_configuration():
    with torch.device("meta"):  # 7.7 billion parameters
        names = run(CONFIGURATION)
    assert isinstance(names["configuration"], earful.MoshiConfig)
    assert names["model"].core.config.own == 8


def test_configuration_saved_and_loaded(tmp_path, monkeypatch):
    """Of a tiny model: the bare configuration is the published one."""
    monkeypatch.chdir(tmp_path)

    def tiny():
        return earful.MoshiConfig(
            vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, ffn_dim=40, num_codebooks=Q,
            audio_encoder_config=CODEC, depth_decoder_config=DEPTH,
        )  # fmt: skip

    torch.manual_seed(0)
    made = run(CONFIGURATION.replace("MoshiConfig()", "tiny()"), tiny=tiny)
    again = run(SAVING, **{name: made[name] for name in ("model", "MoshiConfig", "MoshiForConditionalGeneration")})
    assert again["model"].config is again["moshi_config"]
    assert again["moshi_config"].to_core() == tiny().to_core()
    for here, there in zip(again["model"].parameters(), made["model"].parameters(), strict=True):
        assert torch.equal(here, there)


def test_depth_configuration():
    with torch.device("meta"):  # 1.1 billion parameters
        names = run(DEPTH_CONFIGURATION)
    assert names["configuration"].hidden_size == 1024
    assert len(names["model"].core.layers) == 6


def test_text(hub):
    names = run(TEXT)
    prompt = names["inputs"].input_ids
    assert names["generate_ids"].shape == (1, 30)
    assert prompt.shape[1] < 30
    assert torch.equal(names["generate_ids"][:, : prompt.shape[1]], prompt)
    assert names["text"].startswith("What is your favorite condiment?")


def test_forward_as_printed_and_corrected(hub):
    with pytest.raises(NameError, match="moshi"):
        run(FORWARD)
    names = run(FORWARD.replace("moshi.get", "model.get"))
    assert names["logits"].shape == torch.Size([1, 1, 320])


def test_unconditional(hub):
    names = run(UNCONDITIONAL.replace("256", "40"))
    assert names["audio_samples"].sequences.shape == (1, 41)
    assert names["audio_samples"].audio_sequences.shape == (1, 1, 39 * 384)
