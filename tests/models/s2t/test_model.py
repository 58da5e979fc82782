import pytest
import torch

from earful.models.s2t.config import PAD, START
from earful.models.s2t.model import GROWTH, position_table
from earful.models.s2t.stream import streams
from earful.testing import tiny_s2t


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_s2t(tmp_path_factory.mktemp("s2t"))[0].eval()


def batch(rows=3, frames=50, bins=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(20, frames + 1, (rows,), generator=generator)
    lengths[0] = frames
    features = torch.randn(rows, frames, bins, generator=generator)
    return features * (torch.arange(frames) < lengths[:, None])[:, :, None], lengths


def some_ids(model, rows, steps, seed=0):
    ids = torch.randint(PAD + 1, model.config.vocab, (rows, steps), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = START
    return ids


@torch.inference_mode()
def test_step_by_step_equals_the_whole(model):
    """Also beyond what a cache holds at first, and in calls of several ids."""
    features, lengths = batch()
    steps = 2 * GROWTH + 5
    ids = some_ids(model, 3, steps)
    memory = model.hear(features, lengths)
    whole = model.decoder(ids, memory)
    state = model.decoder.init_state(3)
    cuts = [1, 1, 1, 7, GROWTH, 1]
    cuts.append(steps - sum(cuts))
    parts = [model.decoder(part, memory, state) for part in ids.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=5e-5)


@torch.inference_mode()
def test_rows_of_one_utterance_share_its_memory(model):
    features, lengths = batch(rows=2)
    ids = some_ids(model, 6, 9)
    together = model.decoder(ids, model.hear(features, lengths))
    again = model.decoder(ids, model.hear(features.repeat_interleave(3, 0), lengths.repeat_interleave(3, 0)))
    torch.testing.assert_close(together, again, rtol=0, atol=5e-5)


@torch.inference_mode()
def test_alone_in_a_batch(model):
    """Each utterance as if it were the only one, and without that, as the reference has it, but for its last frame."""
    features, lengths = batch(rows=5, frames=61)
    encoded, steps = model.encoder(features, lengths, alone=True)
    together, _ = model.encoder.embed(features, lengths)
    differ = 0
    for row, (length, count) in enumerate(zip(lengths.tolist(), steps.tolist(), strict=True)):
        single, _ = model.encoder(features[row : row + 1, :length])
        assert single.shape[1] == count == ((length - 1) // 2) // 2 + 1
        torch.testing.assert_close(encoded[row, :count], single[0], rtol=0, atol=5e-5)
        convolved, _ = model.encoder.embed(features[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row, : count - 1], convolved[0, :-1], rtol=0, atol=5e-5)
        differ += int((together[row, count - 1] - convolved[0, -1]).abs().max() > 1e-3)
    assert differ >= 2


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("shortest", [0, 1, 20])
def test_cpus_hear_each_utterance_by_itself_as_the_batch_does(model, alone, shortest):
    """Also where one is nearly as long as the longest, so that its padding ends early; no frame counts as all."""
    features, lengths = batch(rows=6, frames=53)
    lengths[1:4] = torch.tensor([52, 49, shortest])
    features = features * (torch.arange(53) < lengths[:, None])[:, :, None]
    ids = some_ids(model, 6, 5)
    together = model.hear(features, lengths, alone)  # gradients are wanted of whole batches
    with torch.inference_mode():
        single = model.hear(features, lengths, alone)
        assert torch.equal(single.mask, together.mask)
        for ours, theirs in zip(single.layers, together.layers, strict=True):
            heard = (single.mask == 0)[:, 0, 0, :, None]
            torch.testing.assert_close(ours.keys * heard[:, None], theirs.keys * heard[:, None], rtol=0, atol=2e-5)
        torch.testing.assert_close(model.decoder(ids, single), model.decoder(ids, together), rtol=0, atol=2e-4)


@torch.inference_mode()
def test_packed_it_says_the_same(tmp_path):
    model = tiny_s2t(tmp_path, changes={"decoding": {"beams": 2}})[0].eval()
    features, lengths = batch()
    ids = some_ids(model, 3, 6)
    before = model(features, lengths, ids)
    streams(model, tmp_path / "sentencepiece.bpe.model")
    assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())
    torch.testing.assert_close(model(features, lengths, ids), before, rtol=0, atol=5e-5)


@torch.inference_mode()
def test_utterances_do_not_hear_each_other(model):
    features, lengths = batch()
    ids = some_ids(model, 3, 6)
    before = model(features, lengths, ids)
    features[1] = 5.0
    after = model(features, lengths, ids)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1])


@torch.inference_mode()
def test_nothing_is_ever_not_a_number(model):
    """No frames of an utterance count as all of them; a batch without any is refused."""
    features, _ = batch()
    ids = some_ids(model, 3, 4)
    logits = model(features, torch.tensor([50, 0, 1]), ids)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[1], model(features, None, ids)[1], rtol=0, atol=5e-5)
    with pytest.raises(ValueError, match="expected at least 1 frame of features, got 0"):
        model(features[:, :0], None, ids)


@torch.inference_mode()
def test_padding_before_a_text_is_not_seen(model):
    features, lengths = batch(rows=1)
    memory = model.hear(features, lengths)
    ids = some_ids(model, 1, 6)
    padded = torch.cat([torch.full((1, 3), PAD), ids], dim=1)
    real = padded != PAD
    x = model.decoder(padded, memory, real=real)
    assert x.isfinite().all()
    torch.testing.assert_close(x[:, 3:], model.decoder(ids, memory), rtol=0, atol=5e-5)


@torch.inference_mode()
def test_attention_that_is_watched(model):
    features, lengths = batch()
    ids = some_ids(model, 3, 7)
    heard, selves, crosses = [], [], []
    encoded, steps = model.encoder(features, lengths, watch=heard)
    torch.testing.assert_close(encoded, model.encoder(features, lengths)[0], rtol=0, atol=5e-5)
    memory = model.decoder.remember(encoded, steps)
    x = model.decoder(ids, memory, watch=(selves, crosses))
    torch.testing.assert_close(x, model.decoder(ids, memory), rtol=0, atol=5e-5)
    c, length = model.config, encoded.shape[1]
    assert [tuple(w.shape) for w in heard] == [(3, c.encoder.heads, length, length)] * c.encoder.layers
    assert [tuple(w.shape) for w in selves] == [(3, c.decoder.heads, 7, 7)] * c.decoder.layers
    assert [tuple(w.shape) for w in crosses] == [(3, c.decoder.heads, 7, length)] * c.decoder.layers
    for weights in (*heard, *selves, *crosses):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert (crosses[0][1, :, :, int(steps[1]) :] == 0).all()


def test_positions_are_sines_then_cosines():
    table = position_table(8, 6, torch.device("cpu"))
    assert (table[PAD] == 0).all()
    slowest = 1e-4
    expected = [torch.tensor(3 * rate).sin() for rate in (1, 1e-2, slowest)]
    expected += [torch.tensor(3 * rate).cos() for rate in (1, 1e-2, slowest)]
    torch.testing.assert_close(table[3], torch.stack(expected))
    assert position_table(4, 7, torch.device("cpu"))[:, 6].eq(0).all()


def test_training_has_gradients_and_chance(tmp_path):
    drop = {"model": {"dropout": 0.3, "attention_dropout": 0.1, "activation_dropout": 0.1}}
    model, _ = tiny_s2t(tmp_path, changes={**drop, "decoder": {"layer_drop": 0.5}})
    features, lengths = batch()
    ids = some_ids(model, 3, 6)
    model.train()
    torch.manual_seed(0)
    first, second = model(features, lengths, ids), model(features, lengths, ids)
    assert not torch.allclose(first, second)
    model.eval()
    assert torch.equal(model(features, lengths, ids), model(features, lengths, ids))
    model(features, lengths, ids).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (model.decoder.embed.weight.grad[PAD + 1 :] != 0).any()


@torch.inference_mode()
def test_other_types(model):
    import copy

    features, lengths = batch()
    ids = some_ids(model, 3, 6)
    expected = model(features, lengths, ids)
    for dtype in (torch.bfloat16, torch.float16):
        small = copy.deepcopy(model).to(dtype)
        logits = small(features.to(dtype), lengths, ids)
        assert logits.dtype == torch.float32
        assert (logits - expected).abs().mean() < 0.1 * expected.std()
