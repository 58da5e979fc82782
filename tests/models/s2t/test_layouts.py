"""Files of Speech2Text: the published names, both ways, and what is refused."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from earful.checkpoint.fields import Fields
from earful.checkpoint.files import Entry, Weights, load_tensors, save_weights
from earful.checkpoint.table import fitting, save
from earful.errors import CheckpointError
from earful.generate.beam import Decoding
from earful.models.s2t.config import PRESETS, TextConfig
from earful.models.s2t.config_hf import from_hf, to_hf
from earful.models.s2t.layouts import NAMINGS, fairseq_table, hf_table
from earful.models.s2t.model import Speech2Text
from earful.registry import load_model, open_checkpoint, recognise, save_model
from earful.testing import write_tiny

GOLDEN = Path(__file__).parents[2] / "golden"
LISTS = json.loads((GOLDEN / "s2t_hf.json").read_text())
PARAMETERS = {"small": 29_536_256, "medium": 71_207_936, "large": 267_834_368}
WITH_POSITIONS = {"small": 31_335_424, "medium": 74_806_272, "large": 275_031_040}


def positions(dim):
    return {"model.encoder.embed_positions.weights": [6002, dim], "model.decoder.embed_positions.weights": [1026, dim]}


def weights(names):
    return Weights({n: Entry(Path("nowhere"), torch.float32, tuple(shape), 0) for n, shape in names.items()}, "list")


def network(config):
    with torch.device("meta"):
        return Speech2Text(config)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", LISTS)
def test_published_names_map_one_to_one(name, stored, tied):
    config = replace(PRESETS[name], tied=tied)
    names = LISTS[name] | (positions(config.dim) if stored else {})
    parameters = network(config).state_dict()
    tables = [hf_table(config, naming) for naming in NAMINGS]
    fit = fitting(tables, weights(names), parameters)
    assert len(fit.matches) == len(parameters) == 358 - tied
    assert fit.copies == ({"lm_head.weight": "decoder.embed.weight"} if tied else {})
    written = {key: list(tensor.shape) for key, tensor in save(tables[0], parameters)}
    expected = dict(LISTS[name])
    if tied:
        del expected["lm_head.weight"]
        fitting(tables, weights(expected | (positions(config.dim) if stored else {})), parameters)
    assert written == expected


@pytest.mark.parametrize("size", PARAMETERS)
def test_sizes_are_those_that_circulate(size):
    name = f"s2t-{size}-librispeech-asr"
    model = network(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[size]
    listed = {key: shape for key, shape in LISTS[name].items() if key != "lm_head.weight"}
    listed |= positions(PRESETS[name].dim)
    assert sum(map(math.prod, listed.values())) == WITH_POSITIONS[size]


def test_half_a_model_lies_under_shorter_names():
    config = PRESETS["s2t-small-librispeech-asr"]
    names = {key.removeprefix("model."): shape for key, shape in LISTS["s2t-small-librispeech-asr"].items()}
    del names["lm_head.weight"]
    parameters = network(config).state_dict()
    tables = [hf_table(config, naming) for naming in NAMINGS]
    assert len(fitting(tables, weights(names), parameters).matches) == 357
    untied = network(replace(config, tied=False)).state_dict()
    with pytest.raises(CheckpointError, match=r"1 missing: lm_head\.weight"):
        fitting([hf_table(replace(config, tied=False), naming) for naming in NAMINGS], weights(names), untied)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_names_are_those_of_transformers():
    from transformers import Speech2TextConfig, Speech2TextForConditionalGeneration

    with torch.device("meta"):
        theirs = Speech2TextForConditionalGeneration(Speech2TextConfig())
    found = {name: list(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert found == LISTS["s2t-small-librispeech-asr"]


CHANGES = [
    {},
    {"model": {"tied": False, "scaled": False, "activation": "gelu", "conv_kernels": (3, 7, 5)}},
    {
        "encoder": {"layers": 1, "layer_drop": 0.1},
        "audio": {"bins": 8, "means": False, "variances": False, "dither": 1.0},
        "text": {"language_set": "mustc", "language": "nl", "upper": True},
        "decoding": {"beams": 1, "length_penalty": 0.5, "early_stopping": "never"},
    },
    {"audio": {"variances": False}, "text": {"lower": True}, "model": {"dropout": 0.3, "activation_dropout": 0.2}},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_a_folder_gives_back_what_was_written(tmp_path, changes):
    folder = write_tiny("s2t", path=tmp_path / "a", **changes)
    assert recognise(folder) == ("s2t", "hf")
    model, tokenizer = load_model(folder)
    save_model(model, tmp_path / "b", "hf", tokenizer)
    again, _ = load_model(tmp_path / "b")
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    for name in ("config.json", "vocab.json", "sentencepiece.bpe.model", "generation_config.json"):
        assert (folder / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_presets_go_through_their_files():
    for name, config in PRESETS.items():
        documents = {file: Fields(content, file) for file, content in to_hf(config, torch.float32).items()}
        again = from_hf(*(documents[f"{kind}.json"] for kind in ("config", "generation_config", "preprocessor_config")))
        assert again == replace(config, text=TextConfig()), name


def test_what_files_leave_out_is_as_published():
    config = from_hf(Fields({"model_type": "speech_to_text"}, "config.json"))
    published = PRESETS["s2t-small-librispeech-asr"]
    assert config == replace(published, attention_dropout=0.0, activation_dropout=0.0)
    assert config.decoding == Decoding(5, 200, 1.0, True)


def test_older_files_keep_the_search_in_the_config():
    older = Fields({"num_beams": 2, "max_length": 50, "early_stopping": False}, "config.json")
    assert from_hf(older).decoding == Decoding(2, 50, 1.0, False)
    newer = Fields({"num_beams": 7}, "generation_config.json")
    assert from_hf(older, newer).decoding.beams == 7


def test_a_head_that_is_stored_and_tied_must_be_the_embedding(tmp_path):
    folder = write_tiny("s2t", path=tmp_path)
    tensors = load_tensors(folder / "model.safetensors")
    embedding = tensors["model.decoder.embed_tokens.weight"]
    save_weights(folder, [*tensors.items(), ("lm_head.weight", embedding.clone())])
    assert load_model(folder)[0].decoder.head is None
    save_weights(folder, [*tensors.items(), ("lm_head.weight", embedding + 1)])
    with pytest.raises(CheckpointError, match=r"expected lm_head\.weight to be a copy"):
        load_model(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pad_token_id": 0}, "expected pad_token_id to be 1, got 0"),
        ({"d_model": 30}, "expected encoder_attention_heads to be a divisor of d_model, 30"),
        ({"d_model": 10**9}, "expected d_model to be a whole number of 4 to 65536"),
        ({"conv_kernel_sizes": [5, 4]}, "expected conv_kernel_sizes to be 1 to 8 odd sizes up to 63"),
        ({"conv_kernel_sizes": []}, "expected conv_kernel_sizes to be 1 to 8 odd sizes"),
        ({"conv_kernel_sizes": "5,5"}, "expected conv_kernel_sizes to be 1 to 8 odd sizes"),
        ({"num_conv_layers": 3}, "expected num_conv_layers to be 2, the number of conv_kernel_sizes"),
        ({"conv_channels": 33}, "expected conv_channels to be an even number"),
        ({"activation_function": "tanh"}, "expected activation_function to be one of relu"),
        ({"input_channels": 2}, "expected input_channels to be 1, got 2"),
        ({"dropout": 1.5}, "expected dropout to be a number of 0 to 1"),
        ({"early_stopping": "soon"}, 'expected early_stopping to be true, false or "never"'),
        ({"num_beams": 0}, "expected num_beams to be a whole number of 1 to"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        from_hf(Fields(change, "config.json"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lang_codes": "flores"}, "expected lang_codes to be one of mustc"),
        ({"lang_codes": "mustc", "tgt_lang": "en"}, "expected tgt_lang to be one of pt, fr, ru, nl, ro, it, es, de"),
    ],
)
def test_languages_that_nobody_knows_are_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        from_hf(Fields({}, "config.json"), tokenizer=Fields(change, "tokenizer_config.json"))


# ----------------------------------------------------------------------------------------------------- old checkpoints


def fairseq_names(names):
    """What fairseq called them: the facts that its own converter to transformers goes by, the other way round."""
    renamed = {}
    for name, value in names.items():
        name = name.removeprefix("model.").replace("encoder.conv.", "encoder.subsample.")
        name = name.replace("encoder.layers.", "encoder.transformer_layers.")
        renamed[name.replace("lm_head.", "decoder.output_projection.")] = value
    return renamed


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("tied", [True, False])
def test_names_of_fairseq_map_one_to_one(name, tied):
    config = replace(PRESETS[name], tied=tied)
    theirs = fairseq_names(LISTS[name])
    for half in ("encoder", "decoder"):
        theirs |= {f"{half}.version": [1], f"{half}.embed_positions._float_tensor": [1]}
    parameters = network(config).state_dict()
    fit = fitting([fairseq_table(config)], weights(theirs), parameters)
    assert len(fit.matches) == len(parameters) == 358 - tied


def fairseq_folder(path, source, **changes):
    """A folder as fairseq's authors give away, with the weights of one of Hugging Face's."""
    model, tokenizer = load_model(source)
    config = model.config
    path.mkdir()
    settings = {
        "arch": "s2t_transformer_s",
        "encoder_embed_dim": config.dim,
        "encoder_attention_heads": config.encoder.heads,
        "decoder_attention_heads": config.decoder.heads,
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "conv_kernel_sizes": "5,5",
        "max_source_positions": config.source_frames,
        "max_target_positions": config.target_ids,
        "activation_fn": "relu",
        "dropout": config.dropout,
        "share_decoder_input_output_embed": config.tied,
        "no_scale_embedding": not config.scaled,
        "adaptive_softmax_cutoff": None,
        "lr": [0.002],
    } | changes
    tensors = fairseq_names(dict(save(hf_table(config), model.state_dict())))
    for half in ("encoder", "decoder"):
        tensors |= {f"{half}.version": torch.tensor([3.0]), f"{half}.embed_positions._float_tensor": torch.zeros(1)}
    if config.tied:
        tensors["decoder.output_projection.weight"] = tensors["decoder.embed_tokens.weight"]
    content = {"args": argparse.Namespace(**settings), "model": tensors, "extra_state": {"epoch": 3}}
    torch.save(content, path / "s2t_transformer_s.pt", _use_new_zipfile_serialization=False)
    (path / "spm_unigram.model").write_bytes(tokenizer.read_bytes())
    vocabulary = json.loads((source / "vocab.json").read_text())
    pieces = sorted(vocabulary, key=vocabulary.get)[4:]
    (path / "spm_unigram.txt").write_text("".join(f"{piece} 1\n" for piece in pieces), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "changes", [{}, {"model": {"tied": False, "scaled": False}, "text": {"language_set": "mustc"}}]
)
def test_a_folder_of_fairseq_is_the_same_model(tmp_path, changes):
    source = write_tiny("s2t", path=tmp_path / "hf", **changes)
    folder = fairseq_folder(tmp_path / "fairseq", source)
    assert recognise(folder) == ("s2t", "fairseq")
    with pytest.raises(CheckpointError, match=r"got only s2t_transformer_s\.pt: pickled .*`earful convert \S+ TARGET`"):
        load_model(folder)
    model, tokenizer = load_model(folder, opened=open_checkpoint(folder, pickled=True))
    expected, _ = load_model(source)
    text = replace(expected.config.text, language=None)  # no file of fairseq's says which one is usual
    assert model.config == replace(expected.config, decoding=Decoding(), text=text)
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())
    save_model(model, tmp_path / "again", "hf", tokenizer)
    assert (tmp_path / "again" / "vocab.json").read_bytes() == (source / "vocab.json").read_bytes()
    with pytest.raises(CheckpointError, match="expected a layout of hf, got fairseq"):
        save_model(model, tmp_path / "never", "fairseq", tokenizer)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"decoder_normalize_before": False}, "expected decoder_normalize_before to be true"),
        ({"encoder_attention_heads": 5}, "expected encoder_attention_heads to be a divisor"),
        ({"encoder_attention_heads": None}, "expected encoder_attention_heads to be a whole number"),
        ({"activation_fn": "tanh"}, "expected activation_function to be one of relu"),
        ({"share_decoder_input_output_embed": False}, "missing|expected"),
    ],
)
def test_what_fairseq_could_do_and_we_cannot(tmp_path, change, message):
    folder = fairseq_folder(tmp_path / "fairseq", write_tiny("s2t", path=tmp_path / "hf"), **change)
    if change.get("share_decoder_input_output_embed") is False:
        assert not load_model(folder, opened=open_checkpoint(folder, pickled=True))[0].config.tied
        return
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, opened=open_checkpoint(folder, pickled=True))


def test_folders_that_are_not_fairseqs(tmp_path):
    folder = fairseq_folder(tmp_path / "fairseq", write_tiny("s2t", path=tmp_path / "hf"))
    (folder / "other.model").write_bytes(b"")
    with pytest.raises(CheckpointError, match="expected one SentencePiece .model, got other.model, spm_unigram.model"):
        load_model(folder, opened=open_checkpoint(folder, pickled=True))
    torch.save({"model": {"a": torch.zeros(3)}}, folder / "s2t_transformer_s.pt")
    with pytest.raises(CheckpointError, match="expected the tensors of s2t_transformer, got a"):
        load_model(folder, opened=open_checkpoint(folder, pickled=True))
    (folder / "second.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="got other.model, s2t_transformer_s.pt, second.pt"):
        recognise(folder)
