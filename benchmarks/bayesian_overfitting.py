"""Full variational Bayes against ML and MAP on few data: held-out bound and L_5000, mean and standard error over seeds.

Digits with 200 training images, and MNIST with 1000 (the setting of AEVB's Figure 3: 3 latents, 100 tanh units). The
prior of full variational Bayes (fixed scale or one learned with the posterior) and whether the KL is warmed up are
chosen by its training bound at the first seed, never by test data. Network, optimiser, schedule and number of steps are
the same for all; what is trained is the same but for the weights' posterior. How much the
training objective still rose in the second half of the epochs is recorded beside it, and what ML and MAP reach in 300
epochs, before they overfit.

"L_5000" is importance sampling with 5000 draws at one set of weights: for full variational Bayes the posterior's mean.
"averaged" is its posterior predictive density: p(x | w) by 500 draws, averaged over 50 draws of w. Both are lower
bounds, and of data that the encoder has not seen they can be tens of nats low where it overfits too, so that they say
how model and encoder do together: docs/paper.md, appendix F, has annealed importance sampling beside one.

    PPVAE_DATA=... python benchmarks/bayesian_overfitting.py    # writes benchmarks/results/bayesian_overfitting.json
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pyro.distributions import Normal
from torch import Tensor

from ppvae.core import ModelGuidePair
from ppvae.data import load
from ppvae.distributions.weight_priors import NormalPrior
from ppvae.inference import KLWarmup, elbo, evaluate_bound, evidence, fit, log_evidence
from ppvae.inference.comparison.statistics import mean_and_error
from ppvae.models import BayesianPair, bayesianise, bernoulli_vae

RESULTS = Path(__file__).parent / "results"
PRIORS = {"0.3": NormalPrior(0.3), "1.0": NormalPrior(1.0), "learned": NormalPrior(0.3, learn=True)}
EARLY = 300  # epochs
CHOICES = [(prior, warm) for prior in PRIORS for warm in (False, True)]


@dataclass(frozen=True)
class Setting:
    """One data set and how it is trained."""

    name: str
    num_train: int
    num_test: int
    num_epochs: int
    batch_size: int
    learning_rate: float
    num_seeds: int


SETTINGS = (
    Setting("digits", 200, 300, 2000, 50, 5e-3, 5),
    Setting("mnist", 1000, 300, 2000, 100, 3e-3, 3),
)


def parts(setting: Setting, seed: int) -> tuple[Tensor, Tensor]:
    """Training images, another subset for each seed, and held-out images, the same for all."""
    data = load(setting.name, binarize="static")
    assert data.test is not None
    train, test = data.tensor(), data.test.tensor()
    assert isinstance(train, Tensor) and isinstance(test, Tensor)
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: setting.num_train]
    return train[rows].float(), test[: setting.num_test].float()


def train(
    setting: Setting, method: str, seed: int, choice: tuple[str, bool] = ("1.0", False)
) -> tuple[ModelGuidePair, float, float]:
    """The trained pair, its training bound (nats per datum, weights' KL shared out), its rise in the second half."""
    x, _ = parts(setting, seed)
    prior, warm = choice
    torch.manual_seed(seed)
    pair: ModelGuidePair = bernoulli_vae(x.shape[1], latent_dim=3, hidden=(100,))
    if method == "full VB":
        pair = bayesianise(pair, prior=PRIORS[prior], weight_noise="local-reparameterization")
    done = fit(
        pair,
        x,
        elbo=elbo.TraceMeanFieldELBO(),
        weight_prior=Normal(0.0, 1.0) if method == "MAP" else None,
        learning_rate=setting.learning_rate,
        schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, setting.num_epochs),
        kl_warmup=KLWarmup(setting.num_epochs // 3) if method == "full VB" and warm else None,
        num_epochs=setting.num_epochs,
        batch_size=setting.batch_size,
        seed=seed,
        compile="graph",
        progress=False,
    )
    bounds = torch.tensor([row["elbo_train"] for row in done.history])
    half, few = len(bounds) // 2, len(bounds) // 20
    last = float(bounds[-few:].mean())
    return pair, last, last - float(bounds[half - few : half].mean())


def measure(setting: Setting, pair: ModelGuidePair, seed: int) -> dict[str, float]:
    """The bound on training and held-out data (its local part), and L_5000 on held-out data; nats per datum."""
    x, test = parts(setting, seed)
    train, held = (evaluate_bound(pair, data, seed=seed, progress=False) for data in (x, test))
    found = {
        "train bound": float(train.elbo.mean()),
        "held-out bound": float(held.elbo.mean()),
        "held-out KL of the latents": float(held.kl.mean()),
    }
    bayesian = isinstance(pair, BayesianPair)
    method, sites = evidence.ImportanceSampling(5000), "mean" if bayesian else None
    found["L_5000"] = log_evidence(pair, test, method=method, global_sites=sites, seed=seed, progress=False).mean
    if bayesian:
        method = evidence.ImportanceSampling(500)
        found["averaged"] = log_evidence(pair, test, method=method, global_sites=50, seed=seed, progress=False).mean
    return found


def summary(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Mean and standard error over seeds."""
    return {key: [*mean_and_error(torch.tensor([row[key] for row in rows], dtype=torch.float64))] for key in rows[0]}


def main() -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[s.name for s in SETTINGS])
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "bayesian_overfitting.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    torch.set_num_threads(1)
    for setting in SETTINGS:
        if options.only not in (None, setting.name):
            continue
        started = time.perf_counter()
        print(f"{setting.name}: {setting.num_train} training images, {setting.num_epochs} epochs", flush=True)
        candidates = {}
        for choice in CHOICES:
            candidates[choice] = train(setting, "full VB", 0, choice)
            _, bound, rise = candidates[choice]
            print(
                f"  {name(choice)}: training bound {bound:.2f} (weights' KL included), rose by {rise:.2f}", flush=True
            )
        best = max(CHOICES, key=lambda choice: candidates[choice][1])
        table: dict[str, dict[str, list[float]]] = {}
        rises: dict[str, list[float]] = {}
        for method in ("ML", "MAP", "full VB"):
            rows, rises[method] = [], []
            for seed in range(setting.num_seeds):
                known = method == "full VB" and seed == 0
                pair, _, rise = candidates[best] if known else train(setting, method, seed, best)
                rises[method].append(rise)
                rows.append(measure(setting, pair, seed))
            table[method] = summary(rows)
            shown = ", ".join(f"{key} {mean:.2f} ± {error:.2f}" for key, (mean, error) in table[method].items())
            print(f"  {method:<8} {shown}; rose by {max(rises[method]):.2f} at most", flush=True)
        results[setting.name] = {
            "setting": vars(setting),
            f"ML and MAP after {EARLY} epochs": early(setting),
            "candidates by training bound": {name(choice): found[1] for choice, found in candidates.items()},
            "their rise in the second half of the epochs": {name(c): found[2] for c, found in candidates.items()},
            "chosen": name(best),
            "nats per datum: [mean, standard error over seeds]": table,
            "rise of the training objective in the second half": rises,
            "seconds": time.perf_counter() - started,
        }
        path.write_text(json.dumps(results, indent=1) + "\n")


def early(setting: Setting) -> dict[str, dict[str, list[float]]]:
    """ML and MAP with a schedule that ends early: what they reach before they overfit."""
    short = replace(setting, num_epochs=EARLY)
    seeds = range(setting.num_seeds)
    return {
        method: summary([measure(setting, train(short, method, seed)[0], seed) for seed in seeds])
        for method in ("ML", "MAP")
    }


def name(choice: tuple[str, bool]) -> str:
    """How tables call a candidate."""
    return f"prior {choice[0]}" + (", warmed up" if choice[1] else "")


if __name__ == "__main__":
    main()
