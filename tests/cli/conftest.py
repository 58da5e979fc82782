"""What the tests of the command line share: a way to run it, a tiny checkpoint, and recordings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from earful.api import BUILTIN
from earful.audio.io import write_wav
from earful.cli import run
from earful.testing import write_tiny
from tests.helpers import spoken_like

DEMO = BUILTIN / "demo.flac"


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        return self.err.splitlines()


Earful = Callable[..., Ran]


@pytest.fixture
def earful(capsys: pytest.CaptureFixture[str]) -> Earful:
    """Runs `earful ARGUMENTS`; whatever is wrong is said without a traceback and without surprise."""

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        ran = Ran(code, *capsys.readouterr())
        assert "Traceback" not in ran.err
        assert "internal error" not in ran.err
        return ran

    return call


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a network that writes at random, but always the same for the same audio."""
    return write_tiny("voxtral", layout="mistral", path=tmp_path_factory.mktemp("cli") / "tiny")


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Recordings of different lengths, about which the tiny network writes something."""
    folder = tmp_path_factory.mktemp("noise")
    paths = []
    for number, seconds in enumerate((3.0, 1.5, 4.2)):
        paths.append(folder / f"noise{number}.wav")
        write_wav(paths[-1], spoken_like(np.random.default_rng(number), round(16_000 * seconds)), 16_000)
    return paths
