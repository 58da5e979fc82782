"""Checkpoints by folder or hub id, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn

from earful.checkpoint.hub import fetch
from earful.errors import CheckpointError
from earful.hf.config import read_config
from earful.registry import load_model

Device = str | int | torch.device | dict[str, str | int | torch.device] | None
Dtype = str | torch.dtype | None
M = TypeVar("M", bound=nn.Module)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class OverCore(nn.Module):
    """A class of the documents over a network of the core, or over a part of one, with which it shares its weights."""

    core: nn.Module
    config: Any
    tokenizer_file: Path | None = None  # that it was loaded with

    @classmethod
    def holding(cls, core: nn.Module, config: Any, **more: Any) -> Self:
        """Over a network that is there already; more: what else the class keeps."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.core, model.config, model.training = core, config, core.training
        for name, value in more.items():
            setattr(model, name, value)
        return model

    @property
    def device(self) -> torch.device:
        return next(self.core.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; a codec beside them stays in float32."""
        return next(self.core.parameters()).dtype


def load_core(
    source: str | Path, kind: type[M], device_map: Device, dtype: Dtype, torch_dtype: Dtype, revision: str | None
) -> tuple[M, dict[str, Any], Path | None]:
    """A core model of this class in any known layout, what its config.json says or would say, and its tokenizer
    file if it has one.

    Raises `CheckpointError` for what cannot be loaded, ValueError for unknown devices and types.
    """
    if dtype is not None and torch_dtype is not None:
        raise ValueError("expected dtype or its old name torch_dtype, got both")
    folder = fetch(source, revision)
    core, tokenizer = load_model(folder, device_of(device_map), dtype_of(torch_dtype if dtype is None else dtype))
    if not isinstance(core, kind):
        raise CheckpointError(f"{source}: expected a {kind.__name__} model, got {type(core).__name__}")
    return core, read_config(folder), tokenizer


def device_of(device_map: Device) -> torch.device:
    """One device for the whole model; "auto" is the accelerator that torch sees, if it is able, else the CPU."""
    if isinstance(device_map, dict):
        if set(device_map) != {""}:
            raise ValueError(f"expected a device_map of one device for all, {{'': device}}, got {device_map}")
        device_map = device_map[""]
    if device_map == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        # Apple's has no float64, in which the rotary angles are taken.
        return torch.device("cpu") if found is None or found.type == "mps" else found
    return torch.device("cpu" if device_map is None else device_map)


def infer_device() -> str:
    """The name of the device that device_map="auto" takes."""
    return device_of("auto").type


def dtype_of(dtype: Dtype) -> torch.dtype | None:
    """A type by name; None, also for "auto", is that of the stored weights."""
    if dtype is None or dtype == "auto":
        return None
    if isinstance(dtype, str):
        dtype = DTYPES.get(dtype.removeprefix("torch."), dtype)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"expected a dtype of auto, {', '.join(DTYPES)} or a float torch.dtype, got {dtype}")
    return dtype
