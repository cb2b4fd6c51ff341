"""What notebooks show of a result: well-formed, escaped, small, in the colours of the page, and no NaN in words."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from ppvae.inference import compare_elbos, elbo, evidence, fit, log_evidence, sample_posterior
from ppvae.inference.comparison.result import Comparison, EstimatorRow
from ppvae.inference.evidence import Evidence, Outcome
from ppvae.inference.training.state import Fit, FitOutcome
from ppvae.models import FactorAnalysis
from ppvae.notebook import COLOURS, MOST_ROWS, curves, histogram, intervals, panel, table

NAN = math.nan


def page_of(result: Any) -> tuple[ElementTree.Element, str]:
    """The HTML of a result as a tree, and its words; what holds for all of them is asserted here."""
    html = result if isinstance(result, str) else result._repr_html_()
    tree = ElementTree.fromstring(html)  # raises where it is not well-formed
    assert tree.tag == "div"
    assert len(html.encode()) < 20_000
    words = " ".join(tree.itertext())
    numbers = re.findall(r'(?: [xy][12]?| c[xy]| d| width| height)="([^"]*)"', html)
    assert not re.search(r"\b(nan|inf|None)\b", " ".join([words, *numbers]), re.IGNORECASE)
    assert "<style" not in html and "<script" not in html
    # No ground of its own, and no ink but the page's and the colours that are read on white and on black.
    assert set(re.findall(r"background:(\w+)", html)) <= {"none"}
    assert set(re.findall(r'(?:fill|stroke)="([^"]*)"', html)) <= {*COLOURS, "currentColor", "none"}
    return tree, words


def pictures(tree: ElementTree.Element) -> list[str | None]:
    return [part.get("aria-label") for part in tree.iter("{http://www.w3.org/2000/svg}svg") if part.get("role")]


def shapes(tree: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return list(tree.iter(f"{{http://www.w3.org/2000/svg}}{tag}"))


def an_evidence(values: torch.Tensor, outcome: torch.Tensor | None = None, **changes: Any) -> Evidence:
    nothing = torch.full_like(values, NAN)
    codes = torch.zeros(len(values), dtype=torch.int64) if outcome is None else outcome
    fields: dict[str, Any] = {"bound": "lower", "method": "Test", **changes}
    return Evidence(values, torch.full_like(values, 0.1), nothing, nothing, outcome=codes, **fields)


@pytest.fixture(scope="module")
def pair() -> FactorAnalysis:
    torch.manual_seed(0)
    return FactorAnalysis(4, 2)


# --- each result, as the verbs return it ---


def test_fit(pair: FactorAnalysis) -> None:
    x = torch.randn(60, 4)
    result = fit(pair, x[:40], validation=x[40:], num_epochs=5, compile="eager")
    tree, words = page_of(result)
    assert "completed 5 epochs" in words and "training" in words and "validation" in words
    assert pictures(tree) == ["bound by epoch, nats per datum"]
    assert len(shapes(tree, "path")) == 2
    assert len(shapes(tree, "circle")) == 1  # the best epoch
    assert f"{result.history[-1]['elbo_validation']:.2f}".replace("-", "−") in words


@pytest.mark.parametrize("num_epochs", [0, 1, 100_000])
def test_fits_of_any_length(num_epochs: int) -> None:
    history = [{"epoch": i + 1.0, "elbo_train": NAN if i % 7 == 3 else -100.0 / (i + 1)} for i in range(num_epochs)]
    outcome = FitOutcome("completed", "completed <b>some</b> & all")
    tree, words = page_of(Fit(history, outcome, None, None))  # type: ignore[arg-type]
    assert "completed <b>some</b> & all" in words  # escaped: it is text again
    assert len(pictures(tree)) == (num_epochs > 0)


def test_a_bound_that_is_nowhere_finite() -> None:
    history = [{"epoch": 1.0, "elbo_train": NAN, "elbo_validation": -math.inf}]
    tree, words = page_of(Fit(history, FitOutcome("completed", "x"), 1, None))  # type: ignore[arg-type]
    assert "– nats per datum" in words and pictures(tree) == []


def test_evidence(pair: FactorAnalysis) -> None:
    result = log_evidence(pair, torch.randn(30, 4), method=evidence.ImportanceSampling(100))
    tree, words = page_of(result)
    assert "ImportanceSampling" in words and "lower" in words
    assert f"{int(result.trusted.sum())} of 30 data" in words
    assert pictures(tree) == ["data by log evidence, nats"]
    heights = [float(bar.get("height", "nan")) for bar in shapes(tree, "rect")]
    assert max(heights) > 0 and all(math.isfinite(height) for height in heights)


def test_flagged_data_have_a_colour_of_their_own() -> None:
    values = torch.cat([torch.full((5,), -1.0), torch.full((3,), -9.0)]).double()
    outcome = torch.tensor([0] * 5 + [int(Outcome.LOOSE)] * 3)
    tree, words = page_of(an_evidence(values, outcome))
    bars = {bar.get("fill"): bar for bar in shapes(tree, "rect")}
    assert set(bars) == {COLOURS[0], COLOURS[1]}
    left, right = (float(bars[colour].get("x", "nan")) for colour in (COLOURS[1], COLOURS[0]))
    assert left < right  # the flagged ones have the smaller evidence
    tall, short = (float(bars[colour].get("height", "nan")) for colour in COLOURS[:2])
    assert short / tall == pytest.approx(3 / 5, abs=0.02)
    assert "3 data: loose" in words and "5 of 8 data" in words


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([-3.0]),
        torch.full((5,), NAN),
        torch.full((4,), -7.5),
        torch.linspace(-900, -1, 10_000),
        torch.tensor([-1e300, 1e300, 0.0, -math.inf], dtype=torch.float64),
        torch.zeros(0),
    ],
    ids=["one", "all NaN", "all equal", "10 000", "huge", "none"],
)
def test_evidence_of_any_data(values: torch.Tensor) -> None:
    finite = torch.isfinite(values)
    outcome = torch.where(finite, int(Outcome.OK), int(Outcome.NOT_FINITE))
    tree, words = page_of(an_evidence(values, outcome))
    assert f"{int(finite.sum())} of {len(values)} data" in words
    assert len(pictures(tree)) == bool(finite.any())


def test_draws(pair: FactorAnalysis) -> None:
    draws = sample_posterior(pair, torch.randn(3, 4), num_samples=40, num_warmup=150, num_chains=2)
    tree, words = page_of(draws)
    assert "2 chains × 40 draws" in words and "divergences" in words
    worst = float(draws.rhat()["z"].max())  # z is not constrained
    assert f"{worst:.3f}" in words
    assert len(shapes(tree, "path")) == 2  # a line for each chain
    datum, coordinate = divmod(int(draws.rhat()["z"].argmax()), 2)
    assert f"trace of datum {datum}, coordinate {coordinate}," in str(pictures(tree))
    broken = replace(draws, unconstrained=torch.full_like(draws.unconstrained, NAN))
    assert "worst R-hat" not in page_of(broken)[1]


def test_draws_of_many_data_take_no_time(pair: FactorAnalysis) -> None:
    draws = sample_posterior(pair, torch.randn(2, 4), num_samples=50, num_warmup=150, num_chains=2)
    many = replace(
        draws,
        unconstrained=torch.randn(2, 50, 10_000, 2),
        stats={name: value[:, :, :1].expand(-1, -1, 10_000) for name, value in draws.stats.items()},
        outcome=draws.outcome[:, :1].expand(-1, 10_000),
    )
    assert "of the first 1310 data" in page_of(many)[1]


def test_comparison(pair: FactorAnalysis) -> None:
    result = compare_elbos(
        pair, torch.randn(20, 4), estimators={"A & <b>": elbo.TraceELBO(), "C": elbo.TraceELBO()}, num_repeats=5
    )
    tree, words = page_of(result)
    assert "A & <b>" in words and "gradient variance, guide" in words
    assert "bias" in str(pictures(tree))
    assert len(shapes(tree, "circle")) == 2


def test_a_comparison_of_many_without_a_reference() -> None:
    rows = [EstimatorRow(f"e{i}", "after", -1.0 * i, NAN, 1.0, NAN, NAN, NAN, 0.1, 0, 1.0, "eager") for i in range(60)]
    tree, words = page_of(Comparison(tuple(rows), (), {}, "", 5, 20, 0))
    assert "after: e0" in words and "and 40 more" in words
    assert pictures(tree) == ["bound ± two standard errors, nats per datum"]
    assert len(shapes(tree, "circle")) == MOST_ROWS


# --- the parts ---


def test_a_curve_goes_up_where_its_numbers_do() -> None:
    (path,) = shapes(page_of(panel("x", {}, curves({"a": [1.0, 2.0, 3.0]}, label="l")))[0], "path")
    points = [tuple(map(float, pair.split())) for pair in str(path.get("d"))[1:].split("L")]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)  # y of SVG points down


def test_a_gap_parts_a_curve() -> None:
    (path,) = shapes(page_of(panel("x", {}, curves({"a": [1.0, 2.0, NAN, 3.0, 1.0]}, label="l")))[0], "path")
    assert str(path.get("d")).count("M") == 2


def test_bars_are_two_standard_errors_on_either_side() -> None:
    tree, _ = page_of(panel("x", {}, intervals([("a", 1.0, 0.5), ("b", 4.0, 1.0)], label="l")))
    widths = [float(str(line.get("x2"))) - float(str(line.get("x1"))) for line in shapes(tree, "line")]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.02)


def test_words_are_escaped_everywhere() -> None:
    evil = "</svg><script>alert('x')</script> & \"q\""
    parts = [
        curves({evil: [1.0, 2.0]}, label=evil),
        histogram({evil: [1.0]}, label=evil),
        intervals([(evil, 1.0, 0.1)], label=evil),
    ]
    html = panel(evil, {evil: evil}, "".join(parts), [evil], table([evil, evil], [[evil, evil]]))
    tree, words = page_of(html)
    assert words.count("alert('x')") >= 10
    assert [part.tag for part in tree.iter() if "script" in part.tag] == []
