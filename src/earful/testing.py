"""Tiny models with seeded random weights, written as real checkpoint folders, so that tests need no download."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.checkpoint.files import MAX_SHARD_BYTES
from earful.generate.beam import Decoding
from earful.models.kyutai_stt.config import KyutaiSttConfig
from earful.models.mimi.config import MIMI
from earful.models.moshi.config import DepthConfig, MoshiConfig, TemporalConfig
from earful.models.s2t.config import EOS, LANGUAGES, PAD, S2tConfig, StackConfig, TextConfig
from earful.models.s2t.config import AudioConfig as FbankConfig
from earful.models.s2t.processor import SPECIAL
from earful.models.voxtral.config import AudioConfig, DecoderConfig, EncoderConfig, VoxtralConfig
from earful.models.voxtral.config_files import special_ids
from earful.registry import FAMILIES, save_model
from earful.text.bpe import tiny_tekken
from earful.text.sentencepiece import SPACE, Kind, Piece, SentencePiece

TINY_WORDS = ["the", "a", "one", "two", "three", "four", "five", "is", "it", "and", "dog", "fox", "été", "日本"]
TINY_PARTS = [
    *"abcdefghijklmnopqrstuvwxyz.,'é日本🙂",
    *("er", "ing", "th", "ou", "qu", "s,", "ed", "st", "re", "on", "an", "in"),
]
Changes = Mapping[str, Mapping[str, Any]]
SLOTS_PER_S = 12.5


def write_tiny(
    family: str,
    layout: str = "hf",
    *,
    path: str | Path,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    **changes: Mapping[str, Any],
) -> Path:
    """Write a tiny checkpoint of a family in one of its layouts to the folder `path`, and return that.

    changes: other sizes by part of the config, as in `encoder={"window": 6}, audio={"hop": 320, "window": 512}`.
    The same seed and sizes give the same weights in every layout. What greedy decoding writes varies with the audio and
    with what was written before. Raises ValueError for a family that it cannot make, TypeError for an unknown size.
    """
    if family not in TINY:
        raise ValueError(f"expected a family of {', '.join(TINY)}, got {family}")
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        model, tokenizer = TINY[family](Path(scratch), seed, changes)
        for name, part in model.named_children():
            part.to(torch.float32 if f"{name}.".startswith(FAMILIES[family].wide) else dtype)
        save_model(model, path, layout, tokenizer, max_shard_bytes)
    return path


def tiny_voxtral(folder: Path, seed: int = 0, changes: Changes | None = None) -> tuple[nn.Module, Path]:
    """A Voxtral Realtime network of 60 000 parameters in float32, and the path of its tokenizer, written to `folder`.

    Every width differs from the others, so that none can be taken for another; the reference has fixed `ada_dim` at 32.
    """
    changes = changes or {}
    parts = {"audio", "encoder", "decoder", "ids"}
    if not parts >= changes.keys():
        raise TypeError(
            f"expected parts of {', '.join(sorted(parts))}, got {', '.join(sorted(changes.keys() - parts))}"
        )
    audio = replace(
        AudioConfig(rate_hz=16_000, hop=160, window=400, bins=24, log_max=1.5, left_slots=3, delay_slots=2),
        **changes.get("audio", {}),
    )
    tekken = tiny_tekken(audio.hop, audio.window, audio.bins, audio.left_slots, audio.delay_slots)
    tekken.save(folder / "tekken.json")
    mels_per_slot = round(audio.rate_hz / SLOTS_PER_S / audio.hop)
    sizes: dict[str, Any] = {"rope_base": 1e6, "norm_eps": 1e-5}
    encoder = EncoderConfig(
        mels=audio.bins, dim=20, layers=2, heads=2, kv_heads=2, head_dim=16, mlp_dim=44, window=18, **sizes
    )
    decoder = DecoderConfig(
        vocab=tekken.vocab,
        dim=36,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=14,
        mlp_dim=52,
        window=10,
        ada_dim=32,
        **sizes,
    )
    ids = special_ids(tekken, filler=tekken.special_id("<pad>"))
    config = VoxtralConfig(
        replace(encoder, **changes.get("encoder", {})),
        replace(decoder, **changes.get("decoder", {})),
        audio,
        replace(ids, **changes.get("ids", {})),
        mels_per_slot,
        mels_per_slot // 2,
    )
    model = FAMILIES["voxtral"].build(config)
    weights = random_weights(model, seed)
    # What follows keeps greedy decoding from writing one id all the time: no id is likelier than others by the length
    # of its embedding, except that the two markers are written often and other special ids seldom, and what all
    # features have in common is not heard.
    length = torch.full([tekken.vocab, 1], 0.5)
    length[len(tekken.special_tokens) :] = 2.0
    length[[config.ids.blank, config.ids.word]] = 3.5
    weights["decoder.embed.weight"] = F.normalize(weights["decoder.embed.weight"]) * length
    weights["encoder.conv1.conv.weight"] -= weights["encoder.conv1.conv.weight"].mean((1, 2), keepdim=True)
    model.load_state_dict(weights, assign=True)
    return model, folder / "tekken.json"


def tiny_sentencepiece() -> SentencePiece:
    """A vocabulary of 320 pieces: four special ones, every byte, letters, parts of words and some whole words."""
    special = [
        Piece("<unk>", 0.0, Kind.UNKNOWN),
        *(Piece(name, 0.0, Kind.CONTROL) for name in ("<s>", "</s>", "<pad>")),
    ]
    every_byte = [Piece(f"<0x{byte:02X}>", 0.0, Kind.BYTE) for byte in range(256)]
    texts = [SPACE, *(SPACE + word for word in TINY_WORDS), *TINY_PARTS]
    return SentencePiece([*special, *every_byte, *(Piece(text, -1.0 - i / 8) for i, text in enumerate(texts))])


def tiny_mimi(folder: Path, seed: int = 0, changes: Changes | None = None) -> tuple[nn.Module, None]:
    """A Mimi codec of 40 000 parameters in float32 with frames of 384 samples at 4800 Hz; it has no tokenizer.

    changes: other sizes under the one name "codec". Codes vary with the audio, in every codebook.
    """
    changes = changes or {}
    if not {"codec"} >= changes.keys():
        raise TypeError(f"expected the part codec, got {', '.join(sorted(changes.keys() - {'codec'}))}")
    sizes: dict[str, Any] = {
        "rate_hz": 4_800, "ratios": (8, 6, 4), "filters": 4, "dim": 24, "layers": 2, "heads": 2, "head_dim": 12,
        "mlp_dim": 36, "window": 10, "codebooks": 6, "codebook_size": 32, "codebook_dim": 14,
    }  # fmt: skip
    model = FAMILIES["mimi"].build(replace(MIMI, **{**sizes, **changes.get("codec", {})}))
    model.load_state_dict(mimi_weights(model, seed), assign=True)
    return model, None


def tiny_kyutai_stt(folder: Path, seed: int = 0, changes: Changes | None = None) -> tuple[nn.Module, Path]:
    """A Kyutai Speech-To-Text network of 80 000 parameters in float32 with the codec of `tiny_mimi`, and its tokenizer.

    changes: other sizes under the names "temporal", "codec" and "model", as in `model={"vad_heads": 4}`.
    """
    changes = changes or {}
    parts = {"temporal", "codec", "model"}
    if not parts >= changes.keys():
        raise TypeError(
            f"expected parts of {', '.join(sorted(parts))}, got {', '.join(sorted(changes.keys() - parts))}"
        )
    vocabulary = tiny_sentencepiece()
    vocabulary.save(folder / "tokenizer.model")
    codec: Any = tiny_mimi(folder, seed, {"codec": changes.get("codec", {})})[0]
    temporal = TemporalConfig(
        dim=48, layers=2, heads=4, head_dim=12, mlp_dim=60, window=20, rope_base=1e5, norm_eps=1e-8,
        text_vocab=vocabulary.vocab, codebooks=codec.config.codebooks, audio_vocab=codec.config.codebook_size,
    )  # fmt: skip
    model_changes = changes.get("model", {})
    config = KyutaiSttConfig(
        replace(temporal, **changes.get("temporal", {})),
        codec.config,
        vad_heads=0,
        vad_classes=6 if model_changes.get("vad_heads") else 0,
        pad_id=3,
        word_id=0,
        delay_s=0.4,
        prefix_s=0.0,
    )
    config = replace(config, **model_changes)
    model = FAMILIES["kyutai_stt"].build(config)
    weights = {name: tensor for name, tensor in random_weights(model, seed).items() if not name.startswith("codec.")}
    weights["temporal.text_head.weight"] = text_head(vocabulary, [config.pad_id, config.word_id], weights)
    weights |= {f"codec.{name}": tensor for name, tensor in codec.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    return model, folder / "tokenizer.model"


def tiny_moshi(folder: Path, seed: int = 0, changes: Changes | None = None) -> tuple[nn.Module, Path]:
    """A Moshi network of 140 000 parameters in float32 with the codec of `tiny_mimi`, and its tokenizer.

    changes: other sizes under the names "temporal", "depth", "codec" and "model", as in `depth={"low_rank": 5}`. What
    is written and said varies with what is heard.
    """
    changes = changes or {}
    parts = {"temporal", "depth", "codec", "model"}
    if not parts >= changes.keys():
        raise TypeError(
            f"expected parts of {', '.join(sorted(parts))}, got {', '.join(sorted(changes.keys() - parts))}"
        )
    vocabulary = tiny_sentencepiece()
    vocabulary.save(folder / "tokenizer.model")
    codec: Any = tiny_mimi(folder, seed, {"codec": changes.get("codec", {})})[0]
    depth = replace(
        DepthConfig(dim=32, layers=2, heads=2, head_dim=16, mlp_dim=42, norm_eps=1e-8, schedule=(0, 1, 2)),
        **changes.get("depth", {}),
    )
    temporal = TemporalConfig(
        dim=48, layers=2, heads=4, head_dim=12, mlp_dim=60, window=20, rope_base=1e4, norm_eps=1e-8,
        text_vocab=vocabulary.vocab, codebooks=2 * depth.codebooks, audio_vocab=codec.config.codebook_size,
    )  # fmt: skip
    temporal = replace(temporal, **changes.get("temporal", {}))
    late = [1 if k not in (0, depth.codebooks) else 0 for k in range(temporal.codebooks)]
    config = replace(
        MoshiConfig(temporal, depth, codec.config, delays=(0, *late), pad_id=3, end_pad_id=0),
        **changes.get("model", {}),
    )
    model = FAMILIES["moshi"].build(config)
    weights = {name: tensor for name, tensor in random_weights(model, seed).items() if not name.startswith("codec.")}
    weights["temporal.text_head.weight"] = text_head(vocabulary, [config.pad_id, config.end_pad_id], weights)
    weights |= {f"codec.{name}": tensor for name, tensor in codec.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    return model, folder / "tokenizer.model"


def text_head(vocabulary: SentencePiece, silence: Sequence[int], weights: Mapping[str, Tensor]) -> Tensor:
    """The head of a temporal transformer that writes silence often, other special ids and single bytes seldom."""
    head = weights["temporal.text_head.weight"]
    length = torch.full([len(head), 1], 2.5)
    length[: len(vocabulary.pieces) - len(TINY_WORDS) - len(TINY_PARTS)] = 1.2
    length[list(silence)] = 3.5
    return F.normalize(head) * length


def tiny_s2t(folder: Path, seed: int = 0, changes: Changes | None = None) -> tuple[nn.Module, Path]:
    """A Speech2Text network of 30 000 parameters in float32 that writes one language, and its vocabulary.

    changes: other sizes under the names "model", "encoder", "decoder", "audio", "text" and "decoding", as in
    `text={"language_set": "mustc"}, model={"tied": False}`.
    """
    changes = changes or {}
    parts = {"model", "encoder", "decoder", "audio", "text", "decoding"}
    if not parts >= changes.keys():
        raise TypeError(
            f"expected parts of {', '.join(sorted(parts))}, got {', '.join(sorted(changes.keys() - parts))}"
        )
    text = replace(TextConfig(), **changes.get("text", {}))
    vocabulary = tiny_s2t_vocabulary(text)
    vocabulary.save(folder / "sentencepiece.bpe.model")
    config = S2tConfig(
        dim=24,
        encoder=replace(StackConfig(layers=2, heads=2, mlp_dim=40), **changes.get("encoder", {})),
        decoder=replace(StackConfig(layers=2, heads=3, mlp_dim=36), **changes.get("decoder", {})),
        vocab=vocabulary.vocab,
        conv_channels=28,
        conv_kernels=(5, 5),
        source_frames=6000,
        target_ids=1024,
        audio=replace(FbankConfig(rate_hz=16_000, bins=20), **changes.get("audio", {})),
        text=text,
        decoding=replace(Decoding(beams=3, max_length=24), **changes.get("decoding", {})),
    )
    config = replace(config, **changes.get("model", {}))
    model = FAMILIES["s2t"].build(config)
    model.load_state_dict(s2t_weights(model, seed), assign=True)
    return model, folder / "sentencepiece.bpe.model"


def tiny_s2t_vocabulary(text: TextConfig) -> SentencePiece:
    """The four special pieces, the languages if there are any, words and parts of words."""
    special = [Piece(name, 0.0, Kind.UNKNOWN if name == "<unk>" else Kind.CONTROL) for name in SPECIAL]
    languages = LANGUAGES[text.language_set] if text.language_set else ()
    texts = [SPACE, *(SPACE + word for word in TINY_WORDS), *TINY_PARTS]
    return SentencePiece(
        [
            *special,
            *(Piece(f"<lang:{language}>", 0.0, Kind.USER_DEFINED) for language in languages),
            *(Piece(text, -1.0 - i / 8) for i, text in enumerate(texts)),
        ]
    )


def s2t_weights(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Seeded float32 weights for a model on `meta`: texts of some length that depend on the audio."""
    weights = random_weights(model, seed)
    for name, tensor in weights.items():
        if name.endswith("norm.bias"):
            tensor -= 1
        elif "cross.v.weight" in name:
            tensor *= 2  # what is heard counts as much as what has been written
    # What has just been written counts less than what is heard, or one id would follow itself for ever.
    for name in ("decoder.embed.weight", "decoder.head.weight"):
        if name in weights:
            weights[name] = F.normalize(weights[name]) * 0.4
            weights[name][EOS] *= 1.3
    weights["decoder.norm.weight"] *= 4
    weights["decoder.embed.weight"][PAD] = 0
    return weights


def mimi_weights(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Seeded float32 weights for a codec on `meta`, whose audio, latents and codebooks are of order 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = random_weights(model, seed)
    for name, tensor in weights.items():
        if name.endswith(".usage"):
            weights[name] = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif name.endswith(".embedding"):  # finer from one codebook to the next, as what they leave is
            weights[name] = torch.randn(tensor.shape, generator=generator) * 2 * 0.8 ** int(name.split(".")[-2])
        elif name.endswith("_scale.weight"):
            weights[name] = 0.3 + tensor
        elif name.startswith("decoder.stages") and name.endswith("resample.conv.weight"):  # [in, out, kernel]
            weights[name] = tensor * 0.3 * (tensor[0].numel() / tensor.shape[0]) ** 0.5
        elif tensor.ndim > 1:
            weights[name] = tensor * (0.05 if name == "decoder.last.conv.weight" else 0.6)  # audio within -1 and 1
    return weights


def random_weights(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Seeded float32 weights for a model on `meta`: norms near 1, the rest such that signals keep their size."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            weights[name] = noise * (2.0 / tensor[0].numel() ** 0.5)
        else:
            weights[name] = noise * 0.1 + ("norm" in name)
    return weights


TINY: dict[str, Callable[[Path, int, Changes], tuple[nn.Module, Path | None]]] = {
    "kyutai_stt": tiny_kyutai_stt,
    "mimi": tiny_mimi,
    "moshi": tiny_moshi,
    "s2t": tiny_s2t,
    "voxtral": tiny_voxtral,
}
