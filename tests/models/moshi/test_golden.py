"""What Kyutai's package made of its own tiny fixture, rebuilt in tests/golden; no installed library is needed here."""

from pathlib import Path

import torch

from earful.checkpoint import table
from earful.checkpoint.files import load_tensors, open_weights, save_tensors
from earful.models.mimi.layouts import ATTENTION
from earful.models.moshi.config import DepthConfig, MoshiConfig, TemporalConfig
from earful.models.moshi.layouts import kyutai_depth_rows, kyutai_rows
from earful.models.moshi.model import Moshi
from tests.models.moshi.models import CODEC

FILE = Path(__file__).parents[2] / "golden" / "moshi_tiny.safetensors"
TOLERANCE = 1e-4  # sums of float32 in another order; logits reach 10
CONFIG = MoshiConfig(
    TemporalConfig(
        dim=16, layers=2, heads=1, head_dim=16, mlp_dim=16, window=4, rope_base=1e4, norm_eps=1e-5, text_vocab=48,
        codebooks=3, audio_vocab=32, norm="layer", gated=False, rotary=False,
    ),
    DepthConfig(
        dim=16, layers=2, heads=1, head_dim=16, mlp_dim=10, norm_eps=1e-5, schedule=(0, 1, 1), low_rank=8,
        norm="layer", sinusoid_base=1e4,
    ),
    CODEC, delays=(0, 1, 2, 4), pad_id=3, end_pad_id=0,
)  # fmt: skip


@torch.no_grad()
def test_logits_are_kyutais(tmp_path):
    tensors = load_tensors(FILE)
    theirs = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    save_tensors(tmp_path / "model.safetensors", theirs)
    model = Moshi(CONFIG).eval()
    ours = {name: weight for name, weight in model.state_dict().items() if not name.startswith("codec.")}
    rows = [
        *kyutai_rows(CONFIG.temporal, "temporal.", ATTENTION[1]),
        *kyutai_depth_rows(CONFIG.depth, "depth.", ATTENTION[1]),
    ]
    model.load_state_dict(dict(table.load([rows], open_weights(tmp_path), ours)), strict=False)

    codes, (text, depth) = tensors["codes"], model(tensors["codes"])
    frames = codes.shape[-1]
    mask = tensors["text_mask"]
    assert mask.sum() == mask.numel() - 3  # three frames have no text
    torch.testing.assert_close(text[mask], tensors["text_logits"][mask], rtol=0, atol=TOLERANCE)
    for k, delay in enumerate(CONFIG.delays[1:]):  # theirs stand at the frame, ours where they were made
        found, mask = tensors["logits"][:, k, : frames - delay], tensors["mask"][:, k, : frames - delay]
        assert mask.sum() >= len(codes) * (frames - delay) - 1
        torch.testing.assert_close(depth[:, delay:, k][mask], found[mask], rtol=0, atol=TOLERANCE)
