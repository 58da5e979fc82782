"""Folders of a tiny model."""

import shutil
from pathlib import Path

import pytest

from earful.models.moshi.layouts import LAYOUTS
from earful.testing import write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The same tiny model in both layouts, by name of the layout."""
    folder = tmp_path_factory.mktemp("tiny")
    return {layout: write_tiny("moshi", layout, path=folder / layout) for layout in LAYOUTS}


@pytest.fixture
def folder(tiny, tmp_path):
    return Path(shutil.copytree(tiny["kyutai"], tmp_path / "copy"))
