from types import SimpleNamespace

import pytest

from earful.checkpoint.files import open_weights
from earful.checkpoint.hub import fetch
from earful.errors import CheckpointError


def test_a_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    assert fetch(tmp_path) == tmp_path
    assert fetch(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert fetch(f"~/{tmp_path.name}") == tmp_path


@pytest.mark.parametrize("source", ["", "nothing", "a/b/c", "/no/such/folder", "../org/name", "org/", "a b/c", "./org"])
def test_neither_a_folder_nor_an_id(source):
    with pytest.raises(CheckpointError, match="expected a checkpoint folder") as caught:
        fetch(source)
    assert "got" in str(caught.value)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="expected a checkpoint folder, got a file"):
        fetch(tmp_path / "model.safetensors")


class Hub:
    """Stands in for the hub's download of some files of a repository."""

    def __init__(self, folder, names):
        self.folder, self.names, self.asked = folder, names, []

    def __call__(self, repository, revision, allow_patterns):
        from fnmatch import fnmatch

        self.asked.append((repository, revision))
        for name in self.names:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (self.folder / name).write_bytes(b"")
        return str(self.folder)


@pytest.mark.parametrize(
    "names, taken",
    [
        (
            [
                "config.json",
                "params.json",
                "tekken.json",
                "consolidated.safetensors",
                "model.safetensors",
                "a.bin",
                "b.py",
            ],
            ["config.json", "model.safetensors", "params.json", "tekken.json"],
        ),
        (
            ["params.json", "tekken.json", "consolidated.safetensors", "README.md"],
            ["consolidated.safetensors", "params.json", "tekken.json"],
        ),
        (
            ["model-00001-of-00001.safetensors", "model.safetensors.index.json", "spm.model"],
            ["model-00001-of-00001.safetensors", "model.safetensors.index.json", "spm.model"],
        ),
        (  # Kyutai's, with the codec in a file of its own
            ["config.json", "model.safetensors", "mimi-pytorch-e351c8d8@125.safetensors", "tokenizer.model", "a.wav"],
            ["config.json", "mimi-pytorch-e351c8d8@125.safetensors", "model.safetensors", "tokenizer.model"],
        ),
        (
            ["config.json", "model.q8.safetensors", "tokenizer-e351c8d8-checkpoint125.safetensors", "spm.model"],
            ["config.json", "model.q8.safetensors", "spm.model", "tokenizer-e351c8d8-checkpoint125.safetensors"],
        ),
        (
            ["config.json", "lm.safetensors", "tokenizer-e351c8d8-checkpoint125.safetensors"],
            ["config.json", "lm.safetensors", "tokenizer-e351c8d8-checkpoint125.safetensors"],
        ),
    ],
)
def test_weights_are_downloaded_once(tmp_path, monkeypatch, names, taken):
    hub = Hub(tmp_path, names)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    assert fetch("org/name", "main") == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == taken
    assert set(hub.asked) == {("org/name", "main")}


OLD = ["config.json", "pytorch_model.bin", "sentencepiece.bpe.model", "tf_model.h5", "training_args.bin", "vocab.json"]


@pytest.mark.parametrize(
    "names, pickled, taken",
    [
        (OLD, True, ["config.json", "pytorch_model.bin", "sentencepiece.bpe.model", "vocab.json"]),
        (OLD, False, ["config.json", "sentencepiece.bpe.model", "vocab.json"]),
        (["config.json", "model.safetensors", "pytorch_model.bin"], True, ["config.json", "model.safetensors"]),
    ],
)
def test_pickled_weights_are_downloaded_only_to_be_converted(tmp_path, monkeypatch, names, pickled, taken):
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(tmp_path, names))
    assert fetch("org/name", pickled=pickled) == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == taken
    if not pickled:
        with pytest.raises(CheckpointError, match=r"pickled weights only, `earful convert NAME TARGET` makes"):
            open_weights(tmp_path)


def hub_error(name):
    import huggingface_hub.errors as errors

    kind = getattr(errors, name)
    if issubclass(kind, errors.HfHubHTTPError):
        return kind("first line\nsecond line", response=SimpleNamespace(headers={}, request=None))
    return kind("first line\nsecond line")


@pytest.mark.parametrize(
    "name, message",
    [
        ("GatedRepoError", r"^org/name: expected access, got a gated model"),
        ("RepositoryNotFoundError", r"^org/name: expected a public hub id, got one that is not found"),
        ("RevisionNotFoundError", r"^org/name: expected a branch, tag or commit of it, got revision 'v9'"),
        ("LocalEntryNotFoundError", r"^org/name: expected the network or a cached copy, got neither"),
        ("HfHubHTTPError", r"^org/name: expected a complete download, got: .*first line"),
        ("OfflineModeIsEnabled", r"^org/name: expected a complete download, got: first line$"),
    ],
)
def test_a_failed_download_says_what_it_needs(monkeypatch, name, message):
    def fail(*_, **__):
        raise hub_error(name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch("org/name", "v9")
    assert "\n" not in str(caught.value)


def test_offline_without_a_cached_copy(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"^org/name: expected the network or a cached copy, got neither"):
        fetch("org/name")
