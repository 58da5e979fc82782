"""Writes the key lists of the published Voxtral checkpoint: python tests/golden/make_voxtral.py

The facts of README.md, written out by hand in each layout's own words; nothing here looks at earful's tables.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
VOCAB = 131072
AUDIO = dict(dim=1280, layers=32, heads=32 * 64, kv_heads=32 * 64, mlp=5120)
TEXT = dict(dim=3072, layers=26, heads=32 * 128, kv_heads=8 * 128, mlp=9216)
ADA = 32
FRAMES = 4  # encoder frames to a slot
MELS, KERNEL = 128, 3


def mistral():
    embedding = "mm_streams_embeddings.embedding_module."
    whisper = embedding + "whisper_encoder."
    audio, text = AUDIO["dim"], TEXT["dim"]
    names = {
        embedding + "tok_embeddings.weight": [VOCAB, text],
        embedding + "audio_language_projection.0.weight": [text, FRAMES * audio],
        embedding + "audio_language_projection.2.weight": [text, text],
        whisper + "conv_layers.0.conv.weight": [audio, MELS, KERNEL],
        whisper + "conv_layers.0.conv.bias": [audio],
        whisper + "conv_layers.1.conv.weight": [audio, audio, KERNEL],
        whisper + "conv_layers.1.conv.bias": [audio],
        whisper + "transformer.norm.weight": [audio],
        "norm.weight": [text],
    }
    for prefix, s in ((whisper + "transformer.layers.", AUDIO), ("layers.", TEXT)):
        for i in range(s["layers"]):
            block = f"{prefix}{i}."
            names |= {
                block + "attention.wq.weight": [s["heads"], s["dim"]],
                block + "attention.wk.weight": [s["kv_heads"], s["dim"]],
                block + "attention.wv.weight": [s["kv_heads"], s["dim"]],
                block + "attention.wo.weight": [s["dim"], s["heads"]],
                block + "attention_norm.weight": [s["dim"]],
                block + "ffn_norm.weight": [s["dim"]],
                block + "feed_forward.w1.weight": [s["mlp"], s["dim"]],
                block + "feed_forward.w2.weight": [s["dim"], s["mlp"]],
                block + "feed_forward.w3.weight": [s["mlp"], s["dim"]],
            }
            if s is AUDIO:
                names |= {
                    block + "attention.wq.bias": [s["heads"]],
                    block + "attention.wv.bias": [s["kv_heads"]],
                    block + "attention.wo.bias": [s["dim"]],
                    block + "feed_forward.w2.bias": [s["dim"]],
                }
            else:
                names |= {
                    block + "ada_rms_norm_t_cond.0.weight": [ADA, s["dim"]],
                    block + "ada_rms_norm_t_cond.2.weight": [s["dim"], ADA],
                }
    return names


def hugging_face():
    audio, text = AUDIO["dim"], TEXT["dim"]
    names = {
        "audio_tower.embedder.conv1.weight": [audio, MELS, KERNEL],
        "audio_tower.embedder.conv1.bias": [audio],
        "audio_tower.embedder.conv2.weight": [audio, audio, KERNEL],
        "audio_tower.embedder.conv2.bias": [audio],
        "audio_tower.norm.weight": [audio],
        "multi_modal_projector.linear_1.weight": [text, FRAMES * audio],
        "multi_modal_projector.linear_2.weight": [text, text],
        "language_model.model.embed_tokens.weight": [VOCAB, text],
        "language_model.model.norm.weight": [text],
    }
    for prefix, s in (("audio_tower.layers.", AUDIO), ("language_model.model.layers.", TEXT)):
        for i in range(s["layers"]):
            block = f"{prefix}{i}."
            names |= {
                block + "self_attn.q_proj.weight": [s["heads"], s["dim"]],
                block + "self_attn.k_proj.weight": [s["kv_heads"], s["dim"]],
                block + "self_attn.v_proj.weight": [s["kv_heads"], s["dim"]],
                block + "self_attn.o_proj.weight": [s["dim"], s["heads"]],
                block + "mlp.gate_proj.weight": [s["mlp"], s["dim"]],
                block + "mlp.up_proj.weight": [s["mlp"], s["dim"]],
                block + "mlp.down_proj.weight": [s["dim"], s["mlp"]],
            }
            if s is AUDIO:
                names |= {
                    block + "self_attn.q_proj.bias": [s["heads"]],
                    block + "self_attn.v_proj.bias": [s["kv_heads"]],
                    block + "self_attn.o_proj.bias": [s["dim"]],
                    block + "mlp.down_proj.bias": [s["dim"]],
                    block + "self_attn_layer_norm.weight": [s["dim"]],
                    block + "final_layer_norm.weight": [s["dim"]],
                }
            else:
                names |= {
                    block + "input_layernorm.weight": [s["dim"]],
                    block + "post_attention_layernorm.weight": [s["dim"]],
                    block + "ada_rms_norm.linear1.weight": [ADA, s["dim"]],
                    block + "ada_rms_norm.linear2.weight": [s["dim"], ADA],
                }
    return names


def document(names):
    """One tensor to a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(names[name])}" for name in sorted(names)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    (HERE / "voxtral_mistral.json").write_text(document(mistral()))
    (HERE / "voxtral_hf.json").write_text(document(hugging_face()))
