"""The tensors of Speech2Text checkpoints, and how to tell the layouts apart.

Source: names and shapes of the published facebook/s2t-* checkpoints, and of fairseq's, from which those were made.
"""

from __future__ import annotations

from earful.checkpoint.table import Copy, Drop, Layout, Row, row
from earful.models.s2t import config_fairseq, config_hf
from earful.models.s2t.config import S2tConfig

NAMINGS = ("model.", "")  # of a model that writes, and of its two halves alone
ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}


def hf_table(config: S2tConfig, naming: str = NAMINGS[0]) -> list[Row]:
    """model.safetensors; naming: one of `NAMINGS`. Older files hold the position tables too."""
    encoder, decoder = f"{naming}encoder", f"{naming}decoder"
    return [
        *_both(f"{encoder}.conv.conv_layers.{{i}}", "encoder.convs.{i}"),
        *_block(encoder, "encoder"),
        *_decoder(decoder),
        *(
            row(f"{half}.embed_positions.weights", op=Drop("sines and cosines, which are computed"))
            for half in (encoder, decoder)
        ),
        _head("lm_head.weight", config),
    ]


def fairseq_table(config: S2tConfig) -> list[Row]:
    """The .pt of fairseq: other names around the encoder's blocks, and what only fairseq needs."""
    return [
        *_both("encoder.subsample.conv_layers.{i}", "encoder.convs.{i}"),
        *_block("encoder", "encoder", "transformer_layers"),
        *_decoder("decoder"),
        *(row(f"{half}.version", op=Drop("of fairseq's code")) for half in ("encoder", "decoder")),
        *(
            row(f"{half}.embed_positions.{{any}}", op=Drop("sines and cosines, which are computed"))
            for half in ("encoder", "decoder")
        ),
        _head("decoder.output_projection.weight", config),
    ]


def _head(there: str, config: S2tConfig) -> Row:
    return row(there, "decoder.embed.weight", Copy()) if config.tied else row(there, "decoder.head.weight")


def _decoder(there: str) -> list[Row]:
    return [
        *_block(there, "decoder"),
        *(
            row
            for name, here in ATTENTION.items()
            for row in _both(f"{there}.layers.{{i}}.encoder_attn.{name}", f"decoder.layers.{{i}}.cross.{here}")
        ),
        *_both(f"{there}.layers.{{i}}.encoder_attn_layer_norm", "decoder.layers.{i}.cross_norm"),
        row(f"{there}.embed_tokens.weight", "decoder.embed.weight"),
    ]


def _block(there: str, here: str, layers: str = "layers") -> list[Row]:
    """What both halves have: self-attention, feed-forward network, norms."""
    names = {f"self_attn.{name}": f"attn.{ours}" for name, ours in ATTENTION.items()} | {
        "self_attn_layer_norm": "attn_norm",
        "fc1": "mlp.up",
        "fc2": "mlp.down",
        "final_layer_norm": "mlp_norm",
    }
    return [
        *_both(f"{there}.layer_norm", f"{here}.norm"),
        *(
            row
            for name, ours in names.items()
            for row in _both(f"{there}.{layers}.{{i}}.{name}", f"{here}.layers.{{i}}.{ours}")
        ),
    ]


def _both(there: str, here: str) -> list[Row]:
    return [row(f"{there}.{kind}", f"{here}.{kind}") for kind in ("weight", "bias")]


LAYOUTS = {
    "hf": Layout(
        marker="config.json",
        owns=config_hf.is_hf,
        stem="model",
        tokenizer=config_hf.TOKENIZER,
        read=config_hf.read_hf,
        write=config_hf.write_hf,
        tables=lambda config: [hf_table(config, naming) for naming in NAMINGS],
    ),
    "fairseq": Layout(
        marker=None,
        owns=lambda document: False,
        stem="",
        find=config_fairseq.find_stem,
        old=config_fairseq.find_checkpoint,
        tokenizer=config_fairseq.find_pieces,
        read=config_fairseq.read_fairseq,
        write=None,
        tables=lambda config: [fairseq_table(config)],
    ),
}
