"""A training step of every model of the suite, against the same programs in stock Pyro's SVI.

Both sides have the same networks, data, estimator and optimiser (Adam) and run in one process, in turns; the time of
each is the median of the rounds, in processor time by default, in which the machine's other work does not count. Ours
is the step that ``fit`` runs, recorded ("graph") and compiled; ``TraceEnum_ELBO`` stands against a class that is summed
out, where Pyro has no other, and ``Trace_ELBO`` against all else.

    python benchmarks/model_steps.py                     # all models; writes benchmarks/results/model_steps.json
    python benchmarks/model_steps.py --only topic-model --modes graph
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from svi_step import fit_step
from torch import Tensor

from ppvae import models
from ppvae.core import ModelGuidePair, batch_size
from ppvae.core.compile import Mode
from ppvae.inference import elbo
from ppvae.inference.comparison.statistics import seconds_of

RESULTS = Path(__file__).parent / "results"
M = 100


class Case(NamedTuple):
    """A model, a batch of data like those it is for, and the estimators of both sides.

    Attributes:
        make: the pair, at a size of its literature.
        data: a batch.
        ours: our estimator.
        pyros: Pyro's.
    """

    make: Callable[[], ModelGuidePair]
    data: Callable[[], Any]
    ours: Callable[[], elbo.ELBO] = elbo.TraceELBO
    pyros: Callable[[], Any] = Trace_ELBO


def pixels(count: int = M) -> Tensor:
    """Binary pictures."""
    return torch.rand(count, 784).round()


def words(size: int = 2000) -> Tensor:
    """Counts of a document's words, most of them none."""
    return torch.poisson(torch.full((M, size), 0.05))


def labels() -> Tensor:
    """A class of ten for each datum."""
    return torch.randint(10, (M,))


def summed_out() -> Any:
    """Pyro's estimator with discrete sites summed out."""
    return TraceEnum_ELBO(max_plate_nesting=1)


CASES: dict[str, Case] = {
    "bernoulli-vae": Case(lambda: models.bernoulli_vae(784), pixels),
    "gaussian-vae": Case(lambda: models.gaussian_vae(560), lambda: torch.rand(M, 560)),
    "vae, VampPrior": Case(lambda: models.bernoulli_vae(784, prior=models.priors.vamp(500)), pixels),
    "vae, planar flow": Case(lambda: models.bernoulli_vae(784, posterior=models.posteriors.planar(10)), pixels),
    "hierarchical-vae": Case(lambda: models.hierarchical_vae(784), pixels),
    "convolutional-vae": Case(lambda: models.convolutional_vae(784, (28, 28)), pixels),
    "mixture-vae": Case(lambda: models.mixture_vae(784), pixels, pyros=summed_out),
    "semi-supervised-vae": Case(
        lambda: models.semi_supervised_vae(784, 10),
        lambda: {"x": pixels(), "label": torch.full((M,), -1)},
        pyros=summed_out,
    ),
    "conditional-vae": Case(
        lambda: models.conditional_vae(784, 10), lambda: {"x": pixels(), "label": torch.eye(10)[labels()]}
    ),
    "sigmoid-belief-network": Case(lambda: models.sigmoid_belief_network(784), pixels, elbo.ScoreFunctionELBO),
    "topic-model": Case(lambda: models.topic_model(2000), words),
    "count-vae": Case(lambda: models.count_vae(2000), words),
    "deep-exponential-family": Case(lambda: models.deep_exponential_family(2000), words),
    "missing-data-vae": Case(
        lambda: models.missing_data_vae(784), lambda: {"x": pixels(), "seen": torch.rand(M, 784) < 0.7}
    ),
    "multimodal-vae": Case(
        lambda: models.multimodal_vae(784, 10),
        lambda: {"x": pixels(), "label": torch.eye(10)[labels()], **{f"has_{n}": labels() > 2 for n in ("x", "label")}},
    ),
    "deep-markov-model": Case(
        lambda: models.deep_markov_model((60, 88)),
        lambda: {"x": torch.rand(20, 60, 88).round(), "lengths": torch.randint(20, 61, (20,))},
    ),
    "hidden-markov-model": Case(
        lambda: models.HiddenMarkovModel(10, num_categories=50),
        lambda: {"x": torch.randint(50, (M, 20)), "lengths": torch.randint(5, 21, (M,))},
        pyros=summed_out,
    ),
}


def measure(case: Case, modes: list[Mode], rounds: int, steps: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Milliseconds of a step of each side, and ours by Pyro's."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    x = case.data()
    stock = case.make()
    svi = SVI(stock.model, stock.guide, pyro.optim.Adam({"lr": 1e-3}), case.pyros())
    contestants: dict[str, Callable[[], object]] = {"pyro": lambda: svi.step(x)}
    for mode in modes:
        contestants[mode] = fit_step(case.make(), x, case.ours(), num_data=batch_size(x), learning_rate=1e-3, mode=mode)
    found = seconds_of(contestants, rounds, calls=steps, clock=clock)
    middle = {name: statistics.median(times) for name, times in found.items()}
    return {
        "milliseconds": {name: round(1e3 * seconds, 3) for name, seconds in middle.items()},
        "ratio": {mode: round(middle[mode] / middle["pyro"], 3) for mode in modes},
    }


def main() -> None:
    """Measure the models one after the other, and keep what was measured before of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES), nargs="*", default=list(CASES))
    parser.add_argument("--modes", choices=("eager", "graph", "compiled"), nargs="*", default=["graph", "compiled"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--wall", action="store_true", help="wall time, for a quiet machine")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    clock = time.perf_counter if options.wall else time.process_time
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "model_steps.json"
    kept = json.loads(results.read_text()) if results.exists() else {}
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "clock": clock.__name__}
    print(f"{'model':<26}{'stock Pyro':>12}" + "".join(f"{mode:>20}" for mode in options.modes))
    for name in options.only:
        found = measure(CASES[name], options.modes, options.rounds, options.steps, clock)
        times, ratios = found["milliseconds"], found["ratio"]
        cells = "".join(f"{times[mode]:10.2f} ms ({ratios[mode]:.2f})" for mode in options.modes)
        print(f"{name:<26}{times['pyro']:9.2f} ms{cells}", flush=True)
        kept[name] = {**found, **machine}
        results.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
