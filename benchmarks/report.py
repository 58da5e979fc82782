"""From the numbers of a run to its tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]
SLOT_S = 0.08
SILENT_SLOTS = 32 + 17  # before and behind a clip; both libraries step through them


def markdown(found: Json) -> str:
    """The tables of a run."""
    lines = [setting(found)]
    if "voxtral" in found:
        voxtral = {**found, **found["voxtral"]}
        lines += ["", sizes(voxtral), "", *beside(voxtral), "", *builtin(voxtral)]
    if "kyutai_stt" in found:
        for size, speed in found["kyutai_stt"]["speed"].items():
            lines += ["", *kyutai_stt(size, speed, found)]
        lines += ["", f"{same_ids(found['kyutai_stt']['same_ids'])} in all three, in float32 at a tiny size."]
    for size, speed in found.get("s2t", {}).items():
        lines += ["", *s2t(size, speed)]
    for size, speed in found.get("moshi", {}).items():
        lines += ["", *moshi(size, speed, found), "", *moshi_cards(speed["earful"]["cards"])]
    return "\n".join(lines)


def setting(found: Json) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    reads = f"reads {found['bandwidth'] / 1e9:.0f} GB/s"
    return f"Machine: {found['machine']}, {found['threads']} threads, {reads}. {versions}."


def sizes(found: Json) -> str:
    sizes = found["sizes"]
    return (
        f"Voxtral Realtime: {found['parameters'] / 1e6:.1f} M random parameters in bfloat16, "
        f"{found['weight_bytes'] / 1e6:.0f} MB: encoder {sizes['encoder_dim']} × {sizes['encoder_layers']} layers, "
        f"decoder {sizes['dim']} × {sizes['layers']} layers, "
        f"vocabulary {sizes['vocab']}. Clip: {found['clip_s']:g} s."
    )


def kyutai_stt(size: str, speed: Json, found: Json) -> Iterable[str]:
    """One size of Kyutai Speech-To-Text: what a frame takes the three libraries."""
    ours, *others = names = list(speed)
    yield f"| Kyutai {size}, random weights: ms per frame of 80 ms | {' | '.join(names)} | {ours} beside reading once |"
    yield "| --- | --- | --- | --- | --- |"
    parts = {"language_model": "language model, bfloat16", "codec": "codec, float32"}
    for part, words in parts.items():
        floor_ms = 1e3 * speed[ours]["weight_bytes"][part] / found["bandwidth"]
        for streams, step in speed[ours][part].items():
            cells = [f"{step['median_ms']:.1f}"]
            for other in others:
                theirs = speed[other][part][streams]["median_ms"]
                cells.append(f"{theirs:.1f} ({theirs / step['median_ms']:.1f} ×)")
            cells.append(f"{step['median_ms'] / floor_ms:.1f} × {floor_ms:.1f} ms")
            yield f"| {words}, {plural(streams)} | {' | '.join(cells)} |"
    for streams, step in speed[ours]["live"].items():
        yield f"| both, from samples to events, {plural(streams)} | {step['median_ms']:.1f} | | | |"
    for part, words in parts.items():
        cells = [f"{speed[name][part]['1']['state_bytes'] / 1e6:.1f}" for name in names]
        yield f"| MB of state of a stream, {words} | {' | '.join(cells)} | |"


def s2t(size: str, speed: Json) -> Iterable[str]:
    """One size of Speech2Text: what so many clips take both libraries, and whether they write the same."""
    ours, theirs = speed["earful"], speed["transformers"]
    yield f"| Speech2Text {size}, random weights, float32: seconds | earful | transformers | ratio | same texts |"
    yield "| --- | --- | --- | --- | --- |"
    for clips, audio_s in ours["audio_s"].items():
        heard = f"{clips} clips" if clips != "1" else "1 clip"
        pair = [part["features_s"][clips] for part in (ours, theirs)]
        yield f"{row(f'features of {heard}, {audio_s:.0f} s', pair, '{:.2f}')} |"
        for beams in ours["texts_s"]:
            pair = [part["texts_s"][beams][clips] for part in (ours, theirs)]
            texts = zip(ours["ids"][beams][clips], theirs["ids"][beams][clips], strict=True)
            equal = f"{sum(a == b for a, b in texts)} of {clips}"
            search = "greedy" if beams == "1" else f"{beams} beams"
            yield f"{row(f'{heard}, {search}', pair, '{:.2f}')} {equal} |"


def moshi(size: str, speed: Json, found: Json) -> Iterable[str]:
    """What a tick of Moshi takes both libraries."""
    ours, theirs = speed["earful"], speed["moshi"]
    yield f"| Moshi {size}, random weights: ms per tick of 80 ms | earful | moshi | earful beside reading once |"
    yield "| --- | --- | --- | --- |"
    parts = {"temporal": "over time, bfloat16", "depth": "over the codes, bfloat16", "codec": "codec, float32"}
    read = ours["weight_bytes"]
    for part, words in {"tick": "whole, from samples to samples", **parts}.items():
        floor_ms = 1e3 * (read[part] if part in read else sum(read.values())) / found["bandwidth"]
        for sessions, step in ours[part].items():
            our_ms, their_ms = step["median_ms"], theirs[part][sessions]["median_ms"]
            beside = f"{our_ms / floor_ms:.1f} × {floor_ms:.1f} ms"
            cells = f"{our_ms:.1f} | {their_ms:.1f} ({their_ms / our_ms:.1f} ×) | {beside}"
            yield f"| {words}, {plural(sessions, 'session')} | {cells} |"
    state = [f"{of['tick']['1']['state_bytes'] / 1e6:.1f}" for of in (ours, theirs)]
    yield f"| MB of state of a session | {' | '.join(state)} | |"


def moshi_cards(cards: Json) -> Iterable[str]:
    """What reading alone takes on machines that are not here."""
    size = cards["bytes"]
    yield (
        f"Moshiko whole in bfloat16 has {size['model'] / 1e9:.1f} GB. "
        f"A tick reads {size['weights'] / 1e9:.1f} GB of it, and of each session {size['session'] / 1e9:.2f} GB once "
        "its window is full. That alone, by the makers' bandwidths:"
    )
    yield ""
    counts = list(next(iter(cards["ms"].values())))
    yield f"| estimate: ms per tick | {' | '.join(plural(count, 'session') for count in counts)} |"
    yield f"| --- | {' | '.join('---' for _ in counts)} |"
    for card, by_count in cards["ms"].items():
        yield f"| {card} | {' | '.join(f'{by_count[count]:.1f}' for count in counts)} |"


def plural(count: str, what: str = "stream") -> str:
    return f"1 {what}" if count == "1" else f"{count} {what}s"


def same_ids(first: int) -> str:
    return "Ids equal" if first < 0 else f"Ids equal up to id {first}"


def beside(found: Json) -> Iterable[str]:
    """Ours and theirs, line by line."""
    ours, theirs = found["speed"]["earful"], found["speed"]["transformers"]
    floor_ms = 1e3 * found["weight_bytes"] / found["bandwidth"]
    slots = found["clip_s"] / SLOT_S + SILENT_SLOTS
    yield f"| random model, bfloat16 | earful | transformers {found['versions']['transformers']} | ratio |"
    yield "| --- | --- | --- | --- |"
    offline = [1e3 * part["offline_s"] / slots for part in (ours, theirs)]
    yield row("offline: ms per slot of 80 ms", offline, "{:.1f}")
    factors = [found["clip_s"] / part["offline_s"] for part in (ours, theirs)]
    yield f"| offline: times real time, silence around the clip included | {factors[0]:.1f} | {factors[1]:.1f} | |"
    yield row("live: ms per slot, median", [part["step"]["median_ms"] for part in (ours, theirs)], "{:.1f}")
    yield row("live: ms per slot, 95 % are faster", [part["step"]["p95_ms"] for part in (ours, theirs)], "{:.1f}")
    yield row(
        "first id: ms after the 562.5 ms of audio that it needs", [p["first_ms"] for p in (ours, theirs)], "{:.0f}"
    )
    shares = [f"{part['step']['median_ms'] / floor_ms:.2f}" for part in (ours, theirs)]
    yield f"| live, as a multiple of reading the weights once ({floor_ms:.1f} ms) | {shares[0]} | {shares[1]} | |"
    for sessions, step in ours["batch"].items():
        yield f"| {sessions} sessions in a batch: ms per slot of all | {step['median_ms']:.1f} | | |"
    if "memory" in found:
        early, late = ([found["memory"][n][k] / 1e6 for n in found["memory"]] for k in ("early_bytes", "late_bytes"))
        yield row(f"resident MB after {minutes(found['stream_s'] / 10)} of stream", early, "{:.0f}")
        yield row(f"resident MB after {minutes(found['stream_s'])}", late, "{:.0f}")
        state = found["memory"]["earful"]["state_bytes"] / 1e6
        yield f"| state of one more stream, MB, fixed when it opens | {state:.0f} | grows | |"
    for task, first in found["same_ids"].items():
        yield f"| ids in float32, {task} | {'equal' if first < 0 else f'equal up to id {first}'} | | |"


def builtin(found: Json) -> Iterable[str]:
    part = found["builtin"]
    yield "| built-in model, float32 | earful |"
    yield "| --- | --- |"
    yield f"| offline: times real time | {part['clip_s'] / part['offline_s']:.0f} |"
    yield f"| live: ms per slot of 80 ms, median | {part['step']['median_ms']:.1f} |"
    yield f"| live: ms per slot, 95 % are faster | {part['step']['p95_ms']:.1f} |"
    yield f"| first text: ms after the audio that it needs | {part['first_ms']:.1f} |"
    yield f"| text live and offline | {'equal' if part['same_text'] else 'different'} |"
    if "late_bytes" in part:
        yield f"| resident MB after {minutes(found['stream_s'] / 10)} of stream | {part['early_bytes'] / 1e6:.0f} |"
        yield f"| resident MB after {minutes(found['stream_s'])} | {part['late_bytes'] / 1e6:.0f} |"
        yield f"| state of one more stream, MB | {part['state_bytes'] / 1e6:.1f} |"


def row(what: str, pair: list[float], form: str) -> str:
    """One line: ours, theirs, and how many times as much theirs is."""
    return f"| {what} | {form.format(pair[0])} | {form.format(pair[1])} | {pair[1] / pair[0]:.1f} × |"


def minutes(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
