"""Writes the key lists of the published Mimi checkpoints: python tests/golden/make_mimi.py

The facts of README.md, written out by hand in each layout's own words; nothing here looks at earful's tables.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
DIM, MLP, LAYERS = 512, 2048, 8
CODEBOOKS, SIZE, WIDTH = {"semantic": 1, "acoustic": 31}, 2048, 256
# number in the list of modules: shape of the weight. The bias has the first size, or the second where it is transposed.
ENCODER = {
    "0": [64, 1, 7],
    "1.block.1": [32, 64, 3],
    "1.block.3": [64, 32, 1],
    "3": [128, 64, 8],
    "4.block.1": [64, 128, 3],
    "4.block.3": [128, 64, 1],
    "6": [256, 128, 10],
    "7.block.1": [128, 256, 3],
    "7.block.3": [256, 128, 1],
    "9": [512, 256, 12],
    "10.block.1": [256, 512, 3],
    "10.block.3": [512, 256, 1],
    "12": [1024, 512, 16],
    "14": [512, 1024, 3],
}
DECODER = {
    "0": [1024, 512, 7],
    "3.block.1": [256, 512, 3],
    "3.block.3": [512, 256, 1],
    "6.block.1": [128, 256, 3],
    "6.block.3": [256, 128, 1],
    "9.block.1": [64, 128, 3],
    "9.block.3": [128, 64, 1],
    "12.block.1": [32, 64, 3],
    "12.block.3": [64, 32, 1],
    "14": [1, 64, 3],
}
TRANSPOSED = {"2": [1024, 512, 16], "5": [512, 256, 12], "8": [256, 128, 10], "11": [128, 64, 8]}


def kyutai():
    names = {
        "downsample.conv.conv.conv.weight": [DIM, DIM, 4],
        "upsample.convtr.convtr.convtr.weight": [DIM, 1, 4],
    }
    for half, convolutions in (("encoder", ENCODER), ("decoder", DECODER)):
        for number, shape in convolutions.items():
            names[f"{half}.model.{number}.conv.conv.weight"] = shape
            names[f"{half}.model.{number}.conv.conv.bias"] = shape[:1]
        for i in range(LAYERS):
            block = f"{half}_transformer.transformer.layers.{i}."
            names |= {
                block + "self_attn.in_proj_weight": [3 * DIM, DIM],
                block + "self_attn.out_proj.weight": [DIM, DIM],
                block + "linear1.weight": [MLP, DIM],
                block + "linear2.weight": [DIM, MLP],
            }
            for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
                names[block + name] = [DIM]
            for name in ("layer_scale_1.scale", "layer_scale_2.scale"):
                names[block + name] = [DIM]
    for number, shape in TRANSPOSED.items():
        names[f"decoder.model.{number}.convtr.convtr.weight"] = shape
        names[f"decoder.model.{number}.convtr.convtr.bias"] = shape[1:2]
    for name, part in (("rvq_first", "semantic"), ("rvq_rest", "acoustic")):
        names[f"quantizer.{name}.input_proj.weight"] = [WIDTH, DIM, 1]
        names[f"quantizer.{name}.output_proj.weight"] = [DIM, WIDTH, 1]
        for i in range(CODEBOOKS[part]):
            book = f"quantizer.{name}.vq.layers.{i}._codebook."
            names |= {
                book + "_initialized": [1],
                book + "cluster_usage": [SIZE],
                book + "embedding_sum": [SIZE, WIDTH],
            }
    return names


def hugging_face():
    names = {"downsample.conv.weight": [DIM, DIM, 4], "upsample.conv.weight": [DIM, 1, 4]}
    for half, convolutions in (("encoder", ENCODER), ("decoder", DECODER)):
        for number, shape in convolutions.items():
            names[f"{half}.layers.{number}.conv.weight"] = shape
            names[f"{half}.layers.{number}.conv.bias"] = shape[:1]
        for i in range(LAYERS):
            block = f"{half}_transformer.layers.{i}."
            for projection in "qkvo":
                names[f"{block}self_attn.{projection}_proj.weight"] = [DIM, DIM]
            names |= {block + "mlp.fc1.weight": [MLP, DIM], block + "mlp.fc2.weight": [DIM, MLP]}
            for norm in ("input_layernorm", "post_attention_layernorm"):
                names |= {f"{block}{norm}.weight": [DIM], f"{block}{norm}.bias": [DIM]}
            for scale in ("self_attn_layer_scale", "mlp_layer_scale"):
                names[f"{block}{scale}.scale"] = [DIM]
    for number, shape in TRANSPOSED.items():
        names[f"decoder.layers.{number}.conv.weight"] = shape
        names[f"decoder.layers.{number}.conv.bias"] = shape[1:2]
    for part, count in CODEBOOKS.items():
        quantizer = f"quantizer.{part}_residual_vector_quantizer."
        names[quantizer + "input_proj.weight"] = [WIDTH, DIM, 1]
        names[quantizer + "output_proj.weight"] = [DIM, WIDTH, 1]
        for i in range(count):
            book = f"{quantizer}layers.{i}.codebook."
            names |= {book + "initialized": [1], book + "cluster_usage": [SIZE], book + "embed_sum": [SIZE, WIDTH]}
    return names


def document(names):
    """One tensor to a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(names[name])}" for name in sorted(names)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    (HERE / "mimi_kyutai.json").write_text(document(kyutai()))
    (HERE / "mimi_hf.json").write_text(document(hugging_face()))
