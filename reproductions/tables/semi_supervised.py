"""M2 on MNIST with few labels: what summing the class out is for, and the auxiliary objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from pyro.infer import Trace_ELBO

from ppvae.data import Dataset, keep_labels, load
from ppvae.inference import Callback, TrainingState, discrete_posterior, elbo, fit
from ppvae.models import likelihoods, semi_supervised_vae
from ppvae.report.figures.theme import LIGHT

from ..cells import Bench, Cell, Found, Pictures, Size
from ..pages import table, verdict
from ..training import Saves

TITLE = "Semi-supervised M2 on MNIST: accuracy of the classifier"
WORDS = """Protocol of Pyro's tutorial "ss-vae": z 50, hidden 500, softplus, hidden weights from N(0, 1e-6), Adam
4.2e-4, M = 200 (100 for 100 labels), 50,000 grey digits, the same number of labels of each class, data with labels and
without in minibatches of their own; accuracy on test data at the epoch of the best accuracy on validation data. Where y
is drawn (Pyro's own Trace_ELBO), its gradient is the score function's; where it is summed out, its expectation under
q(y | x) is exact. The auxiliary objective adds 46 log q(y | x) of each known label. Published: mean and 95 % bounds
over five choices of labels; how many epochs, the tutorial does not say. A best epoch near our last: still rising."""
LABELS = (1000, 100, 3000)
OBJECTIVES: dict[str, Any] = {
    "summed out": elbo.TraceELBO(),
    "auxiliary": elbo.WithClassifier(weight=46.0),
    "drawn": Trace_ELBO(),
}
COLOURS = {"summed out": LIGHT.first, "auxiliary": LIGHT.second, "drawn": LIGHT.ink}
PUBLISHED = {
    "drawn": {100: (0.2007, 0.0353), 1000: (0.2006, 0.0295), 3000: (0.1982, 0.0522)},
    "summed out": {100: (0.2254, 0.0346), 1000: (0.7562, 0.0235), 3000: (0.8932, 0.0159)},
    "auxiliary": {100: (0.9319, 0.0060), 1000: (0.9487, 0.0038), 3000: (0.9582, 0.0012)},
}


def cells(size: Size) -> list[Cell]:
    """One for each number of labels and objective."""
    several = (100,) if size.quick else LABELS
    return [Cell(f"{n}-{kind.replace(' ', '-')}", partial(work, n, kind)) for n in several for kind in OBJECTIVES]


def work(num_labels: int, kind: str, bench: Bench) -> None:
    """Train, and after every epoch the accuracy on validation and test data."""
    quick, path, whole = bench.size.quick, bench.folder / "state.pt", load("digits" if bench.size.quick else "mnist")
    assert whole.labels is not None
    bench.keep(labels=num_labels, objective=kind, seed=0, data=whole.fingerprint())
    labels = keep_labels(whole.labels, num_labels)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"latent_dim": 5, "hidden": (50,)} if quick else {}
    pair = semi_supervised_vae(whole.event_shape, 10, likelihood=likelihoods.bernoulli(allow_grey=True), **sizes)
    fit(
        pair,
        Dataset({"x": whole.members["x"], "label": labels}),
        elbo=OBJECTIVES[kind],
        learning_rate=4.2e-4,
        batch_size=min(200, num_labels),
        groups=labels >= 0,
        num_epochs=math.ceil(bench.size.samples / len(labels)),
        callbacks=[Accuracy(bench, whole.parts), Saves(path)],
        resume=torch.load(path, weights_only=True) if path.exists() else None,
    )


class Accuracy(Callback):
    """Keeps the accuracy of q(y | x) after every epoch."""

    def __init__(self, bench: Bench, parts: Mapping[str, Dataset]) -> None:
        self.bench, self.parts = bench, {name: parts[name] for name in ("validation", "test")}

    def on_epoch(self, state: TrainingState) -> None:
        """Classify what was held out, whose labels are hidden."""
        row = {"bound": state.history[-1]["elbo_train"]}
        for name, part in self.parts.items():
            hidden = {"x": part.members["x"], "label": torch.full((len(part),), -1)}
            row[name] = discrete_posterior(state.pair, hidden, compile="eager").accuracy(part.labels)
        self.bench.keep(epochs={**self.bench.found.get("epochs", {}), str(state.epoch): row})


def pictures(found: Found) -> Pictures:
    """Accuracy by epoch."""
    return {"accuracy": partial(draw, found)} if any("epochs" in cell for cell in found.values()) else {}


def draw(found: Found) -> Figure:
    """A panel for each number of labels."""
    several = sorted({cell["labels"] for cell in found.values() if "epochs" in cell})
    figure = Figure(figsize=(4.4 * max(len(several), 1.3), 3.6), layout="constrained")
    for axes, labels in zip(figure.subplots(1, len(several), sharey=True, squeeze=False)[0], several, strict=True):
        for cell in found.values():
            if cell["labels"] == labels and "epochs" in cell:
                rows = {int(epoch): row["test"] for epoch, row in cell["epochs"].items()}
                axes.plot(rows.keys(), rows.values(), color=COLOURS[cell["objective"]], label=f"y {cell['objective']}")
        axes.set(title=f"{labels} labels", xlabel="epochs", ylim=(0, 1))
    figure.axes[0].set_ylabel("accuracy on test data")
    figure.axes[0].legend()
    return figure


def page(found: Found) -> str:
    """A cell each."""
    rows = []
    for cell in found.values():
        if "epochs" not in cell:
            continue
        epochs = {int(epoch): row for epoch, row in cell["epochs"].items()}
        best = max(epochs, key=lambda epoch: epochs[epoch]["validation"])
        ours, (value, bounds) = epochs[best]["test"], PUBLISHED[cell["objective"]][cell["labels"]]
        beside = (f"{value:.3f} ± {bounds:.3f}", f"{ours - value:+.3f}", verdict(ours - value, 0.0, bounds / 1.96))
        rows.append((f"{cell['labels']:,}", f"y {cell['objective']}", f"{ours:.3f}", best, max(epochs), *beside))
    head = ("labels", "objective", "accuracy", "at epoch", "epochs run", "published, 95 %", "difference", "")
    return "\n\n".join([WORDS, table(head, rows)])
