"""The lower bound by training samples seen, AEVB beside wake-sleep, by the dimension of the latent space."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

from matplotlib.figure import Figure

from ppvae.inference import evaluate_bound
from ppvae.report.figures.theme import LIGHT

from .cells import Bench, Cell, Found, Pictures, Size, samples_axis
from .pages import table
from .published import BOUNDS
from .superfluous import superfluous
from .training import data_of, first_rows, paper_recipe, points, train_as_published, xy

TITLE = "Figure 2: the lower bound"
ESTIMATORS: dict[str, dict[str, Any]] = {
    "AEVB": {"name": "trace-mean-field"},  # estimator B: the KL in closed form
    "wake-sleep": {"name": "reweighted-wake-sleep", "num_particles": 1, "sleep": 1.0},
}
MODEL = {"posterior": {"name": "diagonal", "log_variance": True, "init_scale": 1.0}}
SCALE = {"posterior": {"name": "diagonal"}}
VARIANCE = {"posterior": {"name": "diagonal", "log_variance": True}}
OTHERS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "plain-mnist-10": (10, "AEVB", {"words": "log σ, no warm-up", "model": SCALE, "warm_up": 0}),
    "scale-mnist-10": (10, "AEVB", {"words": "log σ", "model": SCALE}),
    "scale-mnist-20": (20, "AEVB", {"words": "log σ", "model": SCALE}),
    "scale-mnist-200": (200, "AEVB", {"words": "log σ", "model": SCALE}),
    "random-mnist-20": (20, "AEVB", {"words": "log σ² that starts anywhere", "model": VARIANCE}),
    "random-mnist-200": (200, "AEVB", {"words": "log σ² that starts anywhere", "model": VARIANCE}),
    "scale-mnist-10-wake-sleep": (10, "wake-sleep", {"words": "log σ", "model": SCALE}),
    "faster-mnist-10-wake-sleep": (10, "wake-sleep", {"words": "step size 0.02", "rate": 0.02}),
    "faster-mnist-20-wake-sleep": (20, "wake-sleep", {"words": "step size 0.02", "rate": 0.02}),
    "random-mnist-10-wake-sleep": (10, "wake-sleep", {"words": "log σ² that starts anywhere", "model": VARIANCE}),
}
DIMENSIONS = {"mnist": (10, 2, 3, 5, 20, 200), "frey-faces": (2, 5, 10, 20)}


def cells(size: Size) -> list[Cell]:
    """A curve each, and those of other settings than the paper's."""
    dimensions, others = ({"digits": (2, 10)}, {}) if size.quick else (DIMENSIONS, OTHERS)
    several = [(source, *which) for source, dims in dimensions.items() for which in product(dims, ESTIMATORS)]
    return [Cell("{}-{}-{}".format(*which), partial(curve, *which)) for which in several] + [
        Cell(name, partial(curve, "mnist", dim, method, **other)) for name, (dim, method, other) in others.items()
    ]


def curve(source: str, dim: int, method: str, bench: Bench, words: str = "", model: Any = MODEL, **start: Any) -> None:
    """Train with the step size that does best at first; at every mark the bound on training and on test data."""
    bench.keep(source=source, latent_dim=dim, method=f"{method}, {words}" if words else method)
    recipe = paper_recipe(bench.size, source, dim, ESTIMATORS[method], model=model)
    data = data_of(recipe)
    parts = {"train": first_rows(data, 10_000), "test": data.test}
    rows: dict[str, Any] = bench.found.get("curve", {})

    def at_mark(pair: Any, samples: int) -> None:
        for name, part in parts.items():
            bound = evaluate_bound(pair, part, progress=False)
            rows.setdefault(str(samples), {})[name] = [bound.mean, bound.sampling_standard_error]
        bench.keep(curve=rows)

    train_as_published(bench, recipe, at_mark, **start)


def panels(found: Found) -> dict[tuple[str, int], dict[str, Any]]:
    """The cells by method, of data and dimension."""
    by_dimension: dict[tuple[str, int], dict[str, Any]] = {}
    for cell in sorted(found.values(), key=lambda cell: (cell["source"], cell["latent_dim"])):
        by_dimension.setdefault((cell["source"], cell["latent_dim"]), {})[cell["method"]] = cell
    return by_dimension


def pictures(found: Found) -> Pictures:
    """A figure for each data set, a panel for each dimension."""
    return {source: partial(draw, found, source) for source, _ in panels(found)}


def draw(found: Found, source: str) -> Figure:
    """Both methods on training and test data, and what was published."""
    chosen = {latent_dim: several for (name, latent_dim), several in panels(found).items() if name == source}
    figure = Figure(figsize=(max(7.0, 3.4 * len(chosen)), 4.2), layout="constrained")
    for axes, (dim, several) in zip(figure.subplots(1, len(chosen), squeeze=False)[0], chosen.items(), strict=True):
        for method, colour in zip(ESTIMATORS, (LIGHT.first, LIGHT.second), strict=True):
            for part, style in (("train", "--"), ("test", "-")):
                rows = points(several.get(method, {}), part)
                axes.plot(*xy(rows), style, color=colour, label=f"{method}, {part}")
            reached = [at for at in BOUNDS.get((source, dim, method), {}).items() if rows and at[0] <= rows[-1][0]]
            axes.plot(*xy(reached), "o", color=colour, label=f"{method}, published (test)")
        samples_axis(axes, f"{source}, N_z = {dim}", [row[1] for row in points(several.get("AEVB", {}), "test")])
    figure.axes[0].set_ylabel("lower bound, nats per datum")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def page(found: Found) -> str:
    """Every cell at its last mark, and where there is a published value."""
    rows = []
    for (source, latent_dim), several in panels(found).items():
        for method, cell in several.items():
            published, tests = BOUNDS.get((source, latent_dim, method.split(",")[0]), {}), points(cell, "test")
            for (samples, bound, error), (_, of_train, _) in zip(tests, points(cell, "train"), strict=True):
                value = published.get(float(samples))
                beside = ("", "") if value is None else (f"{value:.1f}", f"{bound - value:+.1f}")
                ours = (f"{samples:,}", f"{of_train:.1f}", f"{bound:.1f} ± {error:.1f}")
                if value is not None or samples == tests[-1][0]:
                    rows.append((source, latent_dim, method, *ours, *beside))
    return "\n\n".join([WORDS, table(HEAD, rows), superfluous(found)])


HEAD = ("data", "N_z", "method", "samples seen", "train", "test", "published (test)", "difference")
WORDS = """One hidden layer, Adagrad with the step size of {0.01, 0.02, 0.1} best on training data after 1e5 samples, M
= 100, L = 1, weights from N(0, 0.01) under a N(0, 1) prior; real-valued pixels. ± is the standard error over test data.
From the author's code: Adagrad sums the squares of 100 minibatch gradients before its first step, and the encoder's log
σ² starts at zero. Rows with another setting show what these choices change (AEVB without warm-up: log σ). The bound of
wake-sleep of 10, 20 and 200 latents falls after the step size was chosen; with 0.02, 10 and 20 rise sooner."""
