import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earful.checkpoint.fields import Fields, read_json
from earful.errors import CheckpointError

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_values_in_range_are_taken_and_absent_ones_take_the_default():
    fields = Fields({"layers": 4, "theta": 1e6, "eps": 0, "tied": False, "inner": {"dim": 8}}, "config.json")
    assert fields.whole("layers", 1, 4) == 4
    assert fields.whole("heads", 1, 64, default=2) == 2
    assert fields.number("theta", 1, 1e7) == 1e6
    assert fields.number("eps", 0, 1) == 0.0
    assert fields.flag("tied", True) is False
    assert fields.flag("causal", True) is True
    assert fields.block("inner").whole("dim", 1, 8) == 8
    assert fields.block("other", {"dim": 3}).whole("dim", 1, 8) == 3
    fields.only(layers=4, absent="anything")
    assert "layers" in fields
    assert "absent" not in fields


@given(ANYTHING)
def test_a_whole_number_is_an_int_in_range_or_an_error(value):
    fields = Fields({"dim": value}, "config.json")
    if type(value) is int and 1 <= value <= 100:
        assert fields.whole("dim", 1, 100) == value
    else:
        with pytest.raises(
            CheckpointError, match=r"^config\.json: expected dim to be a whole number of 1 to 100, got "
        ):
            fields.whole("dim", 1, 100)


@given(ANYTHING)
def test_a_number_is_finite_and_in_range_or_an_error(value):
    fields = Fields({"theta": value}, "config.json")
    if type(value) in (int, float) and -5 <= value <= 5:
        assert fields.number("theta", -5, 5) == value
    else:
        with pytest.raises(CheckpointError, match=r"^config\.json: expected theta to be a number of -5 to 5, got "):
            fields.number("theta", -5, 5)


@given(ANYTHING)
def test_messages_are_one_short_line(value):
    with pytest.raises(CheckpointError) as caught:
        Fields({"causal": {"here": value}}, "config.json").flag("causal", True)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 140


def test_what_is_wrong_is_named_with_its_place():
    fields = Fields({"audio_config": {"hidden_act": "relu"}, "text_config": 3}, "config.json")
    with pytest.raises(CheckpointError, match=r'config\.json: audio_config: expected hidden_act to be "silu", got'):
        fields.block("audio_config").only(hidden_act="silu")
    with pytest.raises(CheckpointError, match=r"config\.json: text_config: expected an object, got 3"):
        fields.block("text_config")
    with pytest.raises(CheckpointError, match=r"config\.json: expected dim, a whole number of 1 to 9, got no such key"):
        fields.whole("dim", 1, 9)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_what_is_not_json_is_refused_by_name(tmp_path, data):
    path = tmp_path / "params.json"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"params\.json: expected JSON, got"):
        read_json(path)


def test_files_are_read_up_to_a_limit(tmp_path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps({"a": "b" * 100}))
    assert Fields.from_file(path).values == {"a": "b" * 100}
    with pytest.raises(CheckpointError, match="expected at most 50 bytes of JSON"):
        read_json(path, 50)
    with pytest.raises(CheckpointError, match=r"other\.json: expected a readable file, got: No such file"):
        read_json(tmp_path / "other.json")
    path.write_text("[1]")
    with pytest.raises(CheckpointError, match="expected an object, got"):
        Fields.from_file(path)


def test_text():
    fields = Fields({"name": "a", "number": 3}, "here")
    assert fields.text("name") == "a"
    with pytest.raises(CheckpointError, match="here: expected number to be text, got 3"):
        fields.text("number")
    with pytest.raises(CheckpointError, match="here: expected missing, text, got no such key"):
        fields.text("missing")
