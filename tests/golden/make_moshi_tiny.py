"""Writes a tiny model and what Kyutai's package makes of it: python tests/golden/make_moshi_tiny.py

Needs moshi 0.2.13. Network, sizes and seed are those of the package's own fixture (tests/test_lm.py of its sources):
unlike the published checkpoints it has layer norms, no gate over time, and sinusoids for positions.
"""

from pathlib import Path

import torch
from moshi.models import LMModel
from moshi.utils.compile import no_compile
from safetensors.torch import save_file

HERE = Path(__file__).parent
SEED, ROWS, FRAMES = 1234, 3, 7


def main() -> None:
    torch.manual_seed(SEED)
    model = LMModel(
        delays=[0, 1, 2, 4], n_q=3, dep_q=3, card=32, text_card=48, dim=16, num_layers=2, num_heads=1, hidden_scale=1,
        depformer_dim=16, depformer_multi_linear=True, depformer_weights_per_step=True,
        depformer_weights_per_step_schedule=[0, 1, 1], depformer_low_rank_embeddings=8, depformer_num_heads=1,
        depformer_gating="silu", context=4,
    )  # fmt: skip
    codes = torch.cat([torch.randint(48, (ROWS, 1, FRAMES)), torch.randint(32, (ROWS, 3, FRAMES))], dim=1)
    codes[1, 0, 2:4] = model.zero_token_id  # no text
    codes[2, :, 5] = model.zero_token_id  # a frame of which nothing is known
    with torch.no_grad(), no_compile():
        found = model.eval()(codes)
    answers = {
        "text_logits": found.text_logits[:, 0].nan_to_num(),
        "text_mask": found.text_mask[:, 0],
        "logits": found.logits.nan_to_num(),
        "mask": found.mask,
    }
    weights = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    tensors = {name: tensor.clone().contiguous() for name, tensor in (answers | weights | {"codes": codes}).items()}
    save_file(tensors, HERE / "moshi_tiny.safetensors")


if __name__ == "__main__":
    main()
