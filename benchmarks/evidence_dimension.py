"""Prior and importance sampling against the exact evidence, as the latent dimension grows."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch

from ppvae.inference.comparison.statistics import mean_and_error
from ppvae.inference.evidence import Evidence, ImportanceSampling, PriorSampling, log_evidence
from ppvae.models import FactorAnalysis

DIMENSIONS = (2, 3, 5, 10, 20, 30, 50)
COLUMNS = (
    "latent_dim", "method", "num_samples", "mean_error", "mean_error_se", "root_mean_square", "median_ess",
    "median_pareto_k", "seconds",
)  # fmt: skip


def pair_and_data(latent_dim: int, num_data: int) -> tuple[FactorAnalysis, torch.Tensor]:
    """Twice as many dimensions as factors, all equally informative, and a guide that is wrong along every axis."""
    torch.manual_seed(latent_dim)
    loading = torch.linalg.qr(torch.randn(2 * latent_dim, latent_dim)).Q * 3.0
    model = FactorAnalysis.from_parameters(torch.zeros(2 * latent_dim), loading, torch.ones(2 * latent_dim))
    return model.with_wrong_guide(shift=0.2, stretch=1.1), model.marginal().sample((num_data,)).detach()


def row(latent_dim: int, found: Evidence, exact: torch.Tensor, num_samples: int) -> dict[str, object]:
    """One line of the table; the error's own standard error is its spread over data."""
    error = (found.log_evidence - exact).double()
    mean, standard_error = mean_and_error(error)
    return {
        "latent_dim": latent_dim,
        "method": found.method,
        "num_samples": num_samples,
        "mean_error": f"{mean:.4f}",
        "mean_error_se": f"{standard_error:.4f}",
        "root_mean_square": f"{error.square().mean().sqrt():.4f}",
        "median_ess": f"{found.effective_sample_size.median():.1f}",
        "median_pareto_k": f"{found.pareto_k.median():.2f}",
        "seconds": f"{found.seconds:.1f}",
    }


def figure(rows: list[dict[str, object]], path: Path) -> None:
    """Mean error over latent dimension, one line per method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for method in dict.fromkeys(str(r["method"]) for r in rows):
        chosen = [r for r in rows if r["method"] == method]
        error = [-float(str(r["mean_error"])) for r in chosen]
        bars = [2 * float(str(r["mean_error_se"])) for r in chosen]
        axes.errorbar([int(str(r["latent_dim"])) for r in chosen], error, bars, marker="o", capsize=3, label=method)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("latent dimension")
    axes.set_ylabel("log p(x) minus its estimate, nats per datum")
    axes.legend(title=f"{rows[0]['num_samples']} samples")
    canvas.savefig(path, dpi=150)


def main() -> None:
    """Write evidence_dimension.csv and evidence_dimension.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-data", type=int, default=200)
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for latent_dim in DIMENSIONS:
        pair, x = pair_and_data(latent_dim, options.num_data)
        exact = pair.log_evidence(x).detach()
        for method in (PriorSampling(options.num_samples), ImportanceSampling(options.num_samples)):
            rows.append(row(latent_dim, log_evidence(pair, x, method=method), exact, options.num_samples))
            print("  ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
    with (options.out / "evidence_dimension.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    figure(rows, options.out / "evidence_dimension.png")


if __name__ == "__main__":
    main()
