"""The tensors of Voxtral Realtime checkpoints, and how to tell the layouts apart.

Source: names and shapes of the published checkpoint, mistralai/Voxtral-Mini-4B-Realtime-2602.
"""

from __future__ import annotations

from earful.checkpoint.table import Copy, Layout, RopePairs, Row, row
from earful.models.voxtral import config_hf, config_mistral
from earful.models.voxtral.config import VoxtralConfig

NAMINGS = {  # of Hugging Face's tensors: on disk, and in the memory of current releases
    "disk": ("audio_tower", "multi_modal_projector", "language_model.model", "language_model.lm_head.weight"),
    "memory": ("model.audio_tower", "model.multi_modal_projector", "model.language_model", "lm_head.weight"),
}


def mistral_table(config: VoxtralConfig) -> list[Row]:
    """consolidated.safetensors. Rotary pairs are interleaved there."""
    embedding = "mm_streams_embeddings.embedding_module"
    whisper = f"{embedding}.whisper_encoder"
    block = f"{whisper}.transformer.layers.{{i}}"
    rows = [
        row(f"{embedding}.tok_embeddings.weight", "decoder.embed.weight"),
        row(f"{embedding}.audio_language_projection.0.weight", "projector.linear1.weight"),
        row(f"{embedding}.audio_language_projection.2.weight", "projector.linear2.weight"),
        *_both(f"{whisper}.conv_layers.0.conv", "encoder.conv1.conv"),
        *_both(f"{whisper}.conv_layers.1.conv", "encoder.conv2.conv"),
        *_mistral_block(block, "encoder.layers.{i}", config.encoder.heads, config.encoder.kv_heads),
        row(f"{block}.attention.wq.bias", "encoder.layers.{i}.attn.q.bias", RopePairs(config.encoder.heads)),
        row(f"{block}.attention.wv.bias", "encoder.layers.{i}.attn.v.bias"),
        row(f"{block}.attention.wo.bias", "encoder.layers.{i}.attn.o.bias"),
        row(f"{block}.feed_forward.w2.bias", "encoder.layers.{i}.mlp.down.bias"),
        row(f"{whisper}.transformer.norm.weight", "encoder.norm.weight"),
        *_mistral_block("layers.{i}", "decoder.layers.{i}", config.decoder.heads, config.decoder.kv_heads),
        row("layers.{i}.ada_rms_norm_t_cond.0.weight", "decoder.layers.{i}.ada.down.weight"),
        row("layers.{i}.ada_rms_norm_t_cond.2.weight", "decoder.layers.{i}.ada.up.weight"),
        row("norm.weight", "decoder.norm.weight"),
    ]
    return rows if config.decoder.tied else [*rows, row("output.weight", "decoder.head.weight")]


def _mistral_block(there: str, here: str, heads: int, kv_heads: int) -> list[Row]:
    return [
        row(f"{there}.attention.wq.weight", f"{here}.attn.q.weight", RopePairs(heads)),
        row(f"{there}.attention.wk.weight", f"{here}.attn.k.weight", RopePairs(kv_heads)),
        row(f"{there}.attention.wv.weight", f"{here}.attn.v.weight"),
        row(f"{there}.attention.wo.weight", f"{here}.attn.o.weight"),
        row(f"{there}.attention_norm.weight", f"{here}.attn_norm.weight"),
        row(f"{there}.ffn_norm.weight", f"{here}.mlp_norm.weight"),
        row(f"{there}.feed_forward.w1.weight", f"{here}.mlp.gate.weight"),
        row(f"{there}.feed_forward.w2.weight", f"{here}.mlp.down.weight"),
        row(f"{there}.feed_forward.w3.weight", f"{here}.mlp.up.weight"),
    ]


def hf_table(config: VoxtralConfig, naming: str = "disk") -> list[Row]:
    """model.safetensors; naming: one of `NAMINGS`. Rotary pairs are half-split there, as in the model."""
    tower, projector, text, head = NAMINGS[naming]
    return [
        *_both(f"{tower}.embedder.conv1", "encoder.conv1.conv"),
        *_both(f"{tower}.embedder.conv2", "encoder.conv2.conv"),
        *_hf_block(f"{tower}.layers.{{i}}", "encoder.layers.{i}", "self_attn_layer_norm", "final_layer_norm"),
        *(
            row(f"{tower}.layers.{{i}}.{there}.bias", f"encoder.layers.{{i}}.{here}.bias")
            for there, here in [
                ("self_attn.q_proj", "attn.q"),
                ("self_attn.v_proj", "attn.v"),
                ("self_attn.o_proj", "attn.o"),
                ("mlp.down_proj", "mlp.down"),
            ]
        ),
        row(f"{tower}.norm.weight", "encoder.norm.weight"),
        row(f"{projector}.linear_1.weight", "projector.linear1.weight"),
        row(f"{projector}.linear_2.weight", "projector.linear2.weight"),
        row(f"{text}.embed_tokens.weight", "decoder.embed.weight"),
        *_hf_block(f"{text}.layers.{{i}}", "decoder.layers.{i}", "input_layernorm", "post_attention_layernorm"),
        row(f"{text}.layers.{{i}}.ada_rms_norm.linear1.weight", "decoder.layers.{i}.ada.down.weight"),
        row(f"{text}.layers.{{i}}.ada_rms_norm.linear2.weight", "decoder.layers.{i}.ada.up.weight"),
        row(f"{text}.norm.weight", "decoder.norm.weight"),
        row(head, "decoder.embed.weight", Copy()) if config.decoder.tied else row(head, "decoder.head.weight"),
    ]


def _hf_block(there: str, here: str, attention_norm: str, mlp_norm: str) -> list[Row]:
    return [
        *(row(f"{there}.self_attn.{name}_proj.weight", f"{here}.attn.{name}.weight") for name in "qkvo"),
        *(row(f"{there}.mlp.{name}_proj.weight", f"{here}.mlp.{name}.weight") for name in ("gate", "up", "down")),
        row(f"{there}.{attention_norm}.weight", f"{here}.attn_norm.weight"),
        row(f"{there}.{mlp_norm}.weight", f"{here}.mlp_norm.weight"),
    ]


def _both(there: str, here: str) -> list[Row]:
    return [row(f"{there}.{kind}", f"{here}.{kind}") for kind in ("weight", "bias")]


LAYOUTS = {
    "hf": Layout(
        marker="config.json",
        owns=config_hf.is_hf,
        stem="model",
        tokenizer="tekken.json",
        read=config_hf.read_hf,
        write=config_hf.write_hf,
        tables=lambda config: [hf_table(config, naming) for naming in NAMINGS],
    ),
    "mistral": Layout(
        marker="params.json",
        owns=config_mistral.is_mistral,
        stem="consolidated",
        tokenizer="tekken.json",
        read=config_mistral.read_mistral,
        write=config_mistral.write_mistral,
        tables=lambda config: [mistral_table(config)],
    ),
}
