"""What the documentation shows is true: its Python runs, prints what stands below it, and its tables are complete."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyro
import pytest
from contracts.elbo import declared_facts

from ppvae.inference import elbo, evidence
from ppvae.runs.recipe.catalogue import model_entries

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
PASSING = re.compile(r"\d+(?:\.\d+ s\b| data:)")  # seconds, and how many data a message concerns


@dataclass(frozen=True)
class Block:
    """A fenced block of Python, the line of its first line, and what stands as its output (None: nothing)."""

    line: int
    text: str
    output: str | None


def blocks(markdown: str) -> list[Block]:
    """The Python of a page; a ``text`` block directly below is its output."""
    fence = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
    return [Block(markdown.count("\n", 0, m.start(1)) + 1, m[1], m[2]) for m in fence.finditer(markdown)]


def same(shown: str, printed: str) -> bool:
    """Equal up to times, counts of messages, white space, and the last digits of numbers.

    A number may differ by 5 % (25 % where it is below one: standard errors) or five of its last digit: seeded numbers
    depend on the machine by rounding, which training and HMC magnify.
    """
    shown, printed = (PASSING.sub("*", text).strip() for text in (shown, printed))
    words, numbers = NUMBER.split(shown), NUMBER.findall(shown)
    others, found = NUMBER.split(printed), NUMBER.findall(printed)
    if [" ".join(word.split()) for word in words] != [" ".join(word.split()) for word in others]:
        return False
    for one, other in zip(numbers, found, strict=True):
        a, b = float(one), float(other)
        digit = 10.0 ** -len(one.partition(".")[2]) if "." in one else 0.0
        share = 0.0 if not digit else 0.05 if abs(a) >= 1 else 0.25
        if abs(a - b) > max(share * abs(a), 5 * digit):
            return False
    return True


# What docs/extend says is done in a copy of the package: see test_extend.py.
LONG = {"tutorial", "bayesian"}  # a minute each
RUN = [p for p in PAGES if p.parent.name != "extend" and blocks(p.read_text(encoding="utf-8"))]


def run(page: Path, root: Path = DOCS) -> dict[str, Any]:
    """Run a page's blocks in one namespace; a traceback names the page and the line in it."""
    pyro.set_rng_seed(0)
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, str(page), "exec", dont_inherit=True), namespace)
        if block.output is not None and not same(block.output, printed.getvalue()):
            pytest.fail(f"{page.relative_to(root)}:{block.line} shows\n{block.output}\nprinted\n{printed.getvalue()}")
    return namespace


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of packages that a page shows in use
@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow if p.stem in LONG else (), id=p.stem) for p in RUN]
)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a block writes, it writes here
    run(page)


# --- the tables ---


def load_facts(path: str = "facts.py") -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, DOCS / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_estimator_stands_in_the_table_with_its_facts() -> None:
    header, rows = load_facts("_ext/estimator_facts.py").estimator_table()
    found = {re.findall(r"\.(\w+)`", row[0])[0]: dict(zip(header, row, strict=True)) for row in rows}
    members = [getattr(elbo, name) for name in elbo.__all__]
    expected = {m.__name__ for m in members if inspect.isclass(m) and issubclass(m, elbo.ELBO) and m is not elbo.ELBO}
    assert set(found) == expected and len(found) >= 9
    assert found["ScoreFunctionELBO"]["rsample"] == "–"
    assert found["TraceELBO"]["rsample"] == "yes"
    assert found["RenyiELBO"]["lower"] == "depends"
    assert found["TraceMeanFieldELBO"]["per datum"] == "yes"
    assert found["TraceMeanFieldELBO"]["in a recipe"] == "trace-mean-field"


def test_every_fact_that_estimators_declare_has_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = load_facts("_ext/estimator_facts.py")
    assert set(facts.HEADS) == set(facts.declared_facts()) == set(declared_facts())
    assert "serves_noise_per_datum" in facts.HEADS
    monkeypatch.setitem(elbo.ELBO.__annotations__, "is_quick", "bool")
    with pytest.raises(KeyError, match="is_quick"):
        facts.estimator_table()


def test_every_evidence_method_stands_in_the_table_with_its_side() -> None:
    _, rows = load_facts().method_table()
    found = {re.findall(r"\.(\w+)`", row[0])[0]: row[1:] for row in rows}
    assert {
        "Exact",
        "PriorSampling",
        "ImportanceSampling",
        "RIS",
        "AIS",
        "BDMC",
        "BridgeSampling",
    } <= set(found)
    assert all(row[1] == getattr(evidence, name).bound for name, row in found.items())
    assert found["ImportanceSampling"] == ["importance-sampling", "lower", "``num_samples=1000``, ``defensive=0.0``"]


def test_every_idiom_stands_in_the_table_with_what_the_tests_hold_it_to() -> None:
    header, rows = load_facts().idiom_table()
    found = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert len(found) >= 30
    assert found["a Delta guide"]["importance sampling"] == "refused"
    assert found["model and guide as they should be"]["AIS"] == "served"


def test_every_stock_program_stands_in_the_table_with_its_line() -> None:
    header, rows = load_facts().stock_table()
    found = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert len(found) >= 30
    assert "HMC" in found["variational auto-encoder"]["what runs"]
    assert found["eight schools"]["what is refused: the line to change"].startswith("``as_one_datum(pair)``")
    numbers = [int(word) for word in load_facts().stock_counts().split() if word.isdigit()]
    assert numbers[0] == sum(numbers[1:]) == len(found) and numbers[1] >= 18 and numbers[3] == 2


def test_every_verb_and_option_stands_in_the_command_line() -> None:
    found = {path: (usage, rows) for path, usage, _, rows in load_facts().commands()}
    assert {"ppvae demo", "ppvae fit", "ppvae evaluate", "ppvae sample", "ppvae report"} <= set(found)
    usage, rows = found["ppvae evaluate"]
    assert usage == "ppvae evaluate [RUN] [OPTIONS]"  # a list of methods needs no run
    assert found["ppvae sample"][0] == "ppvae sample RUN [OPTIONS]"
    options = {row[0] for row in rows}
    assert {"``RUN``", "``-k, --num-samples``", "``--method``", "``--json``"} <= options
    assert all(text for _, all_rows in found.values() for _, text in all_rows)


def test_measured_tables_are_what_the_results_say() -> None:
    measured = load_facts("measured.py")
    header, rows = measured.estimator_costs()
    found = {row[0].strip("`"): dict(zip(header, row, strict=True)) for row in rows}
    for code in found:
        assert isinstance(eval(code, vars(elbo)), elbo.ELBO)  # each name is code
    one = found["TraceELBO()"]
    assert (one["time of a step"], one["variance, guide"], one["variance, model"]) == ("1", "1", "1")
    noise = measured.read("estimators.json")["noise"]["variance_ratios"]
    assert float(found["ScoreFunctionELBO()"]["variance, guide"]) == round(noise["score function / SGVB-A"])
    assert len(rows) == len(measured.read("estimators.json")["cost"])  # none is left out
    calibration = (DOCS.parent / "benchmarks" / "results" / "calibration.md").read_text(encoding="utf-8")
    reach = {row[0].strip("`"): row[1:] for row in measured.evidence_reach()[1]}
    for dimension, cell in zip(("fa3", "fa10", "fa30"), reach["AIS"], strict=True):
        for guide, share in zip(("best", "mean-field", "half-wide", "wide"), cell.split(" / "), strict=True):
            assert f"| {dimension} | {guide} | AIS | 200 | {share} % |" in calibration
    assert all(0 < float(row[1].split(" ")[0]) < 100 for row in measured.evidence_seconds()[1])


def test_every_outcome_and_estimator_stands_on_the_page_of_choices() -> None:
    page = (DOCS / "choosing.md").read_text(encoding="utf-8")
    outcomes = re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)
    assert sorted(outcomes) == sorted(outcome.name for outcome in evidence.Outcome)
    members = [getattr(elbo, name) for name in elbo.__all__]
    names = {m.__name__ for m in members if inspect.isclass(m) and issubclass(m, elbo.ELBO) and m is not elbo.ELBO}
    assert names - {"RenyiELBO"} <= set(re.findall(r"`(\w+)\(", page))


# --- links and commands ---


def test_links_lead_somewhere() -> None:
    missing = [
        f"{page.relative_to(DOCS)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_every_page_is_in_the_contents() -> None:
    named = {
        (page.parent / name).resolve().with_suffix(".md")
        for page in PAGES
        for contents in re.findall(r"```\{toctree\}(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for name in contents.split()
    }
    assert set(PAGES) - named == {DOCS / "index.md"}


# --- the checks can fail ---


def test_same_tells_numbers_apart() -> None:
    assert same("elbo -20.31, 3.1 s\n", "elbo -20.29, 88.8 s")
    assert not same("elbo -20.31", "elbo -25.31") and not same("elbo -20.31", "bound -20.31")
    assert not same("100 data", "101 data") and not same("a 1", "a 1 2")
    assert same("0.02", "0.03") and not same("0.02", "0.08")


def test_a_wrong_output_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n```python\nx = 1\n```\n\n```python\nprint(x + 1)\n```\n\n```text\n3\n```\n")
    first, second = blocks(page.read_text())
    assert (first.line, first.output, second.line, second.output) == (4, None, 8, "3\n")
    with pytest.raises(pytest.fail.Exception, match=r"page.md:8 shows\n3\n\nprinted\n2"):
        run(page, tmp_path)


def test_the_index_of_models_has_each_of_them() -> None:
    """By the name on the command line, and on a page that is there."""
    index = load_facts("model_index.py")
    choices = list(index.every())
    assert {choice.model for choice in choices} == set(model_entries())
    assert all((DOCS / "models" / f"{choice.page}.md").exists() for choice in choices)
    assert all(f'href="{choice.page}.html"' in index.picture() for choice in choices)
