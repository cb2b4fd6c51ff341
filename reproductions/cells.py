"""What every reproduction shares: cells that resume, and keep what they found with what it came from."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from ppvae import __version__
from ppvae.core import FitError
from ppvae.data import Dataset, load
from ppvae.inference import Callback, TrainingState, evaluate_bound
from ppvae.report.figures.theme import LIGHT
from ppvae.runs import Recipe, Run, load_run, resume, train

STEP_SIZES = (0.01, 0.02, 0.1)  # of Adagrad; the paper chooses by the first iterations on training data
Found = Mapping[str, Mapping[str, Any]]
"""Of each cell, by its name, what it found; cells that were not worked through are absent."""


Pictures = Mapping[str, Callable[[], Figure]]
"""By name, what draws a picture."""


@dataclass(frozen=True)
class Size:
    """How large the experiments are.

    Attributes:
        quick: the bundled digits and small nets, in minutes.
        samples: training data seen by the end of a run.
        runs: the folder of run folders, which an interrupted cell goes on from.
        results: the folder of results and pictures.
    """

    quick: bool
    samples: float
    runs: Path
    results: Path


@dataclass(frozen=True)
class Cell:
    """A part of an experiment that is worked through at once.

    Attributes:
        name: within its figure.
        work: does it, and keeps what it finds.
    """

    name: str
    work: Callable[[Bench], None]


@dataclass
class Bench:
    """Where a cell is worked through.

    Attributes:
        size: how large.
        folder: its own, for run folders.
        path: the file of what it found.
        found: what it found so far, in this and in earlier sessions.
    """

    size: Size
    folder: Path
    path: Path
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))
        self._since = time.perf_counter()

    def keep(self, **values: Any) -> None:
        """Add to what was found, and write it with the versions and the wall time that it took."""
        now = time.perf_counter()
        seconds = self.found.get("seconds", 0.0) + now - self._since
        self._since = now
        self.found |= values | {"seconds": round(seconds, 1), "versions": versions()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)

    def keep_figure(self, name: str, draw: Callable[[], Figure]) -> None:
        """Write a picture as PNG and SVG."""
        save_figure(self.path.parent / name, draw)


def versions() -> dict[str, str]:
    """What numbers depend on beside recipe, seed and data."""
    return {
        "ppvae": __version__,
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def save_figure(path: Path, draw: Callable[[], Figure]) -> None:
    """Draw in the house's style, and write PNG and SVG files that are the same for the same figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    paper = {"figure.facecolor": LIGHT.paper, "savefig.facecolor": LIGHT.paper, "svg.hashsalt": path.name}
    with rc_context({**LIGHT.settings(), **paper}):
        figure = draw()
        figure.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


# --- training as in the paper -------------------------------------------------------------------------


def paper_recipe(size: Size, source: str, latent_dim: int, estimator: Mapping[str, Any], **changes: Any) -> Recipe:
    """Appendix C and section 5: one hidden layer, Adagrad, M = 100, L = 1, N(0, 1) over the model's weights.

    Args:
        size: how large the experiment is.
        source: of the data; real-valued pixels, a Bernoulli's for digits and a Gaussian's for faces.
        latent_dim: N_z.
        estimator: a table of an estimator.
        changes: to the recipe.
    """
    model: dict[str, Any] = {"name": "bernoulli-vae", "allow_grey": True, "hidden": [50 if size.quick else 500]}
    if source == "frey-faces":
        model = {"name": "gaussian-vae", "hidden": [200]}
    training = {"elbo": dict(estimator), "optimizer": "adagrad", "batch_size": 100, "weight_prior_scale": 1.0}
    recipe = Recipe.from_dict(
        {
            "model": {**model, "latent_dim": latent_dim},
            "data": {"source": source, "binarize": "none"},
            "training": training,
        }
    )
    return recipe.replace(**changes)


def data_of(recipe: Recipe) -> Dataset:
    """The data of a recipe, training part first."""
    data = load(recipe.data.source, binarize="none")
    return data if recipe.data.num_train is None else data.take(recipe.data.num_train)


def first_rows(data: Dataset, count: int) -> Dataset:
    """The first rows of the training part, all where there are fewer."""
    return data.take(min(count, len(data)))


def marks(samples: float) -> list[float]:
    """1, 2, 3, 5 and 7 times the powers of ten up to a number of samples."""
    powers = range(3, 1 + math.ceil(math.log10(samples)))
    return [m for power in powers for d in (1, 2, 3, 5, 7) if (m := d * 10.0**power) <= samples]


class AtMarks(Callback):
    """At the end of the first epoch after each mark, hands the pair and the number of samples seen to a function."""

    def __init__(self, num_data: int, samples: float, visit: Callable[[Any, int], None]) -> None:
        epochs = {math.ceil(mark / num_data) for mark in marks(samples)}
        self.epochs, self.num_data, self.visit = epochs, num_data, visit

    def on_epoch(self, state: TrainingState) -> None:
        """Visit."""
        if state.epoch in self.epochs:
            self.visit(state.pair, state.epoch * self.num_data)


def choose_step_size(bench: Bench, recipe: Recipe) -> float:
    """The step size with the highest training bound after the first samples, as in the paper."""
    data = data_of(recipe)
    first = 20_000 if bench.size.quick else 100_000
    if "step_sizes" not in bench.found:
        bounds: dict[str, float | str] = {}
        for rate in STEP_SIZES:
            part = recipe.replace(training={"learning_rate": rate, "num_epochs": max(1, first // len(data))})
            try:
                run = train(part, bench.folder / f"first_{rate}", overwrite=True, progress=False)
                bounds[str(rate)] = evaluate_bound(run.pair, first_rows(data, 2000), progress=False).mean
            except FitError:
                bounds[str(rate)] = "diverged"
        bench.keep(step_sizes=bounds)
    found = {float(rate): bound for rate, bound in bench.found["step_sizes"].items() if bound != "diverged"}
    return max(found, key=found.__getitem__)


def train_to(bench: Bench, recipe: Recipe, visit: Callable[[Any, int], None], samples: float | None = None) -> Run:
    """Train, or go on with a run where it stopped, until so many data were seen, with a visit at every mark."""
    folder, data = bench.folder / "run", data_of(recipe)
    samples = bench.size.samples if samples is None else samples
    epochs = math.ceil(samples / len(data))
    callbacks = [AtMarks(len(data), samples, visit)]
    done = len(load_run(folder).history) if (folder / "checkpoints").exists() else 0
    if done >= epochs:
        run = load_run(folder)
    elif done:
        run = resume(folder, num_epochs=epochs, callbacks=callbacks)
    else:
        run = train(recipe.replace(training={"num_epochs": epochs}), folder, overwrite=True, callbacks=callbacks)
    bench.keep(
        recipe=run.recipe.to_dict(),
        data={name: part.fingerprint() for name, part in run.data.parts.items()},
        seed=run.recipe.seed,
    )
    return run
