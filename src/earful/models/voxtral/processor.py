"""Audio to features and text to ids, as Voxtral Realtime wants them; knows nothing of the network.

Time is cut into slots, one token each. Before the audio lie `left_slots` of silence; behind it silence up to a whole
slot, then `right_slots` more, in which the model writes what it still holds back.
Source: mistral-common 1.13 for the padding, transformers 5.23 for the cuts of a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from earful.audio.frames import as_samples
from earful.audio.mel import log_mel
from earful.checkpoint.fields import Fields
from earful.checkpoint.files import replacing, write_json
from earful.models.voxtral.config import AudioConfig, SpecialIds
from earful.models.voxtral.config_files import LOG_MAX, front_end, log_max_of, special_ids
from earful.models.voxtral.config_hf import processor_json
from earful.text.tekken import Tekken

Clip = npt.NDArray[Any]

# What the published checkpoint has, for a model that is built without a tokenizer.
PUBLISHED_AUDIO = AudioConfig(
    rate_hz=16_000, hop=160, window=400, bins=128, log_max=LOG_MAX, left_slots=32, delay_slots=6
)
PUBLISHED_IDS = SpecialIds(bos=1, eos=2, blank=32, word=33, filler=11)


class VoxtralProcessor:
    """Features and ids by the audio block and the special tokens of a tekken.json.

    log_max: the loudest log10 power of a mel frame; None takes it from the audio, which cannot stream.
    Raises `CheckpointError` for a tokenizer without the audio block or the ids of a streaming model.
    """

    def __init__(self, tekken: Tekken, log_max: float | None = LOG_MAX) -> None:
        self.tekken = tekken
        self.audio, self.mels_per_slot = front_end(tekken, log_max)
        self.ids = special_ids(tekken, filler=tekken.special_tokens.get("<pad>"))

    @classmethod
    def from_folder(cls, folder: Path) -> VoxtralProcessor:
        """Of a checkpoint folder in either layout; raises `CheckpointError` for what cannot be read."""
        tekken = Tekken.from_file(folder / "tekken.json")
        for name, blocks in MEL_SETTINGS.items():
            if (folder / name).is_file():
                fields = Fields.from_file(folder / name)
                for block in blocks:
                    fields = fields.block(block, {})
                return cls(tekken, log_max_of(fields))
        return cls(tekken)

    def save(self, folder: Path) -> None:
        """Write processor_config.json and tekken.json; raises `CheckpointError` when it cannot."""
        write_json(folder / "processor_config.json", processor_json(self.audio))
        self.save_tokenizer(folder)

    def save_tokenizer(self, folder: Path) -> None:
        """Write tekken.json; raises `CheckpointError` when it cannot."""
        with replacing(folder / "tekken.json") as temporary:
            self.tekken.save(temporary)

    @property
    def slot_samples(self) -> int:
        return self.mels_per_slot * self.audio.hop

    @property
    def right_slots(self) -> int:
        """Slots of silence behind the audio: the delay, the first token's own, and those of the last word."""
        return self.audio.delay_slots + 1 + self.audio.tail_slots

    @property
    def prompt(self) -> list[int]:
        """The ids before the first that the model writes."""
        return [self.ids.bos] + [self.ids.blank] * (self.audio.left_slots + self.audio.delay_slots)

    @property
    def first_mels(self) -> int:
        """Mel frames of the audio under the prompt, those of the silence before it not counted."""
        return (self.audio.delay_slots + 1) * self.mels_per_slot

    @property
    def first_samples(self) -> int:
        """Samples of the first chunk of a stream: all that its last mel frame hears, and a whole hop for each."""
        a = self.audio
        return max((self.first_mels - 1) * a.hop + a.window // 2, self.first_mels * a.hop)

    @property
    def chunk_samples(self) -> int:
        """Samples of each later chunk: one slot, the window, and the hop by which the reference reads too far."""
        return self.slot_samples + self.audio.window

    def whole(self, clips: Sequence[Clip]) -> Tensor:
        """Features of whole clips with the silence around them: float32 [B, bins, F], F of the longest one.

        clips: float in -1..1 or int16, each [N]; floats become 16-bit samples as in the reference.
        """
        a, slot = self.audio, self.slot_samples
        tail = self.right_slots * slot
        padded = [np.pad(to_16_bit(clip), (a.left_slots * slot, -len(clip) % slot + tail)) for clip in clips]
        return mel(padded, a, center=True)

    def first(self, clips: Sequence[Clip]) -> Tensor:
        """Features of the first chunks of streams, with the silence before them: float32 [B, bins, F]."""
        left = self.audio.left_slots * self.slot_samples
        return mel([np.pad(to_float(clip), (left, 0)) for clip in clips], self.audio, center=True)

    def later(self, clips: Sequence[Clip]) -> Tensor:
        """Features of later chunks: float32 [B, bins, F]."""
        return mel([to_float(clip) for clip in clips], self.audio, center=False)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, no special ones among them."""
        return self.tekken.encode(text)

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """Text of ids. Special ids stand for nothing, or, when kept, for their names between the runs of others."""
        if not keep_special:
            return self.tekken.decode(ids)
        special = list(self.tekken.special_tokens)
        return "".join(
            "".join(special[id] for id in run) if is_special else self.tekken.decode(run)
            for is_special, run in groupby(ids, key=lambda id: 0 <= id < len(special))
        )


# Where the loudest power is written, by file: the objects that lead there. The first file that exists counts.
MEL_SETTINGS = {
    "processor_config.json": ("feature_extractor",),
    "preprocessor_config.json": (),
    "params.json": ("multimodal", "whisper_model_args", "encoder_args", "audio_encoding_args"),
}


def mel(clips: Sequence[Clip], audio: AudioConfig, center: bool) -> Tensor:
    """Features of clips, the shorter ones followed by silence: [B, bins, F] float32.

    center: the clips are whole signals; otherwise pieces of one, whose last frame is dropped as in the reference.
    """
    samples = np.zeros((len(clips), max(map(len, clips))), np.float32)
    for row, clip in zip(samples, clips, strict=True):
        row[: len(clip)] = as_samples(clip)
    features = log_mel(
        torch.from_numpy(samples), audio.rate_hz, audio.hop, audio.window, audio.bins, audio.log_max, center
    )
    return features if center else features[..., :-1]


def to_float(clip: Clip) -> npt.NDArray[np.float32]:
    """int16, or float in -1..1, to float32 [N]; raises `AudioError` for anything else."""
    return as_samples(clip / np.float32(32768) if clip.dtype == np.int16 else clip)


def to_16_bit(clip: Clip) -> npt.NDArray[np.float32]:
    """The float32 samples that are left of a clip once a 16-bit WAV file has held it, as offline in the reference.

    libsndfile first rounds to 32 bits and then cuts the lower half off; louder samples than 1 are clipped.
    """
    if clip.dtype == np.int16:
        return to_float(clip)
    as_samples(clip)  # refuses what is no clip
    levels = np.floor(np.rint(clip.astype(np.float64) * 2**31) / 2**16)
    return (levels.clip(-32768, 32767) / 32768).astype(np.float32)
