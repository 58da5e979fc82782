"""The depth model and the whole network beside Kyutai's moshi, live, on random tiny models."""

import json

import pytest
import torch

from earful.checkpoint import table
from earful.checkpoint.files import save_tensors
from earful.models.moshi.config import MOSHI_7B
from earful.models.moshi.layouts import kyutai_depth_rows, kyutai_rows
from earful.models.moshi.model import Moshi
from earful.registry import load_model, save_model
from tests.models.moshi.models import as_moshi, random_model

TOLERANCE = 1e-4  # sums of float32 in another order; logits are of order 1
FRAMES = 24


def random_ids(model: Moshi, seed: int):
    c, generator = model.config.temporal, torch.Generator().manual_seed(seed)
    text = torch.randint(c.text_vocab, (2, 1, FRAMES), generator=generator)
    codes = torch.randint(c.audio_vocab, (2, c.codebooks, FRAMES), generator=generator)
    return torch.cat([text, codes], dim=1)


@torch.no_grad()
@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(24))
def test_whole_conversations_are_scored_as_by_moshi(seed):
    from moshi.utils.compile import no_compile

    model, ids = random_model(seed), random_ids(random_model(seed), seed)
    ids[:, :, 5] = -1 if seed % 2 else 0  # a frame of which nothing is known
    with no_compile():
        found = as_moshi(model)(ids)
    text, depth = model(ids)
    own = slice(1, 1 + model.config.own)
    torch.testing.assert_close(
        text[found.text_mask[:, 0]], found.text_logits[:, 0][found.text_mask[:, 0]], rtol=0, atol=TOLERANCE
    )
    for k, delay in enumerate(model.config.delays[own]):  # theirs stand at the frame, ours where they were made
        theirs, mask = found.logits[:, k, : FRAMES - delay], found.mask[:, k, : FRAMES - delay]
        assert mask.any()
        torch.testing.assert_close(depth[:, delay:, k][mask], theirs[mask], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_a_code_sees_the_codes_before_it_and_no_other():
    model, frames = random_model(3), 5
    hidden, text = torch.randn(frames, model.config.temporal.dim), torch.arange(frames)
    codes = torch.randint(16, (frames, model.config.own))
    _, logits = model.depth(hidden, text, lambda k, _: codes[:, k])
    for k in range(model.config.own):
        other = codes.clone()
        other[:, k] = (other[:, k] + 1) % 16
        _, changed = model.depth(hidden, text, lambda j, _, other=other: other[:, j])
        assert torch.equal(changed[:, : k + 1], logits[:, : k + 1])
        assert k + 1 == model.config.own or not torch.equal(changed[:, k + 1 :], logits[:, k + 1 :])
    chosen, again = model.depth(hidden, text, lambda _, row: row.argmax(-1))
    forced = model.depth(hidden, text, lambda k, _: chosen[:, k])
    assert torch.equal(forced[1], again)
    assert torch.equal(again.argmax(-1), chosen)


def test_the_published_size():
    with torch.device("meta"):
        model = Moshi(MOSHI_7B)
    parameters = sum(w.numel() for part in (model.temporal, model.depth) for w in part.parameters())
    assert round(parameters / 1e9, 2) == 7.69
    rows = [*kyutai_rows(MOSHI_7B.temporal, "temporal."), *kyutai_depth_rows(MOSHI_7B.depth, "depth.")]
    ours = {name: w for name, w in model.state_dict().items() if not name.startswith("codec.")}
    shapes = {name: tuple(w.shape) for name, w in table.save(rows, ours)}
    assert shapes["depformer.layers.5.self_attn.in_proj_weight"] == (8 * 3072, 1024)
    assert shapes["depformer.layers.0.self_attn.out_proj.weight"] == (8 * 1024, 1024)
    assert shapes["depformer.layers.0.gating.7.linear_in.weight"] == (5632, 1024)
    assert shapes["depformer_emb.6.weight"] == (2049, 1024)
    assert "depformer_emb.7.weight" not in shapes


@torch.no_grad()
@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [0, 1])
def test_low_rank_changes_are_merged_as_theirs_are(seed, tmp_path):
    """Of every matrix, those of the depth model set by set; they also read the folder that we write."""
    from moshi.models import loaders
    from moshi.utils.compile import no_compile

    model, ids = random_model(seed), random_ids(random_model(seed), seed)
    save_model(model, tmp_path, "kyutai")
    config = json.loads((tmp_path / "config.json").read_text())
    arguments = {key: value for key, value in config.items() if not key.endswith(("_name", "model_type"))}
    weights, changes = tmp_path / "model.safetensors", tmp_path / "lora.safetensors"
    theirs = loaders.get_moshi_lm(weights, arguments, dtype=torch.float32)
    theirs = loaders.get_lora_moshi(theirs, None, 3, 1.7, torch.float32, fuse_lora=False)
    named = {key: torch.randn_like(w) * 0.1 for key, w in theirs.state_dict().items() if "lora_" in key}
    assert any("depformer.layers.0.self_attn.in_projs.1.lora_A" in key for key in named)
    save_tensors(changes, named)
    lora = {"lora": True, "lora_rank": 3, "lora_scaling": 1.7}
    theirs = loaders.get_moshi_lm(weights, arguments | lora, dtype=torch.float32, lora_weights=changes, fuse_lora=True)
    (tmp_path / "config.json").write_text(json.dumps(config | lora | {"lora_name": changes.name}))
    merged, _ = load_model(tmp_path)
    with no_compile():
        found = theirs(ids)
    text, depth = merged(ids)
    torch.testing.assert_close(text, found.text_logits[:, 0], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(depth[:, :, 0], found.logits[:, 0], rtol=0, atol=TOLERANCE)
    assert (depth - model(ids)[1]).abs().max() > 0.05
