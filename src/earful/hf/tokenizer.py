"""Text to ids and back, under the names of the documents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from earful.hf.features import BatchFeature, require_padding

Ids = Iterable[int] | Tensor | npt.NDArray[np.integer[Any]]
# What `clean_up_tokenization_spaces` writes without the spaces around it.
CLOSE_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class Tokenizer(ABC):
    """What the tokenizers of all families can do; each says how a text becomes ids and ids a text."""

    padding_side = "left"
    pad_token_id: int

    def __len__(self) -> int:
        return self.vocab_size

    @property
    @abstractmethod
    def vocab_size(self) -> int: ...

    @property
    @abstractmethod
    def all_special_ids(self) -> list[int]: ...

    @abstractmethod
    def encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def text_of(self, ids: list[int], skip_special_tokens: bool) -> str: ...

    def __call__(
        self, text: str | Sequence[str], *, padding: bool | str = True, return_tensors: str | None = None
    ) -> BatchFeature:
        """input_ids and attention_mask [B, T] of one text or several, the shorter ones filled on `padding_side`."""
        require_padding(padding)
        rows = [self.encode(line) for line in ([text] if isinstance(text, str) else text)]
        longest = max(map(len, rows), default=0)
        data = {
            "input_ids": [self._filled(row, longest, self.pad_token_id) for row in rows],
            "attention_mask": [self._filled([1] * len(row), longest, 0) for row in rows],
        }
        return BatchFeature(data, return_tensors)

    def _filled(self, row: list[int], length: int, filler: int) -> list[int]:
        fill = [filler] * (length - len(row))
        return fill + row if self.padding_side == "left" else row + fill

    def decode(
        self, token_ids: int | Ids, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """The text of one row of ids. Special ids become their names unless they are skipped."""
        text = self.text_of([token_ids] if isinstance(token_ids, int) else plain(token_ids), skip_special_tokens)
        for apart in CLOSE_UP if clean_up_tokenization_spaces else ():
            text = text.replace(apart, apart.strip())
        return text

    def batch_decode(
        self,
        sequences: Iterable[Ids],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The texts of rows of ids."""
        return [self.decode(ids, skip_special_tokens, clean_up_tokenization_spaces) for ids in sequences]


def plain(ids: Ids) -> list[int]:
    return ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else list(ids)
