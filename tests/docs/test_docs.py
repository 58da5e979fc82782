"""Every document's code runs: python blocks in order in one namespace, console blocks in a shell, links lead somewhere.

A folder with recordings and a hub cache with a tiny model under the published name stand in for the reader's own. In
`recipes/`, where a command may take hours, only blocks under `<!-- run -->` are run.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT / "tests" / "data" / "librivox"
DOCUMENTS = sorted(
    {ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md"), *ROOT.glob("recipes/**/*.md")}
)
PAGES = sorted({*DOCUMENTS, *ROOT.glob("*.md"), *ROOT.glob("tests/**/*.md")})
# clips in the reader's folder, by what is written of them
RECORDINGS = {"talk.mp4": "0880", "a.wav": "0930", "b.flac": "0880"}
SHOWN_ONLY = {"", "text", "json", "toml"}  # diagrams and files


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int  # of the first line of code, from 1
    comment: str  # the HTML comment on the line above the fence

    @property
    def skipped(self) -> bool:
        return bool(re.fullmatch(r"no-run: \S.*", self.comment))


def blocks(text: str) -> list[Block]:
    found, lines = [], text.splitlines()
    numbers = iter(range(len(lines)))
    for number in numbers:
        if not (fence := re.fullmatch(r"( *)(```+)(\w*)", lines[number])):
            continue
        indent, ticks, language = fence.groups()
        body = []
        for inner in numbers:
            if lines[inner].strip() == ticks:
                break
            body.append(lines[inner].removeprefix(indent))
        else:
            raise ValueError(f"line {number + 1}: expected the block to end")
        above = re.fullmatch(r"<!-- (.*) -->", lines[number - 1].strip()) if number else None
        found.append(Block(language, "\n".join(body), number + 2, above.group(1) if above else ""))
    return found


def commands(code: str) -> str:
    """The shell script in a console block: what stands behind `$ `, and the lines that a backslash continues."""
    script, continued = [], False
    for line in code.splitlines():
        if continued or line.startswith("$ "):
            script.append(line if continued else line[2:])
            continued = line.endswith("\\")
    return "\n".join(script)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture
def desk(tmp_path, monkeypatch, hub):
    """The reader's folder: recordings under the documents' names, `earful` on the path."""
    for name, clip in RECORDINGS.items():
        (source,) = CLIPS.glob(f"*{clip}.flac")
        record(source, tmp_path / name)
    bin_folder = Path(sys.executable).parent
    assert shutil.which("earful", path=str(bin_folder)), (
        f"expected the package installed, got no earful in {bin_folder}"
    )
    monkeypatch.setenv("PATH", str(bin_folder), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(source: Path, target: Path) -> None:
    codec = {".mp4": "aac", ".wav": "pcm_s16le", ".flac": "flac"}[target.suffix]
    with av.open(source) as there, av.open(target, "w") as here:
        stream = here.add_stream(codec, rate=there.streams.audio[0].rate, layout="mono")
        for frame in there.decode(audio=0):
            here.mux(stream.encode(frame))
        here.mux(stream.encode(None))


def run_block(block: Block, document: Path, namespace: dict[str, object]) -> None:
    if block.language == "python":
        lines_before = "\n" * (block.line - 1)  # so that a traceback shows the document's own lines
        exec(compile(lines_before + block.code, str(document), "exec"), namespace)
        return
    script = commands(block.code)
    assert script, f"{name_of(document)}:{block.line}: expected a command behind '$ ', got none"
    shell = ["sh", "-e", "-c", script]
    done = subprocess.run(shell, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{name_of(document)}:{block.line}: {script}\n{done.stdout}{done.stderr}"


def is_recipe(document: Path) -> bool:
    return ROOT / "recipes" in document.parents


def is_run(block: Block, document: Path) -> bool:
    if is_recipe(document):
        return block.comment == "run"
    return block.language not in SHOWN_ONLY and not block.skipped


RUNNABLE = [page for page in DOCUMENTS if any(is_run(block, page) for block in blocks(page.read_text("utf-8")))]


@pytest.mark.parametrize("document", RUNNABLE, ids=name_of)
def test_blocks_run(document, desk):
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(document.read_text("utf-8")):
        if is_run(block, document):
            run_block(block, document, namespace)


@pytest.mark.parametrize("document", [page for page in DOCUMENTS if not is_recipe(page)], ids=name_of)
def test_blocks_run_or_say_why_not(document):
    for block in blocks(document.read_text("utf-8")):
        where = f"{name_of(document)}:{block.line}"
        assert block.language in {"python", "console"} | SHOWN_ONLY, f"{where}: expected python, console or text"
        assert not block.comment.startswith("no-run") or block.skipped, f"{where}: expected a reason not to run it"
        assert block.language not in SHOWN_ONLY or not commands(block.code), f"{where}: expected console, for commands"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", prose, flags=re.MULTILINE):
        path, _, anchor = "".join(target).partition("#")
        if ":" in path:
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), f"{name_of(page)}: expected {path} to exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings}


def test_blocks_are_found_with_their_lines_and_comments():
    text = "intro\n\n<!-- no-run: needs a microphone -->\n```console\n$ a\n```\n```python\nx = 1\n\ny = 2\n```\n"
    first, second = blocks(text)
    assert (first.language, first.code, first.line, first.skipped) == ("console", "$ a", 5, True)
    assert (second.language, second.code, second.line, second.skipped) == ("python", "x = 1\n\ny = 2", 8, False)


def test_an_empty_reason_does_not_count():
    (block,) = blocks("<!-- no-run: -->\n```console\n$ a\n```")
    assert not block.skipped


def test_an_open_block_is_refused():
    with pytest.raises(ValueError, match="line 1: expected the block to end"):
        blocks("```python\nx = 1\n")


def test_commands_leave_out_what_is_printed():
    assert commands("$ earful a \\\n    --b\nprinted\n$ earful c") == "earful a \\\n    --b\nearful c"


def test_a_failing_block_fails():
    with pytest.raises(AssertionError, match=r"README.md:7: false"):
        run_block(Block("console", "$ false\n$ true", 7, ""), ROOT / "README.md", {})
    with pytest.raises(ZeroDivisionError) as caught:
        run_block(Block("python", "\n1 / 0", 7, ""), ROOT / "README.md", {})
    assert caught.traceback[-1].lineno == 7  # counted from 0
