"""Figure 3: the marginal likelihood of training and test data by training samples seen, for three algorithms."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.figure import Figure

from ppvae.report.figures.theme import LIGHT

from .cells import Bench, Cell, Found, Pictures, Size, samples_axis
from .evidences import METHODS, all_sides, estimated, order, side_by_side
from .figure2 import ESTIMATORS
from .mcem import train_mcem, with_encoder
from .pages import table
from .published import EVIDENCE
from .training import data_of, first_rows, paper_recipe, train_as_published

TITLE = "Figure 3: the marginal likelihood"
ALGORITHMS = {"AEVB": LIGHT.first, "wake-sleep": LIGHT.second, "MCEM": LIGHT.ink}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain-1000-AEVB": ("AEVB", {"words": "no warm-up", "warm_up": 0}),
    "plain-1000-wake-sleep": ("wake-sleep", {"words": "no warm-up", "warm_up": 0}),
}
PARTS = ("train", "test")
WORDS = """100 hidden units, N_z = 3. Curves: the estimator of appendix D as published, 50 draws by HMC with 4
leapfrogs for each of the first 1000 training and test data; crosses are published. Below, for the first 100: the same
by annealed importance sampling from the prior, without the encoder, and by importance sampling from the encoder. Monte
Carlo EM has none: one is trained for its finished model, on the training data; from one that never was, the chains did
not find the posterior. A sample costs it several times what it costs AEVB (`benchmarks/baselines.py`): of 50,000 images
it is behind by time, as published, and not by samples."""


def cells(size: Size) -> list[Cell]:
    """A curve each, and those from the first gradient on."""
    several = [
        Cell(f"{num_train}-{algorithm}", partial(curve, num_train, algorithm))
        for num_train in ((200,) if size.quick else (1000, 50_000))
        for algorithm in ALGORITHMS
    ]
    others = [Cell(name, partial(curve, 1000, algorithm, **other)) for name, (algorithm, other) in OTHERS.items()]
    return several if size.quick else several + others


def curve(num_train: int, algorithm: str, bench: Bench, words: str = "", **start: Any) -> None:
    """Train on so many data; at 1e5, 1e6, ... samples the published estimator, at the end all of them."""
    bench.keep(num_train=num_train, algorithm=f"{algorithm}, {words}" if words else algorithm)
    quick = bench.size.quick
    estimator = ESTIMATORS.get(algorithm, ESTIMATORS["AEVB"])
    recipe = paper_recipe(bench.size, "digits" if quick else "mnist", 3, estimator)
    recipe = recipe.replace(data={"num_train": num_train}, model={"hidden": [20 if quick else 100]})
    data = data_of(recipe)
    parts = {name: first_rows(data.parts[name], 50 if quick else 1000) for name in PARTS}
    rows: dict[str, Any] = bench.found.get("curve", {})

    def guided(pair: Any) -> Any:
        return with_encoder(pair, data, 1e4 if quick else 5e5) if algorithm == "MCEM" else pair

    def at_mark(pair: Any, samples: int) -> None:
        if str(samples)[0] == "1" and samples >= (1e4 if quick else 1e5) and str(samples) not in rows:
            led = guided(pair)
            rows[str(samples)] = {n: estimated(led, part, METHODS["appendix D"](quick)) for n, part in parts.items()}
            bench.keep(curve=rows)

    train = train_mcem if algorithm == "MCEM" else train_as_published
    pair, samples = train(bench, recipe, at_mark, **start)
    at_mark(pair, samples)
    if str(samples) not in bench.found.get("estimates", {}):
        pair, few = guided(pair), {name: first_rows(part, 20 if quick else 100) for name, part in parts.items()}
        methods = {name: method(quick) for name, method in METHODS.items()}
        both = {part: side_by_side(pair, x, methods, "AIS") for part, x in few.items()}
        bench.keep(estimates=bench.found.get("estimates", {}) | {str(samples): both})


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
        samples_axis(axes, f"N_train = {num_train:,}")
    figure.axes[0].set_ylabel("log p(x), nats per datum")
    labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=3, fontsize=9, handlelength=4)
    return figure


def page(found: Found) -> str:
    """The last marks beside what was published, the order of the algorithms, and the estimators side by side."""
    curves = []
    for cell in found.values():
        for samples, row in sorted(cell.get("curve", {}).items(), key=lambda item: int(item[0]))[-2:]:
            known = EVIDENCE.get((cell["num_train"], cell["algorithm"].split(",")[0]), {})
            published = known if int(samples) == 10**7 else {}
            values = [f"{row[part][0]:.1f} ± {row[part][1]:.1f}" for part in PARTS]
            beside = [f"{value:.1f} ({row[part][0] - value:+.1f})" for part, value in published.items()] or ["", ""]
            curves.append((f"{cell['num_train']:,}", cell["algorithm"], f"{int(samples):,}", *values, *beside))
    head = ("N_train", "algorithm", "samples seen", *PARTS, "published train (less it)", "published test (less it)")
    return "\n\n".join([WORDS, table(head, curves), order(found, PARTS), all_sides(found, PARTS, METHODS)])
