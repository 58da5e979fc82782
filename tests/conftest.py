"""The conditions of every test: one thread, no hub, no network."""

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# name in documents -> family and layout of the tiny checkpoint in its place, and sizes that its documents count on
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mistralai/Voxtral-Mini-4B-Realtime-2602": ("voxtral", "hf", {}),
    "kyutai/mimi": ("mimi", "hf", {"codec": {"codebooks": 32}}),
    "kyutai/stt-1b-en_fr": ("kyutai_stt", "kyutai", {}),
    "kyutai/stt-2.6b-en": ("kyutai_stt", "kyutai", {}),
    "kyutai/moshiko-pytorch-bf16": ("moshi", "kyutai", {}),
    "kyutai/moshika-pytorch-bf16": ("moshi", "kyutai", {}),
    "kmhf/hf-moshiko": ("moshi", "hf", {}),
    "kmhf/hf-moshiko-pytorch-bf16": ("moshi", "hf", {}),
    "facebook/s2t-small-librispeech-asr": ("s2t", "hf", {"model": {"dim": 256}, "decoder": {"heads": 4}}),
    "facebook/s2t-medium-mustc-multilingual-st": ("s2t", "hf", {"text": {"language_set": "mustc"}}),
    "kyutai/stt-2.6b-en-trfs": ("kyutai_stt", "hf", {"codec": {"rate_hz": 24_000, "ratios": (8, 6, 5, 4)}}),
}
LOOPBACK = {"localhost", "127.0.0.1", "::1", "", None}


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background jobs begin with Ctrl-C ignored, and what the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Read when torch and the hub client are first imported, which is after this.
    home = tempfile.TemporaryDirectory(prefix="earful-tests-")
    config.add_cleanup(home.cleanup)
    os.environ |= {"HF_HOME": home.name, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: a second thread costs more than it brings
    # CI tries the same examples each time; people's runs look for new ones. A slow machine is not a failure.
    settings.register_profile("earful", deadline=None, derandomize="CI" in os.environ)
    settings.load_profile("earful")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    if not wanted:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanted:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Fails the test that looks up or connects to anything but this machine."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def only_here(host: object) -> None:
        if (host.decode() if isinstance(host, bytes) else host) not in LOOPBACK:
            pytest.fail(f"expected no network in tests, got a connection to {host}")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None):
            only_here(address[0])
        connect(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        only_here(host)
        return getaddrinfo(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint under each published name, as the hub client caches them."""
    from earful.testing import write_tiny

    kept = tmp_path_factory.mktemp("hub")
    for name, (family, layout, sizes) in MODELS.items():
        folder, revision = kept / f"models--{name.replace('/', '--')}", "0" * 40
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(revision, encoding="utf-8")
        write_tiny(family, layout=layout, path=folder / "snapshots" / revision, **sizes)
    return kept


@pytest.fixture(scope="module")
def hub(stand_ins: Path) -> Iterator[None]:
    """The published names can be loaded; other modules find nothing behind them."""
    cache = Path(os.environ["HF_HOME"], "hub")
    cache.mkdir(exist_ok=True)
    links = [cache / folder.name for folder in stand_ins.iterdir()]
    for link in links:
        link.symlink_to(stand_ins / link.name)
    yield
    for link in links:
        link.unlink()
