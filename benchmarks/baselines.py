"""One minibatch of AEVB, wake-sleep and Monte Carlo EM at the setting of the paper's figure 3 (784-100-3, M = 100).

Figure 3 of arXiv 1312.6114 compares the three by training time, so that what each takes for a minibatch is part of the
result. Here they run in one process and take turns, on one thread; the time of each is the best of the rounds, of the
processor's time, in which other work of the machine does not count. Beside the ratios stand
those of a count: of gradients, and of products with the matrices of 784 x 100, which is what a minibatch cannot do
without (a gradient in the weights takes one to the hidden units' values, one back to their gradient, one for the
matrix; a gradient in z does not need the last, and the encoder's not the second).

    python benchmarks/baselines.py    # writes benchmarks/results/baselines.json
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from svi_step import fit_step
from torch import Tensor
from torch.distributions import Normal

from ppvae.core import ModelGuidePair, unconstrained
from ppvae.core.compile import Mode
from ppvae.core.modes import evaluation_mode
from ppvae.inference import elbo, wake_sleep
from ppvae.inference.comparison.statistics import seconds_of
from ppvae.inference.training.ascent import names_of_model
from ppvae.inference.training.mcem import Chains, CompleteData
from ppvae.inference.training.options import make_optimizer
from ppvae.models import bernoulli_vae

RESULTS = Path(__file__).parent / "results"
D, H, Z, M, N = 784, 100, 3, 100, 1000
LEARNING_RATE = 0.02
NUM_LEAPFROG, NUM_UPDATES = 10, 5
GRADIENTS = {"AEVB": 1, "wake-sleep": 2, "Monte Carlo EM": 1 + NUM_LEAPFROG + NUM_UPDATES}
PRODUCTS = {"AEVB": 2 + 3, "wake-sleep": 1 + 3 + 1 + 2, "Monte Carlo EM": 2 * (1 + NUM_LEAPFROG) + 3 * NUM_UPDATES}


def new_pair() -> ModelGuidePair:
    """The network of figure 3."""
    torch.manual_seed(0)
    return bernoulli_vae(D, latent_dim=Z, hidden=(H,))


def bound_step(x: Tensor, estimator: elbo.ELBO, mode: Mode) -> Callable[[], None]:
    """A step of ``fit``."""
    return fit_step(
        new_pair(),
        x,
        estimator,
        num_data=N,
        learning_rate=LEARNING_RATE,
        mode=mode,
        optimizer="adagrad",
        weight_prior=Normal(0.0, 1.0),
    )


def mcem_step(x: Tensor, mode: Mode) -> Callable[[], None]:
    """A step of ``fit_mcem``: one transition of the chains, then the updates."""
    pair = new_pair()
    with evaluation_mode(pair):
        coordinates, names = unconstrained(pair, x), names_of_model(pair, x)
        chains = Chains(pair, x, coordinates, N, NUM_LEAPFROG, 0.9, mode)
    complete = CompleteData(pair, coordinates, names, Normal(0.0, 1.0), N, mode)
    optimizer, index = make_optimizer("adagrad", LEARNING_RATE, complete.trainable.values()), torch.arange(len(x))

    def step() -> None:
        u, _ = chains.move(complete.inputs, x, index)
        for _ in range(NUM_UPDATES):
            found = complete(x, u)
            if not math.isfinite(float(found.check)):
                raise RuntimeError("not finite")
            complete.apply(found, optimizer)

    return step


def main() -> None:
    """Run the contest and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--modes", nargs="+", default=["graph", "compiled"])
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.bernoulli(torch.full((M, D), 0.2), generator=torch.Generator().manual_seed(1))
    results: dict[str, object] = {}
    for mode in options.modes:
        steps = {
            "AEVB": bound_step(x, elbo.TraceMeanFieldELBO(), mode),
            "wake-sleep": bound_step(x, wake_sleep(), mode),
            "Monte Carlo EM": mcem_step(x, mode),
        }
        taken = seconds_of(steps, options.rounds, calls=options.steps, warm_up=1, clock=time.process_time)
        best = {name: 1e3 * min(times) for name, times in taken.items()}
        print(f"{mode:<20}     time   ratio   by gradients   by products")
        rows = {}
        for name, value in best.items():
            ratio = value / best["AEVB"]
            gradients, products = (count[name] / count["AEVB"] for count in (GRADIENTS, PRODUCTS))
            print(f"  {name:<16}{value:8.2f} ms{ratio:8.2f}{gradients:15.2f}{products:14.2f}", flush=True)
            rows[name] = {
                "milliseconds": value,
                "relative to AEVB": ratio,
                "by gradients": gradients,
                "by products": products,
            }
        results[mode] = rows
    results["setting"] = {
        "torch": torch.__version__,
        "threads": 1,
        "statistic": "best of rounds, processor time",
        "network": f"{D}-{H}-{Z}, M = {M}, Adagrad, N(0, 1) weight prior",
        "Monte Carlo EM": f"{NUM_LEAPFROG} leapfrogs, {NUM_UPDATES} updates",
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "baselines.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
