"""One engine in one process: prints a JSON object.

python -m benchmarks.measure earful|transformers|ids FOLDER SECONDS STREAM_SECONDS DTYPE
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

RATE_HZ = 16_000
SLOT = 1280
WARM_STEPS = 5
SHORT_S, LONG_S = 60, 600  # after how much of a stream memory is read


def noise(seconds: float) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ)) * 0.05).astype(np.float32)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_earful(folder: str | None, seconds: float, stream_s: float, dtype: str | None) -> dict[str, Any]:
    import earful

    model = earful.load(folder, dtype=dtype)
    result: dict[str, Any] = {"loaded_mb": resident_mb()}
    audio = noise(seconds)
    model.transcribe(audio[: 5 * SLOT])
    began = time.perf_counter()
    whole = model.transcribe(audio)
    result |= timed_offline(time.perf_counter() - began, seconds)
    times: list[float] = []
    text = ""
    with model.stream() as session:
        result["bytes_per_stream"] = session._engine.bytes_per_slot
        for number in range(round(stream_s * RATE_HZ) // SLOT):
            chunk = audio[number * SLOT % (len(audio) - SLOT) :][:SLOT]
            began = time.perf_counter()
            session.feed(chunk)
            times.append(time.perf_counter() - began)
            second = (number + 1) * SLOT / RATE_HZ
            if second in (SHORT_S, LONG_S):
                result[f"resident_mb_{second:.0f}s"] = resident_mb()
    began = time.perf_counter()
    with model.stream() as session:
        result["open_ms"] = 1e3 * (time.perf_counter() - began)
        for begin in range(0, len(audio), SLOT):
            text += "".join(e.text for e in session.feed(audio[begin : begin + SLOT]) if isinstance(e, earful.Text))
        text += "".join(e.text for e in session.finish() if isinstance(e, earful.Text))
    result["streams_like_offline"] = text == whole.text
    result["first_text_ms"] = 1e3 * float(
        np.median(times)
    )  # the slot that completes the delay is a step like any other
    return result | timed_steps(times)


def run_transformers(folder: str, seconds: float, stream_s: float, dtype: str) -> dict[str, Any]:
    import transformers

    transformers.logging.set_verbosity_error()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.VoxtralRealtimeForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.generation_config.eos_token_id = None  # random weights would end anywhere
    result: dict[str, Any] = {"loaded_mb": resident_mb()}
    audio = noise(seconds)
    inputs = processor(audio, return_tensors="pt", sampling_rate=RATE_HZ).to("cpu", dtype=model.dtype)
    began = time.perf_counter()
    model.generate(**inputs)
    result |= timed_offline(time.perf_counter() - began, seconds)

    times: list[float] = []
    spoken = noise(stream_s)
    first = processor(
        spoken[: processor.num_samples_first_audio_chunk],
        is_streaming=True,
        is_first_audio_chunk=True,
        return_tensors="pt",
        sampling_rate=RATE_HZ,
    ).to("cpu", dtype=model.dtype)

    def chunks() -> Iterator[torch.Tensor]:
        began = time.perf_counter()
        yield first.input_features
        result["first_text_ms"] = 1e3 * (time.perf_counter() - began)
        frame, hop = processor.num_mel_frames_first_audio_chunk, processor.feature_extractor.hop_length
        while (start := frame * hop - processor.feature_extractor.win_length // 2) + 1680 < len(spoken):
            began = time.perf_counter()
            piece = processor(
                spoken[start : start + processor.num_samples_per_audio_chunk],
                is_streaming=True,
                is_first_audio_chunk=False,
                return_tensors="pt",
                sampling_rate=RATE_HZ,
            )
            yield piece.input_features.to(model.dtype)
            times.append(time.perf_counter() - began)
            frame += processor.audio_length_per_tok
            if round(frame * hop / RATE_HZ, 2) in (SHORT_S, LONG_S):
                result[f"resident_mb_{frame * hop / RATE_HZ:.0f}s"] = resident_mb()

    model.generate(input_ids=first.input_ids, input_features=chunks(), num_delay_tokens=first.num_delay_tokens)
    return result | timed_steps(times)


def ids(engine: Any, folder: str, seconds: float) -> list[int]:
    """What `generate` of one library writes of some noise, in float32."""
    processor = engine.AutoProcessor.from_pretrained(folder)
    model = engine.VoxtralRealtimeForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    inputs = processor(noise(seconds), return_tensors="pt", sampling_rate=RATE_HZ)
    return model.generate(**inputs)[0].tolist()  # type: ignore[no-any-return]


def timed_offline(elapsed_s: float, seconds: float) -> dict[str, float]:
    return {"offline_ms_per_slot": 1e3 * elapsed_s / (seconds * RATE_HZ / SLOT), "offline_x": seconds / elapsed_s}


def timed_steps(times: list[float]) -> dict[str, float]:
    steps = 1e3 * np.array(times[WARM_STEPS:])
    return {"step_ms": float(np.median(steps)), "step_ms_p95": float(np.percentile(steps, 95)), "steps": len(steps)}


def main() -> None:
    warnings.simplefilter("ignore")
    what, folder, seconds, stream_s, dtype = sys.argv[1:]
    with torch.inference_mode():
        if what == "ids":
            import transformers

            import earful

            mine, theirs = (ids(engine, folder, float(seconds)) for engine in (earful, transformers))
            result: dict[str, Any] = {"ids": len(mine), "equal": mine == theirs}
        else:
            run = {"earful": run_earful, "transformers": run_transformers}[what]
            result = run(
                folder if folder != "-" else None, float(seconds), float(stream_s), dtype if dtype != "-" else None
            )  # type: ignore[operator]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
