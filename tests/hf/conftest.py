"""One tiny model for the tests of its parts."""

import pytest
import torch

import earful
from earful.testing import write_tiny

SLOTS, PER_SLOT = 40, 8


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_tiny("voxtral", path=tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def model(folder):
    return earful.VoxtralRealtimeForConditionalGeneration.from_pretrained(folder)


@pytest.fixture(scope="session")
def inputs():
    """An id and 8 mel frames for each of 40 slots, in two rows."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 24, SLOTS * PER_SLOT, generator=generator)
    ids = torch.randint(40, 360, (2, SLOTS), generator=generator)
    return {"input_ids": ids, "input_features": features, "num_delay_tokens": 2}
