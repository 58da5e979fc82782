"""One loss per family."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful.audio.mel import mel_filters
from earful.models.kyutai_stt.model import KyutaiStt
from earful.models.mimi.config import STEPS_PER_FRAME
from earful.models.mimi.model import Mimi
from earful.models.moshi.model import Moshi
from earful.models.s2t.config import BOS, EOS
from earful.models.s2t.model import Speech2Text
from earful.models.voxtral.model import VoxtralRealtime
from earful.train.quantise import quantise_split
from earful.train.targets import LABELS

IGNORED = -100  # a label that costs nothing
Z_WEIGHT = 1e-4  # keeps the logits' normaliser near zero, so that the text cannot drown the audio
RESOLUTIONS = ((0.08, 80), (0.04, 64), (0.02, 40), (0.01, 20))  # windows in seconds, and mel bins
QUIETEST = 2e-4  # of a mel band's amplitude: differences below are not heard
CTC = 0.2  # beside the sounds, which are learned later where it counts more
WAVE, COMMITMENT = 0.3, 0.25  # weights; phases that few bits cannot hold must not make the model fall silent


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


class MimiObjective(nn.Module):
    """Reconstruction of a Mimi codec, and that its codes tell the sounds of speech apart.

    The audio is compared as a waveform and as log-mel spectrograms of several resolutions. A head that export drops
    names the sounds of each frame from its semantic codes alone, in the place of the speech model that the published
    codec learned from. Source: Moshi (Défossez et al. 2024, section 3.3) without the discriminators; the spectrograms
    are those of Yamamoto et al. 2020, on mel bands.
    """

    def __init__(self, model: Mimi, dtype: torch.dtype = torch.float32) -> None:
        """dtype: of what both networks compute; codes and losses are float32."""
        super().__init__()
        self.model, self.dtype = model, dtype
        self.sound_head = nn.Linear(model.config.dim, STEPS_PER_FRAME * LABELS)

    def forward(
        self,
        samples: Tensor,
        kept: Tensor,
        sounds: Tensor,
        chance: int,
        mel_weight: float,
        sound_weight: float,
        decoded: int | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts.

        samples: [B, 1, N] of whole frames; kept: [B] int64, so many codebooks are heard; sounds: [B, frames * 2] int64,
        labels that may be IGNORED; chance: seeds what is random; decoded: so many of the examples become audio again,
        all if None. In training mode the codebooks move too.
        """
        model = self.model
        generator = torch.Generator().manual_seed(chance)
        computing = partial(torch.autocast, samples.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with computing():
            latents = model.latents(samples).transpose(1, 2)  # [B, T, D]
        coded, said, commitment = quantise_split(model.quantizer, latents.float(), kept, generator, self.training)
        vectors, samples = coded[:decoded].transpose(1, 2), samples[:decoded]
        with computing():
            again = model.decoder(model.decoder_transformer(model.upsample(vectors)))  # [decoded, 1, N]
        again = again.float()
        wave = (again - samples).abs().mean() / samples.abs().mean().clamp(min=1e-3)
        mel = mel_distance(samples[:, 0], again[:, 0], model.config.rate_hz)
        sound, right = naming(self.sound_head(said), sounds)
        with torch.no_grad():
            used = torch.stack([_share_used(book.usage) for book in model.quantizer.acoustic.codebooks]).mean()  # type: ignore[arg-type]
        loss = WAVE * wave + mel_weight * mel + COMMITMENT * commitment + sound_weight * sound
        parts = {"wave": wave, "mel": mel, "commitment": commitment, "sound": sound}
        parts |= {"sound_accuracy": right, "codes_used": used}
        return loss, {name: part.detach() for name, part in parts.items()}


def _share_used(usage: Tensor) -> Tensor:
    """The perplexity of a codebook's usage as a share of its size."""
    share = usage / usage.sum().clamp(min=1e-6)
    return torch.exp(-(share * share.clamp(min=1e-12).log()).sum()) / len(usage)


def mel_distance(one: Tensor, other: Tensor, rate_hz: int) -> Tensor:
    """The mean difference of two signals' log-mel spectrograms in nats, over `RESOLUTIONS`. [B, N] each."""
    distances = []
    for window_s, bins in RESOLUTIONS:
        window = 4 * round(window_s * rate_hz / 4)
        distances.append(F.l1_loss(_log_mel(one, rate_hz, window, bins), _log_mel(other, rate_hz, window, bins)))
    return torch.stack(distances).mean()


def _log_mel(x: Tensor, rate_hz: int, window: int, bins: int) -> Tensor:
    """x: [B, N] -> [B, F, bins], logarithms of amplitudes, whatever the width of a band."""
    filters = mel_filters(rate_hz, window, bins).to(x.device)
    filters = filters / filters.sum(0).clamp(min=1e-9)
    hann = torch.hann_window(window, device=x.device)
    spectrum = torch.stft(x, window, window // 4, window=hann, center=False, return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1)  # [B, window / 2 + 1, F]
    amplitude = (power + 1e-12).sqrt() * (4 / window)  # its gradient stays bounded where there is nothing
    return (amplitude.transpose(1, 2) @ filters + QUIETEST).log()


class KyutaiSttObjective(nn.Module):
    """The loss on the text of Kyutai Speech-To-Text, in which silence counts less than words.

    A model that learns from nothing also names, from the middle of its layers, the sounds of speech that it has heard;
    export drops that head. Source: Kyutai's moshi-finetune for the weighting.
    """

    weight: Tensor

    def __init__(self, model: KyutaiStt, pad_weight: float = 0.5, with_sounds: bool = False) -> None:
        super().__init__()
        self.temporal = model.temporal
        c = model.config.temporal
        self.sound_head = nn.Linear(c.dim, STEPS_PER_FRAME * LABELS) if with_sounds else None
        self.whole = (model,)  # in a tuple its codec is no part of what is trained, and keeps its type
        weight = torch.ones(c.text_vocab)
        weight[[model.config.pad_id, model.config.word_id]] = pad_weight
        self.register_buffer("weight", weight, persistent=False)

    def forward(
        self, text: Tensor, codes: Tensor, labels: Tensor, sounds: Tensor | None = None, sound_weight: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts.

        text: [B, T] int64, an id to a frame; codes: [B, codebooks, T] int64; -1 in either where nothing is known.
        labels: [B, T] int64, what is to be written, the text itself or IGNORED; sounds: [B, 2 T] int64, labels of what
        has been heard by then, or IGNORED.
        """
        halfway: list[Tensor] = []
        middle = self.temporal.layers[(len(self.temporal.layers) - 1) // 2]
        with middle.register_forward_hook(lambda _, __, x: halfway.append(x)):
            logits = self.whole[0](text, codes)  # [B, T, V]
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), self.weight.float(), ignore_index=IGNORED)
        with torch.no_grad():
            spoken = (labels != IGNORED) & (labels != self.whole[0].config.pad_id)
            right = ((logits.argmax(-1) == labels) & spoken).sum() / spoken.sum().clamp(min=1)
            words = cross_entropy(logits, labels.masked_fill(~spoken, IGNORED))
        parts = {"text": loss.detach(), "words": words, "words_accuracy": right}
        if self.sound_head is not None and sounds is not None:
            sound, named = naming(self.sound_head(halfway[0]), sounds)
            loss = loss + sound_weight * sound
            parts |= {"sound": sound.detach(), "sound_accuracy": named}
        return loss, parts


class S2tObjective(nn.Module):
    """Next-token loss of Speech2Text with smoothed labels, and two auxiliary losses on the encoder while training.

    One head names the sounds of every encoder frame where they are known; the other's pieces, blanks between them,
    spell the text in order (CTC, Graves et al. 2006; beside attention: Watanabe et al. 2017). They teach the encoder
    to hear before the decoder knows where to look; export drops them.
    """

    def __init__(self, model: Speech2Text, sounds_per_step: int = 1, smoothing: float = 0.1) -> None:
        super().__init__()
        self.model, self.sounds_per_step, self.smoothing = model, sounds_per_step, smoothing
        self.sound_head = nn.Linear(model.config.dim, sounds_per_step * LABELS)
        self.ctc_head = nn.Linear(model.config.dim, model.config.vocab)  # the blank is `BOS`, which no text has

    def forward(
        self, features: Tensor, lengths: Tensor, ids: Tensor, labels: Tensor, sounds: Tensor, auxiliary_weight: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts.

        features: [B, F, bins]; lengths: [B] frames of each; ids, labels: [B, T] int64, what is read and what is to
        follow; sounds: [B, S * sounds_per_step] int64, in order. labels and sounds may be IGNORED.
        """
        model = self.model
        encoded, steps = model.encoder(features, lengths, alone=True)  # [B, S, D]
        logits = model.decoder.logits(model.decoder(ids, model.decoder.remember(encoded, steps)))  # [B, T, V]
        smooth = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=self.smoothing
        )
        sound, known = naming(self.sound_head(encoded), sounds)
        pieces = (labels != IGNORED) & (labels != EOS)
        ctc = F.ctc_loss(
            self.ctc_head(encoded).float().log_softmax(-1).transpose(0, 1),  # [S, B, V]
            labels[pieces],
            steps,
            pieces.sum(1),
            blank=BOS,
            zero_infinity=True,  # for more pieces than frames
        )
        with torch.no_grad():
            counted = labels != IGNORED
            right = ((logits.argmax(-1) == labels) & counted).sum() / counted.sum().clamp(min=1)
            text = cross_entropy(logits, labels)
        parts = {"text": text, "ctc": ctc, "sound": sound, "words_accuracy": right, "phoneme_accuracy": known}
        return smooth + auxiliary_weight * (sound + CTC * ctc), {name: part.detach() for name, part in parts.items()}


class MoshiObjective(nn.Module):
    """The loss on what Moshi writes and says; what is said to it is heard and not learned.

    Source: Kyutai's moshi-finetune for the weighting.
    """

    weight: Tensor

    def __init__(self, model: Moshi, pad_weight: float = 0.5, first_weight: float = 1.0) -> None:
        """pad_weight: of frames without text; first_weight: of the first code of a frame, where others have 1."""
        super().__init__()
        self.temporal, self.depth = model.temporal, model.depth
        self.whole = (model,)  # in a tuple its codec is no part of what is trained, and keeps its type
        self.first_weight = first_weight
        weight = torch.ones(model.config.temporal.text_vocab)
        weight[[model.config.pad_id, model.config.end_pad_id]] = pad_weight
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts.

        ids: [B, channels, T] int64, text, own codes, the user's, frame by frame; -1 where nothing is known, which is
        not asked for either. Text and codes are averaged apart, each over its own weights.
        """
        model = self.whole[0]
        text_logits, code_logits = model(ids)  # [B, T, V], [B, T, Q, A]
        heard = 1 + model.config.own
        labels, start = model.delayed(ids)[:, :heard], model.start(len(ids))[:, :heard]
        labels = labels.masked_fill((labels < 0) | (labels == start), IGNORED)  # [B, 1 + Q, T]
        text, codes = labels[:, 0], labels[:, 1:].transpose(1, 2)
        written = F.cross_entropy(text_logits.flatten(0, 1), text.flatten(), self.weight.float(), ignore_index=IGNORED)
        each = F.cross_entropy(code_logits.flatten(0, 2), codes.flatten(), ignore_index=IGNORED, reduction="none")
        counted = (codes != IGNORED).float()
        counted[..., 0] *= self.first_weight
        said = (each * counted.flatten()).sum() / counted.sum().clamp(min=1e-6)
        with torch.no_grad():
            spoken = (text != IGNORED) & (text != model.config.pad_id)
            words = ((text_logits.argmax(-1) == text) & spoken).sum() / spoken.sum().clamp(min=1)
            right = (code_logits.argmax(-1) == codes).sum() / (codes != IGNORED).sum().clamp(min=1)
        parts = {"text": written.detach(), "codes": said.detach(), "words_accuracy": words, "codes_accuracy": right}
        return written + said, parts


def naming(logits: Tensor, sounds: Tensor) -> tuple[Tensor, Tensor]:
    """The loss on the names of sounds, and how many are right.

    logits: [B, T, k * LABELS] of k sounds in a row; sounds: [B, k * T] int64, IGNORED ones count for nothing, all of
    them too.
    """
    named = logits.float().unflatten(-1, (-1, LABELS)).flatten(1, 2)  # [B, k * T, LABELS]
    known = sounds != IGNORED
    loss = cross_entropy(named, sounds) if bool(known.any()) else named.sum() * 0
    return loss, (named.argmax(-1) == sounds).sum() / known.sum().clamp(min=1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """logits: [B, T, V] float32; labels: [B, T] int64, IGNORED ones count for nothing."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
