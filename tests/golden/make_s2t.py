"""Writes the key lists of the published Speech2Text checkpoints: python tests/golden/make_s2t.py

The facts of README.md, written out by hand; nothing here looks at earful's tables.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
ENCODER_LAYERS, DECODER_LAYERS, CONV, BINS, KERNEL = 12, 6, 1024, 80, 5
SIZES = {  # width, inner width, vocabulary
    "s2t-small-librispeech-asr": (256, 2048, 10_000),
    "s2t-medium-librispeech-asr": (512, 2048, 10_000),
    "s2t-large-librispeech-asr": (1024, 4096, 10_000),
    "s2t-small-mustc-en-fr-st": (256, 2048, 8_000),
    "s2t-medium-mustc-multilingual-st": (512, 2048, 10_000),
}


def attention(prefix, dim):
    names = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        names |= {f"{prefix}.{name}.weight": [dim, dim], f"{prefix}.{name}.bias": [dim]}
    return names | {f"{prefix}_layer_norm.weight": [dim], f"{prefix}_layer_norm.bias": [dim]}


def hugging_face(dim, inner, vocab):
    names = {
        "model.encoder.conv.conv_layers.0.weight": [CONV, BINS, KERNEL],
        "model.encoder.conv.conv_layers.0.bias": [CONV],
        "model.encoder.conv.conv_layers.1.weight": [2 * dim, CONV // 2, KERNEL],
        "model.encoder.conv.conv_layers.1.bias": [2 * dim],
        "model.decoder.embed_tokens.weight": [vocab, dim],
        "lm_head.weight": [vocab, dim],
    }
    for half, layers in (("encoder", ENCODER_LAYERS), ("decoder", DECODER_LAYERS)):
        for i in range(layers):
            block = f"model.{half}.layers.{i}."
            names |= attention(block + "self_attn", dim)
            if half == "decoder":
                names |= attention(block + "encoder_attn", dim)
            names |= {
                block + "fc1.weight": [inner, dim],
                block + "fc1.bias": [inner],
                block + "fc2.weight": [dim, inner],
                block + "fc2.bias": [dim],
                block + "final_layer_norm.weight": [dim],
                block + "final_layer_norm.bias": [dim],
            }
        names |= {f"model.{half}.layer_norm.weight": [dim], f"model.{half}.layer_norm.bias": [dim]}
    return names


def document(lists):
    """One tensor to a line."""
    parts = []
    for checkpoint, names in lists.items():
        lines = [f"    {json.dumps(name)}: {json.dumps(names[name])}" for name in sorted(names)]
        parts.append(f"  {json.dumps(checkpoint)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    lists = {name: hugging_face(*sizes) for name, sizes in SIZES.items()}
    (HERE / "s2t_hf.json").write_text(document(lists))
