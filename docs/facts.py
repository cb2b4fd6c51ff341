"""Tables of the documentation, read from the code: each method, each idiom, each option.

Nothing here is typed by hand, and nothing needs Sphinx; the tests read these rows too. That of the estimators is in
``_ext/estimator_facts.py``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppvae.inference import evidence
from ppvae.runs.recipe.catalogue import evidence_entries

Row = list[str]


def methods() -> list[type[evidence.EvidenceMethod]]:
    """Every evidence method of ``ppvae.inference.evidence``."""
    return [
        found
        for found in _members(evidence)
        if issubclass(found, evidence.EvidenceMethod) and found is not evidence.EvidenceMethod
    ]


def method_table() -> tuple[Row, list[Row]]:
    """Header and rows: class, name in a recipe, side, options with their defaults."""
    names = {entry.build: entry.name for entry in evidence_entries().values()}
    rows = []
    for found in methods():
        options = [f"``{field.name}={_default(field)}``" for field in dataclasses.fields(found)]  # type: ignore[arg-type]
        rows.append([_link(found), names.get(found, ""), str(found.bound), ", ".join(options)])
    return ["method", "in a recipe", "side", "options"], rows


def idiom_table() -> tuple[Row, list[Row]]:
    """Header and rows: a Pyro idiom, what every verb makes of it, a note; from the tests that hold each of them."""
    path = Path(__file__).parents[1] / "tests" / "audit" / "idioms.py"
    spec = importlib.util.spec_from_file_location("idioms", path)
    assert spec is not None and spec.loader is not None
    idioms: Any = importlib.util.module_from_spec(spec)
    sys.modules["idioms"] = idioms  # its dataclasses look themselves up
    spec.loader.exec_module(idioms)
    rows = [
        [
            idiom.title.replace("`", "``"),
            *("refused" if verb in idiom.verdicts else "served" for verb in idioms.VERBS),
            idiom.note.replace("`", "``"),
        ]
        for idiom in idioms.IDIOMS.values()
    ]
    return ["idiom", *(VERBS[verb] for verb in idioms.VERBS), ""], rows


def stock_table() -> tuple[Row, list[Row]]:
    """Header and rows: a published program of Pyro's, what runs, what is refused and the line to change."""
    tests = str(Path(__file__).parents[1] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    from stock.programs import PROGRAMS
    from stock.record import VERBS

    rows = []
    for stock in PROGRAMS.values():
        runs = ", ".join(VERBS[verb] for verb in stock.serves)
        refusal = "" if stock.refusal is None else stock.refusal.line
        title = stock.title.replace("`", "``")
        rows.append([title, f"`{Path(stock.origin).name} <{stock.origin}>`__", runs, refusal.replace("`", "``")])
    return ["program", "published as", "what runs", "what is refused: the line to change"], rows


def stock_counts() -> str:
    """How many of the programs run as they are published, with one line changed, and with more."""
    from stock.programs import PROGRAMS

    lines = [0 if stock.refusal is None else stock.refusal.lines for stock in PROGRAMS.values()]
    more = ", ".join(stock.title for stock, count in zip(PROGRAMS.values(), lines, strict=True) if count > 1)
    return (
        f"Of {len(lines)} programs {lines.count(0)} run as they are published, {lines.count(1)} with one line changed, "
        f"and {sum(count > 1 for count in lines)} with more ({more}). None is refused altogether."
    )


VERBS = {
    "fit": "``fit``",
    "bound": "``evaluate_bound``",
    "importance": "importance sampling",
    "ais": "AIS",
    "bridge": "bridge sampling",
    "sample": "``sample_posterior``",
}


def commands() -> Iterator[tuple[str, str, str, list[Row]]]:
    """Every verb of the command line: its name, its usage, its help, rows of its options."""
    import typer

    from ppvae.cli.main import app

    root = typer.main.get_command(app)
    yield from _verbs("ppvae", root)


def _verbs(path: str, command: Any) -> Iterator[tuple[str, str, str, list[Row]]]:
    inner = getattr(command, "commands", None)
    if inner:
        for name, one in inner.items():
            yield from _verbs(f"{path} {name}", one)
        return
    given = [p for p in command.params if p.param_type_name == "argument"]
    usage = [path, *(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in given), "[OPTIONS]"]
    rows = [
        [f"``{p.name.upper() if p in given else ', '.join([*p.opts, *p.secondary_opts])}``", p.help or ""]
        for p in command.params
    ]
    yield path, " ".join(usage), inspect.cleandoc(command.help or ""), rows


def _members(module: Any) -> list[type]:
    return [getattr(module, name) for name in module.__all__ if inspect.isclass(getattr(module, name))]


def _link(found: type) -> str:
    package = re.sub(r"\.[a-z_]+$", "", found.__module__)
    return f":class:`~{package}.{found.__name__}`"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return "required" if field.default_factory is dataclasses.MISSING else repr(field.default_factory())
