"""The tensors of Mimi checkpoints, and how to tell the layouts apart.

Source: names and shapes of the published checkpoints, kyutai/mimi and the codec files of kyutai/moshiko-pytorch-bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from earful.checkpoint.table import (
    SAME,
    Codebook,
    Drop,
    Identity,
    Layout,
    Operation,
    Pointwise,
    RopePairs,
    Row,
    Split,
    row,
)
from earful.models.mimi import config_hf, config_kyutai
from earful.models.mimi.config import MimiConfig


@dataclass(frozen=True)
class Halves:
    """Where a naming has the tensors that go from samples to the quantizer, and those that go back."""

    encoder: str  # its convolutions are numbered below this
    encoder_transformer: str
    downsample: str
    upsample: str
    decoder_transformer: str
    decoder: str


HF_HALVES = {  # of Hugging Face's tensors: on disk, and in the memory of current releases
    "disk": Halves(
        "encoder.layers",
        "encoder_transformer.layers",
        "downsample.conv",
        "upsample.conv",
        "decoder_transformer.layers",
        "decoder.layers",
    ),
    "memory": Halves(
        "encoder.encoder_seanet.layers",
        "encoder.encoder_transformer.layers",
        "encoder.downsample.conv",
        "decoder.upsample.conv",
        "decoder.decoder_transformer.layers",
        "decoder.decoder_seanet.layers",
    ),
}
KYUTAI_HALVES = Halves(
    "encoder.model",
    "encoder_transformer.transformer.layers",
    "downsample.conv.conv.conv",
    "upsample.convtr.convtr.convtr",
    "decoder_transformer.transformer.layers",
    "decoder.model",
)
ATTENTION = [  # Kyutai's names of the projections of q, k and v, and of the output: first, what is written
    ("in_proj_weight", "out_proj.weight"),
    ("in_projs.0.weight", "out_projs.0.weight"),
    ("in_proj.weight", "out_proj.weight"),
]
CODEBOOK = [  # Kyutai's names of what a codebook holds, the newest first
    ("_initialized", "cluster_usage", "embedding_sum"),
    ("inited", "cluster_size", "embed_avg"),
    ("inited", "cluster_size", "embed_sum"),
]


def hf_table(config: MimiConfig, there: str = "", here: str = "", naming: str = "disk") -> list[Row]:
    """model.safetensors; naming: one of `HF_HALVES`. Rotary pairs are half-split there, as in the model.

    there, here: what stands before each name, with its dot, where the codec is a part of another model.
    """
    block = [
        *(row(f"self_attn.{name}_proj.weight", f"attn.{name}.weight") for name in "qkvo"),
        *_both("input_layernorm", "attn_norm"),
        *_both("post_attention_layernorm", "mlp_norm"),
        row("mlp.fc1.weight", "mlp.up.weight"),
        row("mlp.fc2.weight", "mlp.down.weight"),
        row("self_attn_layer_scale.scale", "attn_scale.weight"),
        row("mlp_layer_scale.scale", "mlp_scale.weight"),
    ]
    rows = _halves(HF_HALVES[naming], config, block, conv="conv", transposed="conv")
    # The reference makes no projections where both widths are the same.
    projections = None if config.dim == config.codebook_dim else ("input_proj.weight", "output_proj.weight")
    for part in ("semantic", "acoustic"):
        quantizer = f"quantizer.{part}_residual_vector_quantizer"
        names = ("initialized", "cluster_usage", "embed_sum")
        rows += _quantizer(quantizer, part, config, "layers.{i}.codebook", names, projections)
    return _inside(there, here, rows)


def kyutai_table(
    config: MimiConfig,
    there: str = "",
    here: str = "",
    attention: tuple[str, str] = ATTENTION[0],
    codebook: tuple[str, str, str] = CODEBOOK[0],
) -> list[Row]:
    """The codec's own file; attention and codebook: one of `ATTENTION` and of `CODEBOOK`. Rotary pairs are interleaved
    there. there, here: what stands before each name, with its dot, where the codec is a part of another model.
    """
    pairs = RopePairs(config.heads)
    qkv = ("attn.q.weight", "attn.k.weight", "attn.v.weight")
    block = [
        row(f"self_attn.{attention[0]}", qkv, Split((pairs, pairs, SAME))),
        row(f"self_attn.{attention[1]}", "attn.o.weight"),
        *_both("norm1", "attn_norm"),
        *_both("norm2", "mlp_norm"),
        row("linear1.weight", "mlp.up.weight"),
        row("linear2.weight", "mlp.down.weight"),
        row("layer_scale_1.scale", "attn_scale.weight"),
        row("layer_scale_2.scale", "mlp_scale.weight"),
    ]
    rows = _halves(KYUTAI_HALVES, config, block, conv="conv.conv", transposed="convtr.convtr")
    projections = ("input_proj.weight", "output_proj.weight")
    for name, part in (("rvq_first", "semantic"), ("rvq_rest", "acoustic")):
        rows += _quantizer(f"quantizer.{name}", part, config, "vq.layers.{i}._codebook", codebook, projections)
    return _inside(there, here, rows)


def _halves(names: Halves, config: MimiConfig, block: list[Row], conv: str, transposed: str) -> list[Row]:
    """All but the quantizer. conv, transposed: the names of convolutions below their number."""
    encoder = [
        *_encoder(names.encoder, config, conv),
        *_inside(f"{names.encoder_transformer}.{{i}}.", "encoder_transformer.layers.{i}.", block),
        row(f"{names.downsample}.weight", "downsample.conv.weight"),
    ]
    decoder = [
        row(f"{names.upsample}.weight", "upsample.conv.weight"),
        *_inside(f"{names.decoder_transformer}.{{i}}.", "decoder_transformer.layers.{i}.", block),
        *_decoder(names.decoder, config, conv, transposed),
    ]
    return [
        *(encoder if config.encodes else _left_out(names.encoder, names.encoder_transformer, names.downsample)),
        *(decoder if config.decodes else _left_out(names.upsample, names.decoder_transformer, names.decoder)),
    ]


def _left_out(*names: str) -> list[Row]:
    return [row(f"{name}.{{any}}", op=Drop("of the half that the config leaves out")) for name in names]


def _encoder(there: str, config: MimiConfig, conv: str) -> list[Row]:
    """Every part has a number there, activations too: those of the stages, and the last one, stand before a
    convolution."""
    rows, number = _both(f"{there}.0.{conv}", "encoder.first.conv"), 1
    for stage in range(len(config.ratios)):
        rows += _residuals(there, number, f"encoder.stages.{stage}", config, conv)
        number += config.residual_layers + 1
        rows += _both(f"{there}.{number}.{conv}", f"encoder.stages.{stage}.resample.conv")
        number += 1
    return [*rows, *_both(f"{there}.{number + 1}.{conv}", "encoder.last.conv")]


def _decoder(there: str, config: MimiConfig, conv: str, transposed: str) -> list[Row]:
    rows, number = _both(f"{there}.0.{conv}", "decoder.first.conv"), 1
    for stage in range(len(config.ratios)):
        rows += _both(f"{there}.{number + 1}.{transposed}", f"decoder.stages.{stage}.resample.conv")
        rows += _residuals(there, number + 2, f"decoder.stages.{stage}", config, conv)
        number += 2 + config.residual_layers
    return [*rows, *_both(f"{there}.{number + 1}.{conv}", "decoder.last.conv")]


def _residuals(there: str, number: int, here: str, config: MimiConfig, conv: str) -> list[Row]:
    rows = []
    for j in range(config.residual_layers):
        rows += _both(f"{there}.{number + j}.block.1.{conv}", f"{here}.residuals.{j}.narrow.conv")
        rows += _both(f"{there}.{number + j}.block.3.{conv}", f"{here}.residuals.{j}.widen.conv")
    return rows


def _quantizer(
    there: str, part: str, config: MimiConfig, codebook: str, held: tuple[str, ...], projections: tuple[str, str] | None
) -> list[Row]:
    here = f"quantizer.{part}"
    names = [f"{here}.project_in.weight", f"{here}.project_out.weight"]
    if projections:
        rows = [row(f"{there}.{name}", ours, Pointwise()) for name, ours in zip(projections, names, strict=True)]
    else:
        rows = [row((), ours, Identity(config.dim)) for ours in names]
    vectors = [f"{here}.codebooks.{{i}}.embedding", f"{here}.codebooks.{{i}}.usage"]
    return [*rows, row([f"{there}.{codebook}.{name}" for name in held], vectors, Codebook())]


def _both(there: str, here: str, op: Operation = SAME) -> list[Row]:
    return [row(f"{there}.{kind}", f"{here}.{kind}", op) for kind in ("weight", "bias")]


def _inside(there: str, here: str, rows: list[Row]) -> list[Row]:
    """The rows of a part, as rows of the whole."""
    return [row([there + name for name in r.there], [here + name for name in r.here], r.op) for r in rows]


LAYOUTS = {
    "hf": Layout(
        marker="config.json",
        owns=config_hf.is_hf,
        stem="model",
        tokenizer=None,
        read=config_hf.read_hf,
        write=config_hf.write_hf,
        tables=lambda config: [hf_table(config, naming=naming) for naming in HF_HALVES],
    ),
    "kyutai": Layout(
        marker=None,
        owns=lambda config: False,
        stem="mimi",
        tokenizer=None,
        read=config_kyutai.read_kyutai,
        write=config_kyutai.write_kyutai,
        tables=lambda config: [
            kyutai_table(config, attention=attention, codebook=codebook)
            for attention, codebook in product(ATTENTION, CODEBOOK)
        ],
        find=config_kyutai.find_kyutai,
    ),
}
