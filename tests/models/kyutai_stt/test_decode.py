import pytest
import torch

from earful.generate.sample import Sampling
from earful.models.kyutai_stt import decode
from earful.models.kyutai_stt.decode import frames_of, hear, with_start_id, write
from earful.models.moshi.config import TemporalConfig
from earful.models.moshi.decode import writing_state
from earful.models.moshi.model import Temporal
from earful.registry import load_model
from earful.testing import random_weights, write_tiny

FRAMES, CODEBOOKS, TEXT, CODES = 40, 5, 60, 32
CONFIG = TemporalConfig(
    dim=24, layers=2, heads=2, head_dim=8, mlp_dim=20, window=9, rope_base=1e4, norm_eps=1e-8,
    text_vocab=TEXT, codebooks=CODEBOOKS, audio_vocab=CODES,
)  # fmt: skip
START = torch.full((CODEBOOKS,), CODES)


@pytest.fixture(scope="module")
def mimi(tmp_path_factory):
    return load_model(write_tiny("mimi", path=tmp_path_factory.mktemp("mimi")))[0].requires_grad_(False)


@pytest.fixture(scope="module")
def temporal():
    with torch.device("meta"):
        model = Temporal(CONFIG)
    model.load_state_dict(random_weights(model, 0), assign=True)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def codes():
    return torch.randint(CODES, (3, CODEBOOKS, FRAMES), generator=torch.Generator().manual_seed(0))


def prompt_of(rows, *ids):
    return torch.tensor([[TEXT, *ids]] * rows)


def written(temporal, prompt, codes, state=None, limit=None, **options):
    state = state or writing_state(temporal, len(prompt), prompt.shape[1])
    new = []
    for ids in write(temporal, prompt, codes.split(1, dim=-1), START, state, **options):
        new.append(ids)
        if len(new) == limit:
            break
    return torch.cat([prompt, torch.stack(new, 1)], 1)


@pytest.mark.parametrize("chunk", [1, 3, 25, 100])
@pytest.mark.parametrize("over", [0, 1, 383])
def test_whole_frames_are_heard_in_any_pieces(mimi, chunk, over, monkeypatch):
    monkeypatch.setattr(decode, "CHUNK_FRAMES", chunk)
    samples = torch.randn(2, 1, 11 * mimi.config.frame_samples + over, generator=torch.Generator().manual_seed(0))
    pieces = list(hear(mimi, samples, CODEBOOKS))
    assert {piece.shape for piece in pieces} == {(2, CODEBOOKS, 1)}
    expected = mimi.encode(samples[..., : 11 * mimi.config.frame_samples], CODEBOOKS)
    assert torch.equal(torch.cat(pieces, dim=-1), expected)


def test_less_than_a_frame_is_not_heard(mimi):
    assert list(hear(mimi, torch.zeros(1, 1, mimi.config.frame_samples - 1), CODEBOOKS)) == []


@pytest.mark.parametrize("window", [9, 100])
@pytest.mark.parametrize("prompt", [(), (3, 3, 0, 20)])
def test_position_p_hears_frame_p_minus_1(codes, window, prompt):
    """Greedy decoding, position by position, as a forward pass over everything before it says."""
    with torch.device("meta"):
        model = Temporal(TemporalConfig(**{**vars(CONFIG), "window": window}))
    model.load_state_dict(random_weights(model, 0), assign=True)
    columns = torch.cat([START[None, :, None].expand(3, -1, 1), codes], dim=-1)
    expected = prompt_of(3, *prompt)
    with torch.no_grad():
        while expected.shape[1] <= FRAMES + 1:
            inputs = torch.cat([expected[:, None], columns[..., : expected.shape[1]]], dim=1)
            best = model.logits(model(model.embed(inputs)))[:, -1].argmax(-1)
            expected = torch.cat([expected, best[:, None]], dim=1)
        got = written(model, prompt_of(3, *prompt), codes)
    assert torch.equal(got, expected)
    assert len(expected[:, 1:].unique()) > 10


@torch.no_grad()
def test_a_state_goes_on_where_it_was(temporal, codes):
    whole = written(temporal, prompt_of(3), codes)
    state = writing_state(temporal, 3, 1)
    ids = prompt_of(3)
    for limit in (1, 4, 17):
        ids = written(temporal, ids, codes, state, limit)
        assert torch.equal(ids, whole[:, : ids.shape[1]])
        assert state.pos.tolist() == [ids.shape[1] - 1] * 3
    assert torch.equal(written(temporal, ids, codes, state), whole)


@torch.no_grad()
def test_memory_for_what_is_asked(temporal, codes):
    whole = written(temporal, prompt_of(3), codes)
    for length in (3, 9, 20):
        state = writing_state(temporal, 3, 1, length)
        assert state.layers[0].keys.shape[2] == min(length, CONFIG.window)
        assert torch.equal(written(temporal, prompt_of(3), codes, state, length - 1), whole[:, :length])


@torch.no_grad()
def test_rows_end_and_are_filled(temporal, codes):
    free = written(temporal, prompt_of(3), codes)
    lengths = torch.tensor([7, FRAMES + 2, 2])
    got = written(temporal, prompt_of(3), codes, lengths=lengths, filler=33)
    for row, own, length in zip(got, free, lengths, strict=True):
        assert torch.equal(row[:length], own[:length])
        assert (row[length:] == 33).all()
    ended = written(temporal, prompt_of(3), codes, lengths=torch.tensor([7, 9, 2]))
    assert ended.shape[1] == 9
    end = int(free[0, 12])
    stopped = written(temporal, prompt_of(1), codes[:1], ends={end})
    first = free[0].tolist().index(end, 1)
    assert torch.equal(stopped, free[:1, : first + 1])


@torch.no_grad()
def test_chance(temporal, codes):
    torch.manual_seed(0)
    drawn = written(temporal, prompt_of(3), codes, sampling=Sampling(temperature=3.0))
    assert not torch.equal(drawn, written(temporal, prompt_of(3), codes))
    assert (drawn[:, 1:] < TEXT).all()  # the start id has no logit to be drawn by


def test_too_little_audio_for_a_prompt(temporal, codes):
    with pytest.raises(ValueError, match="expected at least 4 frames under 5 ids, got 2"):
        written(temporal, prompt_of(3, 3, 3, 3, 3), codes[..., :2])


def test_frames_of_rows():
    mask = torch.zeros(4, 100, dtype=torch.int64)  # 7 samples of silence, audio, 20 of silence behind the longest
    for row, length in enumerate([73, 50, 43]):
        mask[row, 7 : 7 + length] = 1
    assert frames_of(mask, 10).tolist() == [10, 7, 7, 10]
    assert frames_of(torch.ones(2, 39), 10).tolist() == [3, 3]
    assert frames_of(torch.zeros(2, 40), 10).tolist() == [4, 4]


def test_the_start_ids_logit_is_zero():
    logits = torch.randn(2, 3, 5)
    whole = with_start_id(logits)
    assert torch.equal(whole[..., :5], logits)
    assert (whole[..., 5] == 0).all()
    assert whole.shape == (2, 3, 6)
