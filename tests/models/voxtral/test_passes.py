import pytest
import torch

from earful.models.voxtral.passes import decoder_state, encoder_state, hear, padding_state
from earful.nn.attention import View
from earful.nn.passes import Ask, attention_weights, next_token_loss, run
from earful.nn.rope import Rope
from earful.registry import load_model
from earful.testing import write_tiny

T = 45  # steps: beyond both windows, of 18 frames and 10 slots


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_tiny("voxtral", path=tmp_path_factory.mktemp("tiny"))
    return load_model(folder)[0].eval().requires_grad_(False)


@pytest.fixture(params=["encoder", "decoder"])
def stack(request, model):
    return getattr(model, request.param)


def signal(stack, steps=T, rows=2):
    return torch.randn(rows, steps, stack.config.dim, generator=torch.Generator().manual_seed(0))


def fresh(stack, chunk, length=None):
    return (decoder_state if hasattr(stack, "gains") else encoder_state)(stack, 2, chunk, length)


def gains_of(stack):
    return stack.gains(torch.tensor([2, 5])) if hasattr(stack, "gains") else None


def test_is_the_stacks_own_forward(stack):
    x, gains = signal(stack), gains_of(stack)
    own = stack.attend(x) if gains is None else stack(x, gains)
    # a signal longer than the window is looked at in blocks there: another order of the same sums
    torch.testing.assert_close(
        run(stack, x, None, gains).last, own, rtol=0, atol=0 if stack.config.window >= T else 1e-5
    )


@pytest.mark.parametrize("length", [None, T])
@pytest.mark.parametrize("cuts", [[T], [1] * T, [7, 1, 1, 20, 16], [30, 15]])
def test_any_cuts_on_a_ring_give_the_whole(stack, cuts, length):
    x, gains, chunk = signal(stack), gains_of(stack), 4
    whole = run(stack, x, None, gains, Ask(hidden=True))
    state = fresh(stack, chunk, length)
    parts = [run(stack, piece, state, gains, Ask(hidden=True)) for piece in x.split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat([p.last for p in parts], 1), whole.last, rtol=0, atol=1e-4)
    assert len(whole.hidden) == stack.config.layers + 1
    assert whole.hidden[-1] is whole.last
    for number, hidden in enumerate(whole.hidden):
        scale = float(hidden.abs().max())  # only the last one is normalised
        torch.testing.assert_close(torch.cat([p.hidden[number] for p in parts], 1), hidden, rtol=0, atol=1e-4 * scale)
    assert state.pos.tolist() == [T, T]


def test_rings_of_a_short_stream_are_short(stack):
    assert fresh(stack, 4, length=6).layers[0].keys.shape[2] == 9
    assert fresh(stack, 4, length=1000).layers[0].keys.shape[2] == stack.config.window + 3
    assert fresh(stack, 4).layers[0].keys.shape[2] == stack.config.window + 3
    x, gains = signal(stack, 6), gains_of(stack)
    state = fresh(stack, 4, length=6)
    parts = [run(stack, piece, state, gains).last for piece in x.split([4, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), run(stack, x, None, gains).last, rtol=0, atol=1e-4)


def test_masked_keys_change_nothing(stack):
    x, gains = signal(stack), gains_of(stack)
    keys = torch.rand(2, T, generator=torch.Generator().manual_seed(1)) < 0.8
    other = torch.where(keys[..., None], x, 50.0)
    whole = run(stack, x, None, gains, Ask(keys=keys)).last
    assert not torch.allclose(whole[keys], run(stack, x, None, gains).last[keys], atol=1e-3)
    torch.testing.assert_close(run(stack, other, None, gains, Ask(keys=keys)).last[keys], whole[keys])
    state, done, parts = fresh(stack, 4), 0, []
    for piece in x.split([9, 1, 20, 15], dim=1):
        done += piece.shape[1]
        parts.append(run(stack, piece, state, gains, Ask(keys=keys[:, :done])).last)
    torch.testing.assert_close(torch.cat(parts, 1)[keys], whole[keys], rtol=0, atol=1e-4)


def test_only_distances_between_positions_count(stack):
    x, gains = signal(stack), gains_of(stack)
    plain = run(stack, x, None, gains).last
    moved = run(stack, x, None, gains, Ask(positions=torch.arange(T)[None] + 100)).last
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-4)
    stretched = Ask(positions=2 * torch.arange(T)[None])
    whole = run(stack, x, None, gains, stretched).last
    assert not torch.allclose(whole, plain, atol=1e-3)
    on_ring = run(stack, x, fresh(stack, 4), gains, stretched).last  # in several calls
    torch.testing.assert_close(on_ring, whole, rtol=0, atol=1e-4)


def test_attention_weights(stack):
    c, attention = stack.config, stack.layers[0].attn
    x = signal(stack)
    rope = Rope.at(torch.arange(T)[None], c.head_dim, c.rope_base, x.dtype)
    view = View.whole(T, c.window, x.dtype, x.device)
    weights = attention_weights(attention, x, rope, view)  # [B, H, T, T]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, c.heads, T))
    age = torch.arange(T)[:, None] - torch.arange(T)
    assert (weights[..., (age < 0) | (age >= c.window)] == 0).all()
    values = attention.v(x).unflatten(-1, (c.kv_heads, -1)).transpose(1, 2)
    values = values.repeat_interleave(c.heads // c.kv_heads, 1)
    again = attention.o((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(again, attention(x, rope, view), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="expected no cache with attention weights"):
        run(stack, x, fresh(stack, 4), gains_of(stack), Ask(attentions=True))


def test_hearing_in_chunks(model):
    mel = torch.randn(2, model.config.encoder.mels, 30 * 8, generator=torch.Generator().manual_seed(0))
    state = encoder_state(model.encoder, 2, 16)
    parts = [hear(model, piece, state) for piece in mel.split([8, 80, 8, 144], dim=-1)]
    torch.testing.assert_close(torch.cat(parts, 1), model.hear(mel), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="expected whole slots of 8 mel frames"):
        hear(model, mel[..., :12], state)


def test_padding_alone(model):
    mel = torch.randn(2, model.config.encoder.mels, 24, generator=torch.Generator().manual_seed(0))
    state = padding_state(model.encoder, 2)
    parts = [model.encoder.embed(piece, state) for piece in mel.split([4, 20], dim=-1)]
    torch.testing.assert_close(torch.cat(parts, 1), model.encoder.embed(mel), rtol=0, atol=1e-5)


def test_loss():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[3, 1, 2, -100, 6], [-100, -100, 5, 0, -100]])
    asked = [(0, 0, 1), (0, 1, 2), (0, 3, 6), (1, 1, 5), (1, 2, 0)]  # row, step, the label of the next step
    expected = -torch.stack([logits.log_softmax(-1)[where] for where in asked]).mean()
    torch.testing.assert_close(next_token_loss(logits, labels), expected)
    torch.testing.assert_close(next_token_loss(logits.bfloat16(), labels), expected, rtol=0.01, atol=0)
    with pytest.raises(ValueError, match=r"expected labels of shape \[2, 5\], one per logit, got \[2, 4\]"):
        next_token_loss(logits, labels[:, :4])
