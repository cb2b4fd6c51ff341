"""Memory of AIS under a VampPrior of 500, against the budget that it was given, and its time.

    python benchmarks/evidence_memory.py     # writes benchmarks/results/evidence_memory.json

1000 data, 784-300-40, 16 chains. The peak is what the resident memory of this process rises by above what it is after
the same on four data, which loads and records everything; chunks of data are as large as the budget lets them be. Few
temperatures: time grows with their number, memory hardly.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from ppvae.distributions import Bernoulli, DiagonalNormal, VampPrior
from ppvae.inference import evidence, log_evidence
from ppvae.models import Latent, LatentModel, Observed
from ppvae.networks import MLP

RESULTS = Path(__file__).parent / "results"
D, H, Z, K = 784, 300, 40, 500


def vamp() -> LatentModel:
    """A VAE with the prior that reads its posterior at 500 pseudo-inputs."""
    posterior = DiagonalNormal(MLP(D, [H]), Z)
    return LatentModel(
        z=Latent(VampPrior(posterior, K, D), posterior=posterior.given("x")),
        x=Observed(Bernoulli(MLP(Z, [H]), D).given("z")),
    )


def peak() -> int:
    """Bytes of resident memory, the most so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Run it and set the peak against the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-data", type=int, default=1000)
    parser.add_argument("--num-chains", type=int, default=16)
    parser.add_argument("--num-temperatures", type=int, default=10)
    parser.add_argument("--budget", type=int, default=2**30, help="bytes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    torch.manual_seed(0)
    pair, x = vamp(), torch.bernoulli(torch.full((options.num_data, D), 0.2))
    method = evidence.AIS(num_temperatures=options.num_temperatures, num_chains=options.num_chains)

    def run(data: torch.Tensor) -> evidence.Evidence:
        return log_evidence(pair, data, method=method, compile="graph", memory_budget=options.budget, progress=False)

    run(x[:4])
    before, start = peak(), time.perf_counter()
    found = run(x)
    seconds, rise = time.perf_counter() - start, peak() - before
    result: dict[str, Any] = {
        "peak bytes": rise,
        "budget": options.budget,
        "peak / budget": rise / options.budget,
        "seconds": seconds,
        "seconds a datum and temperature": seconds / options.num_data / options.num_temperatures,
        "setting": {
            "data": options.num_data,
            "chains": options.num_chains,
            "temperatures": options.num_temperatures,
            "data in a chunk": int(found.info["chunk_size"]),
            "network": f"{D}-{H}-{Z}, VampPrior({K})",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }
    print(f"peak {rise / 2**20:.0f} MiB of {options.budget / 2**20:.0f} MiB   {seconds:.1f} s")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "evidence_memory.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
