"""The configuration of Voxtral Realtime as checkpoints hold it: Mistral's files and Hugging Face's, read and written.

Both share tekken.json, whose audio block and special tokens are part of the configuration. What a file leaves out takes
the reference's default; every size is bounded before anything is built from it.
Source: the published checkpoint, mistralai/Voxtral-Mini-4B-Realtime-2602; transformers 5.23 for Hugging Face's files.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, replacing
from earful.errors import CheckpointError
from earful.models.voxtral.config import AudioConfig, SpecialIds, VoxtralConfig
from earful.text.tekken import Tekken

ROPE_BASE = 1e6  # of both networks where a file does not say; the reference's default for the encoder, 1e4, is wrong
NORM_EPS = 1e-5
LOG_MAX = 1.5
CONV_STRIDE = 2  # mel frames to an encoder frame
ADA_TENSORS = (  # [ada_dim, dim] in each layout and naming
    "layers.0.ada_rms_norm_t_cond.0.weight",
    "language_model.model.layers.0.ada_rms_norm.linear1.weight",
    "model.language_model.layers.0.ada_rms_norm.linear1.weight",
)
# Sizes that a file may ask for. They are far beyond any model, and keep a forged config from taking memory.
BOUNDS = {
    "mels": (1, 1 << 10),
    "dim": (2, 1 << 16),
    "layers": (1, 1 << 10),
    "heads": (1, 1 << 10),
    "kv_heads": (1, 1 << 10),
    "head_dim": (2, 1 << 10),
    "mlp_dim": (1, 1 << 18),
    "window": (1, 1 << 20),
    "vocab": (1, 1 << 20),
}
ENCODER_SIZES = ("dim", "layers", "heads", "kv_heads", "head_dim", "mlp_dim", "window")
DECODER_SIZES = (*ENCODER_SIZES, "vocab")


def front_end(tekken: Tekken, log_max: float | None) -> tuple[AudioConfig, int]:
    """The audio block of tekken.json, and the mel frames to a slot that follow from it."""
    if tekken.audio is None:
        raise CheckpointError(f"{tekken.name}: expected an audio block, got none")
    fields = Fields(tekken.audio, f"{tekken.name}: audio")
    fields.only(transcription_format="streaming")
    mel = fields.block("audio_encoding_config")
    rate_hz, hop = fields.whole("sampling_rate", 4_000, 384_000), mel.whole("hop_length", 1, 1 << 16)
    slots_per_s = fields.number("frame_rate", 0.1, 1_000)
    delay_ms = fields.number("transcription_delay_ms", 1, 100_000)
    audio = AudioConfig(
        rate_hz=rate_hz,
        hop=hop,
        window=mel.whole("window_size", 2, 1 << 16),
        bins=mel.whole("num_mel_bins", *BOUNDS["mels"]),
        log_max=log_max,
        left_slots=fields.whole("streaming_n_left_pad_tokens", 0, 10_000),
        delay_slots=_whole(delay_ms * slots_per_s / 1_000, f"{fields.where}: transcription_delay_ms", "slots"),
    )
    return audio, _whole(rate_hz / slots_per_s / hop, f"{fields.where}: a slot", "mel frames")


def _whole(count: float, where: str, unit: str) -> int:
    if count < 0.5 or abs(count - round(count)) > 1e-6:
        raise CheckpointError(f"{where}: expected a whole number of {unit}, got {count:g}")
    return round(count)


def special_ids(tekken: Tekken, eos: int | None = None, filler: int | None = None) -> SpecialIds:
    """Ids by their names in tekken.json; eos, filler: other ones, where a layout has them elsewhere."""
    eos = tekken.special_id("</s>") if eos is None else eos
    return SpecialIds(
        bos=tekken.special_id("<s>"),
        eos=eos,
        blank=tekken.special_id("[STREAMING_PAD]"),
        word=tekken.special_id("[STREAMING_WORD]"),
        filler=eos if filler is None else filler,
    )


def rope_base_of(fields: Fields) -> float:
    """Of one network; older files of Hugging Face's have it beside the sizes, as Mistral's do."""
    rope = fields.block("rope_parameters") if fields.values.get("rope_parameters") is not None else fields
    rope.only(rope_type="default")
    return rope.number("rope_theta", 1, 1e12, ROPE_BASE)


def log_max_of(fields: Fields) -> float | None:
    if fields.values.get("global_log_mel_max", LOG_MAX) is None:
        return None
    return fields.number("global_log_mel_max", -100, 100, LOG_MAX)


def sizes(
    fields: Fields, keys: Mapping[str, str], wanted: Sequence[str], defaults: Mapping[str, int]
) -> dict[str, int]:
    return {name: fields.whole(keys[name], *BOUNDS[name], defaults.get(name)) for name in wanted}


def ada_dim_of(weights: Weights) -> int:
    """Hugging Face's files have no key for it, so it is read from a tensor."""
    name = next((name for name in ADA_TENSORS if name in weights), ADA_TENSORS[0])
    shape = weights.shape(name)
    if len(shape) != 2 or not 1 <= shape[0] <= BOUNDS["dim"][1]:
        raise CheckpointError(f"{weights.where}: expected a matrix in {name}, got the shape {list(shape)}")
    return shape[0]


def checked(config: VoxtralConfig, where: str, tekken: Tekken) -> VoxtralConfig:
    """The config, once its parts are found to fit each other."""
    for name, part in (("encoder", config.encoder), ("decoder", config.decoder)):
        if part.heads % part.kv_heads:
            raise CheckpointError(f"{where}: {name}: expected heads in groups of {part.kv_heads}, got {part.heads}")
        if part.head_dim % 2:
            raise CheckpointError(f"{where}: {name}: expected an even head_dim, got {part.head_dim}")
    if config.decoder.dim % 2:
        raise CheckpointError(f"{where}: decoder: expected an even width, got {config.decoder.dim}")
    if config.encoder.mels != config.audio.bins:
        raise CheckpointError(
            f"{where}: expected {config.audio.bins} mel bins as in {tekken.name}, got {config.encoder.mels}"
        )
    if config.mels_per_slot != CONV_STRIDE * config.downsample:
        raise CheckpointError(
            f"{where}: expected a downsample_factor of {config.mels_per_slot / CONV_STRIDE:g}, half of the "
            f"{config.mels_per_slot} mel frames to a slot, got {config.downsample}"
        )
    if config.decoder.vocab != tekken.vocab:
        raise CheckpointError(
            f"{where}: expected a vocabulary of {tekken.vocab} as in {tekken.name}, got {config.decoder.vocab}"
        )
    return config


def agree(fields: Fields, audio: AudioConfig, **keys: str) -> None:
    """What a second file says of the front end must be what tekken.json says."""
    fields.only(**{key: getattr(audio, name) for key, name in keys.items()})


def write_tekken(config: VoxtralConfig, source: Path, path: Path) -> None:
    """A copy of the tokenizer file `source`, with the audio block of this model where it has another or none.

    Raises `CheckpointError` when the one cannot be read or the other not written.
    """
    audio, tekken = config.audio, Tekken.from_file(source)
    as_read = replace(audio, tail_slots=AudioConfig.tail_slots), config.mels_per_slot
    if tekken.audio is not None and front_end(tekken, audio.log_max) == as_read:
        with replacing(path) as temporary:
            shutil.copyfile(source, temporary)
        return
    # What a slot hears beyond its own samples: half a window at either end and the convolutions' past of four frames.
    ahead, back = max(0, audio.window // 2 - audio.hop), audio.window // 2 + 4 * audio.hop
    block = {
        "sampling_rate": audio.rate_hz,
        "frame_rate": audio.rate_hz / config.slot_samples,
        "audio_encoding_config": {"num_mel_bins": audio.bins, "hop_length": audio.hop, "window_size": audio.window},
        "transcription_format": "streaming",
        "transcription_delay_ms": audio.delay_slots * config.slot_samples * 1_000 / audio.rate_hz,
        "streaming_look_ahead_ms": ahead * 1_000 / audio.rate_hz,
        "streaming_look_back_ms": back * 1_000 / audio.rate_hz,
        "streaming_n_left_pad_tokens": audio.left_slots,
    }
    with replacing(path) as temporary:
        Tekken.from_json({**tekken.to_json(), "audio": block}, tekken.name).save(temporary)
