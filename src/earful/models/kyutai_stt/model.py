"""The Kyutai Speech-To-Text network: Mimi turns audio into codes, Moshi's temporal transformer writes text beside them.

Position p takes text id p - 1 and frame p - 1, the first one initial ids instead, and predicts text id p.
Source: Kyutai's delayed streams (Zeghidour et al. 2025); the model cards of kyutai/stt-1b-en_fr and kyutai/stt-2.6b-en.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from earful.models.kyutai_stt.config import KyutaiSttConfig
from earful.models.mimi.model import Mimi
from earful.models.moshi.model import Temporal


class KyutaiStt(nn.Module):
    """The whole network. The codec is float32 whatever the type of the rest."""

    def __init__(self, config: KyutaiSttConfig) -> None:
        super().__init__()
        self.config = config
        self.temporal = Temporal(config.temporal)
        heads = (nn.Linear(config.temporal.dim, config.vad_classes, bias=False) for _ in range(config.vad_heads))
        self.vad_heads = nn.ModuleList(heads)
        self.codec = Mimi(config.codec)

    def hear(self, samples: Tensor, state: object = None, active: Tensor | None = None) -> Tensor:
        """samples: [B, channels, N] -> the codes that the model takes, int64 [B, codebooks, T]; as `Mimi.encode`."""
        return self.codec.encode(samples, self.config.temporal.codebooks, state, active)  # type: ignore[arg-type]

    def start(self, batch: int) -> Tensor:
        """The ids of the first position: int64 [batch, 1 + codebooks, 1]."""
        c = self.config.temporal
        ids = torch.full((batch, 1 + c.codebooks, 1), c.audio_vocab, device=self.temporal.norm.weight.device)
        ids[:, 0] = c.text_vocab
        return ids

    def inputs(self, text: Tensor, codes: Tensor) -> Tensor:
        """What goes in while `text` comes out. text: [B, T], codes: [B, codebooks, T] -> ids [B, 1 + codebooks, T]."""
        both = torch.cat([text[:, None], codes], dim=1)
        return torch.cat([self.start(len(text)), both[..., :-1]], dim=-1)

    def forward(self, text: Tensor, codes: Tensor) -> Tensor:
        """Teacher-forced logits of whole signals, the training path.

        text: [B, T] int64, one id to a frame, -1 where there is none; codes: [B, codebooks, T] -> [B, T, text_vocab]
        float32, logits p of text id p, which has heard frames 0 ... p - 1. The last frame is not heard.
        """
        return self.temporal.logits(self.temporal(self.temporal.embed(self.inputs(text, codes))))

    def pauses(self, hidden: Tensor) -> Tensor:
        """How likely a pause is for each head. hidden: [..., D] -> [..., vad_heads] float32."""
        if not self.vad_heads:
            return hidden.new_empty(*hidden.shape[:-1], 0, dtype=torch.float32)
        return torch.stack([head(hidden).float().softmax(-1)[..., 0] for head in self.vad_heads], dim=-1)
