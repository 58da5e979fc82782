"""Checkpoints by their hub ids: downloaded, cached, found again without a network."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from earful.checkpoint.fields import shown
from earful.checkpoint.files import OLD_WEIGHTS, found
from earful.errors import CheckpointError

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# Beside the model's, in Kyutai's repositories.
OTHER_WEIGHTS = ("mimi*.safetensors", "tokenizer-*.safetensors", "lora*.safetensors")
MARKERS = ("params.json", "config.json", "tokenizer_spm_32k_3.model")  # one of these is in every repository


def fetch(source: str | Path, revision: str | None = None, pickled: bool = False) -> Path:
    """The folder of a checkpoint: `source` itself where it is one, else a hub id 'org/name', downloaded and cached.

    Of a hub repository that holds its weights twice only model*.safetensors are taken; pickled: where it has no
    safetensors, pickled weights are. Without a network a complete cached copy is used. Raises `CheckpointError` that
    says what is needed.
    """
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return folder
    if source and folder.exists():
        raise CheckpointError(f"{source}: expected a checkpoint folder, got a file")
    if not isinstance(source, str) or not HUB_ID.fullmatch(source):
        raise CheckpointError(f"{source}: expected a checkpoint folder or a hub id like org/name, got no such folder")
    # Imported here because it is slow and local folders need none of it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hint = "or give a local folder"
    try:
        for weights in ("model*.safetensors*", "*.safetensors*", *([OLD_WEIGHTS] if pickled else [])):
            wanted = ["*.json", "*.model", *OTHER_WEIGHTS, weights]
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=wanted))
            if any(fnmatch(name, weights) and not name.endswith(".json") for name in found(folder)):
                break
    except GatedRepoError as error:
        raise CheckpointError(
            f"{source}: expected access, got a gated model: accept its terms and log in, {hint}"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{source}: expected a public hub id, got one that is not found: log in, {hint}"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"{source}: expected a branch, tag or commit of it, got revision {shown(revision)}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{source}: expected the network or a cached copy, got neither: connect, {hint}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{source}: expected a complete download, got: {_first_line(error)}") from error
    return folder


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def hub_cache() -> Path:
    """Where downloads are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def cached(name: str) -> Path | None:
    """The folder of a hub id that has been downloaded, if it has."""
    from huggingface_hub import try_to_load_from_cache

    for marker in MARKERS:
        path = try_to_load_from_cache(name, marker)
        if isinstance(path, str):
            return Path(path).parent
    return None
