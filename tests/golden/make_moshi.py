"""Writes the key lists of the published Moshi checkpoints: python tests/golden/make_moshi.py

The facts of README.md, written out by hand in each layout's own words; nothing here looks at earful's tables.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
LAYERS, DIM, MLP = 32, 4096, 11264
DEPTH_LAYERS, DEPTH_DIM, DEPTH_MLP = 6, 1024, 2816
OWN, ALL = 8, 16  # codebooks of the voice, and of voice and user
TEXT, CODES = 32000, 2048  # the initial id of each not counted


def kyutai():
    names = {
        "text_emb.weight": [TEXT + 1, DIM],
        "text_linear.weight": [TEXT, DIM],
        "out_norm.alpha": [1, 1, DIM],
        "depformer_text_emb.weight": [TEXT + 1, DEPTH_DIM],
    }
    for i in range(ALL):
        names[f"emb.{i}.weight"] = [CODES + 1, DIM]
    for i in range(OWN):
        names[f"depformer_in.{i}.weight"] = [DEPTH_DIM, DIM]
        names[f"linears.{i}.weight"] = [CODES, DEPTH_DIM]
    for i in range(OWN - 1):
        names[f"depformer_emb.{i}.weight"] = [CODES + 1, DEPTH_DIM]
    for i in range(LAYERS):
        block = f"transformer.layers.{i}."
        names |= {
            block + "norm1.alpha": [1, 1, DIM],
            block + "norm2.alpha": [1, 1, DIM],
            block + "self_attn.in_proj_weight": [3 * DIM, DIM],
            block + "self_attn.out_proj.weight": [DIM, DIM],
            block + "gating.linear_in.weight": [2 * MLP, DIM],
            block + "gating.linear_out.weight": [DIM, MLP],
        }
    for i in range(DEPTH_LAYERS):
        block = f"depformer.layers.{i}."
        names |= {
            block + "norm1.alpha": [1, 1, DEPTH_DIM],
            block + "norm2.alpha": [1, 1, DEPTH_DIM],
            block + "self_attn.in_proj_weight": [OWN * 3 * DEPTH_DIM, DEPTH_DIM],
            block + "self_attn.out_proj.weight": [OWN * DEPTH_DIM, DEPTH_DIM],
        }
        for k in range(OWN):
            names[f"{block}gating.{k}.linear_in.weight"] = [2 * DEPTH_MLP, DEPTH_DIM]
            names[f"{block}gating.{k}.linear_out.weight"] = [DEPTH_DIM, DEPTH_MLP]
    return names


def hugging_face():
    names = {
        "decoder.model.embed_tokens.weight": [TEXT + 1, DIM],
        "decoder.model.norm.weight": [DIM],
        "decoder.lm_head.weight": [TEXT, DIM],
        "depth_decoder.text_embed_tokens.weight": [TEXT + 1, DEPTH_DIM],
        "depth_decoder.input_projections.weight": [OWN, DEPTH_DIM, DIM],
        "depth_decoder.lm_heads.weight": [OWN, CODES, DEPTH_DIM],
    }
    for i in range(ALL):
        names[f"embed_tokens.{i}.weight"] = [CODES + 1, DIM]
    for i in range(OWN - 1):
        names[f"depth_decoder.embed_tokens.{i}.weight"] = [CODES + 1, DEPTH_DIM]
    names |= blocks("decoder.model.", LAYERS, [], DIM, MLP)
    names |= blocks("depth_decoder.", DEPTH_LAYERS, [OWN], DEPTH_DIM, DEPTH_MLP)
    return names


def blocks(prefix, layers, sets, dim, mlp):
    """sets: the dimension before those of a matrix, where there is one."""
    names = {}
    for i in range(layers):
        block = f"{prefix}layers.{i}."
        for projection in "qkvo":
            names[f"{block}self_attn.{projection}_proj.linear.weight"] = [*sets, dim, dim]
        names |= {
            block + "input_layernorm.weight": [dim],
            block + "post_attention_layernorm.weight": [dim],
            block + "mlp.fc1.weight": [*sets, 2 * mlp, dim],
            block + "mlp.fc2.weight": [*sets, dim, mlp],
        }
    return names


def document(names):
    """One tensor to a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(names[name])}" for name in sorted(names)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    (HERE / "moshi_kyutai.json").write_text(document(kyutai()))
    (HERE / "moshi_hf.json").write_text(document(hugging_face()))
