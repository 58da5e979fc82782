import pytest
import torch

from earful.generate.sample import Sampling
from earful.models.voxtral import decode
from earful.models.voxtral.decode import hear_chunks, hear_whole, write
from earful.registry import load_model
from earful.testing import write_tiny

SLOTS, PROMPT = 40, 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_tiny("voxtral", path=tmp_path_factory.mktemp("tiny"))
    return load_model(folder)[0].eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mel(model):
    return torch.randn(2, model.config.encoder.mels, SLOTS * 8, generator=torch.Generator().manual_seed(0))


def prompt(rows=2):
    return torch.tensor([[1] + [32] * (PROMPT - 1)] * rows)


DELAY = torch.tensor([2, 4])


def ids_of(written):
    return torch.stack(list(written), dim=1)  # [B, T]


@pytest.fixture(scope="module")
def greedy(model, mel):
    return ids_of(write(model, prompt(), hear_whole(model, mel, PROMPT), DELAY))


def test_is_greedy_on_the_whole_network(model, mel, greedy):
    """Each id is the likeliest behind those before it, as the network sees them all at once."""
    sequence = torch.cat([prompt(), greedy], dim=1)
    logits = model(sequence[:, :SLOTS], mel, DELAY)
    assert greedy.shape == (2, SLOTS - PROMPT + 1)
    assert torch.equal(logits[:, PROMPT - 1 :].argmax(-1), greedy)
    assert len(greedy.unique()) > 5  # that could have gone wrong


@pytest.mark.parametrize("most", [1, 3, 7, 64])
def test_pieces_do_not_matter(model, mel, greedy, most, monkeypatch):
    monkeypatch.setattr(decode, "CHUNK", most)
    for length in (None, SLOTS + 1):
        written = write(model, prompt(), hear_whole(model, mel, PROMPT), DELAY, length=length)
        assert torch.equal(ids_of(written), greedy)
    pieces = [mel[..., : PROMPT * 8], *mel[..., PROMPT * 8 :].split(8, dim=-1)]
    assert torch.equal(ids_of(write(model, prompt(), hear_chunks(model, pieces, PROMPT), DELAY)), greedy)


def test_rows_are_alone(model, mel, greedy):
    for row in range(2):
        one = slice(row, row + 1)
        written = write(model, prompt(1), hear_whole(model, mel[one], PROMPT), DELAY[one])
        assert torch.equal(ids_of(written), greedy[one])


def test_an_id_comes_before_the_next_chunk_is_asked_for(model, mel):
    asked = []

    def chunks():
        for number, chunk in enumerate([mel[..., : PROMPT * 8], *mel[..., PROMPT * 8 :].split(8, dim=-1)]):
            asked.append(number)
            yield chunk

    for number, _ in enumerate(write(model, prompt(), hear_chunks(model, chunks(), PROMPT), DELAY)):
        assert asked == list(range(number + 1))


def test_half_a_slot_at_the_end_is_not_heard(model, mel, greedy):
    written = write(model, prompt(), hear_whole(model, mel[..., :-4], PROMPT), DELAY)
    assert torch.equal(ids_of(written), greedy[:, :-1])


def test_rows_end_one_by_one(model, mel, greedy):
    first = int(greedy[0, 5])  # some id that each row writes at another time
    ends = [first, int(greedy[1, 9])]
    filler = 300
    written = ids_of(write(model, prompt(), hear_whole(model, mel, PROMPT), DELAY, ends=ends, filler=filler))
    last = []
    for row, own in zip(written, greedy, strict=True):
        end = next(i for i, token in enumerate(own.tolist()) if token in ends)
        assert torch.equal(row[: end + 1], own[: end + 1])
        assert (row[end + 1 :] == filler).all()
        last.append(end)
    assert written.shape[1] == max(last) + 1
    assert last[0] != last[1]


def test_chance(model, mel, greedy):
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(ids_of(write(model, prompt(), hear_whole(model, mel, PROMPT), DELAY, Sampling(1.5))))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], greedy)


def test_refuses_chunks_that_do_not_fit(model, mel):
    with pytest.raises(ValueError, match=r"expected audio of \[2, 6\] rows and slots, got \[2, 5\]"):
        list(write(model, prompt(), hear_chunks(model, [mel[..., :40]], PROMPT), DELAY))
    with pytest.raises(ValueError, match=r"expected audio of \[2, 1\] rows and slots, got \[2, 2\]"):
        list(write(model, prompt(), hear_chunks(model, [mel[..., :48], mel[..., :16]], PROMPT), DELAY))
    with pytest.raises(ValueError, match="expected audio of at least 6 slots, got less"):
        list(write(model, prompt(), hear_chunks(model, [], PROMPT), DELAY))
    with pytest.raises(ValueError, match="expected audio of at least 6 slots, got less"):
        list(write(model, prompt(), hear_whole(model, mel[..., :40], PROMPT), DELAY))
