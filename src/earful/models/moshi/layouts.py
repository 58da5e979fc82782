"""The tensors of both transformers in Kyutai's files and of the temporal one in Hugging Face's, as parts of tables.

Source: names and shapes of the published checkpoints of kyutai/moshiko-pytorch-bf16 and kyutai/stt-2.6b-en.
"""

from __future__ import annotations

from earful.checkpoint.table import SAME, Flat, RopePairs, Row, Split, row
from earful.models.mimi.layouts import ATTENTION
from earful.models.moshi.config import DepthConfig, TemporalConfig


def kyutai_rows(config: TemporalConfig, here: str = "", attention: tuple[str, str] = ATTENTION[0]) -> list[Row]:
    """model.safetensors; attention: one of `ATTENTION`. Rotary pairs are interleaved there.

    here: what stands before each name in the model, with its dot.
    """
    block, ours = "transformer.layers.{i}", f"{here}layers.{{i}}"
    pairs = RopePairs(config.heads)
    return [
        row("text_emb.weight", f"{here}text_embed.weight"),
        row("emb.{k}.weight", f"{here}audio_embeds.{{k}}.weight"),
        row(f"{block}.norm1.alpha", f"{ours}.attn_norm.weight", Flat(3)),
        row(
            f"{block}.self_attn.{attention[0]}",
            [f"{ours}.attn.{name}.weight" for name in "qkv"],
            Split((pairs, pairs, SAME)),
        ),
        row(f"{block}.self_attn.{attention[1]}", f"{ours}.attn.o.weight"),
        row(f"{block}.norm2.alpha", f"{ours}.mlp_norm.weight", Flat(3)),
        row(
            f"{block}.gating.linear_in.weight",
            [f"{ours}.mlp.gate.weight", f"{ours}.mlp.up.weight"],
            Split((SAME, SAME)),
        ),
        row(f"{block}.gating.linear_out.weight", f"{ours}.mlp.down.weight"),
        row("out_norm.alpha", f"{here}norm.weight", Flat(3)),
        row("text_linear.weight", f"{here}text_head.weight"),
    ]


def kyutai_depth_rows(config: DepthConfig, here: str = "", attention: tuple[str, str] = ATTENTION[0]) -> list[Row]:
    """The depth model in model.safetensors, as in `kyutai_rows`; code after code in packed projections."""
    block, ours = "depformer.layers.{i}", f"{here}layers.{{i}}"
    sets = range(config.weight_sets)
    packed = attention == ATTENTION[0]
    if packed:
        projections = [
            row(
                f"{block}.self_attn.{attention[0]}",
                [f"{ours}.attn.{k}.{name}.weight" for k in sets for name in "qkv"],
                Split((SAME,) * 3 * len(sets)),
            ),
            row(
                f"{block}.self_attn.{attention[1]}",
                [f"{ours}.attn.{k}.o.weight" for k in sets],
                Split((SAME,) * len(sets)),
            ),
        ]
    else:
        projections = [
            row(
                f"{block}.self_attn.in_projs.{{k}}.weight",
                [f"{ours}.attn.{{k}}.{name}.weight" for name in "qkv"],
                Split((SAME, SAME, SAME)),
            ),
            row(f"{block}.self_attn.out_projs.{{k}}.weight", f"{ours}.attn.{{k}}.o.weight"),
        ]
    widened = [
        row("depformer_text_emb.low_rank.weight", f"{here}text_embed.widen.weight"),
        row("depformer_emb.{k}.low_rank.weight", f"{here}audio_embeds.{{k}}.widen.weight"),
    ]
    return [
        row("depformer_in.{k}.weight", f"{here}inputs.{{k}}.weight"),
        row("depformer_text_emb.weight", f"{here}text_embed.embed.weight"),
        row("depformer_emb.{k}.weight", f"{here}audio_embeds.{{k}}.embed.weight"),
        *(widened if config.low_rank is not None else []),
        row(f"{block}.norm1.alpha", f"{ours}.attn_norm.weight", Flat(3)),
        *projections,
        row(f"{block}.norm2.alpha", f"{ours}.mlp_norm.weight", Flat(3)),
        row(
            f"{block}.gating.{{k}}.linear_in.weight",
            [f"{ours}.mlp.{{k}}.gate.weight", f"{ours}.mlp.{{k}}.up.weight"],
            Split((SAME, SAME)),
        ),
        row(f"{block}.gating.{{k}}.linear_out.weight", f"{ours}.mlp.{{k}}.down.weight"),
        row("linears.{k}.weight", f"{here}heads.{{k}}.weight"),
    ]


def hf_blocks(there: str, here: str = "") -> list[Row]:
    """The blocks and the last norm. Rotary pairs are half-split there, as in the model.

    there, here: what stands before each name, with its dot.
    """
    block, ours = f"{there}layers.{{i}}", f"{here}layers.{{i}}"
    return [
        row(f"{block}.input_layernorm.weight", f"{ours}.attn_norm.weight"),
        *(row(f"{block}.self_attn.{name}_proj.linear.weight", f"{ours}.attn.{name}.weight") for name in "qkvo"),
        row(f"{block}.post_attention_layernorm.weight", f"{ours}.mlp_norm.weight"),
        row(f"{block}.mlp.fc1.weight", [f"{ours}.mlp.gate.weight", f"{ours}.mlp.up.weight"], Split((SAME, SAME))),
        row(f"{block}.mlp.fc2.weight", f"{ours}.mlp.down.weight"),
        row(f"{there}norm.weight", f"{here}norm.weight"),
    ]
