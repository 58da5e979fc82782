"""Live conversations: the ids of Kyutai's LMGen, the law, and a voice as long as what was heard."""

import numpy as np
import pytest
import torch

from earful.models.moshi.stream import Chance
from earful.nn.state import leaves, reset
from earful.stream.engine import Engine
from tests.models.moshi.models import GREEDY, answer, as_moshi, audio, stepped, stream_of, written

FRAMES = 16


@torch.no_grad()
@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(24))
def test_ids_are_those_of_moshi_when_the_first_frame_is_stepped_twice(seed):
    from moshi.models import LMGen
    from moshi.utils.compile import no_compile

    stream = stream_of(seed)
    samples = torch.from_numpy(audio(stream, 2 * FRAMES * stream.hop)).view(2, -1)
    codes = stream.model.codec.encode(samples[:, None], stream.user)
    with no_compile():
        generation = LMGen(as_moshi(stream.model), use_sampling=False)
        with generation.streaming(2):
            theirs = [generation.step(frame) for frame in [codes[..., :1], *codes.split(1, dim=-1)]]
    expected = torch.cat([one for one in theirs if one is not None], dim=-1)
    ours, _ = stepped(stream, samples)
    assert len(ours.unique()) > 3
    assert torch.equal(ours, expected)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))
def test_a_greedy_conversation_is_what_its_own_score_says(seed):
    stream = stream_of(seed)
    samples = torch.from_numpy(audio(stream, FRAMES * stream.hop)).view(1, -1)
    ours, sound = stepped(stream, samples)
    user = stream.model.codec.encode(samples[:, None], stream.user)
    frames = ours.shape[-1]
    text, depth = stream.model(torch.cat([ours, user[..., :frames]], dim=1))
    assert torch.equal(text.argmax(-1), ours[:, 0])
    for k, delay in enumerate(stream.config.delays[1 : 1 + stream.config.own]):
        assert torch.equal(depth[:, delay:, k].argmax(-1), ours[:, 1 + k, : frames - delay])
    torch.testing.assert_close(sound.float(), stream.model.codec.decode(ours[:, 1:])[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("chance", [GREEDY, Chance(seed=7, top_k=9)], ids=["greedy", "by chance"])
@pytest.mark.parametrize("seed", range(2))
def test_any_chunks_get_the_same_answer_of_the_same_length(seed, chance):
    stream = stream_of(seed)
    rng = np.random.default_rng(seed)
    for length in (1, stream.hop, int(rng.integers(1, FRAMES * stream.hop))):
        samples = audio(stream, length, seed)
        expected = answer(stream, samples, chance=chance)
        assert len(expected[1]) == length
        for cuts in (sorted(rng.integers(0, length + 1, 9)), range(min(length, 20))):
            text, sound = answer(stream, samples, list(cuts), chance=chance)
            assert text == expected[0]
            np.testing.assert_allclose(sound, expected[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_that_come_and_go_are_not_noticed(seed):
    stream, rng = stream_of(seed), np.random.default_rng(seed)
    clips = [audio(stream, int(rng.integers(1, 30)) * stream.hop // 2 + 1, i) for i in range(6)]
    chances = [
        Chance(seed=i, temperature=float(rng.choice([0, 0.8])), top_k=int(rng.integers(1, 16))) for i in range(6)
    ]
    engine, waiting, living, found = Engine(stream, 3), list(range(6)), {}, {}
    while waiting or living:
        if waiting and len(living) < 3 and rng.random() < 0.5:
            number = waiting.pop()
            living[number] = (engine.open(chance=chances[number]), 0)
        for number, (lane, at) in list(living.items()):
            step = int(rng.integers(0, 3 * stream.hop))
            lane.framer.feed(clips[number][at : at + step])
            living[number] = (lane, at + step)
            if at + step >= len(clips[number]):
                engine.finish(lane, len(clips[number]) / stream.rate_hz)
                engine.pump()
                found[number] = written(lane.events)
                engine.close(lane)
                del living[number]
        engine.step()
    for number, (text, sound) in found.items():
        alone = answer(stream, clips[number], chance=chances[number])
        assert text == alone[0]
        np.testing.assert_allclose(sound, alone[1], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_nothing_moves_in_memory_and_frozen_slots_stand_still():
    stream = stream_of(2)
    state = stream.init_state(2)
    for slot in range(2):
        stream.open(state, slot, chance=GREEDY)
    addresses = [leaf.data_ptr() for leaf in leaves(state)]
    samples = torch.from_numpy(audio(stream, 4 * stream.hop)).view(2, -1)
    stream.step(state, samples, [2, 2])
    before = stream.step(state, samples, [2, 0])
    stream.step(state, samples, [2, 0])
    assert [leaf.data_ptr() for leaf in leaves(state)] == addresses
    assert state.temporal.pos.tolist() == [7, 3]
    reset(state, [0])
    assert not any(leaf[0].any() for leaf in leaves(state))
    assert before.shape == (2, 2, 1 + stream.hop)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1}, "expected a temperature of at least 0, got -1"),
        ({"text_temperature": float("nan")}, "expected a text_temperature of at least 0, got nan"),
        ({"top_k": 0}, "expected top_k of 1 to 512, got 0"),
        ({"text_top_k": 513}, "expected text_top_k of 1 to 512, got 513"),
    ],
)
def test_chance_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Chance(**change)
