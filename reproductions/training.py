"""Training as in the paper: its recipe, the choice of its step size, runs that go on where they stopped."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ppvae.core import FitError, ModelGuidePair
from ppvae.core.errors import RunError, try_one_of
from ppvae.data import Dataset, load, random_rows
from ppvae.inference import Callback, TrainingState, elbo, evaluate_bound
from ppvae.runs import Recipe, Run, load_run, resume, train
from ppvae.runs.storage.atomic import make_folder, write_bytes

from .cells import Bench, Size

STEP_SIZES = (0.01, 0.02, 0.1)  # of Adagrad; the paper chooses by the first iterations on training data
WARM_UP = 100  # minibatches whose gradients Adagrad has seen when it moves


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
            "data": {"source": source, "binarize": "none", "validation": 0},  # nothing is chosen by it
            "training": training,
        }
    )
    return recipe.replace(**changes)


def data_of(recipe: Recipe) -> Dataset:
    """The data of a recipe, training part first."""
    assert recipe.data.binarize != "auto"
    data = load(recipe.data.source, binarize=recipe.data.binarize, validation=recipe.data.validation)
    return data if recipe.data.num_train is None else data.take(recipe.data.num_train)


def first_rows(data: Dataset, count: int) -> Dataset:
    """The first rows of the data, all where there are fewer."""
    return data.take(min(count, len(data)))


def random_part(data: Dataset, count: int) -> tuple[Dataset, Tensor]:
    """Rows drawn at random, always the same, which stand for all as the first ones of a file need not; and which."""
    index = random_rows(len(data), count)
    return data.take(index), index


def marks(samples: float) -> list[float]:
    """1, 2, 3, 5 and 7 times the powers of ten up to a number of samples."""
    powers = range(3, 1 + math.ceil(math.log10(samples)))
    return [m for power in powers for d in (1, 2, 3, 5, 7) if (m := d * 10.0**power) <= samples]


def points(cell: Any, part: str) -> list[tuple[int, float, float]]:
    """Samples seen, the bound and its standard error over data."""
    return sorted((int(samples), *row[part]) for samples, row in cell.get("curve", {}).items())


def xy(rows: Iterable[Sequence[float]]) -> tuple[list[float], list[float]]:
    """The first and the second column."""
    several = list(rows)
    return [row[0] for row in several], [row[1] for row in several]


Visit: TypeAlias = Callable[[Any, int], None]
"""Called with the pair and the number of samples seen."""


class AtMarks(Callback):
    """At the end of the first epoch after each mark, hands the pair and the number of samples seen to a function."""

    def __init__(self, num_data: int, samples: float, visit: Visit) -> None:
        epochs = {math.ceil(mark / num_data) for mark in marks(samples)}
        self.epochs, self.num_data, self.visit = epochs, num_data, visit

    def on_epoch(self, state: TrainingState) -> None:
        """Visit."""
        if state.epoch in self.epochs:
            self.visit(state.pair, state.epoch * self.num_data)


class FirstGradients(Callback):
    """No step before Adagrad has summed the squares of so many gradients, so that the first ones are not the largest.

    As in the code of the paper's first author (github.com/dpkingma/anglepy, ``warmup``); the paper does not say so.
    """

    def __init__(self, learning_rate: float, count: int) -> None:
        self.learning_rate, self.count = learning_rate, count

    def on_start(self, state: TrainingState) -> None:
        """Stand still, unless a run goes on that has moved."""
        if state.step < self.count:
            self._set(state, 0.0)

    def on_step(self, state: TrainingState) -> None:
        """Move from the next step on."""
        if state.step == self.count:
            self._set(state, self.learning_rate)

    @staticmethod
    def _set(state: TrainingState, rate: float) -> None:
        for group in state.optimizer.param_groups:
            group["lr"] = rate


def choose_step_size(bench: Bench, recipe: Recipe, warm_up: int) -> float:
    """The step size with the highest training bound after the first samples, as in the paper."""

    def first_bound(part: Recipe) -> float:
        rate = part.training.learning_rate
        start = [FirstGradients(rate, warm_up)]
        run = train(part, bench.folder / f"first_{rate}", overwrite=True, progress=False, callbacks=start)
        return evaluate_bound(run.pair, first_rows(data_of(part), 2000), progress=False).mean

    return best_step_size(bench, recipe, first_bound)


def best_step_size(bench: Bench, recipe: Recipe, objective: Callable[[Recipe], float]) -> float:
    """The step size with the highest objective after the first samples; one at which training diverges has none."""
    if "step_sizes" not in bench.found:
        epochs = max(1, (20_000 if bench.size.quick else 100_000) // len(data_of(recipe)))
        values: dict[str, float | str] = {}
        for rate in STEP_SIZES:
            try:
                values[str(rate)] = objective(recipe.replace(training={"learning_rate": rate, "num_epochs": epochs}))
            except FitError:
                values[str(rate)] = "diverged"
        bench.keep(step_sizes=values)
    found = {float(rate): value for rate, value in bench.found["step_sizes"].items() if value != "diverged"}
    return max(found, key=found.__getitem__)


def train_as_published(
    bench: Bench, recipe: Recipe, visit: Visit, *, rate: float = 0.0, warm_up: int | None = None
) -> tuple[ModelGuidePair, int]:
    """:func:`train_to` with Adagrad as in the paper: the step size that does best at first, or a given one."""
    if warm_up is None:
        warm_up = 10 if bench.size.quick else WARM_UP
    rate = rate or choose_step_size(bench, recipe, warm_up)
    return train_to(bench, recipe.replace(training={"learning_rate": rate}), visit, FirstGradients(rate, warm_up))


def train_to(bench: Bench, recipe: Recipe, visit: Visit, *further: Callback) -> tuple[ModelGuidePair, int]:
    """Train, or go on where it stopped, until so many data were seen or it stopped early; visits at every mark."""
    folder, data = bench.folder / "run", data_of(recipe)
    epochs = math.ceil(bench.size.samples / len(data))
    callbacks = [*further, AtMarks(len(data), bench.size.samples, visit)]
    recipe = recipe.replace(training={"num_epochs": epochs})
    fingerprints = {name: part.fingerprint() for name, part in data.parts.items()}
    bench.keep(recipe=recipe.to_dict(), data=fingerprints, seed=recipe.seed)  # first: an interrupted run has results
    before = load_run(folder) if (folder / "checkpoints").exists() else None
    if before is not None and (len(before.history) >= epochs or before.info.get("outcome") == "early stopping"):
        run = before
    elif before is not None and before.history:
        run = resume(folder, num_epochs=epochs, callbacks=callbacks)
    else:
        run = train(recipe, folder, overwrite=True, callbacks=callbacks)
    bench.keep(recipe=run.recipe.to_dict(), ended=run.info["outcome"])
    return run.pair, len(run.history) * len(data)


def bound_at_marks(bench: Bench, test: Dataset) -> Visit:
    """Keeps the bound of test data, drawn by one sample, at every mark."""
    rows = bench.found.get("curve", {})

    def visit(pair: ModelGuidePair, samples: int) -> None:
        bound = evaluate_bound(pair, test, elbo=elbo.TraceELBO(), progress=False)
        rows[str(samples)] = {"test": [bound.mean, bound.sampling_standard_error]}
        bench.keep(curve=rows)

    return visit


def trained(bench: Bench, source: str, latent_dim: int) -> Run:
    """The AEVB run of figure 2 on these data; keeps how many samples it has seen.

    Raises:
        RunError: it was not begun.
    """
    folder = bench.size.runs / "figure2" / f"{source}-{latent_dim}-AEVB" / "run"
    if not folder.exists():
        raise RunError(
            f"figure 2 has not trained {source}-{latent_dim}-AEVB: expected its run in {folder}"
            + try_one_of(f"python -m reproductions figure2 --only {source}-{latent_dim}-AEVB")
        )
    run = load_run(folder)
    bench.keep(samples=len(run.history) * len(run.data), recipe=run.recipe.to_dict())
    return run


class Saves(Callback):
    """Writes the state of a training that has no run folder, every half minute and at its end."""

    def __init__(self, path: Path) -> None:
        self.path, self.next = path, time.monotonic()

    def on_epoch(self, state: TrainingState) -> None:
        """Save where it is time to."""
        if time.monotonic() >= self.next:
            self.on_end(state)

    def on_end(self, state: TrainingState) -> None:
        """Save; the file is there whole or not at all."""
        buffer = io.BytesIO()
        torch.save(state.state_dict(), buffer)
        make_folder(self.path.parent)
        write_bytes(self.path, buffer.getvalue())
        self.next = time.monotonic() + 30
