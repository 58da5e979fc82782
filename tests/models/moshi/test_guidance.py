"""What a session is told: a prompt, conditions, and guidance by them, beside others and as in Kyutai's moshi."""

import json

import numpy as np
import pytest
import torch

from earful.models.moshi.config import ConditionConfig
from earful.models.moshi.stream import Chance, streams
from earful.nn.state import leaves
from earful.registry import load_model, save_model
from earful.stream.engine import Engine
from earful.testing import write_tiny
from tests.models.moshi.models import GREEDY, answer, audio, stepped, stream_of, written

MOOD = ConditionConfig("mood", ("bad", "fair", "good"), rows=5, dim=6)
AGE = ConditionConfig("age", ("young", "old"), rows=2, dim=3)
BOTH = (AGE, MOOD)
FRAMES = 14
TOLD = [{"mood": "good", "age": "old"}, {"age": "young"}]
AGAINST = [{"mood": "bad"}, {}]
GUIDED = [
    {"conditions": told, "against": against, "guidance": 3.0} for told, against in zip(TOLD, AGAINST, strict=True)
]


def loaded(model, folder):
    """What moshi's own loader makes of the folder that we write."""
    from moshi.models import loaders

    save_model(model, folder, "kyutai")
    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if not key.endswith(("_name", "model_type"))}
    return loaders.get_moshi_lm(folder / "model.safetensors", config, dtype=torch.float32)


def provided(theirs, sessions):
    from moshi.conditioners import ConditionAttributes

    every = [{"mood": None, "age": None} | values for values in sessions]
    return theirs.condition_provider.prepare_and_provide([ConditionAttributes(text=values) for values in every])


@torch.no_grad()
@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_conditions_and_guidance_are_those_of_moshi(seed, tmp_path):
    from moshi.models import LMGen
    from moshi.utils.compile import no_compile

    stream = stream_of(seed, BOTH)
    model, c = stream.model, stream.config.temporal
    theirs = loaded(model, tmp_path)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(16, (2, 1 + c.codebooks, FRAMES), generator=generator)
    samples = torch.from_numpy(audio(stream, 2 * FRAMES * stream.hop)).view(2, -1)
    codes = stream.model.codec.encode(samples[:, None], stream.user)
    with no_compile():
        scored = theirs(ids, provided(theirs, TOLD))
        generation = LMGen(
            theirs, use_sampling=False, cfg_coef=3.0, condition_tensors=provided(theirs, [*TOLD, *AGAINST])
        )
        with generation.streaming(2):
            found = [generation.step(frame) for frame in [codes[..., :1], *codes.split(1, dim=-1)]]
    text, _ = model(ids, torch.stack([model.told(values) for values in TOLD]))
    mask = scored.text_mask[:, 0]
    torch.testing.assert_close(text[mask], scored.text_logits[:, 0][mask], rtol=0, atol=1e-4)
    ours, _ = stepped(stream, samples, GUIDED)
    assert torch.equal(ours, torch.cat([one for one in found if one is not None], dim=-1))
    plain, _ = stepped(stream, samples)
    assert not torch.equal(ours, plain)


@pytest.mark.parametrize("chance", [GREEDY, Chance(seed=3, top_k=9)], ids=["greedy", "by chance"])
def test_guided_sessions_beside_others_and_in_any_chunks(chance):
    """Guided ones, told ones, and one that is told nothing; some come while others are there, all in random chunks."""
    stream, rng = stream_of(1, BOTH), np.random.default_rng(0)
    options = [*GUIDED, {"conditions": TOLD[0]}, {}, {"conditions": AGAINST[0]}]
    clips = [audio(stream, int(rng.integers(2, 2 * FRAMES)) * stream.hop // 2 + 1, i) for i in range(len(options))]
    engine, waiting, living, found = Engine(stream, 3), list(range(len(options))), {}, {}
    while waiting or living:
        if waiting and len(living) < 3 and rng.random() < 0.4:
            number = waiting.pop()
            living[number] = (engine.open(chance=chance, **options[number]), 0)
        for number, (lane, at) in list(living.items()):
            ahead = at + int(rng.integers(0, 3 * stream.hop))
            lane.framer.feed(clips[number][at:ahead])
            living[number] = (lane, ahead)
            if ahead >= len(clips[number]):
                engine.finish(lane, len(clips[number]) / stream.rate_hz)
                engine.pump()
                found[number] = written(lane.events)
                engine.close(lane)
                del living[number]
        engine.step()
    sounds = set()
    for number, (text, sound) in found.items():
        alone = answer(stream, clips[number], chance=chance, **options[number])
        assert text == alone[0]
        np.testing.assert_allclose(sound, alone[1], rtol=0, atol=1e-5)
        sounds.add(answer(stream, clips[0], chance=chance, **options[number])[1].tobytes())
    assert len(sounds) == len(options)  # each option does something


def test_a_guidance_of_one_and_nothing_told_change_nothing():
    stream = stream_of(2, BOTH)
    samples = audio(stream, FRAMES * stream.hop)
    plain = answer(stream, samples, chance=GREEDY)
    again = answer(stream, samples, chance=GREEDY, conditions={}, against={"mood": "bad"}, guidance=1.0)
    assert plain[0] == again[0]
    assert np.array_equal(plain[1], again[1])


@torch.no_grad()
def test_a_conditioned_conversation_is_what_its_own_score_says():
    stream = stream_of(4, BOTH)
    samples = torch.from_numpy(audio(stream, FRAMES * stream.hop)).view(1, -1)
    ours, _ = stepped(stream, samples, [{"conditions": TOLD[0]}])
    user = stream.model.codec.encode(samples[:, None], stream.user)[..., : ours.shape[-1]]
    text, _ = stream.model(torch.cat([ours, user], dim=1), stream.model.told(TOLD[0]))
    assert torch.equal(text.argmax(-1), ours[:, 0])


@pytest.mark.parametrize("chance", [GREEDY, Chance(seed=5, text_temperature=2.0)], ids=["greedy", "by chance"])
def test_a_prompt_is_written_first(tmp_path, chance):
    stream, _ = streams(*load_model(write_tiny("moshi", path=tmp_path)))
    prompt, samples = "the dog is it", audio(stream, 60 * stream.hop)
    text, sound = answer(stream, samples, chance=chance, prompt=prompt)
    assert text.startswith(prompt)
    assert len(text) > len(prompt) + 3  # and then what it likes
    assert len(sound) == len(samples)
    assert answer(stream, samples, (7, 300, 301), chance=chance, prompt=prompt)[0] == text
    assert not answer(stream, samples, chance=chance)[0].startswith(prompt)


@pytest.mark.parametrize(
    ("conditions", "options", "message"),
    [
        ((), {"prompt": "ab" * 200}, "expected a prompt of at most 256 pieces, got"),
        ((), {"prompt": "the dog"}, r"expected a prompt of pieces below \d\d, got \d{3}"),
        ((), {"guidance": 2.0}, "expected a guidance of 1 for a model without conditions, got 2.0"),
        ((), {"conditions": {"mood": "good"}}, "expected conditions of no name, got 'mood'"),
        (BOTH, {"guidance": -1.0}, "expected a guidance of at least 0, got -1.0"),
        (BOTH, {"guidance": float("inf")}, "expected a guidance of at least 0, got inf"),
        (BOTH, {"conditions": {"pace": "good"}}, "expected conditions of age, mood, got 'pace'"),
        (BOTH, {"against": {"mood": "grim"}}, "expected mood of bad, fair, good, got 'grim'"),
        ((), {"delay_s": 0.5}, "expected no delay, got 0.5 s"),
    ],
)
def test_what_a_session_cannot_be_told_is_refused(conditions, options, message):
    engine = Engine(stream_of(0, conditions), 1)
    with pytest.raises(ValueError, match=message):
        engine.open(**options)
    assert not any(leaf.any() for leaf in leaves(engine.state))  # the slot is as free as before
    engine.open()
