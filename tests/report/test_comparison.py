"""Several runs on one page: one number for each estimate over stated data, seeds as one group, what differs is told."""

from __future__ import annotations

import math
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from report.test_report import Page

from ppvae.core.measure import Measure
from ppvae.report import write_comparison
from ppvae.report.common_data import RunComparison, compare_runs
from ppvae.report.figures.picture import Picture
from ppvae.report.figures.several_runs import bounds_shown, curves_of, forest_of
from ppvae.report.figures.theme import NARROW, elide
from ppvae.report.findings import ReportData
from ppvae.report.html.compare import render
from ppvae.report.html.compare_verdict import verdict_of_runs, verdict_over_seeds, warnings_of_runs
from ppvae.report.html.page import number
from ppvae.report.several_runs import Curve, Group, SeveralRuns, curve_of, find_several, groups_of
from ppvae.runs import Recipe, Run, load_run, train
from ppvae.runs.evaluation.evaluation import Evaluation, Method, evaluate

DIGITS: dict[str, Any] = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [6]},
    "data": {"source": "digits", "num_train": 100, "binarize": "static"},
    "training": {"num_epochs": 2, "batch_size": 40, "compile": "eager"},
    "device": "cpu",
}
# Of a phone 390 pixels across, less the margins of the page and of a card.
PHONE = 390 - 2 * 16 - 2 * (17 + 1)


def evaluation(
    estimates: Mapping[str, Sequence[float]], part: str = "test", whole: str = "same", **more: Any
) -> Evaluation:
    """Of each method the estimates of every datum."""
    rows, columns = [], {}
    for key, values in estimates.items():
        row: dict[str, Any] = {"key": key, "name": key, "label": key, "method": key, "side": "lower", "options": {}}
        row |= {"seed": 0, "seconds": 2.0, "monte_carlo_error": 0.25, "mean": 1.0, "info": {}}
        row |= {"num_data": len(values), "num_trusted": len(values), "num_estimated": len(values), "messages": {}}
        rows.append(row | more)
        columns[f"{key}/log_evidence"] = torch.tensor(values, dtype=torch.float64)
        columns[f"{key}/standard_error"] = torch.full((len(values),), 0.5)
    size = max(len(values) for values in estimates.values())
    data = {"name": "digits", "part": part, "num_data": size, "whole": whole}
    return Evaluation({"data": data, "estimates": rows, "simulation_checks": []}, columns)


def a_run(seed: int = 0, outcome: str = "completed", digest: str = "d", segments: int = 0, **changes: Any) -> Any:
    recipe = Recipe.from_dict(DIGITS).replace(seed=seed, **changes)
    info = {"outcome": outcome, "data": {"train": digest}, "segments": [{}] * segments, "seconds": 4.0}
    data = SimpleNamespace(name="digits", parts={"train": None})
    return SimpleNamespace(recipe=recipe, info=info, history=[], parameters="epoch 2, the last", data=data)


def several(
    *evaluations: Evaluation | None,
    groups: Sequence[Sequence[int]] = (),
    runs: Sequence[Any] = (),
    measures: Sequence[Measure] = (),
) -> SeveralRuns:
    runs = runs or [a_run(seed) for seed in range(len(evaluations))]
    nothing: Any = None
    reports = [
        ReportData(run, "test", nothing, nothing, evaluation=one) for run, one in zip(runs, evaluations, strict=True)
    ]
    groups = groups or [[number] for number in range(len(runs))]
    own = [[] if one is None else [one] for one in evaluations]
    return SeveralRuns(
        runs=tuple(runs),
        names=tuple("abcdef"[: len(runs)]),
        reports=tuple(reports),
        parts=tuple(compare_runs(own, groups, measures)),
        groups=tuple(Group(" and ".join("abcdef"[i] for i in members), list(members), []) for members in groups),
        curves=(None,) * len(runs),
        examples=(),
        problems=(),
        measures=tuple(measures),
    )


A = [-1.0, -2.0, -4.0, -3.0, -1.5, -2.5, -3.5, -2.0, -1.0, -2.0, -3.0, -4.0]
B = [value - 1.0 - 0.1 * (place % 3) for place, value in enumerate(A)]
C = [value + (0.5 if place % 2 else -0.6) for place, value in enumerate(A)]


def row_of(found: SeveralRuns, label: str = "AIS") -> RunComparison:
    return next(row for row in found.parts[0].rows if row.label == label)


def test_every_number_by_hand() -> None:
    found = several(evaluation({"AIS": A}), evaluation({"AIS": B}), evaluation({"AIS": C}), groups=[[0, 1], [2]])
    row, size = row_of(found), len(A)
    assert row.best == 0 and row.num_data == size
    for mean, values in zip(row.means, (A, B, C), strict=True):
        assert mean is not None
        assert mean.value == pytest.approx(statistics.mean(values))
        assert mean.sampling_error == pytest.approx(statistics.stdev(values) / size**0.5)
        assert mean.monte_carlo_error == pytest.approx(0.5 / size**0.5)
    gaps = [b - a for a, b in zip(A, B, strict=True)]
    assert row.differences[0] is None
    assert row.differences[1] == pytest.approx((statistics.mean(gaps), statistics.stdev(gaps) / size**0.5, size))
    both, alone = row.over_seeds
    assert both is not None and alone is not None
    two = [statistics.mean(A), statistics.mean(B)]
    error = statistics.stdev(two) / 2**0.5
    assert both == pytest.approx((statistics.mean(two), error, 12.7062047 * error, 2))  # t with one degree of freedom
    assert (alone.value, alone.num_seeds) == (pytest.approx(statistics.mean(C)), 1) and math.isnan(alone.error)


def test_errors_that_all_data_share_do_not_cancel_in_a_difference() -> None:
    """Draws of the weights serve all data: their noise is no part of what varies from datum to datum."""
    drawn = {"info": {"global_sites": "10 draws"}, "monte_carlo_error": 0.3}
    found = several(evaluation({"AIS": A}), evaluation({"AIS": B}, **drawn))
    gaps = [b - a for a, b in zip(A, B, strict=True)]
    expected = math.hypot(statistics.stdev(gaps) / len(gaps) ** 0.5, 0.3)
    gap = row_of(found).differences[1]
    assert gap is not None and gap.error == pytest.approx(expected)


def test_the_verdict_names_the_best_or_says_that_there_is_none() -> None:
    best = verdict_of_runs(several(evaluation({"AIS": A}), evaluation({"AIS": B})))
    assert best == (
        "a is best by AIS, a lower bound, over 12 held-out data of digits: −2.46 nats per datum; "
        f"1.100 ± {statistics.stdev([0.0, 0.1, 0.2] * 4) / 12**0.5:.3f} below it lies b."
    )
    tied = verdict_of_runs(several(evaluation({"AIS": C}), evaluation({"AIS": A})))
    assert tied.startswith("b and a cannot be told apart by AIS, a lower bound, over 12 held-out data of digits: ")
    three = verdict_of_runs(several(evaluation({"AIS": A}), evaluation({"AIS": B}), evaluation({"AIS": C})))
    assert three.startswith("a and c cannot be told apart") and "; 1.100 ± " in three and "below it lies b." in three
    # Of so few data a standard error says nothing.
    few = verdict_of_runs(several(evaluation({"AIS": A[:4]}), evaluation({"AIS": B[:4]})))
    assert few.startswith("a and b cannot be told apart")
    nothing = verdict_of_runs(several(evaluation({"AIS": A}), evaluation({"RIS": A}), None))
    assert nothing.startswith("The runs cannot be compared")


def test_the_verdict_is_by_what_most_runs_have_and_no_mere_elbo() -> None:
    full = {"elbo": A, "AIS": A}
    assert "by AIS" in verdict_of_runs(several(evaluation(full), evaluation({"elbo": B, "AIS": B})))
    found = several(evaluation(full), evaluation({"elbo": B, "AIS": B}), evaluation({"elbo": C}))
    assert "by elbo" in verdict_of_runs(found)
    assert any("The ELBO is all that the runs have in common" in line for line in warnings_of_runs(found))
    # Enough data before a finer estimate.
    lacking = [math.nan] * 8
    sparse = several(evaluation({"elbo": A, "AIS": A[:4] + lacking}), evaluation({"elbo": B, "AIS": B}))
    assert "by elbo" in verdict_of_runs(sparse)


def test_estimates_that_do_not_agree_are_told() -> None:
    found = several(evaluation({"elbo": B, "AIS": A}), evaluation({"elbo": A, "AIS": B}))
    assert "The estimates do not agree on the best run (elbo: b)." in warnings_of_runs(found)
    agreed = several(evaluation({"elbo": A, "AIS": A}), evaluation({"elbo": B, "AIS": B}))
    assert warnings_of_runs(agreed) == []


def test_other_data_and_none_are_warned_of() -> None:
    other = evaluation({"AIS": A}, whole="other")
    training = evaluation({"AIS": A}, part="train")
    found = several(evaluation({"AIS": A}), evaluation({"AIS": B}), other, training, None)
    told = warnings_of_runs(found)
    assert told[0].startswith("Data of one name differ between the runs")
    assert "Evaluated on other data than the rest, held-out data of digits (test): c." in told
    assert "Evaluated on other data than the rest, training data of digits (train): d." in told
    assert "Not evaluated: e." in told
    assert "d: the estimates are of training data, which the model has learnt." in told
    assert "Not evaluated" not in " ".join(warnings_of_runs(several(evaluation({"AIS": A}), evaluation({"AIS": B}))))


def test_held_weights_and_estimators_that_differ_are_warned_of() -> None:
    held = evaluation({"AIS": B}, info={"global_sites": "mean"})
    assert any("weights" in line for line in warnings_of_runs(several(evaluation({"AIS": A}), held)))
    runs = [a_run(), a_run(training={"elbo": {"name": "importance-weighted"}})]
    told = warnings_of_runs(several(evaluation({"AIS": A}), evaluation({"AIS": B}), runs=runs))
    assert any("different estimators (importance-weighted, trace-mean-field)" in line for line in told)


def test_runs_that_differ_in_the_seed_alone_are_one_group() -> None:
    runs = [
        a_run(1),
        a_run(2, device="cuda", training={"compile": "auto"}),
        a_run(1),  # a copy
        a_run(3, model={"latent_dim": 5}),
        a_run(4, outcome="interrupted"),
        a_run(5, digest="other bytes"),
        a_run(6, segments=1),
        a_run(7, data={"seed": 1}),
    ]
    groups = groups_of(runs, "abcdefgh")
    assert [(group.members, group.copies) for group in groups] == [
        ([0, 1], [2]),
        *(([number], []) for number in range(3, 8)),
    ]
    assert groups[0].name == "latent_dim = 2, seed = 0" and groups[1].name == "d"
    assert groups[0].title.endswith(", 2 seeds")
    (one,) = groups_of(runs[:2], "ab")
    assert one.name == "a, b"
    found = replace(several(*[evaluation({"AIS": A})] * 3, runs=runs[:3]), groups=(replace(groups[0], copies=[2]),))
    assert "Of the recipe and the seed of another run, so no further evidence: c." in warnings_of_runs(found)


def test_the_verdict_over_seeds() -> None:
    found = several(evaluation({"AIS": A}), evaluation({"AIS": B}), evaluation({"AIS": C}), groups=[[0, 1], [2]])
    mean, error = -statistics.mean([-v for v in A]) - 0.55, 1.1 / 2
    assert verdict_over_seeds(found) == (
        f"Over seeds, ± one standard error of them: a and b: {number(mean, 3)} ± {error:.3f}, n = 2; "
        f"c: {number(statistics.mean(C), 3)}, n = 1."
    )
    assert verdict_over_seeds(several(evaluation({"AIS": A}), evaluation({"AIS": B}))) == ""


def drawings_of(picture: Picture) -> tuple[str, str]:
    """What is drawn for a desk and for a phone."""
    desk, _, phone = str(picture.drawing).partition('<div class="phone">')
    return desk, phone


def texts(svg: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_a_forest_plot_shows_the_numbers_of_the_table_large_enough() -> None:
    found = several(evaluation({"L_5": A}), evaluation({"L_5": B}), evaluation({"L_5": C}))
    row, part = row_of(found, "L_5"), found.parts[0]
    names = ["a", "the <second> $run_1$ & more", "名"]
    desk, phone = drawings_of(forest_of(row, part, names, "0-0"))
    for svg in (desk, phone):
        told = texts(svg)
        for mean, gap in zip(row.means, row.differences, strict=True):
            assert mean is not None
            assert number(mean.value, 3) in told
            assert gap is None or f"{number(gap.value, 3)} ± {gap.error:.3f}" in told
        assert "名" in told and any(text.endswith("& more") for text in told)
        assert "<second>" not in svg and "http" not in svg
        # The colours are the page's own, so that one drawing serves both themes.
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}
        assert "var(--ink)" in svg and "var(--first)" in svg
    width = float(re.findall(r'viewBox="0 0 ([0-9.]+)', phone)[0])
    sizes = [float(size) for size in re.findall(r"([0-9.]+)px", phone)]
    assert width == pytest.approx(72 * NARROW.width) and min(sizes) * PHONE / width >= 11


def history(values: Sequence[float]) -> list[dict[str, float]]:
    return [
        {"epoch": i + 1, "step": 2 * (i + 1), "seconds": 0.5 * (i + 1), "elbo_train": v, "elbo_validation": v - 1}
        for i, v in enumerate(values)
    ]


def test_curves_have_two_clocks_and_one_range() -> None:
    run = a_run()
    run.data = Sized(100)
    run.history = history([-90.0, -30.0, -20.0])
    curve = curve_of(run)
    assert curve == Curve([80, 160, 240], [0.5, 1.0, 1.5], [-90.0, -30.0, -20.0], [-91.0, -31.0, -21.0])
    run.recipe = run.recipe.replace(training={"batch_size": "all"})
    assert (found := curve_of(run)) is not None and found.samples == [200, 400, 600]
    runs = replace(several(None, None, runs=[run, run]), curves=(curve, curve))
    by_samples, by_seconds = curves_of(runs)
    marks = [
        [text for text in texts(drawings_of(one)[0]) if re.fullmatch(r"−\d+", text)] for one in (by_samples, by_seconds)
    ]
    assert marks[0] == marks[1] != []


class Sized:
    name = "digits"
    parts: Mapping[str, Any] = {"train": None, "validation": None}

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def test_no_run_leaves_the_picture_of_the_curves() -> None:
    """A short run far below a long one: most of it is to be seen; and one epoch far off does not set the range."""

    def line(values: list[float]) -> Curve:
        return Curve([1.0] * len(values), [1.0] * len(values), values, None)

    long = line([-1e6] + [-25.0 - 3.0 / n for n in range(2, 200)])
    short = line([-35.0 - 10.0 / n for n in range(1, 16)])
    low, high = bounds_shown([long, short])
    assert high > -25.0
    assert sum(low < value < high for value in short.train) >= 12
    assert low > -50
    assert bounds_shown([line([math.nan])]) == (-1.0, 0.0)


def test_long_names_lose_their_middle() -> None:
    assert elide("a name", 10) == "a name" and elide("one\ntwo", 10) == "one two"
    assert len(elide("x" * 30 + "end", 11)) == 11 and elide("x" * 30 + "end", 11).endswith("end")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two seeds; another model, not evaluated; another on other values of the same source."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = Recipe.from_dict(DIGITS)
    found = [
        train(recipe, folder / "one", progress=False),
        train(recipe.replace(seed=1), folder / "two", progress=False),
        train(recipe.replace(model={"latent_dim": 3}), folder / "<b>three $x_1$ &copy;", progress=False),
        train(
            recipe.replace(model={"name": "gaussian-vae", "hidden": [6]}, data={"binarize": "none"}),
            folder / "four",
            progress=False,
        ),
    ]
    for run in (found[0], found[1], found[3]):
        evaluate(run, [Method.parse("importance-sampling:num_samples=5000")], num_data=12, progress=False)
    return [load_run(run.folder.path) for run in found]


def test_the_page_of_unlike_runs(runs: list[Run], tmp_path: Path) -> None:
    found = find_several(runs)
    text = render(found)
    page = Page(text)
    assert not page.open and len(text) < 5_000_000
    told = page.text
    assert "one" in verdict_of_runs(found) and verdict_of_runs(found) in told
    assert "Not evaluated: <b>three $x_1$ &copy;." in told
    assert "Evaluated on other data than the rest" in told
    (part, *_) = found.parts
    for row in part.rows:
        for mean in row.means:
            # In the drawings, wide and narrow, and in the table.
            assert mean is None or told.count(number(mean.value, 3)) >= 3
    assert [group.members for group in found.groups] == [[0, 1], [2], [3]]
    assert told.count("n = 2") >= 2
    assert "Samples from the prior" in told and "Reconstructions of digits" in told
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert [one for _, one in page.elements if "src" in one and not str(one["src"]).startswith("data:")] == []
    assert all(one["aria-label"] for one in page.all("div") if one.get("class") == "drawing")
    assert "https:" not in text and "http:" not in text
    # What one run took is told once, as on its own page.
    assert number(runs[0].info["seconds"], 1) in told
    # The same page again, to the byte.
    assert render(find_several(runs)) == text


def test_probabilities_and_densities_are_not_compared(tmp_path: Path) -> None:
    """On the same data a density is higher by as much as one likes: it has the inverse unit of the data."""
    recipe = Recipe.from_dict(DIGITS)
    changes: dict[str, Any] = {"two": {"seed": 1}, "normal": {"model": {"name": "gaussian-vae", "hidden": [6]}}}
    of_each = [train(recipe, tmp_path / "one", progress=False)]
    of_each += [train(recipe.replace(**change), tmp_path / name, progress=False) for name, change in changes.items()]
    for run in of_each:
        evaluate(run, num_data=20, progress=False)
    found = find_several(of_each)
    assert [(part.members, str(part.measure)) for part in found.parts] == [
        ([0, 1], "probabilities of 64 values"),
        ([2], "densities of 64 values"),
    ]
    said = "so there is a section for each (probabilities of 64 values: one, two; densities of 64 values: normal)"
    assert any(said in line for line in warnings_of_runs(found))
    assert "normal" not in verdict_of_runs(found)
    assert [picture.title for picture in curves_of(found)].count("By data seen: one, two") == 1  # apart from the other
    alone = find_several([of_each[0], of_each[2]])
    assert verdict_of_runs(alone).startswith("The runs cannot be compared: what one has probabilities of, another has")
    text = Page(render(alone)).text
    assert "Evaluated on other data" not in text
    assert "not compare" in text and "20 held-out data of digits (test): densities of 64 values" in text


def test_models_that_observe_other_values_of_the_data_are_not_compared() -> None:
    """One of x and one of (x - mean) / scale: the densities differ by the unit of the values."""
    plain, scaled = Measure(0, 3, "of x"), Measure(0, 3, "of (x - mean) / scale")
    alone = several(evaluation({"AIS": A}), evaluation({"AIS": B}), measures=[plain, scaled])
    assert verdict_of_runs(alone) == "The runs cannot be compared: their models observe other values of the same data."
    found = several(*[evaluation({"AIS": values}) for values in (A, B, C)], measures=[plain, scaled, plain])
    assert [part.members for part in found.parts] == [[0, 2], [1]]
    told = warnings_of_runs(found)
    assert any("as obs=(x - mean) / scale beside obs=x, so there is a section for each" in line for line in told)
    assert not any("different measures" in line or "Data of one name differ" in line for line in told)
    assert "b" not in verdict_of_runs(found).replace("by", "").replace("best", "").split()
    assert len({found.judged_on(number) for number in range(3)}) == 2


def test_runs_without_any_evaluation_have_a_page(runs: list[Run], tmp_path: Path) -> None:
    copies = []
    for run, name in zip(runs[:2], ("one", "two"), strict=True):
        shutil.copytree(run.folder.path, tmp_path / name, ignore=shutil.ignore_patterns("evaluations"))
        copies.append(load_run(tmp_path / name))
    told = Page(write_comparison(copies).read_text(encoding="utf-8")).text
    assert "The runs cannot be compared" in told and "Not evaluated: one, two." in told
    assert "Estimates of log p(x)" not in told and "How they learnt" in told
