"""The tensors of Moshi checkpoints, and how to tell the layouts apart; Kyutai Speech-To-Text takes parts of the tables.

Source: names and shapes of the published checkpoints, kyutai/moshiko-pytorch-bf16, kyutai/stt-2.6b-en, kmhf/hf-moshiko.
"""

from __future__ import annotations

from earful.checkpoint.table import SAME, Flat, Layout, RopePairs, Row, Slices, Split, row
from earful.models.mimi import layouts as mimi
from earful.models.mimi.layouts import ATTENTION
from earful.models.moshi import config_hf, config_kyutai
from earful.models.moshi.config import DepthConfig, MoshiConfig, TemporalConfig


def kyutai_norm(kind: str, there: str, here: str) -> list[Row]:
    """One of `norm_of`."""
    if kind == "rms":
        return [row(f"{there}.alpha", f"{here}.weight", Flat(3))]
    return [row(f"{there}.{name}", f"{here}.{name}") for name in ("weight", "bias")]


def kyutai_rows(config: TemporalConfig, here: str = "", attention: tuple[str, str] = ATTENTION[0]) -> list[Row]:
    """model.safetensors; attention: one of `ATTENTION`. Rotary pairs are interleaved there.

    here: what stands before each name in the model, with its dot.
    """
    block, ours = "transformer.layers.{i}", f"{here}layers.{{i}}"
    turned = RopePairs(config.heads) if config.rotary else SAME
    if config.gated:
        mlp = [
            row(
                f"{block}.gating.linear_in.weight",
                [f"{ours}.mlp.gate.weight", f"{ours}.mlp.up.weight"],
                Split((SAME, SAME)),
            ),
            row(f"{block}.gating.linear_out.weight", f"{ours}.mlp.down.weight"),
        ]
    else:
        mlp = [
            row(f"{block}.linear1.weight", f"{ours}.mlp.up.weight"),
            row(f"{block}.linear2.weight", f"{ours}.mlp.down.weight"),
        ]
    return [
        row("text_emb.weight", f"{here}text_embed.weight"),
        row("emb.{k}.weight", f"{here}audio_embeds.{{k}}.weight"),
        *kyutai_norm(config.norm, f"{block}.norm1", f"{ours}.attn_norm"),
        row(
            f"{block}.self_attn.{attention[0]}",
            [f"{ours}.attn.{name}.weight" for name in "qkv"],
            Split((turned, turned, SAME)),
        ),
        row(f"{block}.self_attn.{attention[1]}", f"{ours}.attn.o.weight"),
        *kyutai_norm(config.norm, f"{block}.norm2", f"{ours}.mlp_norm"),
        *mlp,
        *kyutai_norm(config.norm, "out_norm", f"{here}norm"),
        row("text_linear.weight", f"{here}text_head.weight"),
    ]


def kyutai_depth_rows(config: DepthConfig, here: str = "", attention: tuple[str, str] = ATTENTION[0]) -> list[Row]:
    """The depth model in model.safetensors, as in `kyutai_rows`; set after set of weights in packed projections."""
    block, ours = "depformer.layers.{i}", f"{here}layers.{{i}}"
    sets = range(config.weight_sets)
    if attention != ATTENTION[1]:
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
        *kyutai_norm(config.norm, f"{block}.norm1", f"{ours}.attn_norm"),
        *projections,
        *kyutai_norm(config.norm, f"{block}.norm2", f"{ours}.mlp_norm"),
        row(
            f"{block}.gating.{{k}}.linear_in.weight",
            [f"{ours}.mlp.{{k}}.gate.weight", f"{ours}.mlp.{{k}}.up.weight"],
            Split((SAME, SAME)),
        ),
        row(f"{block}.gating.{{k}}.linear_out.weight", f"{ours}.mlp.{{k}}.down.weight"),
        row("linears.{k}.weight", f"{here}heads.{{k}}.weight"),
    ]


def kyutai_condition_rows(config: MoshiConfig, here: str = "") -> list[Row]:
    """What the conditions add, in model.safetensors, as in `kyutai_rows`."""
    rows = []
    for number, condition in enumerate(config.conditions):
        there, ours = f"condition_provider.conditioners.{condition.name}", f"{here}{number}"
        rows += [
            row(f"{there}.embed.weight", f"{ours}.table.weight"),
            row(f"{there}.output_proj.weight", f"{ours}.widen.weight"),
            row(f"{there}.learnt_padding", f"{ours}.none", Flat(3)),
        ]
    return rows


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


def hf_depth_rows(config: DepthConfig, there: str, here: str) -> list[Row]:
    """The depth model, whose tensors hold the weights of all codes; there, here: as in `hf_blocks`."""
    block, ours = f"{there}layers.{{i}}", f"{here}layers.{{i}}"
    codes = range(config.codebooks)

    def all_codes(stored: str, *names: str) -> Row:
        """A tensor of the names for the first code, then of those for the next one."""
        parts = [name.replace("{k}", str(k)) for k in codes for name in names]
        return row(stored, parts, Slices(len(codes), len(parts)))

    return [
        row(f"{there}text_embed_tokens.weight", f"{here}text_embed.embed.weight"),
        row(f"{there}embed_tokens.{{k}}.weight", f"{here}audio_embeds.{{k}}.embed.weight"),
        all_codes(f"{there}input_projections.weight", f"{here}inputs.{{k}}.weight"),
        row(f"{block}.input_layernorm.weight", f"{ours}.attn_norm.weight"),
        *(all_codes(f"{block}.self_attn.{n}_proj.linear.weight", f"{ours}.attn.{{k}}.{n}.weight") for n in "qkvo"),
        row(f"{block}.post_attention_layernorm.weight", f"{ours}.mlp_norm.weight"),
        all_codes(f"{block}.mlp.fc1.weight", f"{ours}.mlp.{{k}}.gate.weight", f"{ours}.mlp.{{k}}.up.weight"),
        all_codes(f"{block}.mlp.fc2.weight", f"{ours}.mlp.{{k}}.down.weight"),
        all_codes(f"{there}lm_heads.weight", f"{here}heads.{{k}}.weight"),
    ]


def kyutai_table(config: MoshiConfig, attention: tuple[str, str] = ATTENTION[0]) -> list[Row]:
    """Both weight files as one; attention: one of `ATTENTION`."""
    return [
        *kyutai_rows(config.temporal, "temporal.", attention),
        *kyutai_depth_rows(config.depth, "depth.", attention),
        *kyutai_condition_rows(config, "conditions."),
        *mimi.kyutai_table(config.codec, config_kyutai.CODEC, "codec.", attention=attention),
    ]


def hf_table(config: MoshiConfig, naming: str = "disk") -> list[Row]:
    """model.safetensors; naming: of the codec's tensors, one of `mimi.HF_HALVES`."""
    return [
        row("embed_tokens.{k}.weight", "temporal.audio_embeds.{k}.weight"),
        row("decoder.model.embed_tokens.weight", "temporal.text_embed.weight"),
        *hf_blocks("decoder.model.", "temporal."),
        row("decoder.lm_head.weight", "temporal.text_head.weight"),
        *hf_depth_rows(config.depth, "depth_decoder.", "depth."),
        *mimi.hf_table(config.codec, "audio_encoder.", "codec.", naming),
    ]


LAYOUTS = {
    "hf": Layout(
        marker="config.json",
        owns=config_hf.is_hf,
        stem="model",
        tokenizer=config_hf.find_tokenizer,
        read=config_hf.read_hf,
        write=config_hf.write_hf,
        tables=lambda config: [hf_table(config, naming) for naming in mimi.HF_HALVES],
    ),
    "kyutai": Layout(
        marker="config.json",
        owns=config_kyutai.is_kyutai,
        stem=config_kyutai.STEMS["moshi_name"],
        tokenizer=config_kyutai.find_tokenizer,
        read=config_kyutai.read_kyutai,
        write=config_kyutai.write_kyutai,
        # The first one is written; whatever a file has, `open_kyutai` gives as the other says.
        tables=lambda config: [kyutai_table(config, attention) for attention in ATTENTION[:2]],
        find=config_kyutai.find_first,
        open=config_kyutai.open_kyutai,
        parts={config_kyutai.CODEC: config_kyutai.STEMS["mimi_name"]},
    ),
}
