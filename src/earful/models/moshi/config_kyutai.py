"""The configuration as Kyutai's files hold it: config.json, which also names the files of weights and tokenizer.

The first repositories have no config.json at all: theirs is the published model, under the names in `NAMES`.
Source: the published checkpoints, kyutai/moshiko-pytorch-bf16 and its siblings; moshi 0.2.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from earful.checkpoint.derived import adapted, unscaled
from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Entry, Weights, open_weights, read_header, replacing, write_json
from earful.errors import CheckpointError
from earful.models.mimi.config import MIMI, MimiConfig
from earful.models.mimi.config_kyutai import from_kyutai, mimi_config
from earful.models.moshi.config import MOSHI_7B, ConditionConfig, DepthConfig, MoshiConfig, TemporalConfig
from earful.models.moshi.config_files import BOUNDS, MAX_DELAY_FRAMES, checked, sizes
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
DEPTH_KEYS = {"dim": "depformer_dim", "layers": "depformer_num_layers", "heads": "depformer_num_heads"}
# What is the same in every model that is read here, and what a file means by a key that it leaves out.
FIXED = {"causal": True, "layer_scale": None}
NORMS = {"rms_norm_f32": ("rms", 1e-8), "layer_norm": ("layer", 1e-5)}  # their names, ours, and what they add
GATING = {"silu": True, "none": False}
POSITIONS = {"rope": True, "sin": False}
DEPTH_POSITIONS = ("none", "sin")
UNUSED = {  # the same, but seldom said
    "bias_proj": False,
    "cross_attention": False,
    "demux_second_stream": False,
    "demux_second_text_stream": False,
    "kv_repeat": 1,
    "norm_emb": False,
}
DEPTH_FIXED = {
    "depformer_gating": "silu",
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_weights_per_step": True,
}
DEPTH_UNUSED = {"depformer_kv_repeat": 1, "depformer_norm": None}
BESIDE = {"depformer_context": 8, "depformer_max_period": 10000}  # what a file says beside, mostly for nothing
STEMS = {"moshi_name": "model", "mimi_name": "mimi", "lora_name": "lora"}
TOKENIZER = "tokenizer.model"
CODEC = "mimi."  # before the names of the codec's tensors, where they stand beside the others
CODEC_CONFIG = "mimi_config.json"
# A config.json that leaves these out means the files of Moshi's first repositories.
NAMES = {
    "moshi_name": "model.safetensors",
    "mimi_name": "tokenizer-e351c8d8-checkpoint125.safetensors",
    "tokenizer_name": "tokenizer_spm_32k_3.model",
}
FIRST_STEMS = ("model", "model.q8")  # of repositories without a config.json
SPEAKS = "depformer_in.0.weight"
MOST_CONDITIONS = 32
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of a condition
# A projection of attention whose weight sets lie in one tensor, and what may stand behind its name.
PROJECTION = re.compile(r"(.+\.self_attn\.(?:in|out)_proj)(?:_weight|(\.lora_[AB])?\.weight)(_scb)?")


def is_kyutai(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a model that speaks; Kyutai Speech-To-Text has no depth model."""
    return "text_card" in config and config.get("dep_q") != 0 and config.get("model_type") != "stt"


def find_first(folder: Path) -> str | None:
    """The stem of the weights in a folder without a config.json, if they are Moshi's."""
    for stem in FIRST_STEMS:
        path = folder / f"{stem}.safetensors"
        if not (folder / "config.json").exists() and path.is_file() and SPEAKS in read_header(path):
            return stem
    return None


def settings(folder: Path) -> Fields:
    """The content of config.json, or what a folder without one means."""
    if (folder / "config.json").is_file():
        return Fields.from_file(folder / "config.json")
    return Fields({"moshi_name": f"{find_first(folder)}.safetensors"}, str(folder))


def file_of(folder: Path, key: str) -> Path:
    """A file that config.json names; raises `CheckpointError` for a name outside the folder."""
    fields = settings(folder)
    name = fields.values.get(key, NAMES.get(key))
    if not isinstance(name, str) or Path(name).name != name:
        raise fields.unfit(key, "the name of a file in the same folder")
    return folder / name


def find_tokenizer(folder: Path) -> str:
    return file_of(folder, "tokenizer_name").name


def open_kyutai(folder: Path) -> Weights:
    """The tensors of the language model and, their names behind `CODEC`, those of the codec.

    Projections of attention have a tensor to each set of weights, 8-bit tensors are given as floats, and low-rank
    changes are added. Raises `CheckpointError` like `open_weights`.
    """
    fields = settings(folder)

    def listed(key: str) -> Weights:
        path = file_of(folder, key)
        if path.suffix != ".safetensors":
            raise fields.unfit(key, "a safetensors file: other kinds can run code and are never opened")
        return open_weights(folder, path.stem)

    tensors = listed("moshi_name").entries
    sets = sum(re.fullmatch(r"depformer_in\.\d+\.weight", name) is not None for name in tensors)
    entries = unscaled(unpacked(tensors, sets))
    if fields.flag("lora", False):
        scaling = fields.number("lora_scaling", -1e6, 1e6, 2.0)
        entries = adapted(entries, unscaled(unpacked(listed("lora_name").entries, sets)), scaling)
    codec = {CODEC + name: entry for name, entry in unpacked(listed("mimi_name").entries, 0).items()}
    return Weights({**entries, **codec}, str(folder))


def unpacked(entries: Mapping[str, Entry], sets: int) -> dict[str, Entry]:
    """The tensors of a file, with one to each set of weights where attention has them in one, under the newest names.

    sets: of the depth model, whose rows lie one set below the other; other transformers have one.
    """
    result = {}
    for name, entry in entries.items():
        found = PROJECTION.fullmatch(name)
        count = 0 if not found else sets if name.startswith("depformer.") else 1
        if not found or not count or not entry.shape or entry.shape[0] % count:
            result[name] = entry
            continue
        stem, lora, scale = found.groups("")
        rows = replace(entry, shape=(entry.shape[0] // count, *entry.shape[1:]))
        for k in range(count):
            part = replace(rows, start=entry.start + k * rows.nbytes)
            result[f"{stem}s.{k}{lora}.weight{scale}"] = part
    return result


def read_kyutai(folder: Path, weights: Weights) -> MoshiConfig:
    """From config.json; raises `CheckpointError` naming file and key, and what came instead."""
    if not (folder / "config.json").is_file():
        return MOSHI_7B
    fields = Fields.from_file(folder / "config.json")
    fields.only(model_type="moshi", **DEPTH_FIXED, **DEPTH_UNUSED, extra_heads_num_heads=0)
    temporal = temporal_of(fields)
    config = MoshiConfig(
        temporal,
        depth_of(fields),
        codec_of(folder, fields),
        delays=_listed(fields, "delays", 1 + temporal.codebooks, MAX_DELAY_FRAMES),
        pad_id=fields.whole("existing_text_padding_id", 0, 1 << 20, 3),
        end_pad_id=fields.whole("existing_text_end_padding_id", 0, 1 << 20, 0),
        conditions=conditions_of(fields),
    )
    return checked(config, fields.where)


def conditions_of(fields: Fields) -> tuple[ConditionConfig, ...]:
    """What sessions may be told, each one of a list of values that adds a vector to every position."""
    if not fields.values.get("conditioners"):  # without any, a fuser has nothing to do
        return ()
    conditioners, fuser = fields.block("conditioners"), fields.block("fuser")
    names = sorted(conditioners.values)
    if len(names) > MOST_CONDITIONS or not all(NAME.fullmatch(name) for name in names):
        raise fields.unfit("conditioners", f"at most {MOST_CONDITIONS} with plain names")
    fuser.only(cross=[], prepend=[])
    if sorted(fuser.values.get("sum", [])) != names:
        raise fuser.unfit("sum", f"all of {names}")
    return tuple(_condition(conditioners.block(name), name) for name in names)


def _condition(fields: Fields, name: str) -> ConditionConfig:
    fields.only(type="lut")
    lut = fields.block("lut")
    lut.only(tokenizer="noop", learn_padding=True, force_linear=True, output_bias=False)
    rows = lut.whole("n_bins", 1, BOUNDS["text_vocab"][1])
    values = lut.values.get("possible_values")
    if not isinstance(values, list) or not 0 < len(values) <= rows or not all(isinstance(v, str) for v in values):
        raise lut.unfit("possible_values", f"1 to {rows} texts")
    if len(set(values)) != len(values):
        raise lut.unfit("possible_values", "texts that differ")
    return ConditionConfig(name, tuple(values), rows, lut.whole("dim", *BOUNDS["dim"]))


def temporal_of(fields: Fields) -> TemporalConfig:
    """The transformer over time of a config.json."""
    fields.only(**FIXED, **UNUSED)
    named = sizes(fields, KEYS, list(KEYS), {})
    if fields.values.get("text_card_out") is not None:
        fields.only(text_card_out=named["text_vocab"])
    norm, norm_eps = NORMS[fields.one_of("norm", NORMS)]
    gated, feedforward = GATING[fields.one_of("gating", GATING)], int(_hidden_scale(fields) * named["dim"])
    return TemporalConfig(
        **named,
        head_dim=_head_dim(fields, "num_heads", named),
        mlp_dim=mlp_dim_of(named["dim"], feedforward) if gated else feedforward,
        rope_base=fields.number("max_period", 1, 1e12),
        norm=norm,
        norm_eps=norm_eps,
        gated=gated,
        rotary=POSITIONS[fields.one_of("positional_embedding", POSITIONS)],
    )


def depth_of(fields: Fields) -> DepthConfig:
    """The transformer over codes of a config.json."""
    named = sizes(fields, DEPTH_KEYS, list(DEPTH_KEYS), {})
    codebooks = fields.whole("dep_q", *BOUNDS["codebooks"])
    feedforward = int(_hidden_scale(fields) * named["dim"])
    if fields.values.get("depformer_dim_feedforward") is not None:
        feedforward = fields.whole("depformer_dim_feedforward", 2, 1 << 19)
    schedule = tuple(range(codebooks))
    if fields.values.get("depformer_weights_per_step_schedule") is not None:
        schedule = _listed(fields, "depformer_weights_per_step_schedule", codebooks, codebooks - 1)
    low_rank = None
    if fields.values.get("depformer_low_rank_embeddings") is not None:
        low_rank = fields.whole("depformer_low_rank_embeddings", *BOUNDS["low_rank"])
    norm, norm_eps = NORMS[fields.one_of("norm", NORMS)]
    sinusoid_base = None
    if fields.one_of("depformer_pos_emb", DEPTH_POSITIONS) == "sin":
        sinusoid_base = fields.number("depformer_max_period", 1, 1e12, fields.number("max_period", 1, 1e12))
    return DepthConfig(
        **named,
        head_dim=_head_dim(fields, "depformer_num_heads", named),
        mlp_dim=mlp_dim_of(named["dim"], feedforward),
        norm=norm,
        norm_eps=norm_eps,
        sinusoid_base=sinusoid_base,
        schedule=schedule,
        low_rank=low_rank,
    )


def codec_of(folder: Path, fields: Fields) -> MimiConfig:
    """The codec of a folder, the published one where the folder does not say otherwise."""
    if fields.values.get("mimi_config_name") is None:
        return MIMI
    return from_kyutai(Fields.from_file(file_of(folder, "mimi_config_name")))


def _hidden_scale(fields: Fields) -> float:
    return fields.number("hidden_scale", 0, 1 << 10, 4.0)


def _head_dim(fields: Fields, key: str, named: Mapping[str, int]) -> int:
    if named["dim"] % named["heads"]:
        raise fields.unfit(key, f"a divisor of {named['dim']}")
    return named["dim"] // named["heads"]


def _listed(fields: Fields, key: str, length: int, most: int) -> tuple[int, ...]:
    values = fields.values.get(key)
    if not isinstance(values, list) or len(values) != length or any(type(v) is not int for v in values):
        raise fields.unfit(key, f"{length} whole numbers of 0 to {most}")
    if not all(0 <= value <= most for value in values):
        raise fields.unfit(key, f"{length} whole numbers of 0 to {most}")
    return tuple(values)


def mlp_dim_of(dim: int, feedforward: int) -> int:
    """The inner width behind the gate, by the rule of the reference."""
    return 21 * dim // 8 if feedforward == 4 * dim else 2 * feedforward // 3


def feedforward_of(dim: int, mlp_dim: int) -> int:
    """What `mlp_dim_of` makes this inner width of."""
    least = (3 * mlp_dim + 1) // 2
    for feedforward in (least, least + 1):
        if mlp_dim_of(dim, feedforward) == mlp_dim:
            return feedforward
    raise CheckpointError(f"expected an inner width that Kyutai's layout can say, got {mlp_dim} of a width of {dim}")


def hidden_scale_of(dim: int, mlp_dim: int) -> float:
    """The factor whose whole part times the width is `feedforward_of`."""
    return scale_of(dim, feedforward_of(dim, mlp_dim))


def scale_of(dim: int, feedforward: int) -> float:
    """A factor whose product with the width has this whole part."""
    exact = feedforward / dim
    return exact if int(exact * dim) == feedforward else (feedforward + 0.5) / dim


def temporal_json(config: TemporalConfig) -> dict[str, Any]:
    """What a config.json says of the transformer over time; raises `CheckpointError` for what it cannot describe."""
    _require_widths(config)
    scale = hidden_scale_of(config.dim, config.mlp_dim) if config.gated else scale_of(config.dim, config.mlp_dim)
    return {
        **FIXED,
        **{key: getattr(config, name) for name, key in KEYS.items()},
        "gating": _key(GATING, config.gated),
        "hidden_scale": scale,
        "max_period": config.rope_base,
        "norm": _key(NORMS, (config.norm, config.norm_eps)),
        "positional_embedding": _key(POSITIONS, config.rotary),
    }


def codec_json(config: MimiConfig) -> dict[str, Any]:
    """The names of files in a config.json, whatever the model."""
    document = {key: f"{STEMS[key]}.safetensors" for key in ("mimi_name", "moshi_name")}
    document |= {"tokenizer_name": TOKENIZER}
    return document if config == MIMI else document | {"mimi_config_name": CODEC_CONFIG}


def _require_widths(c: TemporalConfig | DepthConfig) -> None:
    norm_eps = dict(NORMS.values())[c.norm]
    if c.heads * c.head_dim != c.dim or c.norm_eps != norm_eps:
        raise CheckpointError(
            f"expected heads of {c.dim} together and a norm_eps of {norm_eps}: Kyutai's layout cannot say otherwise; "
            f"got {c.heads} x {c.head_dim} and {c.norm_eps}"
        )


def _key(names: Mapping[str, object], value: object) -> str:
    return next(name for name, named in names.items() if named == value)


def to_kyutai(config: MoshiConfig) -> dict[str, Any]:
    """The config.json of a model; raises `CheckpointError` for one that it cannot describe."""
    d = config.depth
    _require_widths(d)
    if d.norm != config.temporal.norm:
        raise CheckpointError("expected norms of one kind: Kyutai's layout cannot say otherwise; got two")
    document = {
        **temporal_json(config.temporal),
        **DEPTH_FIXED,
        **BESIDE,
        **{key: getattr(d, name) for name, key in DEPTH_KEYS.items()},
        "delays": list(config.delays),
        "dep_q": config.own,
        "depformer_dim_feedforward": feedforward_of(d.dim, d.mlp_dim),
        "depformer_pos_emb": DEPTH_POSITIONS[d.sinusoid_base is not None],
        "existing_text_end_padding_id": config.end_pad_id,
        "existing_text_padding_id": config.pad_id,
        **codec_json(config.codec),
        "model_type": "moshi",
    }
    if d.schedule != tuple(range(config.own)):
        document["depformer_weights_per_step_schedule"] = list(d.schedule)
    if d.sinusoid_base is not None:
        document["depformer_max_period"] = d.sinusoid_base
    if d.low_rank is not None:
        document["depformer_low_rank_embeddings"] = d.low_rank
    if config.conditions:
        document["conditioners"] = {c.name: _condition_json(c) for c in config.conditions}
        document["fuser"] = {"cross": [], "prepend": [], "sum": [c.name for c in config.conditions]}
    return document


def _condition_json(c: ConditionConfig) -> dict[str, Any]:
    table = {"dim": c.dim, "n_bins": c.rows, "possible_values": list(c.values), "tokenizer": "noop"}
    return {"type": "lut", "lut": table}


def write_kyutai(config: MoshiConfig, folder: Path, dtype: torch.dtype, tokenizer: Path | None) -> None:
    """config.json and what `write_beside` writes; raises `CheckpointError` for a model that it cannot describe."""
    write_json(folder / "config.json", to_kyutai(config))
    write_beside(config.codec, folder, tokenizer)


def write_beside(codec: MimiConfig, folder: Path, tokenizer: Path | None) -> None:
    """The codec's own config where it is not the published one, and the tokenizer made from the file `tokenizer`.

    Raises `CheckpointError` when it cannot.
    """
    if codec != MIMI:
        write_json(folder / CODEC_CONFIG, mimi_config(codec))
    if tokenizer:
        vocabulary = SentencePiece.from_file(tokenizer)
        with replacing(folder / TOKENIZER) as temporary:
            temporary.write_bytes(vocabulary.to_model())
