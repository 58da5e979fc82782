"""The configuration as Kyutai's files hold it: config.json, which also names the files of weights and tokenizer.

Source: the published checkpoints, kyutai/stt-1b-en_fr, its -candle twin and kyutai/stt-2.6b-en; moshi 0.2.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from earful.checkpoint.derived import adapted, unscaled
from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Weights, open_weights, replacing, write_json
from earful.errors import CheckpointError
from earful.models.kyutai_stt.config import KyutaiSttConfig
from earful.models.kyutai_stt.config_files import HORIZONS_S, MAX_DELAY_S, checked, sizes
from earful.models.mimi.config import MIMI
from earful.models.mimi.config_kyutai import from_kyutai, mimi_config
from earful.models.mimi.layouts import ATTENTION
from earful.models.moshi.config import TemporalConfig
from earful.text.sentencepiece import SentencePiece

KEYS = {
    "dim": "dim",
    "layers": "num_layers",
    "heads": "num_heads",
    "window": "context",
    "text_vocab": "text_card",
    "codebooks": "n_q",
    "audio_vocab": "card",
}
# What is the same in every model that is read here, and what a file means by a key that it leaves out.
FIXED = {
    "causal": True,
    "cross_attention": False,
    "demux_second_text_stream": False,
    "dep_q": 0,
    "gating": "silu",
    "layer_scale": None,
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
}
# What a file says of a depth model that is not there.
DEPTH = {
    "depformer_dim": 1024,
    "depformer_dim_feedforward": None,
    "depformer_multi_linear": True,
    "depformer_num_heads": 16,
    "depformer_num_layers": 6,
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
}
NORM_EPS = 1e-8  # of every model
STEMS = {"moshi_name": "model", "mimi_name": "mimi", "lora_name": "lora"}
TOKENIZER = "tokenizer.model"
CODEC = "mimi."  # before the names of the codec's tensors, where they stand beside the others
CODEC_CONFIG = "mimi_config.json"
# Published folders whose config.json leaves these out mean the files of Moshi's.
NAMES = {
    "moshi_name": "model.safetensors",
    "mimi_name": "tokenizer-e351c8d8-checkpoint125.safetensors",
    "tokenizer_name": "tokenizer_spm_32k_3.model",
}
HEAD = re.compile(r"extra_heads\.(0|[1-9][0-9]*)\.weight")


def is_kyutai(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a model that only listens; Moshi itself has a depth model that speaks."""
    return config.get("model_type") == "stt" or (config.get("dep_q") == 0 and "text_card" in config)


def file_of(folder: Path, key: str) -> Path:
    """A file that config.json names; raises `CheckpointError` for a name outside the folder."""
    fields = Fields.from_file(folder / "config.json")
    name = fields.values.get(key, NAMES.get(key))
    if not isinstance(name, str) or Path(name).name != name:
        raise fields.unfit(key, "the name of a file in the same folder")
    return folder / name


def find_tokenizer(folder: Path) -> str:
    return file_of(folder, "tokenizer_name").name


def open_kyutai(folder: Path) -> Weights:
    """The tensors of the language model and, their names behind `CODEC`, those of the codec.

    8-bit tensors are given as floats, and low-rank changes are added. Raises `CheckpointError` like `open_weights`.
    """
    fields = Fields.from_file(folder / "config.json")

    def listed(key: str) -> Weights:
        path = file_of(folder, key)
        if path.suffix != ".safetensors":
            raise fields.unfit(key, "a safetensors file: other kinds can run code and are never opened")
        return open_weights(folder, path.stem)

    entries = unscaled(listed("moshi_name").entries)
    if fields.flag("lora", False):
        scaling = fields.number("lora_scaling", -1e6, 1e6, 2.0)
        entries = adapted(entries, unscaled(listed("lora_name").entries), scaling, _names)
    codec = {CODEC + name: entry for name, entry in listed("mimi_name").items()}
    return Weights({**entries, **codec}, str(folder))


def _names(name: str) -> list[str]:
    """Every name that Kyutai's files have had for a tensor."""
    for alike in zip(*ATTENTION, strict=True):
        for ending in alike:
            if name.endswith(f".self_attn.{ending}"):
                return [name.removesuffix(ending) + other for other in alike]
    return [name]


def read_kyutai(folder: Path, weights: Weights) -> KyutaiSttConfig:
    """From config.json; raises `CheckpointError` naming file and key, and what came instead."""
    fields = Fields.from_file(folder / "config.json")
    fields.only(**FIXED)
    fields.only(kv_repeat=1, norm_emb=False, bias_proj=False, text_card_out=None)
    if fields.values.get("conditioners"):  # without any, a fuser has nothing to do
        raise fields.unfit("conditioners", "none")
    named = sizes(fields, KEYS, list(KEYS), {})
    dim, heads = named["dim"], named["heads"]
    if dim % heads:
        raise fields.unfit("num_heads", f"a divisor of {dim}")
    delays = fields.values.get("delays", [0] * (named["codebooks"] + 1))
    if delays != [0] * (named["codebooks"] + 1):
        raise fields.unfit("delays", f"{named['codebooks'] + 1} zeros")
    stt = fields.block("stt_config", {})
    codec = MIMI
    if fields.values.get("mimi_config_name") is not None:
        codec = from_kyutai(Fields.from_file(file_of(folder, "mimi_config_name")))
    vad_heads, vad_classes = heads_of(fields, weights)
    config = KyutaiSttConfig(
        TemporalConfig(
            **named,
            head_dim=dim // heads,
            mlp_dim=mlp_dim_of(dim, fields.number("hidden_scale", 0, 1 << 10, 4.0)),
            rope_base=fields.number("max_period", 1, 1e12),
            norm_eps=NORM_EPS,
        ),
        codec,
        vad_heads,
        vad_classes,
        pad_id=fields.whole("existing_text_padding_id", 0, 1 << 20, 3),
        word_id=fields.whole("existing_text_end_padding_id", 0, 1 << 20, 0),
        # What Kyutai's own programs take where a file says nothing.
        delay_s=stt.number("audio_delay_seconds", 0, MAX_DELAY_S, 5.0),
        prefix_s=stt.number("audio_silence_prefix_seconds", 0, MAX_DELAY_S, 1.0),
    )
    return checked(config, fields.where)


def heads_of(fields: Fields, weights: Weights) -> tuple[int, int]:
    """The number of VAD heads and of their classes: the tensors tell, as published files have no key for them."""
    heads = [name for name in weights if HEAD.fullmatch(name)]
    if fields.values.get("extra_heads_num_heads") is not None:
        fields.whole("extra_heads_num_heads", 0, len(HORIZONS_S))
        fields.only(extra_heads_num_heads=len(heads))
    return len(heads), weights.shape(heads[0])[0] if heads else 0


def mlp_dim_of(dim: int, hidden_scale: float) -> int:
    """The inner width behind the gate, by the rule of the reference."""
    feedforward = int(hidden_scale * dim)
    return 21 * dim // 8 if feedforward == 4 * dim else 2 * feedforward // 3


def hidden_scale_of(dim: int, mlp_dim: int) -> float:
    """What `mlp_dim_of` makes this inner width of."""
    feedforward = (3 * mlp_dim + 1) // 2
    for scale in (feedforward / dim, (feedforward + 0.5) / dim, (feedforward + 1.5) / dim):
        if mlp_dim_of(dim, scale) == mlp_dim:
            return scale
    raise CheckpointError(f"expected an inner width that Kyutai's layout can say, got {mlp_dim} of a width of {dim}")


def to_kyutai(config: KyutaiSttConfig) -> dict[str, Any]:
    """The config.json of a model; raises `CheckpointError` for one that it cannot describe."""
    c = config.temporal
    if c.heads * c.head_dim != c.dim or c.norm_eps != NORM_EPS:
        raise CheckpointError(
            f"expected heads of {c.dim} together and a norm_eps of {NORM_EPS}: Kyutai's layout cannot say otherwise; "
            f"got {c.heads} x {c.head_dim} and {c.norm_eps}"
        )
    document = {
        **FIXED,
        **DEPTH,
        **{key: getattr(c, name) for name, key in KEYS.items()},
        "conditioners": {},
        "delays": [0] * (c.codebooks + 1),
        "existing_text_end_padding_id": config.word_id,
        "existing_text_padding_id": config.pad_id,
        "fuser": None,
        "hidden_scale": hidden_scale_of(c.dim, c.mlp_dim),
        "lm_gen_config": {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 50},
        "max_period": c.rope_base,
        "mimi_name": f"{STEMS['mimi_name']}.safetensors",
        "model_type": "stt",
        "moshi_name": f"{STEMS['moshi_name']}.safetensors",
        "stt_config": {
            "audio_delay_seconds": config.delay_s,
            "audio_silence_prefix_seconds": config.prefix_s,
        },
        "tokenizer_name": TOKENIZER,
    }
    del document["demux_second_text_stream"]
    if config.vad_heads:
        document |= {"extra_heads_num_heads": config.vad_heads, "extra_heads_dim": config.vad_classes}
    if config.codec != MIMI:
        document |= {"mimi_config_name": CODEC_CONFIG}
    return document


def write_kyutai(config: KyutaiSttConfig, folder: Path, dtype: torch.dtype, tokenizer: Path | None) -> None:
    """config.json, the codec's own where it is not the published one, and the tokenizer made from the file `tokenizer`.

    Raises `CheckpointError` for a model that the layout cannot describe and when it cannot write.
    """
    write_json(folder / "config.json", to_kyutai(config))
    if config.codec != MIMI:
        write_json(folder / CODEC_CONFIG, mimi_config(config.codec))
    if tokenizer:
        vocabulary = SentencePiece.from_file(tokenizer)
        with replacing(folder / TOKENIZER) as temporary:
            temporary.write_bytes(vocabulary.to_model())
