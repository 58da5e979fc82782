"""Kyutai Speech-To-Text at its published sizes with random weights, beside both reference implementations.

`python -m benchmarks.kyutai_stt NAME TASK SIZE FOLDER` prints JSON: a process each. Every way to work is timed with one
frame of 80 ms to a call, its windows full from the first call on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.subjects import Json, summary
from earful import registry
from earful.models.kyutai_stt.config import PRESETS, KyutaiSttConfig
from earful.models.kyutai_stt.config_hf import to_hf
from earful.models.kyutai_stt.config_kyutai import to_kyutai
from earful.models.kyutai_stt.stream import KyutaiSttStream, streams
from earful.models.mimi.config_kyutai import mimi_config
from earful.nn.state import nbytes
from earful.stream.engine import Engine
from earful.testing import tiny_sentencepiece, write_tiny
from earful.text.sentencepiece import Piece, SentencePiece

PUBLISHED = ("stt-1b-en_fr", "stt-2.6b-en")
STREAMS = (1, 4, 8)
FRAMES, LONGEST_S = 24, 12.0  # of a measurement: so many calls, or as many as there is time for
WARM_UP = 3
IDS_FRAMES = 60
Pace = Callable[[Callable[[], object]], Json]


class Subject(Protocol):
    """One way to hear and to write, a frame of all streams to a call."""

    def codec(self, batch: int, pace: Pace) -> Json:
        """Samples to codes, and the bytes of state of a stream."""

    def language_model(self, batch: int, pace: Pace) -> Json:
        """Codes and the last ids to the next ids, and the bytes of state of a stream."""

    def ids(self, samples: Tensor) -> list[int]:
        """What is written of [1, 1, N] samples, whole frames, without any silence around them."""


class Earful:
    def __init__(self, config: KyutaiSttConfig, folder: Path | None) -> None:
        self.config = config
        if folder:
            model, tokenizer = registry.load_model(folder / "kyutai")
            self.stream = KyutaiSttStream(model, SentencePiece.from_file(tokenizer))  # type: ignore[arg-type]
            return
        model = registry.FAMILIES["kyutai_stt"].build(config)
        for name, part in model.named_children():
            part.to(torch.float32 if name == "codec" else torch.bfloat16).to_empty(device="cpu")
        filled(model)
        with TemporaryDirectory() as scratch:
            vocabulary(config.temporal.text_vocab).save(Path(scratch) / "tokenizer.model")
            self.stream, _ = streams(model.eval(), Path(scratch) / "tokenizer.model")  # type: ignore[arg-type]

    def codec(self, batch: int, pace: Pace) -> Json:
        model, state = self.stream.model, self.stream.init_state(batch).codec
        state.transformer.pos.fill_(model.config.codec.window)
        frame = frames(model.config, batch)
        return pace(lambda: model.hear(frame, state)) | {"state_bytes": nbytes(state) // batch}

    def language_model(self, batch: int, pace: Pace) -> Json:
        state = self.stream.init_state(batch)
        state.temporal.pos.fill_(self.config.temporal.window)
        codes = torch.zeros(batch, self.config.temporal.codebooks, dtype=torch.int64)
        found = pace(lambda: self.stream.write(state, codes, None))
        return found | {"state_bytes": (nbytes(state) - nbytes(state.codec)) // batch}

    def live(self, batch: int, pace: Pace) -> Json:
        """Both, from the samples that a session is fed to its events."""
        engine = Engine(self.stream, batch)
        lanes = [engine.open() for _ in range(batch)]
        engine.state.codec.transformer.pos.add_(self.config.codec.window)
        engine.state.temporal.pos.add_(self.config.temporal.window)
        samples = frames(self.config, 1).flatten().numpy()

        def frame() -> None:
            for lane in lanes:
                lane.framer.feed(samples)
            engine.pump()

        return pace(frame)

    def ids(self, samples: Tensor) -> list[int]:
        state = self.stream.init_state(1)
        written = [self.stream.write(state, self.stream.model.start(1)[:, 1:, 0], None)]
        for frame in samples[0].split(self.stream.hop, dim=-1):
            written.append(self.stream.step(state, frame, [1])[0])
        return torch.cat(written)[:, 0].long().tolist()

    def weight_bytes(self) -> Json:
        """What a frame reads of the weights; of the tables of ids it is a few rows."""
        c = self.config
        model = registry.FAMILIES["kyutai_stt"].build(c)
        temporal = (*model.temporal.layers.parameters(), *model.temporal.text_head.parameters())  # type: ignore[operator, union-attr]
        hearing = (model.codec.encoder, model.codec.encoder_transformer, model.codec.downsample)  # type: ignore[union-attr]
        codec = [tensor for part in hearing for tensor in part.parameters()]  # type: ignore[union-attr]
        tables = c.temporal.codebooks * c.codec.codebook_size * c.codec.codebook_dim
        return {
            "language_model": 2 * sum(tensor.numel() for tensor in temporal),
            "codec": 4 * (sum(tensor.numel() for tensor in codec) + tables),
        }


class Transformers:
    def __init__(self, config: KyutaiSttConfig, folder: Path | None) -> None:
        import transformers
        from transformers.initialization import no_init_weights

        transformers.logging.set_verbosity_error()
        self.config = config
        kind = transformers.KyutaiSpeechToTextForConditionalGeneration
        if folder:
            self.model = kind.from_pretrained(folder / "hf").eval()
            return
        document = to_hf(config, torch.bfloat16)["config.json"]
        with no_init_weights():
            self.model = kind._from_config(transformers.KyutaiSpeechToTextConfig(**document), dtype=torch.bfloat16)
        filled(self.model.eval())
        self.model.codec_model.float()

    def codec(self, batch: int, pace: Pace) -> Json:
        codec, frame = self.model.codec_model, frames(self.config, batch)
        state = [self._cache(self.config.codec, codec.config, batch, torch.float32), None]

        def encode() -> None:
            found = codec.encode(frame, encoder_past_key_values=state[0], padding_cache=state[1], use_streaming=True)
            state[:] = found.encoder_past_key_values, found.padding_cache

        return pace(encode) | {"state_bytes": tensor_bytes(state) // batch}

    def language_model(self, batch: int, pace: Pace) -> Json:
        cache = self._cache(self.config.temporal, self.model.config, batch, torch.bfloat16)
        ids = torch.zeros(batch, 1, 1 + self.config.temporal.codebooks, dtype=torch.int64)

        def write() -> Tensor:
            return self.model(input_ids=ids, past_key_values=cache, use_cache=True).logits.argmax(-1)  # type: ignore[no-any-return]

        return pace(write) | {"state_bytes": tensor_bytes(cache) // batch}

    def _cache(self, sizes: Any, config: Any, batch: int, dtype: torch.dtype) -> Any:
        """What `generate` takes, filled up to the window."""
        from transformers import DynamicCache

        cache = DynamicCache(config=config)
        past = torch.zeros(batch, sizes.heads, sizes.window, sizes.head_dim, dtype=dtype)
        for layer in range(sizes.layers):
            cache.update(past, past, layer)
        return cache

    def ids(self, samples: Tensor) -> list[int]:
        mask = torch.ones_like(samples[:, 0])
        return self.model.generate(input_values=samples, padding_mask=mask)[0, 1:].tolist()  # type: ignore[no-any-return]


class Moshi:
    def __init__(self, config: KyutaiSttConfig, folder: Path | None) -> None:
        from moshi.models import LMGen, loaders

        self.config = config
        dtype = torch.float32 if folder else torch.bfloat16
        weights = {part: folder / "kyutai" / f"{part}.safetensors" if folder else None for part in ("model", "mimi")}
        named = to_kyutai(config)
        named = {key: value for key, value in named.items() if not key.endswith(("_name", "_config", "model_type"))}
        self.model = loaders.get_moshi_lm(weights["model"], named, "cpu" if folder else "meta", dtype)
        books = config.temporal.codebooks
        self.mimi = loaders.get_mimi(weights["mimi"], mimi_config(config.codec), num_codebooks=books)
        if not folder:
            filled(self.model.to_empty(device="cpu"))
        self.generation = LMGen(self.model.eval(), use_sampling=False)

    def codec(self, batch: int, pace: Pace) -> Json:
        frame = frames(self.config, batch)
        with self.mimi.streaming(batch):
            return pace(lambda: self.mimi.encode(frame)) | {"state_bytes": self._state_bytes(self.mimi) // batch}

    def language_model(self, batch: int, pace: Pace) -> Json:
        codes = torch.zeros(batch, self.config.temporal.codebooks, 1, dtype=torch.int64)
        with self.generation.streaming(batch):
            found = pace(lambda: self.generation.step(codes))
            return found | {"state_bytes": self._state_bytes(self.model) // batch}

    def _state_bytes(self, model: nn.Module) -> int:
        return sum(tensor_bytes(getattr(module, "_streaming_state", None)) for module in model.modules())

    def ids(self, samples: Tensor) -> list[int]:
        from moshi.utils.compile import no_compile

        with no_compile(), self.mimi.streaming(1), self.generation.streaming(1):
            codes = [self.mimi.encode(frame) for frame in samples.split(self.config.codec.frame_samples, dim=-1)]
            return [int(self.generation.step(frame)) for frame in (codes[0], *codes)]  # the first step hears nothing


SUBJECTS: dict[str, Callable[[KyutaiSttConfig, Path | None], Subject]] = {
    "earful": Earful,
    "transformers": Transformers,
    "moshi": Moshi,
}


def config_of(size: str, folder: Path) -> KyutaiSttConfig:
    """A published size, or that of the checkpoint in the folder."""
    return PRESETS[size] if size in PRESETS else registry.load_model(folder / "kyutai")[0].config  # type: ignore[return-value]


def write_checkpoints(folder: Path) -> None:
    """The same tiny float32 model in both layouts. Within its codec's window the ring of moshi's is exact."""
    for layout in ("kyutai", "hf"):
        write_tiny("kyutai_stt", layout, path=folder / layout, codec={"window": 2 * IDS_FRAMES})


def vocabulary(size: int) -> SentencePiece:
    """Any tokenizer with so many pieces."""
    tiny = tiny_sentencepiece().pieces
    return SentencePiece([*tiny, *(Piece(f"piece{i}", -100.0) for i in range(size - len(tiny)))])


def frames(config: KyutaiSttConfig, batch: int) -> Tensor:
    """A frame of noise for each stream: [batch, 1, frame_samples]."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(batch, 1, config.codec.frame_samples, generator=generator)


def filled(model: nn.Module) -> nn.Module:
    """Random numbers for all weights, in place and fast: a million of them again and again."""
    noise = 0.02 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            for piece in tensor.data.view(-1).split(len(noise)):
                piece.copy_(noise[: len(piece)])
    return model.requires_grad_(False)


def tensor_bytes(state: Any) -> int:
    """The memory of all tensors in a state of any library."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, nn.Module) or callable(state):
        return 0
    parts: Iterable[Any] = state if isinstance(state, (list, tuple)) else ()
    if isinstance(state, dict) or hasattr(state, "__dict__"):
        parts = (state if isinstance(state, dict) else vars(state)).values()
    return sum(map(tensor_bytes, parts))


def pace(call: Callable[[], object]) -> Json:
    """Milliseconds of a call, after some that are not counted."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    while len(times) < FRAMES and sum(times) < LONGEST_S:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return summary(times)


def speed(subject: Subject) -> Json:
    """Milliseconds of a frame of so many streams, by what is measured."""
    ways = {"codec": subject.codec, "language_model": subject.language_model}
    found: Json = {}
    if isinstance(subject, Earful):
        ways["live"] = subject.live
        found["weight_bytes"] = subject.weight_bytes()
    for batch in STREAMS:  # from few to many, as our own weights are laid out anew for more than one stream
        for name, way in ways.items():
            found.setdefault(name, {})[str(batch)] = way(batch, pace)
    return found


def ids(subject: Subject) -> Json:
    config: KyutaiSttConfig = subject.config  # type: ignore[attr-defined]
    samples = frames(config, IDS_FRAMES).view(1, 1, -1)
    return {"ids": subject.ids(samples)}


TASKS = {"speed": speed, "ids": ids}


def main(name: str, task: str, size: str, folder: str) -> None:
    with torch.inference_mode():
        subject = SUBJECTS[name](config_of(size, Path(folder)), Path(folder) if task == "ids" else None)
        print(json.dumps(TASKS[task](subject)))


if __name__ == "__main__":
    main(*sys.argv[1:])
