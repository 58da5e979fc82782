"""The codes of a frame one by one, for what only the documents' arguments let a caller choose or see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from earful.generate.lockstep import Choice, search, write
from earful.models.moshi.model import Depth, DepthAttention


@dataclass
class DepthCache:
    """What the ids of N frames so far are for the next one."""

    layers: list[list[Tensor]]  # [N, 2, H, K] of each id, in each layer

    @classmethod
    def empty(cls, core: Depth) -> DepthCache:
        return cls([[] for _ in core.layers])

    @property
    def ids(self) -> int:
        """How many have been taken in."""
        return len(self.layers[0])


@dataclass(frozen=True)
class Step:
    """What one id leads to."""

    logits: Tensor  # [N, V] float32 of the code behind it
    hidden: list[Tensor]  # [N, D] each: what goes into the first block and comes out of each
    attentions: list[Tensor]  # [N, H, ids so far] of each block, where they were asked for


def embedded(core: Depth, place: int, ids: Tensor) -> Tensor:
    """ids: [N] int64, the text's at place 0, then those of the codes -> [N, D]."""
    table = core.audio_embeds[place - 1] if place else core.text_embed
    return table(ids)  # type: ignore[no-any-return]


def step(core: Depth, hidden: Tensor, x: Tensor, cache: DepthCache, attentions: bool = False) -> Step:
    """Take in one more id, embedded [N, D]; hidden: [N, temporal D], normalised. The cache is moved on."""
    place = cache.ids
    weights = core.config.schedule[place]
    x = core.enter(place, hidden, x)
    seen, looks = [x], []
    for block, kv in zip(core.layers, cache.layers, strict=True):
        q = block.attn_norm(x)  # type: ignore[operator]
        x = block(x, weights, kv)
        seen.append(x)
        if attentions:
            looks.append(attention_weights(block.attn[weights], q, kv))  # type: ignore[index, arg-type]
    return Step(core.heads[place](x).float(), seen, looks)


def attention_weights(attention: DepthAttention, x: Tensor, kv: list[Tensor]) -> Tensor:
    """How much the newest id looks at each so far. x: [N, D] -> [N, H, ids], rows sum to 1."""
    q = attention.q(x).unflatten(-1, (attention.heads, 1, -1))  # [N, H, 1, K]
    keys = torch.stack(kv, dim=3)[:, 0]  # [N, H, ids, K]
    scores: Tensor = (q @ keys.transpose(2, 3))[:, :, 0] * q.shape[-1] ** -0.5
    return scores.softmax(-1, dtype=torch.float32).to(x.dtype)


class CodeWriter:
    """As `lockstep.Writer` wants one: the codes of N frames, `beams` rows for each; given: see `codes_of`."""

    def __init__(self, core: Depth, hidden: Tensor, text: Tensor, given: Tensor, beams: int = 1) -> None:
        self.core, self.hidden = core, hidden.repeat_interleave(beams, 0)
        self.given = torch.cat([text[:, None], given], dim=1).repeat_interleave(beams, 0)  # [R, 1 + codebooks]
        self.state = DepthCache.empty(core)
        self.take(text.repeat_interleave(beams, 0), last=False)

    def take(self, ids: Tensor, last: bool) -> None:
        if not last:
            known = self.given[:, self.state.ids]
            x = embedded(self.core, self.state.ids, torch.where(known >= 0, known, ids))
            self.logits = step(self.core, self.hidden, x, self.state).logits


def codes_of(core: Depth, hidden: Tensor, text: Tensor, how: Choice, given: Tensor | None = None) -> Tensor:
    """The codes of N frames [N, codebooks] int64. hidden: [N, temporal D], normalised; text: [N] int64.

    given: [N, codebooks] int64, codes that are not to be chosen, -1 where they are.
    """
    count = core.config.codebooks
    given = text.new_full((len(text), count), -1) if given is None else given
    writer = CodeWriter(core, hidden, text, given, how.beams)
    if how.beams > 1:
        codes = search(writer, count, how.beams, how=how.sampling)[0]
    else:
        codes = torch.stack(list(write(writer, count, how.sampling)), dim=1)
    return torch.where(given >= 0, given, codes)
