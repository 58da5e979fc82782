"""Sizes of Moshi's networks, in our own names."""

from __future__ import annotations

from dataclasses import dataclass

from earful.models.mimi.config import MIMI, MimiConfig


@dataclass(frozen=True)
class TemporalConfig:
    """The transformer over time: one frame of 80 ms to a position, one text id and some audio codes in each.

    Every table has one row more than its vocabulary: the id behind the last one is what stands at the first position.
    """

    dim: int
    layers: int
    heads: int
    head_dim: int
    mlp_dim: int  # inner width behind the gate
    window: int  # positions that a position sees, itself included
    rope_base: float
    norm_eps: float
    text_vocab: int  # text ids, the initial one not counted
    codebooks: int  # audio codes that go in with each text id
    audio_vocab: int  # values of a code, the initial one not counted
    norm: str = "rms"  # or "layer"
    gated: bool = True  # otherwise the inner width has a GELU and no gate
    rotary: bool = True  # otherwise positions are sinusoids beside the input; their longest period is 2 pi rope_base

    @property
    def published(self) -> bool:
        """Whether it is built like all published models, which is all that Hugging Face's layout can say."""
        return self.norm == "rms" and self.gated and self.rotary


@dataclass(frozen=True)
class DepthConfig:
    """The transformer over the codes of one frame: one code after the other, mostly without positions.

    Every table has one row more than its vocabulary, as in `TemporalConfig`.
    """

    dim: int
    layers: int
    heads: int
    head_dim: int
    mlp_dim: int  # inner width behind the gate
    norm_eps: float
    schedule: tuple[int, ...]  # for each code the set of weights that makes it; as many codes as entries
    low_rank: int | None = None  # width of the embedding tables where it is not `dim`
    norm: str = "rms"  # or "layer"
    sinusoid_base: float | None = None  # of sinusoids that tell the order of the codes, where there are any

    @property
    def codebooks(self) -> int:
        return len(self.schedule)

    @property
    def weight_sets(self) -> int:
        return max(self.schedule) + 1


@dataclass(frozen=True)
class ConditionConfig:
    """Something that a session may be told beforehand: one of a few values, or none."""

    name: str
    values: tuple[str, ...]  # the first rows of the table
    rows: int  # of the table; one more stands behind them
    dim: int  # of the table


@dataclass(frozen=True)
class MoshiConfig:
    """A voice that listens: channels are the text, its own codes, then the user's."""

    temporal: TemporalConfig
    depth: DepthConfig
    codec: MimiConfig
    delays: tuple[int, ...]  # in frames, of each channel
    pad_id: int  # nothing to write in this frame
    end_pad_id: int  # nothing either, and a word begins in the next one
    conditions: tuple[ConditionConfig, ...] = ()  # what each adds to the input of every position

    @property
    def own(self) -> int:
        """Codebooks of the voice."""
        return self.depth.codebooks

    @property
    def max_delay(self) -> int:
        return max(self.delays)


# The published models kyutai/moshiko and kyutai/moshika; files without a config.json mean this one.
MOSHI_7B = MoshiConfig(
    TemporalConfig(
        dim=4096, layers=32, heads=32, head_dim=128, mlp_dim=11264, window=3000, rope_base=1e4, norm_eps=1e-8,
        text_vocab=32_000, codebooks=16, audio_vocab=2048,
    ),
    DepthConfig(dim=1024, layers=6, heads=16, head_dim=64, mlp_dim=2816, norm_eps=1e-8, schedule=tuple(range(8))),
    MIMI,  # of whose codes each voice has the first eight
    delays=(0, *(0, 1, 1, 1, 1, 1, 1, 1) * 2),
    pad_id=3,
    end_pad_id=0,
)  # fmt: skip
