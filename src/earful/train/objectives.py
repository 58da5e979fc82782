"""One loss per family."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.models.voxtral.model import VoxtralRealtime

IGNORED = -100  # a label that costs nothing
Z_WEIGHT = 1e-4  # keeps the logits' normaliser near zero, so that the text cannot drown the audio


class VoxtralObjective(nn.Module):
    """Next-token loss of Voxtral Realtime, with a frame-by-frame phoneme loss beside it while training.

    The phoneme head reads the encoder and is dropped at export: it teaches the encoder what was said before the decoder
    can ask for it. Source of the z-loss: PaLM (Chowdhery et al. 2022).
    """

    def __init__(self, model: VoxtralRealtime, phonemes: int) -> None:
        super().__init__()
        self.model = model
        self.phoneme_head = nn.Linear(model.config.encoder.dim, phonemes)

    def forward(
        self, mel: Tensor, tokens: Tensor, labels: Tensor, delay: Tensor, phonemes: Tensor, phoneme_weight: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts.

        mel: [B, M, T * mels_per_slot]; tokens, labels: [B, T] int64; delay: [B] slots;
        phonemes: [B, T * downsample] int64, one per encoder frame; labels and phonemes may be IGNORED.
        """
        decoder = self.model.decoder
        frames = self.model.encoder(mel)  # [B, T * downsample, D]
        x = decoder.embed(tokens) + self.model.projector(frames)
        logits = decoder.logits(decoder(x, decoder.gains(delay)))  # [B, T, V]
        text = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        counted = labels != IGNORED
        z = (logits.logsumexp(-1).square() * counted).sum() / counted.sum().clamp(min=1)
        heard = self.phoneme_head(frames).float().flatten(0, 1)  # [B * T * downsample, phonemes]
        sound = F.cross_entropy(heard, phonemes.flatten(), ignore_index=IGNORED)
        with torch.no_grad():
            right = (heard.argmax(-1) == phonemes.flatten()).sum() / (phonemes != IGNORED).sum().clamp(min=1)
        parts = {"text": text.detach(), "phoneme": sound.detach(), "phoneme_accuracy": right}
        return text + Z_WEIGHT * z + phoneme_weight * sound, parts
