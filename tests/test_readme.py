"""What the README shows is true: its Python blocks run, its commands and files exist."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the line of its first line in the file, its text."""

    language: str
    line: int
    text: str


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a text."""
    fence = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [
        Block(match[1], markdown.count("\n", 0, match.start(2)) + 1, match[2]) for match in fence.finditer(markdown)
    ]


def run(block: Block, name: str) -> dict[str, Any]:
    """Run a block in a namespace of its own; a traceback names the README and the line in it."""
    pyro.set_rng_seed(0)
    namespace: dict[str, Any] = {"__name__": "readme"}
    exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), namespace)
    return namespace


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a block writes, it writes here
    for block in blocks(README):
        if block.language == "python":
            run(block, "README.md")


def test_a_broken_block_is_found_with_its_line() -> None:
    (block,) = blocks("Text.\n\n```python\nx = 1\nraise ValueError(x)\n```\n")
    with pytest.raises(ValueError, match="1") as caught:
        run(block, "README.md")
    last = caught.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("README.md", 5)


def make_targets(text: str) -> set[str]:
    """The targets of every ``make`` command in a text, options and variables left out."""
    commands = re.findall(r"(?:^|[`&;] ?)make ([^`\n#&;]+)", text, re.MULTILINE)
    words = [word for command in commands for word in command.split()]
    return {word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)}


def test_make_targets_exist() -> None:
    named = make_targets(README)
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_make_targets_are_found() -> None:
    text = "Run `make demo`, or:\n```sh\ncd x && make check\nmake test-slow JOBS=1 # then\n```\nTo make a model"
    assert make_targets(text) == {"demo", "check", "test-slow"}


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []
