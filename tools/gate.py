"""What no linter here looks for. `python -m tools.gate` prints each finding as file:line and exits 1 when there is one.

Code of the package may not run code that lies in a file; tracked files may not name machines.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Calls that run what a file says, or write where a file says. Imports of pickle and its like are a contract of
# import-linter (pyproject.toml).
CALLS = {"eval", "exec", "torch.load", "torch.hub.load", "yaml.load", "os.system"}
METHODS = {"extractall"}
ARGUMENTS = {"allow_pickle", "trust_remote_code"}

NAMES_A_MACHINE = [
    (re.compile(r"(?<![\w.~-])/(work|root|farm|home/\w+|Users/\w+)/"), "a path of one machine"),
    (
        re.compile(r"(pypi|pythonhosted|debian|npmjs|crates|golang)[.](org|com|io)\b|download[.]pytorch[.]org"),
        "a package registry by its host name",
    ),
]


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain; an empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def forbidden_calls(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name in CALLS or name.rpartition(".")[2] in METHODS:
            yield node.lineno, f"a call of {name}"
        for keyword in node.keywords:
            if keyword.arg in ARGUMENTS:
                yield node.lineno, f"the argument {keyword.arg}"


def machine_names(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, what in NAMES_A_MACHINE:
            if found := pattern.search(line):
                yield number, f"{what}: {found.group()}"


def tracked_files(root: Path) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := root / name).is_file()]


def findings(root: Path) -> list[str]:
    found = []
    for path in tracked_files(root):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # weights, recordings, pictures
            continue
        name = path.relative_to(root)
        rows = list(machine_names(text))
        if path.suffix == ".py" and name.parts[0] == "src":
            rows += forbidden_calls(text)
        found += [f"{name}:{line}: {what}" for line, what in rows]
    return found


if __name__ == "__main__":
    rows = findings(ROOT)
    print("\n".join(rows), file=sys.stderr)
    sys.exit(bool(rows))
