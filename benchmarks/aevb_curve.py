"""The lower-bound curve of the paper (arXiv 1312.6114, figure 2, MNIST, N_z = 10) under the paper's protocol.

One tanh hidden layer of 500 units, weights from N(0, 0.01), Adagrad with the step size from {0.01, 0.02, 0.1} that does
best on the training data in the first iterations, M = 100, L = 1, the analytic KL, a N(0, I) prior on the model's
weights, grey pixels in [0, 1] under the Bernoulli cross-entropy. Real MNIST, found through PPVAE_DATA.

    PPVAE_DATA=... python benchmarks/aevb_curve.py     # writes benchmarks/results/aevb_curve.json and .png
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch.distributions import Normal

from ppvae.core import FitError
from ppvae.data import Dataset, load
from ppvae.inference import Callback, Fit, TrainingState, elbo, evaluate_bound, fit
from ppvae.models import VAE, bernoulli_vae

RESULTS = Path(__file__).parent / "results"
PUBLISHED = {1e6: -128.3, 3e6: -115.8, 1e7: -108.5, 1e8: -103.7}  # test bound, read off the figure, +-0.1 nat
STEP_SIZES = (0.01, 0.02, 0.1)


class Marks(Callback):
    """Evaluates the test bound when so many samples have been seen."""

    def __init__(self, test: Dataset, marks: list[float]) -> None:
        self.test, self.marks, self.curve = test, marks, []  # type: ignore[var-annotated]
        self.started = time.perf_counter()

    def on_step(self, state: TrainingState) -> None:
        """Evaluate at the marks."""
        seen = state.step * 100
        if seen in self.marks:
            found = evaluate_bound(state.pair, self.test, progress=False)
            row = {
                "samples": seen,
                "test_bound": found.mean,
                "sampling_standard_error": found.sampling_standard_error,
                "seconds": time.perf_counter() - self.started,
            }
            self.curve.append(row)
            published = PUBLISHED.get(float(seen))
            print(
                f"  {seen:>10,} samples: {found.mean:8.2f} +- {found.sampling_standard_error:.2f}"
                f"  published {published}",
                flush=True,
            )


def train(data: Dataset, steps: int, step_size: float, callbacks: list[Callback]) -> tuple[VAE, Fit]:
    """The paper's protocol for so many minibatches."""
    torch.manual_seed(0)
    pair = bernoulli_vae(784, latent_dim=10, hidden=(500,), allow_grey=True)

    class Stop(Callback):
        def on_step(self, state: TrainingState) -> None:
            if state.step >= steps:
                raise KeyboardInterrupt

    result = fit(
        pair,
        data,
        elbo=elbo.TraceMeanFieldELBO(),
        optimizer="adagrad",
        learning_rate=step_size,
        weight_prior=Normal(0.0, 1.0),
        num_epochs=10**6,
        batch_size=100,
        compile="compiled" if steps > 5000 else "graph",
        callbacks=[*callbacks, Stop()],
        progress=False,
    )
    return pair, result


def main() -> None:
    """Choose the step size, train, compare with the published curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, default=3e6)
    options = parser.parse_args()
    full = load("mnist")
    data, test = Dataset(full.train.x, value_space="unit"), full.test
    assert test is not None
    first = {}
    for step_size in STEP_SIZES:
        try:
            pair, _ = train(data, 1000, step_size, [])
            first[step_size] = evaluate_bound(pair, data.take(5000), progress=False).mean
        except FitError as error:
            first[step_size] = -math.inf
            print(str(error).splitlines()[0])
        print(f"step size {step_size}: training bound after 1e5 samples {first[step_size]:.2f}", flush=True)
    best = max(first, key=first.__getitem__)
    marks = Marks(test, [s for s in (1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8) if s <= options.samples])
    train(data, int(options.samples) // 100, best, [marks])
    RESULTS.mkdir(exist_ok=True)
    record = {
        "step_size": best,
        "training_bound_after_1e5": {str(k): v if math.isfinite(v) else "diverged" for k, v in first.items()},
        "curve": marks.curve,
        "published": {f"{k:.0f}": v for k, v in PUBLISHED.items()},
        "unit": "nats per datum, test set of 10 000",
    }
    (RESULTS / "aevb_curve.json").write_text(json.dumps(record, indent=1) + "\n")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([r["samples"] for r in marks.curve], [r["test_bound"] for r in marks.curve], "o-", label="ppvae")
    axes.plot(*zip(*PUBLISHED.items(), strict=True), "s--", color="0.4", label="published")
    axes.set(xscale="log", xlabel="training samples seen", ylabel="test bound, nats per datum", title="MNIST, N_z = 10")
    axes.legend()
    figure.savefig(RESULTS / "aevb_curve.png", dpi=120)


if __name__ == "__main__":
    main()
