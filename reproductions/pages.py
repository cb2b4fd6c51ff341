"""The page of all reproductions: Markdown for the documentation, HTML for a browser."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from markdown_it import MarkdownIt

from .cells import Found, Size

HEADS = {
    "paper": """*Auto-Encoding Variational Bayes* (Kingma & Welling 2013, [arXiv 1312.6114](https://arxiv.org/abs/1312.6114)),
run by this suite beside what was published. `{command}` makes this page from what its runs found: no number is typed by
hand. Published values are read off the paper's figures, to a tenth of a nat; no experiment sees them.
""",
    "tables": """Tables of other papers and programs, run by this suite with their protocols, beside what they have.
`{command}` makes this page from what its runs found: no number is typed by hand, and no experiment sees a published
value. A cell is *reproduced* where it differs by at most twice the spread of both; of one run the spread is 0.
""",
}
QUICK = """This is the quick version: small data, small nets and few steps. It shows that the experiments run, and how
their pictures look; none of its numbers is to be held against a published one.
"""
STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1.2rem; color: #1d2430 }
img { max-width: 100% } code { font-size: .92em } h2 { margin-top: 3rem }
table { border-collapse: collapse; font-size: .9em } td, th { padding: .3rem .8rem; border-bottom: 1px solid #e4e7ec }
td { font-variant-numeric: tabular-nums }
"""


@dataclass(frozen=True)
class Page:
    """A page of several reproductions.

    Attributes:
        title: its first line.
        stem: the name of its file, and of what makes it.
        names: the reproductions.
    """

    title: str
    stem: str
    names: tuple[str, ...]


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def verdict(difference: float, spread: float, published: float) -> str:
    """Whether a cell is reproduced: it differs by at most twice the spread of both, standard deviations over runs."""
    return "reproduced" if abs(difference) <= 2 * math.hypot(spread, published) else "not reproduced"


def markdown(page: Page, path: Path, modules: Mapping[str, ModuleType], found: Mapping[str, Found], size: Size) -> str:
    """The text of a page: for each reproduction of which something was found its words, then its pictures."""
    command = f"make {page.stem}{'-quick' if size.quick else ''}"
    parts = [f"# {page.title}", HEADS[page.stem].format(command=command), QUICK if size.quick else ""]
    for name, module in modules.items():
        if not found[name]:
            continue
        parts += [f"## {module.TITLE}", module.page(found[name])]
        for picture in sorted((size.results / name).glob("*.png")):
            parts.append(f"![{module.TITLE}: {picture.stem}]({os.path.relpath(picture, path.parent)})")
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def write_html(page: Path, folder: Path) -> Path:
    """A page of Markdown for a browser, in a folder."""
    target = folder / page.with_suffix(".html").name
    text = page.read_text(encoding="utf-8")
    body = MarkdownIt("commonmark").enable("table").render(text)
    body = body.replace('src="', f'src="{os.path.relpath(page.parent, folder)}/')
    folder.mkdir(parents=True, exist_ok=True)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>ppvae</title><style>{STYLE}</style>'
    target.write_text(f"{head}<body>{body}</body></html>\n", encoding="utf-8")
    return target
