"""The tensors of Kyutai Speech-To-Text checkpoints, and how to tell the layouts apart.

Source: names and shapes of the published kyutai/stt-1b-en_fr, its -candle twin and kyutai/stt-2.6b-en-trfs.
"""

from __future__ import annotations

from earful.checkpoint.table import Drop, Layout, Row, Stacked, row
from earful.models.kyutai_stt import config_hf, config_kyutai
from earful.models.kyutai_stt.config import KyutaiSttConfig
from earful.models.mimi import layouts as mimi
from earful.models.moshi import layouts as moshi
from earful.models.moshi.config_kyutai import CODEC, STEMS, find_tokenizer, open_kyutai


def kyutai_table(config: KyutaiSttConfig, attention: tuple[str, str] = mimi.ATTENTION[0]) -> list[Row]:
    """Both weight files as one; attention: one of `mimi.ATTENTION`."""
    return [
        *moshi.kyutai_rows(config.temporal, "temporal.", attention),
        row("extra_heads.{i}.weight", "vad_heads.{i}.weight"),
        row("depformer_in.{any}", op=Drop("of a model that speaks")),
        *mimi.kyutai_table(config.codec, CODEC, "codec.", attention=attention),
    ]


def hf_table(config: KyutaiSttConfig, naming: str = "disk") -> list[Row]:
    """model.safetensors; naming: of the codec's tensors, one of `mimi.HF_HALVES`."""
    c = config.temporal
    tables = ["temporal.text_embed.weight", *(f"temporal.audio_embeds.{k}.weight" for k in range(c.codebooks))]
    rows = (c.text_vocab + 1, *[c.audio_vocab + 1] * c.codebooks)
    return [
        row("model.embed_tokens.embed_tokens.weight", tables, Stacked(rows)),
        *moshi.hf_blocks("model.", "temporal."),
        row("lm_head.weight", "temporal.text_head.weight", Stacked((c.text_vocab,))),
        *mimi.hf_table(config.codec, "codec_model.", "codec.", naming),
    ]


LAYOUTS = {
    "hf": Layout(
        marker="config.json",
        owns=config_hf.is_hf,
        stem="model",
        tokenizer="tokenizer.json",
        read=config_hf.read_hf,
        write=config_hf.write_hf,
        tables=lambda config: [hf_table(config, naming) for naming in mimi.HF_HALVES],
    ),
    "kyutai": Layout(
        marker="config.json",
        owns=config_kyutai.is_kyutai,
        stem=STEMS["moshi_name"],
        tokenizer=find_tokenizer,
        read=config_kyutai.read_kyutai,
        write=config_kyutai.write_kyutai,
        # The first one is written; whatever a file has, `open_kyutai` gives as the other says.
        tables=lambda config: [kyutai_table(config, attention) for attention in mimi.ATTENTION[:2]],
        open=open_kyutai,
        parts={CODEC: STEMS["mimi_name"]},
    ),
}
