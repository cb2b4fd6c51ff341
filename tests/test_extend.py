"""The pages of docs/extend, followed to the letter in a copy of the package: what they add works where they put it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from test_docs import DOCS, ROOT, Block, blocks, same
from test_layers import violations

PAGES = sorted((DOCS / "extend").glob("*.md"))
IGNORED = shutil.ignore_patterns("__pycache__", ".*_cache")

# How a page says what a block is: by the paragraph that ends directly above it.
FILE = re.compile(r"`([\w/]+\.py)`: ")
LINES = re.compile(r"In `([\w/]+\.py)`, an import, and the name in `__all__`:")
IMPORT = re.compile(r"from (\.\w+) import (\w+)\n")


@dataclass(frozen=True)
class Page:
    """What a page says is to be done.

    Attributes:
        files: new files, by path.
        lines: lines to add, by the path of the file that they belong in.
        scripts: what is run in the end, with the output shown.
    """

    files: dict[str, str]
    lines: dict[str, str]
    scripts: list[Block]

    @property
    def test(self) -> str:
        """The path of the page's test file."""
        (found,) = (path for path in self.files if path.startswith("tests/"))
        return found


def read(markdown: str) -> Page:
    """A page's blocks, sorted by the paragraph above each."""
    files, lines, scripts = {}, {}, []
    above = markdown.split("\n")
    for block in blocks(markdown):
        paragraph = "\n".join(above[: block.line - 2]).rstrip().rpartition("\n\n")[2]
        if found := FILE.match(paragraph):
            files[found[1]] = block.text
        elif found := LINES.fullmatch(paragraph):
            lines[found[1]] = block.text
        else:
            scripts.append(block)
    return Page(files, lines, scripts)


def follow(page: Page, root: Path) -> None:
    """Do what a page says, in a tree of files.

    Raises:
        ValueError: a file stands there already, or a line is no import of one name.
    """
    for path, text in page.files.items():
        if (root / path).exists():
            raise ValueError(f"{path} stands there already")
        (root / path).write_text(text, encoding="utf-8")
    for path, text in page.lines.items():
        found = IMPORT.fullmatch(text)
        if found is None:
            raise ValueError(f"{path}: expected one import of one name, found {text!r}")
        (root / path).write_text(
            with_export((root / path).read_text(encoding="utf-8"), *found.groups()), encoding="utf-8"
        )


def with_export(source: str, module: str, name: str) -> str:
    """An ``__init__.py`` with one import more, in alphabetical order, and its name in ``__all__``."""
    imports = list(re.finditer(r"^from (\.\w+) import", source, re.MULTILINE))
    later = next((found for found in imports if found[1] > module), None)
    place = later.start() if later else source.index("\n__all__")
    source = f"{source[:place]}from {module} import {name}\n{source[place:]}"
    return re.sub(r"(?<=^__all__ = \[)", f'"{name}", ', source, flags=re.MULTILINE)


def python(root: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python on the copy."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd or root, env=environment, capture_output=True, text=True, check=False)


def assert_done(done: subprocess.CompletedProcess[str]) -> None:
    """A command succeeded; otherwise show what it wrote."""
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its tests, with what all the pages add."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("ppvae", "tests", "reproductions"):  # what the type checker is told to read
        shutil.copytree(ROOT / name, root / name, ignore=IGNORED)
    shutil.copy(ROOT / "pyproject.toml", root)
    for page in PAGES:
        follow(_read(page), root)
    # A list that became too long for one line is the formatter's business.
    assert_done(python(root, "-m", "ruff", "format", "--quiet", *{p for page in PAGES for p in _read(page).lines}))
    return root


def _read(page: Path) -> Page:
    return read(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_says_which_file_every_block_is(page: Path) -> None:
    found = _read(page)
    assert len(found.files) == 2 and len(found.lines) == 1 and len(found.scripts) == 1
    assert found.scripts[0].output is not None
    (package,) = {Path(path).parent for path in found.files} - {Path(found.test).parent}
    assert Path(next(iter(found.lines))).parent == package
    assert Path(found.test).parent == Path("tests") / package.relative_to("ppvae")


def test_the_layers_hold(tree: Path) -> None:
    files = sorted((tree / "ppvae").rglob("*.py"))
    sources = {file.relative_to(tree).as_posix(): file.read_text(encoding="utf-8") for file in files}
    assert violations(sources) == []
    # Written as a file outside the package would be, it is part of a cycle.
    combined = "ppvae/inference/elbo/combined.py"
    sources[combined] = sources[combined].replace("from .base import", "from ppvae.inference.elbo import")
    assert any("import cycle" in line for line in violations(sources))


def test_the_linter_and_the_formatter_accept_it(tree: Path) -> None:
    touched = [path for page in PAGES for path in (*_read(page).files, *_read(page).lines)]
    assert_done(python(tree, "-m", "ruff", "check", *touched))
    assert_done(python(tree, "-m", "ruff", "format", "--check", *touched))


# What the pages say of recipes, in a script of its own.
RECIPES = """
from ppvae.runs.recipe.catalogue import elbo_entries, evidence_entries, model_entries
for entries, name in (model_entries, "overdispersed-vae"), (elbo_entries, "combined"), (evidence_entries, "jackknife"):
    print(name, *entries()[name].options.model_fields)
"""
END = "--- end of a script ---"


@pytest.fixture(scope="module")
def printed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the pages' scripts print, and then that of recipes: each in a namespace of its own, all in one process."""
    scripts = [block.text for page in PAGES for block in _read(page).scripts] + [RECIPES]
    code = f"for script in {scripts!r}:\n    exec(script, {{'__name__': 'page'}})\n    print({END!r})"
    done = python(tree, "-c", code, cwd=tmp_path_factory.mktemp("elsewhere"))
    assert_done(done)
    return done.stdout.split(f"{END}\n")[:-1]


def test_a_page_prints_what_it_shows(printed: list[str]) -> None:
    for page, found in zip(PAGES, printed, strict=False):
        (block,) = _read(page).scripts
        assert block.output is not None
        if not same(block.output, found):
            pytest.fail(f"{page.relative_to(DOCS)}:{block.line} shows\n{block.output}\nprinted\n{found}")


def test_recipes_know_what_the_pages_add(printed: list[str]) -> None:
    expected = ["overdispersed-vae latent_dim hidden", "combined weight num_particles", "jackknife num_samples"]
    assert printed[-1].splitlines() == expected


@pytest.mark.slow
def test_the_type_checker_accepts_it(tree: Path) -> None:
    assert_done(python(tree, "-m", "mypy", "--cache-dir", str(tree / ".mypy_cache")))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_what_a_page_adds_keeps_its_contract(page: Path, tree: Path) -> None:
    done = python(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", _read(page).test)
    assert_done(done)
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 10


@pytest.mark.slow
def test_the_command_line_takes_what_the_pages_add(tree: Path, tmp_path: Path) -> None:
    """The commands of the pages, as they stand there: train the model, by the estimator, and evaluate by the method."""
    np.save(tmp_path / "counts.npy", np.random.default_rng(0).poisson(3.0, (60, 4)))
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    commands = dict(re.findall(r"`ppvae (fit|evaluate) ([^`]+)`", text))
    for verb, more in ("fit", "--epochs 1 --elbo combined:weight=0.3 --out RUN"), ("evaluate", "--json"):
        arguments = f"{verb} {commands[verb]} {more}".replace("RUN", "run").split()
        done = python(tree, "-m", "ppvae", *arguments, cwd=tmp_path)
        assert_done(done)
    assert "Jackknife" in done.stdout


# --- the follower can refuse ---


def test_follow_refuses_what_is_not_to_the_letter(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    with pytest.raises(ValueError, match=r"a\.py stands there already"):
        follow(Page({"a.py": ""}, {}, []), tmp_path)
    with pytest.raises(ValueError, match="expected one import of one name"):
        follow(Page({}, {"a.py": "from ppvae.core import draw\n"}, []), tmp_path)


def test_read_sorts_blocks_by_the_paragraph_above() -> None:
    found = read(
        "# Add\n\n`ppvae/a.py`: a file.\n\n```python\nx = 1\n```\n\nIn `ppvae/__init__.py`, an import, and the name in "
        "`__all__`:\n\n```python\nfrom .a import x\n```\n\nThen:\n\n```python\nprint(x)\n```\n\n```text\n1\n```\n"
    )
    assert found.files == {"ppvae/a.py": "x = 1\n"} and found.lines == {"ppvae/__init__.py": "from .a import x\n"}
    assert [(block.text, block.output) for block in found.scripts] == [("print(x)\n", "1\n")]


def test_with_export_keeps_the_order() -> None:
    source = 'from .a import A\nfrom .c import C\n\n__all__ = ["A", "C"]\n'
    expected = 'from .a import A\nfrom .b import B\nfrom .c import C\n\n__all__ = ["B", "A", "C"]\n'
    assert with_export(source, ".b", "B") == expected
    assert "from .c import C\nfrom .d import D\n" in with_export(source, ".d", "D")
