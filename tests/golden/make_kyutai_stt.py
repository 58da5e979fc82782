"""Writes the key lists of the published Kyutai Speech-To-Text checkpoints: python tests/golden/make_kyutai_stt.py

The facts of README.md, written out by hand in each layout's own words; nothing here looks at earful's tables.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
DIM, MLP = 2048, 5632
CODEBOOKS, CODES = 32, 2049
MODELS = {"1b": (16, 8000), "2.6b": (48, 4000)}  # layers and text ids, the initial one not counted
VAD = (4, 6)  # heads and classes, in the -candle twin of 1b alone


def kyutai(layers, text):
    names = {"text_emb.weight": [text + 1, DIM], "text_linear.weight": [text, DIM], "out_norm.alpha": [1, 1, DIM]}
    for i in range(CODEBOOKS):
        names[f"emb.{i}.weight"] = [CODES, DIM]
    for i in range(layers):
        block = f"transformer.layers.{i}."
        names |= {
            block + "norm1.alpha": [1, 1, DIM],
            block + "norm2.alpha": [1, 1, DIM],
            block + "self_attn.in_proj_weight": [3 * DIM, DIM],
            block + "self_attn.out_proj.weight": [DIM, DIM],
            block + "gating.linear_in.weight": [2 * MLP, DIM],
            block + "gating.linear_out.weight": [DIM, MLP],
        }
    return names


def candle(layers, text):
    heads, classes = VAD
    return kyutai(layers, text) | {f"extra_heads.{i}.weight": [classes, DIM] for i in range(heads)}


def hugging_face(layers, text):
    names = {
        "model.embed_tokens.embed_tokens.weight": [text + 1 + CODEBOOKS * CODES + 1, DIM],
        "model.norm.weight": [DIM],
        "lm_head.weight": [text + 1, DIM],
    }
    for i in range(layers):
        block = f"model.layers.{i}."
        for projection in "qkvo":
            names[f"{block}self_attn.{projection}_proj.linear.weight"] = [DIM, DIM]
        names |= {
            block + "input_layernorm.weight": [DIM],
            block + "post_attention_layernorm.weight": [DIM],
            block + "mlp.fc1.weight": [2 * MLP, DIM],
            block + "mlp.fc2.weight": [DIM, MLP],
        }
    return names


def document(names):
    """One tensor to a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(names[name])}" for name in sorted(names)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    for size, facts in MODELS.items():
        (HERE / f"kyutai_stt_{size}_kyutai.json").write_text(document(kyutai(*facts)))
        (HERE / f"kyutai_stt_{size}_hf.json").write_text(document(hugging_face(*facts)))
    (HERE / "kyutai_stt_1b_candle.json").write_text(document(candle(*MODELS["1b"])))
