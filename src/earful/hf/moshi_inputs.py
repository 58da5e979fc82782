"""Text and audio of a conversation as Moshi's `forward` and `generate` are given them, checked and brought together."""

from __future__ import annotations

import torch
from torch import Tensor

from earful.models.moshi.decode import Prompt
from earful.models.moshi.model import Moshi

NAMES = ("input_ids", "moshi_audio_codes", "user_audio_codes")


def joined(core: Moshi, *given: Tensor | None) -> Tensor:
    """Ids [B, T], Moshi's codes and the user's [B, Q, T] as the channels of the model [B, channels, T].

    What is not given is -1 throughout. Raises ValueError where nothing is, and for shapes that do not fit.
    """
    own, user = core.config.own, core.config.temporal.codebooks - core.config.own
    parts = [ids[:, None] if ids is not None and i == 0 else ids for i, ids in enumerate(given)]
    first = next((part for part in parts if part is not None), None)
    if first is None:
        raise ValueError(f"expected {', '.join(NAMES)} or waveforms, got none of them")
    rows, steps = len(first), first.shape[-1]
    for name, part, channels in zip(NAMES, parts, (1, own, user), strict=True):
        if part is not None and list(part.shape) != [rows, channels, steps]:
            text = name == NAMES[0]
            expected = [rows, steps] if text else [rows, channels, steps]
            got = [len(part), part.shape[-1]] if text else list(part.shape)
            raise ValueError(f"expected {name} of shape {expected}, one per frame of the others, got {got}")
    nothing = [first.new_full((rows, channels, steps), -1) for channels in (1, own, user)]
    return torch.cat([none if part is None else part for none, part in zip(nothing, parts, strict=True)], dim=1)


def prompt_of(
    core: Moshi,
    input_ids: Tensor | None,
    moshi_codes: Tensor | None,
    user_codes: Tensor | None,
    inputs_embeds: Tensor | None,
    with_start: bool,
) -> Prompt:
    """What `generate` goes on from; with_start: put the start before frames that do not begin with it.

    Raises ValueError for a part of what is needed, and for ids and codes that do not exist.
    """
    if input_ids is not None and inputs_embeds is not None:
        raise ValueError("expected input_ids or inputs_embeds, got both")
    if inputs_embeds is not None and moshi_codes is user_codes is None:
        rows, columns = inputs_embeds.shape[:2]
        nothing = torch.full((rows, len(core.config.delays), columns - 1), -1, device=inputs_embeds.device)
        return Prompt(nothing, True, inputs_embeds)
    given = {
        "input_ids or inputs_embeds": input_ids if inputs_embeds is None else inputs_embeds,
        "moshi_audio_codes or moshi_input_values": moshi_codes,
        "user_audio_codes or user_input_values": user_codes,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return Prompt(core.start(1)[..., :0], True)
    if missing:
        raise ValueError(f"expected text and both voices or nothing at all, got no {' and no '.join(missing)}")
    ids = joined(core, input_ids, moshi_codes, user_codes)
    if inputs_embeds is not None and list(inputs_embeds.shape[:2]) != [len(ids), ids.shape[-1]]:
        raise ValueError(
            f"expected inputs_embeds of shape {[len(ids), ids.shape[-1]]} and the model's width, one per column of the "
            f"codes, got {list(inputs_embeds.shape)}"
        )
    known = slice(0 if inputs_embeds is None else 1, None)
    begun = bool((ids[:, known, :1] == core.start(1)[:, known]).all())
    ids = ids[..., 1:] if begun else ids
    require_existing(core, ids, text=inputs_embeds is None)
    return Prompt(ids, begun or (with_start and inputs_embeds is None), inputs_embeds)


def require_existing(core: Moshi, ids: Tensor, text: bool) -> None:
    """Ids of frames [B, channels, T] must be ones that could have been written, said and heard."""
    c, own = core.config.temporal, core.config.own
    parts = zip(
        NAMES, ids.split([1, own, c.codebooks - own], dim=1), (c.text_vocab,) + (c.audio_vocab,) * 2, strict=True
    )
    for name, part, count in parts:
        if (text or name != NAMES[0]) and part.numel() and not 0 <= part.min() <= part.max() < count:
            raise ValueError(
                f"expected {name} of 0 to {count - 1} behind the start, got {int(part.min())} to {int(part.max())}"
            )
