"""NVDM on 20 newsgroups: the bound of a document, and the perplexity by three estimates of its evidence."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppvae.data import Dataset
from ppvae.inference import evaluate_bound, evidence, log_evidence
from ppvae.report.figures.theme import LIGHT
from ppvae.runs import Recipe

from ..cells import Bench, Cell, Found, Pictures, Size, samples_axis
from ..evidences import mean_of
from ..pages import table
from ..training import data_of, first_rows, points, train_to

TITLE = "NVDM on 20 newsgroups"
WORDS = """50 latents, one layer of 500 tanh, Adam 5e-5, M = 64, 11,258 documents of 1,994 words; the test set is the
published one. Everything is of the words in their order, as published: the counts' evidence less log(n! / Π x!).
A document's perplexity is exp(-log p / n), "corpus" that of all words together. The published perplexities are of the
bound; importance sampling and annealing show how much of them the bound is: of the first documents alone, each beside
the bound of the same. Our encoder reads log(1 + x), the published one x. ± is the standard error over documents."""
PUBLISHED = {"bound": -552.28, "per document": 769.50, "corpus": 713.72}
METHODS: dict[str, evidence.EvidenceMethod] = {
    "importance sampling": evidence.ImportanceSampling(5000),
    "AIS": evidence.AIS(num_temperatures=100),
}


def cells(size: Size) -> list[Cell]:
    """One."""
    return [Cell("reuters" if size.quick else "newsgroups", work)]


def work(bench: Bench) -> None:
    """Train; at every mark the bound and the perplexities of test data, at the end all estimates of a few."""
    quick = bench.size.quick
    recipe = Recipe.from_dict(
        {
            "model": {"name": "topic-model", "kind": "nvdm", "num_topics": 10 if quick else 50},
            "data": {"source": "reuters" if quick else "newsgroups", "binarize": "none"},
            "training": {"learning_rate": 1e-3 if quick else 5e-5, "batch_size": 64},
        }
    )
    test = data_of(recipe).test
    assert test is not None
    few = first_rows(test, 5 if quick else 200)
    rows: dict[str, Any] = bench.found.get("curve", {})

    def at_mark(pair: Any, samples: int) -> None:
        rows[str(samples)] = row = of_words(evaluate_bound(pair, test, progress=False).elbo, test)
        bench.keep(curve=rows, num_test=len(test), last=row)

    pair, samples = train_to(bench, recipe, at_mark)
    found = {name: log_evidence(pair, few, method=method) for name, method in METHODS.items()}
    sides = {name: of_words(e.log_evidence, few) | {"trusted": int(e.trusted.sum())} for name, e in found.items()}
    bound = of_words(evaluate_bound(pair, few, num_repeats=20, progress=False).elbo, few)
    bench.keep(samples=samples, few=len(few), sides={"bound": bound, **sides})


def of_words(log_p: Tensor, data: Dataset) -> dict[str, Any]:
    """The mean over documents and its error, and both perplexities, for the words in their order."""
    x = data.members["x"].double()
    n, log_p = x.sum(-1), log_p.double()
    ordered = log_p - (torch.lgamma(n + 1) - torch.lgamma(x + 1).sum(-1))
    return {
        "bound": mean_of(ordered),
        "per document": float((-ordered / n).mean().exp()),
        "corpus": float((-ordered.sum() / n.sum()).exp()),
    }


def pictures(found: Found) -> Pictures:
    """The bound by samples seen."""
    return {"bound": partial(draw, found)} if any("curve" in cell for cell in found.values()) else {}


def draw(found: Found) -> Figure:
    """One panel."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for cell in found.values():
        at, values, _ = zip(*points(cell, "bound"), strict=True)
        axes.plot(at, values, "o-", color=LIGHT.first, label="test")
    axes.axhline(PUBLISHED["bound"], color=LIGHT.ink, linestyle=":", label="published")
    axes.set_ylabel("bound, nats per document")
    axes.legend()
    samples_axis(axes)
    return figure


def page(found: Found) -> str:
    """The bound and perplexities beside what was published; the estimates side by side."""
    rows: list[tuple[Any, ...]] = []
    sides: list[tuple[Any, ...]] = []
    for cell in found.values():
        for samples, row in sorted(cell.get("curve", {}).items(), key=lambda item: int(item[0]))[-3:]:
            value, error = row["bound"]
            words = [f"{row[name]:.1f}" for name in ("per document", "corpus")]
            rows.append(
                (f"{int(samples):,}", f"{value:.2f} ± {error:.2f}", *words, f"{value - PUBLISHED['bound']:+.2f}")
            )
        for name, row in cell.get("sides", {}).items():
            trusted = f"{row['trusted']} of {cell['few']}" if "trusted" in row else ""
            words = [f"{row[key]:.1f}" for key in ("per document", "corpus")]
            sides.append((name, f"{row['bound'][0]:.2f}", *words, trusted))
    rows.append(("published", PUBLISHED["bound"], PUBLISHED["per document"], PUBLISHED["corpus"], ""))
    head = ("samples seen", "bound, test", "perplexity per document", "corpus", "less the published bound")
    side = ("estimate", "nats per document", "perplexity per document", "corpus", "vouched for")
    return "\n\n".join([WORDS, table(head, rows), "**The same documents by three estimates.**", table(side, sides)])
