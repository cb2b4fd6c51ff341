"""Full variational Bayes against ML and MAP on few data: held-out bound and L_5000, mean and standard error over seeds.

Digits with 200 training images, and MNIST with 1000 (the setting of AEVB's Figure 3: 3 latents, 100 tanh units). The
prior scale of full variational Bayes, fixed or learned with the posterior, is chosen by its training bound at the
first seed, never by test data. Network,
optimiser and number of steps are the same for all; what is trained is the same but for the weights' posterior.

    PPVAE_DATA=... python benchmarks/bayesian_overfitting.py    # writes benchmarks/results/bayesian_overfitting.json
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from pyro.distributions import Normal
from torch import Tensor

from ppvae.core import ModelGuidePair
from ppvae.data import load
from ppvae.distributions.weight_priors import NormalPrior
from ppvae.inference import elbo, evaluate_bound, evidence, fit, log_evidence
from ppvae.models import BayesianPair, bayesianise, bernoulli_vae

RESULTS = Path(__file__).parent / "results"
PRIORS = {
    "0.1": NormalPrior(0.1),
    "0.3": NormalPrior(0.3),
    "1.0": NormalPrior(1.0),
    "learned": NormalPrior(0.3, learn=True),
}


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
    Setting("digits", 200, 200, 600, 50, 5e-3, 3),
    Setting("mnist", 1000, 200, 300, 100, 3e-3, 2),
)


def parts(setting: Setting, seed: int) -> tuple[Tensor, Tensor]:
    """Training images, another subset for each seed, and held-out images, the same for all."""
    data = load(setting.name, binarize="static")
    assert data.test is not None
    train, test = data.tensor(), data.test.tensor()
    assert isinstance(train, Tensor) and isinstance(test, Tensor)
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: setting.num_train]
    return train[rows].float(), test[: setting.num_test].float()


def train(setting: Setting, method: str, seed: int, prior: str = "1.0") -> tuple[ModelGuidePair, float]:
    """The trained pair and its bound on the training data, nats per datum, the weights' KL shared out."""
    x, _ = parts(setting, seed)
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
        num_epochs=setting.num_epochs,
        batch_size=setting.batch_size,
        seed=seed,
        compile="graph",
        progress=False,
    )
    last = done.history[-20:]
    return pair, sum(row["elbo_train"] for row in last) / len(last)


def measure(setting: Setting, pair: ModelGuidePair, seed: int) -> dict[str, float]:
    """The bound on training and held-out data (its local part), and L_5000 on held-out data; nats per datum."""
    x, test = parts(setting, seed)
    found = {
        "train bound": float(evaluate_bound(pair, x, seed=seed, progress=False).elbo.mean()),
        "held-out bound": float(evaluate_bound(pair, test, seed=seed, progress=False).elbo.mean()),
    }
    if isinstance(pair, BayesianPair):
        one = log_evidence(
            pair, test, method=evidence.ImportanceSampling(5000), global_sites="mean", seed=seed, progress=False
        )
        many = log_evidence(
            pair, test, method=evidence.ImportanceSampling(500), global_sites=10, seed=seed, progress=False
        )
        return {**found, "L_5000": many.mean, "L_5000 at the mean weights": one.mean}
    return {
        **found,
        "L_5000": log_evidence(pair, test, method=evidence.ImportanceSampling(5000), seed=seed, progress=False).mean,
    }


def summary(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Mean and standard error over seeds."""
    result = {}
    for key in rows[0]:
        values = torch.tensor([row[key] for row in rows], dtype=torch.float64)
        result[key] = [float(values.mean()), float(values.std() / math.sqrt(len(values)))]
    return result


def main() -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[s.name for s in SETTINGS])
    options = parser.parse_args()
    path = RESULTS / "bayesian_overfitting.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    torch.set_num_threads(1)
    for setting in SETTINGS:
        if options.only not in (None, setting.name):
            continue
        started = time.perf_counter()
        print(f"{setting.name}: {setting.num_train} training images, {setting.num_epochs} epochs", flush=True)
        trained = {prior: train(setting, "full VB", 0, prior) for prior in PRIORS}
        for prior, (_, bound) in trained.items():
            print(f"  prior scale {prior}: training bound {bound:.2f} (weights' KL included)", flush=True)
        best = max(PRIORS, key=lambda prior: trained[prior][1])
        table = {}
        for method in ("ML", "MAP", "full VB"):
            rows = []
            for seed in range(setting.num_seeds):
                pair = trained[best][0] if method == "full VB" and seed == 0 else train(setting, method, seed, best)[0]
                rows.append(measure(setting, pair, seed))
            table[method] = summary(rows)
            shown = ", ".join(f"{key} {mean:.2f} ± {error:.2f}" for key, (mean, error) in table[method].items())
            print(f"  {method:<8} {shown}", flush=True)
        results[setting.name] = {
            "setting": vars(setting),
            "prior scale by training bound": {prior: bound for prior, (_, bound) in trained.items()},
            "chosen prior scale": best,
            "nats per datum: [mean, standard error over seeds]": table,
            "seconds": time.perf_counter() - started,
        }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
