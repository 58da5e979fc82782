"""Low-rank changes of a transformer's matrices: learned beside them, then merged into them or written as a file.

Source: LoRA (Hu et al. 2021); the file is as Kyutai's moshi 0.2.13 has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earful import registry
from earful.checkpoint.derived import DOWN, UP
from earful.checkpoint.fields import read_json
from earful.checkpoint.files import open_weights, save_tensors, write_json
from earful.checkpoint.table import RopePairs
from earful.models.kyutai_stt.model import KyutaiStt
from earful.models.moshi.config_kyutai import STEMS
from earful.models.moshi.model import Moshi

SCALING = 2
TARGETS = ["q", "k", "v", "o", "gate", "up", "down"]  # every matrix inside a block
# Kyutai's names of a block's matrices, and ours, which lie in them one below the other.
FUSED = {
    "self_attn.in_proj": ("attn.q", "attn.k", "attn.v"),
    "self_attn.out_proj": ("attn.o",),
    "gating.linear_in": ("mlp.gate", "mlp.up"),
    "gating.linear_out": ("mlp.down",),
}
FUSED_DEPTH = {  # of each code
    "self_attn.in_projs.{}": ("attn.{}.q", "attn.{}.k", "attn.{}.v"),
    "self_attn.out_projs.{}": ("attn.{}.o",),
    "gating.{}.linear_in": ("mlp.{}.gate", "mlp.{}.up"),
    "gating.{}.linear_out": ("mlp.{}.down",),
}
# Matrices outside of blocks.
UNCHANGED = re.compile(r"(text_linear|(extra_heads|depformer_in|linears)\.\d+|.+\.low_rank)\.weight")

Pairs = dict[str, tuple[Tensor, Tensor]]  # the narrow matrices [rank, in] and [out, rank] of each changed one, by name


class Lora:
    """Changes of transformers, which are frozen, in place, but for these; they begin as none."""

    def __init__(self, network: nn.Module, rank: int, seed: int = 0) -> None:
        from peft import LoraConfig, LoraModel

        torch.manual_seed(seed)
        settings = LoraConfig(r=rank, lora_alpha=SCALING * rank, target_modules=TARGETS, lora_dropout=0.0)
        self._held = LoraModel(network, settings, "default")

    def pairs(self) -> Pairs:
        """A copy of the changes, without `SCALING`."""
        found = {}
        for name, module in self._held.model.named_modules():
            if hasattr(module, "lora_A"):
                down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
                found[name] = (down.detach().clone(), up.detach().clone())
        return found

    def merge(self) -> None:
        """Make the changes a part of plain matrices, in place."""
        self._held.merge_and_unload()

    def drop(self) -> None:
        """Leave plain matrices without the changes, in place."""
        self._held.unload()


def save_lora(model: KyutaiStt | Moshi, found: Pairs, folder: str | Path, tokenizer: Path) -> None:
    """Write a model in Kyutai's layout with its changes in a file of their own, lora.safetensors.

    model: with plain matrices, without the changes. Raises CheckpointError when it cannot.
    """
    folder = Path(folder)
    registry.save_model(model, folder, "kyutai", tokenizer)
    tensors = dict(_kyutai_names(model, found))
    rank = max(len(tensor) for name, tensor in tensors.items() if name.endswith(DOWN))
    # Kyutai's programs expect one rank of all changes, and a change of every matrix.
    for name, tensor in tensors.items():
        short = rank - tensor.shape[0 if name.endswith(DOWN) else 1]
        tensors[name] = F.pad(tensor, (0, 0, 0, short) if name.endswith(DOWN) else (0, short))
    for name, entry in open_weights(folder).items():
        if UNCHANGED.fullmatch(name):
            rows, columns = entry.shape
            stem = name.removesuffix(".weight")
            tensors |= {stem + DOWN: torch.zeros(rank, columns), stem + UP: torch.zeros(rows, rank)}
    save_tensors(folder / f"{STEMS['lora_name']}.safetensors", tensors)
    document: Any = read_json(folder / "config.json")
    lora = {"lora": True, "lora_name": f"{STEMS['lora_name']}.safetensors", "lora_rank": rank, "lora_scaling": SCALING}
    write_json(folder / "config.json", document | lora)


def _kyutai_names(model: KyutaiStt | Moshi, found: Pairs) -> Iterator[tuple[str, Tensor]]:
    rotary, here = RopePairs(model.config.temporal.heads), "temporal." if isinstance(model, Moshi) else ""
    for layer in range(model.config.temporal.layers):
        for there, names in FUSED.items():
            pairs = {name: found[f"{here}layers.{layer}.{name}"] for name in names}
            turned = [
                (down, rotary.save([up])[0] if name.endswith((".q", ".k")) else up)
                for name, (down, up) in pairs.items()
            ]
            yield from _fused(f"transformer.layers.{layer}.{there}", turned)
    if not isinstance(model, Moshi):
        return
    for layer in range(model.config.depth.layers):
        for code in range(model.config.depth.weight_sets):
            for there, names in FUSED_DEPTH.items():
                found_here = [found[f"depth.layers.{layer}.{name.format(code)}"] for name in names]
                yield from _fused(f"depformer.layers.{layer}.{there.format(code)}", found_here)


def _fused(stem: str, pairs: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The changes of matrices that lie one below the other as those of one."""
    yield stem + DOWN, torch.cat([down for down, _ in pairs])  # [parts * rank, in]
    yield stem + UP, torch.block_diag(*(up for _, up in pairs))  # [sum of out, parts * rank]
