"""One training step with a posterior over the decoder's weights, relative to the plain pair (784-500-20).

All contestants run in one process and take turns; the time of each is the best of the rounds.

    python benchmarks/bayesian_step.py    # writes benchmarks/results/bayesian_step.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from svi_step import fit_step

from ppvae.core.compile import Mode
from ppvae.inference import elbo
from ppvae.inference.comparison.statistics import seconds_of
from ppvae.models import bayesianise, bernoulli_vae

RESULTS = Path(__file__).parent / "results"
SCHEMES = ("shared", "local-reparameterization", "flipout")


def main() -> None:
    """Run the contest and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    results: dict[str, object] = {}
    modes: tuple[Mode, ...] = ("graph", "compiled")
    for batch in (100, 500):
        x = torch.bernoulli(torch.full((batch, 784), 0.2))
        for mode in modes:
            plain = bernoulli_vae(784, latent_dim=20, hidden=(500,))
            pairs = {"plain": plain, **{scheme: bayesianise(plain, weight_noise=scheme) for scheme in SCHEMES}}
            steps = {
                name: fit_step(pair, x, elbo.TraceMeanFieldELBO(), num_data=60_000, learning_rate=1e-3, mode=mode)
                for name, pair in pairs.items()
            }
            taken = seconds_of(steps, options.rounds, calls=options.steps, warm_up=1)
            best = {name: 1e3 * min(times) for name, times in taken.items()}
            print(f"M = {batch}, {mode}")
            for name, value in best.items():
                print(f"  {name:<26}{value:8.3f} ms  {value / best['plain']:5.2f}", flush=True)
            results[f"M={batch}, {mode}"] = {
                "milliseconds": best,
                "relative to plain": {name: value / best["plain"] for name, value in best.items()},
            }
    results["setting"] = {
        "torch": torch.__version__,
        "threads": options.threads,
        "statistic": "best of rounds",
        "network": "784-500-20, Adam, TraceMeanFieldELBO",
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bayesian_step.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
