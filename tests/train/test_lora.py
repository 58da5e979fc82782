"""Low-rank changes: the same model whether they are applied, merged, or read from a file beside the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import earful
from earful.checkpoint.files import load_tensors
from earful.models.kyutai_stt.model import KyutaiStt
from earful.testing import tiny_kyutai_stt, write_tiny
from earful.train.kyutai_stt import KyutaiSttRun, train_kyutai_stt
from earful.train.lora import Lora, save_lora
from earful.train.objectives import KyutaiSttObjective


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[KyutaiStt, Path]:
    model, tokenizer = tiny_kyutai_stt(tmp_path)
    return model.train(), tokenizer  # type: ignore[return-value]


def heard(model: KyutaiStt) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    text = torch.randint(0, 320, (2, 30), generator=generator)
    with torch.no_grad():
        return model(text, torch.randint(0, 32, (2, 6, 30), generator=generator))


def changed(model: KyutaiStt) -> Lora:
    lora = Lora(model.temporal, rank=3)
    for name, weight in model.temporal.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return lora


def test_changes_begin_as_none_and_alone_learn(tiny: tuple[KyutaiStt, Path]) -> None:
    model, _ = tiny
    before = heard(model)
    Lora(model.temporal, rank=3)
    torch.testing.assert_close(heard(model), before)
    learning = {name for name, weight in model.temporal.named_parameters() if weight.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    matrices = {name.rpartition(".lora_")[0] for name in learning}
    assert len(matrices) == 2 * 7  # every matrix of both blocks, and not the head


def test_merged_equals_applied_and_dropped_equals_what_was(tiny: tuple[KyutaiStt, Path]) -> None:
    model, _ = tiny
    names, before = set(model.state_dict()), heard(model)
    lora = changed(model)
    applied = heard(model)
    assert (applied - before).abs().max() > 0.1
    lora.merge()
    torch.testing.assert_close(heard(model), applied, atol=1e-4, rtol=1e-4)
    assert set(model.state_dict()) == names
    other = changed(model)
    merged = heard(model)
    other.drop()
    torch.testing.assert_close(heard(model), applied, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merged, applied, atol=1e-2)


def test_a_file_of_changes_is_read_as_what_was_applied(tiny: tuple[KyutaiStt, Path], tmp_path: Path) -> None:
    """Kyutai's file has q, k and v in one, their rows in another order, and gate and up in one."""
    model, tokenizer = tiny
    plain = heard(model)
    lora = changed(model)
    applied, pairs = heard(model), lora.pairs()
    lora.drop()
    save_lora(model, pairs, tmp_path / "lora", tokenizer)
    loaded = earful.load(tmp_path / "lora")._live.model
    torch.testing.assert_close(heard(loaded), applied, atol=1e-4, rtol=1e-4)
    file = load_tensors(tmp_path / "lora" / "lora.safetensors")
    assert file["transformer.layers.0.self_attn.in_proj.lora_A.weight"].shape == (9, 48)
    assert file["transformer.layers.1.gating.linear_in.lora_B.weight"].shape == (120, 9)  # one rank of all
    document = json.loads((tmp_path / "lora" / "config.json").read_text())
    assert (document["lora"], document["lora_rank"], document["lora_scaling"]) == (True, 9, 2)
    (tmp_path / "lora" / "config.json").write_text(json.dumps(document | {"lora": False}))
    torch.testing.assert_close(heard(earful.load(tmp_path / "lora")._live.model), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_kyutais_package_reads_a_file_of_changes(tiny: tuple[KyutaiStt, Path], tmp_path: Path) -> None:
    from moshi.models import loaders

    model, tokenizer = tiny
    lora = changed(model)
    ids = torch.randint(0, 32, (2, 7, 20))
    applied, pairs = model.temporal.logits(model.temporal(model.temporal.embed(ids))), lora.pairs()
    lora.drop()
    save_lora(model, pairs, tmp_path / "lora", tokenizer)
    config = json.loads((tmp_path / "lora" / "config.json").read_text())
    arguments = {key: value for key, value in config.items() if not key.endswith(("_name", "_config", "model_type"))}
    theirs = loaders.get_moshi_lm(
        tmp_path / "lora" / "model.safetensors",
        arguments,
        dtype=torch.float32,
        lora_weights=tmp_path / "lora" / "lora.safetensors",
        fuse_lora=True,
    )
    torch.testing.assert_close(theirs.forward_text(ids)[1][:, 0], applied, atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_the_file(tiny: tuple[KyutaiStt, Path]) -> None:
    model, _ = tiny
    changed(model)
    objective = KyutaiSttObjective(model)
    text = torch.randint(0, 320, (1, 25))
    objective(text, torch.randint(0, 32, (1, 6, 25)), text)[0].backward()
    for name, weight in objective.named_parameters():
        assert (weight.grad is not None) == ("lora_" in name), name


@pytest.mark.parametrize("merge", [True, False])
def test_a_run_learns_changes_resumes_and_writes_them(tones: Path, tmp_path: Path, merge: bool) -> None:
    start = write_tiny("kyutai_stt", "kyutai", path=tmp_path / "start")
    run = KyutaiSttRun(
        str(start), [tones], tmp_path / "run", steps=6, batch=2, seconds=2.4, versions=1, lora=2, merge=merge,
        workers=0, dtype=torch.float32, other_rate=0.02,
    )  # fmt: skip
    folder = train_kyutai_stt(run)
    state = load_tensors(next((tmp_path / "run").glob("state-*.safetensors")))
    assert all("lora_" in name for name in state if name.startswith("weight."))
    assert (folder / "lora.safetensors").is_file() == (not merge)
    learned, before = (heard(earful.load(path)._live.model) for path in (folder, start))
    assert not torch.allclose(learned, before, atol=1e-3)
    again = train_kyutai_stt(replace(run, merge=not merge))  # nothing is left to learn: the same, written otherwise
    torch.testing.assert_close(heard(earful.load(again)._live.model), learned, atol=1e-4, rtol=1e-4)
