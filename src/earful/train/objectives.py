"""One loss per family."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.models.voxtral.model import VoxtralRealtime

IGNORED = -100  # a label that costs nothing
Z_WEIGHT = 1e-4  # keeps the logits' normaliser near zero, so that the text cannot drown the audio


class VoxtralObjective(nn.Module):
    """Next-token loss of Voxtral Realtime, with two auxiliary losses on the encoder while training.

    One head names the sound of every encoder frame, another writes the words from the audio vectors alone, a moment
    after they end. They teach the encoder what was said before the decoder can ask for it; export drops them.
    Source of the z-loss: PaLM (Chowdhery et al. 2022).
    """

    def __init__(self, model: VoxtralRealtime, phonemes: int) -> None:
        super().__init__()
        self.model = model
        self.phoneme_head = nn.Linear(model.config.encoder.dim, phonemes)
        self.early_head = nn.Linear(model.config.decoder.dim, model.config.decoder.vocab)

    def forward(
        self,
        mel: Tensor,
        tokens: Tensor,
        labels: Tensor,
        delay: Tensor,
        phonemes: Tensor,
        early: Tensor,
        auxiliary_weight: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts.

        mel: [B, M, T * mels_per_slot]; tokens, labels, early: [B, T] int64; delay: [B] slots;
        phonemes: [B, T * downsample] int64, one per encoder frame; labels, early and phonemes may be IGNORED.
        """
        decoder = self.model.decoder
        frames = self.model.encoder(mel)  # [B, T * downsample, D]
        audio = self.model.projector(frames)  # [B, T, D]
        logits = decoder.logits(decoder(decoder.embed(tokens) + audio, decoder.gains(delay)))  # [B, T, V]
        text = cross_entropy(logits, labels)
        counted = labels != IGNORED
        z = (logits.logsumexp(-1).square() * counted).sum() / counted.sum().clamp(min=1)
        heard = self.phoneme_head(frames).float()
        sound, word = cross_entropy(heard, phonemes), cross_entropy(self.early_head(audio).float(), early)
        with torch.no_grad():
            right = (heard.argmax(-1) == phonemes).sum() / (phonemes != IGNORED).sum().clamp(min=1)
        parts = {"text": text, "phoneme": sound, "phoneme_accuracy": right, "early": word}
        loss = text + Z_WEIGHT * z + auxiliary_weight * (sound + word)
        return loss, {name: part.detach() for name, part in parts.items()}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """logits: [B, T, V] float32; labels: [B, T] int64, IGNORED ones count for nothing."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
