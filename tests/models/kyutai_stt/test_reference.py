"""Beside the two reference implementations, live: transformers and Kyutai's moshi, on random tiny models."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
from torch import Tensor

from earful.models.kyutai_stt.config import KyutaiSttConfig
from earful.models.kyutai_stt.layouts import LAYOUTS
from earful.models.kyutai_stt.model import KyutaiStt
from earful.models.kyutai_stt.stream import KyutaiSttStream
from earful.models.mimi.config import MIMI
from earful.models.moshi.config import TemporalConfig
from earful.nn.state import reset
from earful.registry import load_model, save_model
from earful.testing import mimi_weights, random_weights, tiny_sentencepiece, write_tiny

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-4  # sums of float32 in another order; logits are of order 1
FRAMES = 30
SCALES = (3, 4, 4.125)  # of the inner width; 4 has a rule of its own


@pytest.fixture(autouse=True)
def not_compiled():
    from moshi.utils.compile import no_compile

    with no_compile():
        yield


def random_model(seed: int) -> KyutaiStt:
    """Every size that may vary does; frames of 8 to 48 samples."""
    rng = random.Random(seed)
    heads, head_dim = rng.choice([2, 3, 4]), rng.choice([4, 8, 10])
    dim = heads * head_dim
    scale = rng.choice(SCALES)
    mlp_dim = 21 * dim // 8 if scale == 4 else 2 * int(scale * dim) // 3
    codec = replace(
        MIMI,
        ratios=(rng.choice([2, 3]), rng.choice([2, 4])),
        filters=4,
        dim=24,
        layers=1,
        heads=2,
        head_dim=12,
        mlp_dim=20,
        window=rng.randint(70, 90),  # longer than the audio, within which Kyutai's ring is exact
        codebooks=rng.randint(3, 8),
        codebook_size=rng.choice([16, 32]),
        codebook_dim=10,
    )
    vad_heads = rng.choice([0, 4])
    config = KyutaiSttConfig(
        TemporalConfig(
            dim=dim,
            layers=rng.randint(1, 3),
            heads=heads,
            head_dim=head_dim,
            mlp_dim=mlp_dim,
            window=rng.randint(6, 40),
            rope_base=rng.choice([1e4, 1e5]),
            norm_eps=1e-8,
            text_vocab=rng.randint(20, 60),
            codebooks=codec.codebooks,  # fewer than that transformers cannot generate with
            audio_vocab=codec.codebook_size,
        ),
        codec,
        vad_heads=vad_heads,
        vad_classes=6 if vad_heads else 0,
        pad_id=3,
        word_id=0,
        delay_s=rng.choice([0.5, 2.5]),
        prefix_s=rng.choice([0.0, 1.0]),
    )
    with torch.device("meta"):
        model = KyutaiStt(config)
    weights = {name: tensor * (0.6 if tensor.ndim > 1 else 1) for name, tensor in random_weights(model, seed).items()}
    weights |= {f"codec.{name}": tensor for name, tensor in mimi_weights(model.codec, seed).items()}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def as_moshi(model: KyutaiStt, folder: Path):
    """What moshi's own loader makes of the folder that we write: the language model and the codec."""
    from moshi.models import loaders

    save_model(model, folder, "kyutai")
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if not key.endswith(("_name", "_config", "model_type"))}
    language_model = loaders.get_moshi_lm(folder / "model.safetensors", config, dtype=torch.float32)
    codec = json.loads((folder / "mimi_config.json").read_text())
    books = model.config.temporal.codebooks
    return language_model, loaders.get_mimi(folder / "mimi.safetensors", codec, num_codebooks=books)


def as_transformers(model: KyutaiStt, folder: Path):
    """What transformers makes of the folder that we write."""
    from transformers import KyutaiSpeechToTextForConditionalGeneration

    without_heads = KyutaiStt(replace(model.config, vad_heads=0, vad_classes=0))
    names = without_heads.state_dict().keys()
    without_heads.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in names})
    save_model(without_heads, folder, "hf")
    return KyutaiSpeechToTextForConditionalGeneration.from_pretrained(folder).eval()


def random_ids(model: KyutaiStt, seed: int, nothing: bool) -> Tensor:
    """[2, 1 + codebooks, FRAMES] with the initial ids at first, and here and there an id that stands for nothing."""
    c, generator = model.config.temporal, torch.Generator().manual_seed(seed)
    text = torch.randint(c.text_vocab, (2, FRAMES), generator=generator)
    codes = torch.randint(c.audio_vocab, (2, c.codebooks, FRAMES), generator=generator)
    ids = model.inputs(text, codes)
    if nothing:
        ids = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.1, -1)
    return ids


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def our_ids(model: KyutaiStt, samples: Tensor) -> Tensor:
    """The ids of all frames as they are written in a stream: int64 [B, T]. samples: [B, 1, N] of whole frames."""
    stream = KyutaiSttStream(model, tiny_sentencepiece())
    state, hop = stream.init_state(len(samples)), stream.hop
    first = stream.write(state, model.start(len(samples))[:, 1:, 0], None)[:, None]
    pieces = samples[:, 0].split(7 * hop, dim=-1)
    rows = [stream.step(state, piece, [piece.shape[-1] // hop] * len(piece)) for piece in pieces]
    return torch.cat([first, *rows], dim=1)[..., 0].long()


@torch.no_grad()
@pytest.mark.parametrize("seed", range(20))
def test_a_random_model_is_that_of_both_references(seed, tmp_path):
    model = random_model(seed)
    c = model.config.temporal
    language_model, codec = as_moshi(model, tmp_path / "kyutai")

    # Logits of whole signals, and beyond the window step by step.
    ids = random_ids(model, seed, nothing=True)
    hidden = model.temporal(model.temporal.embed(ids))
    logits = model.temporal.logits(hidden)
    _, theirs = language_model.forward_text(ids)
    assert_near(logits, theirs[:, 0])
    with language_model.streaming(2):
        stepped = [language_model.forward_text(ids[..., t : t + 1]) for t in range(FRAMES)]
    assert_near(logits, torch.cat([one for _, one in stepped], dim=2)[:, 0])
    if model.config.vad_heads:
        states = torch.cat([one for one, _ in stepped], dim=1)
        heads = torch.stack([head(states).softmax(-1)[..., 0] for head in language_model.extra_heads], -1)
        assert_near(model.pauses(hidden), heads)

    hugging_face = as_transformers(model, tmp_path / "hf")
    ids = random_ids(model, seed + 1, nothing=False)
    logits = model.temporal.logits(model.temporal(model.temporal.embed(ids)))
    cache, found = None, []
    for t in range(FRAMES):  # their full forward does not see the window
        output = hugging_face(input_ids=ids[..., t : t + 1].transpose(1, 2), past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        found.append(output.logits)
    theirs = torch.cat(found, dim=1)
    assert_near(logits, theirs[..., : c.text_vocab])
    assert not theirs[..., c.text_vocab].any()  # the row that can never be chosen here
    within = slice(0, min(FRAMES, c.window))
    whole = hugging_face(input_ids=ids[..., within].transpose(1, 2)).logits
    assert_near(logits[:, within], whole[..., : c.text_vocab])

    # Ids.
    samples = torch.randn(
        2, 1, FRAMES * model.config.codec.frame_samples, generator=torch.Generator().manual_seed(seed)
    )
    codes = model.hear(samples)
    assert torch.equal(codes, codec.encode(samples))
    ours = our_ids(model, samples)
    assert len(ours.unique()) > 3
    assert torch.equal(ours[:, 1:], their_ids(language_model, codes)[:, 1:])
    generated = hugging_face.generate(input_values=samples, padding_mask=torch.ones_like(samples[:, 0]))
    assert torch.equal(generated[:, 1:], ours[:, :FRAMES])
    assert (generated[:, 0] == c.text_vocab).all()


def their_ids(language_model, codes: Tensor) -> Tensor:
    """What LMGen writes when the first frame is stepped twice, as Kyutai's run_inference does: [B, T]."""
    from moshi.models import LMGen

    generation = LMGen(language_model, use_sampling=False)
    with generation.streaming(len(codes)):
        frames = [codes[..., :1], *codes.split(1, dim=-1)]
        return torch.cat([generation.step(frame)[:, 0] for frame in frames], dim=1)


@torch.inference_mode()
def test_frozen_and_reset_rows_write_as_theirs_do(tmp_path):
    """Rows that sit out steps, and one that begins anew, beside moshi's masks."""
    from moshi.models import LMGen

    model, _ = load_model(write_tiny("kyutai_stt", path=tmp_path))
    language_model, _ = as_moshi(model, tmp_path / "kyutai")
    stream = KyutaiSttStream(model, tiny_sentencepiece())
    generator = torch.Generator().manual_seed(0)
    c = model.config.temporal
    generation = LMGen(language_model, use_sampling=False, support_out_of_sync=True)
    state = stream.init_state(3)
    begun = [False] * 3
    with generation.streaming(3):
        for turn in range(60):
            codes = torch.randint(c.audio_vocab, (3, c.codebooks, 1), generator=generator)
            active = torch.rand(3, generator=generator) < 0.7
            if turn == 30:
                generation.reset_streaming(torch.tensor([False, True, False]))
                reset(state, [1])
                begun[1] = False
            generation.set_exec_mask(active)
            fresh = active & ~torch.tensor(begun)
            # Theirs takes the initial ids in a first step, whatever the codes; ours when a session opens.
            ours = stream.write(state, torch.where(fresh[:, None], c.audio_vocab, codes[..., 0]), active)[:, 0]
            theirs = generation.step(codes)[:, 0, 0]
            assert torch.equal(ours[active].long(), theirs[active])
            begun = (torch.tensor(begun) | active).tolist()


@torch.no_grad()
def test_what_they_write_is_read(tmp_path):
    """Folders saved by transformers, and a state as recent code of Kyutai's names it."""
    model = next(model for model in map(random_model, range(20)) if not model.config.vad_heads)
    as_transformers(model, tmp_path / "hf").save_pretrained(tmp_path / "theirs")
    settings = "preprocessor_config.json"
    (tmp_path / "theirs" / settings).write_bytes((tmp_path / "hf" / settings).read_bytes())
    again, _ = load_model(tmp_path / "theirs")
    assert again.config == model.config
    assert_same(model, again)

    from safetensors.torch import save_file

    model = next(model for model in map(random_model, range(20)) if model.config.vad_heads)
    language_model, codec = as_moshi(model, tmp_path / "kyutai")
    for part, name in ((language_model, "model"), (codec, "mimi")):
        tensors = {key: tensor.contiguous() for key, tensor in part.state_dict().items()}
        assert any("in_projs.0" in key for key in tensors)
        save_file(tensors, tmp_path / "kyutai" / f"{name}.safetensors")
    again, _ = load_model_without_tokenizer(tmp_path / "kyutai")
    assert_same(model, again)


def load_model_without_tokenizer(folder):
    tiny_sentencepiece().save(folder / "tokenizer.model")
    return load_model(folder)


def assert_same(model, again):
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, again.state_dict()[name], rtol=1e-6, atol=1e-7)  # codebooks become sums


@torch.no_grad()
def test_low_rank_changes_are_merged_as_theirs_are(tmp_path):
    from moshi.models import loaders
    from safetensors.torch import save_file

    model, _ = load_model(write_tiny("kyutai_stt", "kyutai", path=tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    arguments = {k: v for k, v in config.items() if not k.endswith(("_name", "_config", "model_type"))}
    arguments |= {"lora": True, "lora_rank": 3, "lora_scaling": 1.7}
    theirs = loaders.get_moshi_lm(tmp_path / "model.safetensors", {**arguments, "lora": False}, dtype=torch.float32)
    theirs = loaders.get_lora_moshi(theirs, None, 3, 1.7, torch.float32, fuse_lora=False)
    changes = {key: torch.randn_like(t) * 0.1 for key, t in theirs.state_dict().items() if "lora_" in key}
    assert any("in_projs.0.lora_A" in key for key in changes)
    save_file(changes, tmp_path / "lora.safetensors")
    theirs = loaders.get_moshi_lm(
        tmp_path / "model.safetensors",
        arguments,
        dtype=torch.float32,
        lora_weights=tmp_path / "lora.safetensors",
        fuse_lora=True,
    )
    named = {"lora": True, "lora_rank": 3, "lora_scaling": 1.7, "lora_name": "lora.safetensors"}
    (tmp_path / "config.json").write_text(json.dumps(config | named))
    merged, _ = load_model(tmp_path)
    ids = random_ids(model, 0, nothing=False)
    logits = merged.temporal.logits(merged.temporal(merged.temporal.embed(ids)))
    assert_near(logits, theirs.forward_text(ids)[1][:, 0])
    assert (logits - model.temporal.logits(model.temporal(model.temporal.embed(ids)))).abs().max() > 0.1


def test_the_tiny_tokenizer_is_one_for_their_library(tmp_path):
    folder = write_tiny("kyutai_stt", "kyutai", path=tmp_path)
    name = json.loads((folder / "config.json").read_text())["tokenizer_name"]
    library = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
    assert library.decode(library.encode("one two three")) == "one two three"
    assert LAYOUTS["kyutai"].tokenizer(folder) == name
