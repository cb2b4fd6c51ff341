"""A training step of the README's VAE (784-500-20) by one process and by two, which average their gradients.

Three settings: one process; two that share the same minibatch; two with the same rows for each. In each, ``fit``
trains on random binary rows, one thread a process, and the time of a step is that of the fastest epoch. A step of two
moves 3.3 MB of gradients through gloo. What two processes gain depends on the cores that are free: ``load_average``
says what else ran.

    python benchmarks/processes.py            # writes benchmarks/results/processes.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

RESULTS = Path(__file__).parent / "results"
STEPS = 20
"""Steps of an epoch."""


def work(rank: int, count: int, rows: int, epochs: int, port: int, folder: str) -> None:
    """Train; the first process writes the seconds of its fastest step, and of one communication."""
    from ppvae.inference import fit
    from ppvae.inference.comparison.statistics import seconds_of
    from ppvae.inference.execution.processes import together
    from ppvae.models import bernoulli_vae

    torch.set_num_threads(1)
    if count > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    torch.manual_seed(0)
    x, pair = torch.bernoulli(torch.full((STEPS * rows, 784), 0.3)), bernoulli_vae(784, latent_dim=20, hidden=(500,))
    result = fit(pair, x, batch_size=rows, num_epochs=epochs, compile="graph", progress=False)
    clock = [row["seconds"] for row in result.history]
    seconds = min(after - before for before, after in itertools.pairwise(clock)) / STEPS
    gradients = [torch.zeros_like(parameter) for parameter in pair.parameters()]
    with together() as processes:
        times = seconds_of({"mean": lambda: processes.mean(gradients)}, STEPS)["mean"]
    if rank == 0:
        content = {"step_seconds": seconds, "communication_seconds": min(times)}
        (Path(folder) / "result.json").write_text(json.dumps(content))
    if count > 1:
        dist.destroy_process_group()


def measure(count: int, rows: int, epochs: int) -> dict[str, Any]:
    """A setting in processes of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (count, rows, epochs, port, folder), nprocs=count)
        found = json.loads((Path(folder) / "result.json").read_text())
    return {"processes": count, "rows": rows, **found, "load_average": os.getloadavg()[0]}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 1000], help="M of one process")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    settings = []
    for rows in options.rows:
        one, shared, twice = (measure(*s, options.epochs) for s in ((1, rows), (2, rows), (2, 2 * rows)))
        settings += [one, shared, twice]
        print(
            f"M = {rows}: {1e3 * one['step_seconds']:.2f} ms by one process, {1e3 * shared['step_seconds']:.2f} ms by "
            f"two: {one['step_seconds'] / shared['step_seconds']:.2f} times as fast; with {rows} rows for each, "
            f"{2 * one['step_seconds'] / twice['step_seconds']:.2f} times the rows a second; one communication takes "
            f"{1e3 * shared['communication_seconds']:.2f} ms"
        )
    result = {
        "setting": "784-500-20, adam, recorded graph, one thread a process, gloo on one machine",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "settings": settings,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "processes.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
