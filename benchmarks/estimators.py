"""ELBO estimators: cost of a step against SGVB-B and against Pyro's own class, gradient noise, held-out digits.

    python benchmarks/estimators.py                  # all parts; writes benchmarks/results/estimators.json
    python benchmarks/estimators.py --only cost      # or noise, training

cost: one step (value and gradient) on the paper's VAE, 784-500-20, M = 100. All contestants run in one process and take
turns; the time of each is the median of the rounds. noise: the digits VAE after training. training: L_5000 on held-out
digits after training by the ELBO, IWAE-5 and IWAE-50; and a VAE with Bernoulli latents by VIMCO and the score function.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.core import structure
from ppvae.core.compile import MODES, Mode
from ppvae.data import load
from ppvae.distributions import Bernoulli, ConditionalDistribution
from ppvae.inference import compare_elbos, elbo, evidence, fit, log_evidence
from ppvae.inference.comparison.statistics import mean_and_error, seconds_of
from ppvae.inference.training.objective import Objective
from ppvae.models import VAE, bernoulli_vae
from ppvae.networks import MLP

RESULTS = Path(__file__).parent / "results"
D, H, Z, M = 784, 500, 20, 100

ESTIMATORS: dict[str, elbo.ELBO] = {
    "SGVB-B": elbo.TraceMeanFieldELBO(),
    "SGVB-A": elbo.TraceELBO(),
    "StickingTheLanding": elbo.StickingTheLandingELBO(),
    "ScoreFunction": elbo.ScoreFunctionELBO(),
    "ScoreFunction-5, leave-one-out": elbo.ScoreFunctionELBO(num_particles=5, baseline="leave-one-out"),
    "IWAE-5": elbo.ImportanceWeightedELBO(5),
    "Renyi-5 (0.5)": elbo.RenyiELBO(0.5, num_particles=5),
    "DReG-5": elbo.DoublyReparameterizedELBO(5),
    "VIMCO-5": elbo.VIMCO(5),
    "RWS-5": elbo.ReweightedWakeSleep(5),
    "RWS-5, sleep": elbo.ReweightedWakeSleep(5, sleep=0.5),
}
PYRO: dict[str, Any] = {
    "SGVB-B": pyro.infer.TraceMeanField_ELBO(),
    "SGVB-A": pyro.infer.Trace_ELBO(),
    "IWAE-5": pyro.infer.RenyiELBO(alpha=0.0, num_particles=5, vectorize_particles=True),
    "Renyi-5 (0.5)": pyro.infer.RenyiELBO(alpha=0.5, num_particles=5, vectorize_particles=True),
    "RWS-5": pyro.infer.ReweightedWakeSleep(num_particles=5, vectorize_particles=True),
}


def our_step(estimator: elbo.ELBO, x: Tensor, mode: Mode) -> Callable[[], None]:
    """Value and gradient, as ``fit`` asks for them."""
    pair = bernoulli_vae(D, latent_dim=Z, hidden=(H,))
    structure(pair, x)
    objective = Objective(
        pair, estimator, num_data=M, weight_prior=None, prior_names=frozenset(), clip_norm=None, mode=mode
    )
    one = torch.ones(())
    return lambda: (objective(x, one), None)[1]


def pyro_step(estimator: Any, x: Tensor) -> Callable[[], None]:
    """Value and gradient by Pyro's own class, as its SVI asks for them, without the optimiser."""
    pair = bernoulli_vae(D, latent_dim=Z, hidden=(H,))
    parameters = list(pair.parameters())

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        estimator.loss_and_grads(pair.model, pair.guide, x)

    return step


def cost(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a step."""
    x = torch.rand(M, D, generator=torch.Generator().manual_seed(0)).round()
    steps: dict[tuple[str, str], Callable[[], None]] = {}
    for name, estimator in ESTIMATORS.items():
        for mode in MODES:
            steps[name, mode] = our_step(estimator, x, mode)
    for name, estimator in PYRO.items():
        steps[name, "pyro"] = pyro_step(estimator, x)
    median = {key: 1e3 * statistics.median(times) for key, times in seconds_of(steps, rounds).items()}
    rows = []
    for name in ESTIMATORS:
        row: dict[str, Any] = {"estimator": name}
        for mode in (*MODES, "pyro"):
            if (name, mode) in median:
                row[f"{mode}_ms"] = round(median[name, mode], 3)
                if mode != "pyro":
                    row[f"{mode}_relative_to_sgvb_b"] = round(median[name, mode] / median["SGVB-B", mode], 2)
        if (name, "pyro") in median:
            row["pyro_over_eager"] = round(median[name, "pyro"] / median[name, "eager"], 2)
            row["pyro_over_compiled"] = round(median[name, "pyro"] / median[name, "compiled"], 2)
        rows.append(row)
        print("  " + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return rows


def noise(epochs: int, repeats: int) -> dict[str, Any]:
    """Bounds and gradient noise on the digits VAE after training."""
    torch.manual_seed(0)
    data = load("digits", binarize="static")
    pair = bernoulli_vae(64, latent_dim=8, hidden=(100,))
    fit(pair, data, num_epochs=epochs, learning_rate=2e-3, progress=False)
    found = compare_elbos(pair, data.x[:100], ESTIMATORS, num_repeats=repeats, progress=False)
    print(found, flush=True)
    variance = {name: found.block(name, "guide").variance for name in ESTIMATORS}
    ratios = {
        "SGVB-A / SGVB-B": variance["SGVB-A"] / variance["SGVB-B"],
        "score function / SGVB-A": variance["ScoreFunction"] / variance["SGVB-A"],
    }
    print(f"  variance of the guide's gradient: {ratios}", flush=True)
    return {"epochs": epochs, "variance_ratios": ratios, **found.to_dict()}


class Coins(ConditionalDistribution):
    """p(z): independent coins with learned probabilities."""

    def __init__(self, event_shape: int) -> None:
        super().__init__(event_shape)
        self.logits = nn.Parameter(torch.zeros(event_shape))

    def forward(self, *context: Tensor) -> Any:
        """The coins."""
        return dist.Bernoulli(logits=self.logits).to_event(1)


def binary_vae() -> VAE:
    """Digits from 16 binary latents."""
    return VAE(Coins(16), Bernoulli(MLP(16, [100]), 64), Bernoulli(MLP(64, [100]), 16))


def training(epochs: int) -> list[dict[str, Any]]:
    """L_5000 on held-out digits, and its paired difference to the ELBO's, with its standard error."""
    data = load("digits", binarize="dynamic")
    test = load("digits", binarize="static").test
    runs: list[tuple[str, Callable[[], VAE], elbo.ELBO]] = [
        (name, lambda: bernoulli_vae(64, latent_dim=8, hidden=(100,)), estimator)
        for name, estimator in (
            ("ELBO", elbo.TraceELBO()),
            ("IWAE-5", elbo.ImportanceWeightedELBO(5)),
            ("IWAE-50", elbo.ImportanceWeightedELBO(50)),
        )
    ]
    runs += [
        (
            "Bernoulli latents, score function, decaying average",
            binary_vae,
            elbo.ScoreFunctionELBO(baseline="decaying-average"),
        ),
        (
            "Bernoulli latents, score function-5, leave-one-out",
            binary_vae,
            ESTIMATORS["ScoreFunction-5, leave-one-out"],
        ),
        ("Bernoulli latents, VIMCO-5", binary_vae, elbo.VIMCO(5)),
        ("Bernoulli latents, RWS-5", binary_vae, elbo.ReweightedWakeSleep(5)),
    ]
    rows: list[dict[str, Any]] = []
    reference: Tensor | None = None
    for name, make, estimator in runs:
        torch.manual_seed(0)
        pair = make()
        started = time.perf_counter()
        fit(pair, data, elbo=estimator, num_epochs=epochs, learning_rate=2e-3, progress=False)
        seconds = time.perf_counter() - started
        found = log_evidence(pair, test, method=evidence.ImportanceSampling(5000), progress=False)
        row = {"run": name, "L_5000": found.mean, "monte_carlo_error": found.mean_standard_error, "seconds": seconds}
        if reference is None:
            reference = found.log_evidence
        elif name.startswith("IWAE"):
            row["gain_over_elbo"], row["gain_standard_error"] = mean_and_error(found.log_evidence - reference)
        rows.append(row)
        print("  " + "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("cost", "noise", "training"))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    path = options.out / "estimators.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    loads: dict[str, Any] = results.get("machine", {}).get("load_before_and_after", {})
    parts: dict[str, Callable[[], Any]] = {
        "cost": lambda: cost(options.rounds),
        "noise": lambda: noise(options.epochs, options.repeats),
        "training": lambda: training(options.epochs),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            print(name, flush=True)
            before = os.getloadavg()[0]
            results[name] = part()
            # Above the number of cores, other programs ran too: then trust ratios, not times.
            loads[name] = [round(before, 1), round(os.getloadavg()[0], 1)]
    results["machine"] = {
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_before_and_after": loads,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path.name}")


if __name__ == "__main__":
    main()
