"""The house itself: public names, what the package ships, what the make targets and gates promise."""

import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import earful
from earful.testing import write_tiny
from tools import gate

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


@pytest.mark.parametrize("name", earful.__all__)
def test_public_name_exists(name):
    value = getattr(earful, name)
    assert value.__name__ == name
    assert name in dir(earful)


def test_type_checkers_see_the_public_names():
    source = (ROOT / "src/earful/__init__.py").read_text(encoding="utf-8")
    typed = re.findall(r"^    from ([\w.]+) import (\w+) as (\w+)$", source, re.MULTILINE)
    assert sorted(alias for _, _, alias in typed) == sorted(earful.__all__)
    for module, name, alias in typed:
        assert (name, module) == (alias, earful._HOME[name])


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'transmogrify'"):
        earful.transmogrify  # noqa: B018


def test_import_is_light():
    """`import earful` loads neither torch nor anything else that takes a moment, nor a library we compare with."""
    code = "import sys, earful; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'earful'" in loaded
    for heavy in ("torch", "numpy", "transformers", "mistral_common", "typer", "av", "huggingface_hub"):
        assert f"'{heavy}'" not in loaded


def test_command_line_and_model_do_without_transformers():
    code = "import sys, earful.cli, earful.hf, earful.api; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


COMPILER = "sys.exit([name for name in ('torch._dynamo', 'sympy') if name in sys.modules] or 0)"


def test_the_first_text_does_not_wait_for_torchs_compiler():
    """It takes as long to import as torch itself, and drawing weights without memory for them would."""
    code = f"""if True:
        import sys, numpy as np, earful
        model = earful.load()
        model.transcribe(np.zeros(16000, np.float32))
        with model.stream() as stream:
            stream.feed(np.zeros(16000, np.float32))
            stream.finish()
        {COMPILER}
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("family", "layout"),
    [("kyutai_stt", "hf"), ("kyutai_stt", "kyutai"), ("mimi", "kyutai"), ("moshi", "kyutai"), ("s2t", "hf")],
)
def test_no_checkpoint_loads_torchs_compiler(family, layout, tmp_path):
    """Joining tensors without memory would, and making one like another."""
    write_tiny(family, layout, path=tmp_path)
    code = f"import sys, earful; earful.load({str(tmp_path)!r}); {COMPILER}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_import_contract_can_break(tmp_path):
    """The contracts name rooms that may not exist yet, so a slip there would pass unseen: break each one once."""
    package = tmp_path / "src" / "earful"
    shutil.copytree(ROOT / "src" / "earful", package, ignore=shutil.ignore_patterns("builtin", "__pycache__"))
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    everything = [name for contract in CONTRACTS for name in contract.get("forbidden_modules", [])]
    rogue = "from earful import api\n" + "".join(f"import {name}\n" for name in everything)
    (package / "nn" / "rogue.py").write_text(rogue, encoding="utf-8")
    for family in ("voxtral", "mimi"):
        (package / "models" / family).mkdir(exist_ok=True)
    (package / "models" / "mimi" / "__init__.py").write_text("import earful.models.voxtral.config\n", encoding="utf-8")

    run = lint_imports(tmp_path)

    assert run.returncode == 1
    for contract in CONTRACTS:
        assert f"{contract['name']} BROKEN" in run.stdout


def lint_imports(folder):
    code = "import sys; sys.path.insert(0, 'src'); from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_wheel_holds_the_package_its_model_and_nothing_else(wheel):
    sizes = {info.filename: info.file_size for info in wheel.infolist()}
    model = {name: size for name, size in sizes.items() if name.startswith("earful/builtin/")}
    for name in ("params.json", "tekken.json", "consolidated.safetensors", "demo.flac"):
        assert f"earful/builtin/{name}" in model
    assert sum(model.values()) <= 25_000_000
    assert "earful/py.typed" in sizes
    assert {Path(name).parts[0] for name in sizes} == {"earful", f"earful-{earful.__version__}.dist-info"}


def test_wheel_metadata(wheel):
    metadata = wheel.read(f"earful-{earful.__version__}.dist-info/METADATA").decode()
    core = re.findall(r"^Requires-Dist: ([\w-]+)>=[\d.]+$", metadata, re.MULTILINE)
    assert (
        ",".join(sorted(core)) == "av,huggingface-hub,numpy,rich,safetensors,sentencepiece,soxr,tokenizers,torch,typer"
    )
    extras = re.findall(r"^Provides-Extra: (\w+)$", metadata, re.MULTILINE)
    assert set(extras) == {"voxtral", "mic", "server", "train", "eval", "ray", "dev"}


def test_changelog_has_this_version():
    assert f"## {earful.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_contributing_fits_on_a_page():
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 60


def test_bare_make_prints_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    printed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([\w-]+)", printed, re.MULTILINE) == phony.split()


def test_demo_prints_words_with_times():
    dry_run = ["make", "--no-print-directory", "--dry-run", "demo"]
    shown = subprocess.run(dry_run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = shlex.split(shown.splitlines()[-1])
    command[0] = str(Path(sys.executable).with_name(Path(command[0]).name))
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    _, *rows = (line.split("\t") for line in printed.splitlines())
    assert len(rows) >= 4
    assert all(word.strip() and " " not in word for _, _, word in rows)
    times = [int(ms) for start, end, _ in rows for ms in (start, end)]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] <= 2_990


def test_gate_finds_nothing():
    assert gate.findings(ROOT) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "np.load(path, allow_pickle=True)",
        "archive.extractall(path)",
        "read(path, allow_pickle=True)",
        "from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_gate_refuses_code_that_runs_files(line):
    assert {number for number, _ in gate.forbidden_calls(f"x = 1\n{line}")} == {2}


def test_gate_lets_ordinary_code_pass():
    assert not list(gate.forbidden_calls("model.eval()\nyaml.safe_load(x)\n# torch.load\ns = 'eval(x)'"))


@pytest.mark.parametrize(
    "masked", ["|work|main|x", "see |home|ann|x", "from pypi_org|x", "pythonhosted_org", "npmjs_org"]
)
def test_gate_refuses_machine_names(masked):
    """Masked here, as the gate reads this file too."""
    text = masked.replace("|", "/").replace("_", ".")
    assert [number for number, _ in gate.machine_names(f"first\n{text}\n")] == [2]


def test_gate_lets_ordinary_names_pass():
    text = "see https://pytorch.org, src/work/x, ~/work/x, /v1/root/x"
    assert list(gate.machine_names(text)) == []


def test_no_network():
    with pytest.raises(pytest.fail.Exception, match="expected no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    with socket.socket() as there, socket.socket() as here:
        there.bind(("127.0.0.1", 0))
        there.listen()
        here.connect(there.getsockname())
