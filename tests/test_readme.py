"""What the README shows is true: its Python blocks run, its commands and files exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import pytest
from typer.testing import CliRunner

from ppvae.cli.main import app

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


# --- commands ---


def commands_of(block: str) -> list[list[str]]:
    """The words of each line of a shell block, comments left out."""
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [words for words in lines if words]


def inline_commands(markdown: str) -> list[list[str]]:
    """The words of all inline code that is a command of ppvae or make; it may go on over the end of a line."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    found = (" ".join(code.split()) for code in re.findall(r"`((?:ppvae|make)\s[^`]+)`", prose))
    return [shlex.split(code) for code in found]


SHELL = [block for block in blocks(README) if block.language == "sh"]
COMMANDS = [words for block in SHELL for words in commands_of(block.text)]
INLINE = inline_commands(README)


def ppvae(words: list[str]) -> str:
    """Run a command in this process, as the shell would in another; what it printed."""
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}\n{result.exception!r}"
    return result.output


@pytest.mark.filterwarnings("default")  # they are lines on stderr to whoever types the commands
def test_ppvae_commands_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = {words[1]: ppvae(words) for words in COMMANDS if words[0] == "ppvae"}
    assert list(printed) == ["fit", "evaluate", "compare-elbos", "report"]  # the last fit is the one that goes on
    assert "completed 20 epochs" in printed["fit"]
    assert all(name in printed["evaluate"] for name in ("L_5000", "AIS", "Bridge sampling", "5 data"))
    assert "importance-weighted:num_particles=10" in printed["compare-elbos"]
    assert (tmp_path / "runs" / "x" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("words", [words for words in INLINE if words[0] == "ppvae"], ids=shlex.join)
def test_inline_ppvae_commands_run(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ppvae(words).count("\n") > 3


@pytest.mark.parametrize("words", [words for words in COMMANDS + INLINE if words[0] == "make"], ids=shlex.join)
def test_make_commands_are_known(words: list[str]) -> None:
    """What they would do is listed, and not done: the checks of a clone do it."""
    done = subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_is_found() -> None:
    assert {words[0] for words in COMMANDS} == {"make", "ppvae"}  # none is left out for what it begins with
    assert [words[1] for words in COMMANDS if words[0] == "make"] == ["demo", "test"]
    assert ["ppvae", "evaluate", "--method", "list"] in INLINE
    assert ["make", "help"] in INLINE  # broken over two lines in the text
    assert ["make", "faults", "FAULTS_ARGS=--only elbo/vimco --count 20"] in INLINE
    text = "`ppvae a --b` and `ppvaes`\n\n```sh\nppvae c 'd e'  # f\n\n# g\n```\n`make\nh`"
    assert inline_commands(text) == [["ppvae", "a", "--b"], ["make", "h"]]
    assert commands_of(blocks(text)[0].text) == [["ppvae", "c", "d e"]]


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
