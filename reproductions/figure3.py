"""Figure 3: the marginal likelihood of training and test data by training samples seen, for three algorithms."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ppvae.inference import evidence, log_evidence
from ppvae.report.figures.theme import LIGHT

from .cells import Bench, Cell, Found, Pictures, Size, samples_axis
from .figure2 import ESTIMATORS
from .mcem import choose_mcem_step_size, train_mcem_to
from .pages import table
from .published import EVIDENCE
from .training import choose_step_size, data_of, first_rows, paper_recipe, train_to

TITLE = "Figure 3: the marginal likelihood"
ALGORITHMS = {"AEVB": LIGHT.first, "wake-sleep": LIGHT.second, "MCEM": LIGHT.ink}
PARTS = ("train", "test")
METHODS: dict[str, evidence.EvidenceMethod] = {
    "appendix D": evidence.RIS.paper(),
    "AIS": evidence.AIS(num_temperatures=100, start="prior"),
    "importance sampling": evidence.ImportanceSampling(5000),
}
WORDS = """100 hidden units, N_z = 3. Curves: the estimator of appendix D as published, 50 draws by HMC with 4
leapfrogs for each of the first 1000 training and test data; crosses are published. Below: the same by annealed
importance sampling from the prior, which does not see the encoder, and by importance sampling from the encoder (Monte
Carlo EM has none), for the first 200."""


def cells(size: Size) -> list[Cell]:
    """A curve each."""
    return [
        Cell(f"{num_train}-{algorithm}", partial(curve, num_train, algorithm))
        for num_train in ((200,) if size.quick else (1000, 50_000))
        for algorithm in ALGORITHMS
    ]


def curve(num_train: int, algorithm: str, bench: Bench) -> None:
    """Train on so many data; at 1e5, 1e6, ... samples the published estimator, at the end all of them."""
    bench.keep(num_train=num_train, algorithm=algorithm)
    quick = bench.size.quick
    recipe = paper_recipe(bench.size, "digits" if quick else "mnist", 3, ESTIMATORS.get(algorithm, ESTIMATORS["AEVB"]))
    recipe = recipe.replace(data={"num_train": num_train}, model={"hidden": [20 if quick else 100]})
    data = data_of(recipe)
    parts = {name: first_rows(data.parts[name], 50 if quick else 1000) for name in PARTS}
    rows: dict[str, Any] = bench.found.get("curve", {})

    def at_mark(pair: Any, samples: int) -> None:
        if str(samples)[0] == "1" and samples >= (1e4 if quick else 1e5) and str(samples) not in rows:
            rows[str(samples)] = {name: mean(estimate(pair, part, "appendix D")) for name, part in parts.items()}
            bench.keep(curve=rows)

    choose, train = (choose_mcem_step_size, train_mcem_to) if algorithm == "MCEM" else (choose_step_size, train_to)
    pair, samples = train(bench, recipe.replace(training={"learning_rate": choose(bench, recipe)}), at_mark)
    if str(samples) not in bench.found.get("side_by_side", {}):
        methods, few = [*METHODS][: 2 if algorithm == "MCEM" else 3], 20 if quick else 200  # MCEM has no encoder
        found = {name: {m: estimate(pair, first_rows(part, few), m) for m in methods} for name, part in parts.items()}
        compared = {p: {m: [mean(v[m]), mean(v[m] - v["AIS"])] for m in methods} for p, v in found.items()}
        bench.keep(side_by_side={str(samples): compared})


def estimate(pair: Any, data: Any, method: str) -> Tensor:
    """log p(x) of every datum; NaN where the method refused."""
    return log_evidence(pair, data, method=METHODS[method], progress=False).log_evidence.double()


def mean(values: Tensor) -> list[float]:
    """Over data, and its standard error over them."""
    there = values[values.isfinite()]
    return [float(there.mean()), float(there.std()) / len(there) ** 0.5]


def pictures(found: Found) -> Pictures:
    """One figure."""
    return {"evidence": partial(draw, found)} if any("curve" in cell for cell in found.values()) else {}


def draw(found: Found) -> Figure:
    """A panel for each size of the training set."""
    sizes = sorted({cell["num_train"] for cell in found.values()})
    figure = Figure(figsize=(4.4 * max(len(sizes), 1.5), 4.2), layout="constrained")
    for axes, num_train in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        for algorithm, colour in ALGORITHMS.items():
            cell = found.get(f"{num_train}-{algorithm}", {})
            rows = sorted((int(samples), row) for samples, row in cell.get("curve", {}).items())
            for part, style in zip(PARTS, ("--", "-"), strict=True):
                values = [row[part][0] for _, row in rows]
                axes.plot([at for at, _ in rows], values, f"{style}o", color=colour, label=f"{algorithm}, {part}")
                if rows and rows[-1][0] >= 1e7 and (num_train, algorithm) in EVIDENCE:
                    axes.plot(1e7, EVIDENCE[num_train, algorithm][part], "x", color=colour)
        axes.set(title=f"N_train = {num_train:,}")
        samples_axis(axes)
    figure.axes[0].set_ylabel("log p(x), nats per datum")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def page(found: Found) -> str:
    """The last mark beside what was published, and the estimators side by side."""
    curves, sides = [], []
    for cell in found.values():
        for samples, row in sorted(cell.get("curve", {}).items(), key=lambda item: int(item[0]))[-1:]:
            published = EVIDENCE.get((cell["num_train"], cell["algorithm"]), {}) if int(samples) == 10**7 else {}
            values = [f"{row[part][0]:.1f} ± {row[part][1]:.1f}" for part in PARTS]
            beside = [f"{value:.1f} ({row[part][0] - value:+.1f})" for part, value in published.items()] or ["", ""]
            curves.append((f"{cell['num_train']:,}", cell["algorithm"], f"{int(samples):,}", *values, *beside))
        for samples, both in cell.get("side_by_side", {}).items():
            for part, methods in both.items():
                where = (f"{cell['num_train']:,}", cell["algorithm"], f"{int(samples):,}", part)
                for name, (value, gap) in methods.items():
                    sides.append((*where, name, f"{value[0]:.2f}", f"{gap[0]:+.3f} ± {gap[1]:.3f}"))
    head = ("N_train", "algorithm", "samples seen", *PARTS, "published train (less it)", "published test (less it)")
    side = ("N_train", "algorithm", "samples seen", "data", "estimator", "log p(x)", "less AIS, datum by datum")
    return "\n\n".join([WORDS, table(head, curves), "**Three estimators of the same quantity.**", table(side, sides)])
