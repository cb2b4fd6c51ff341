"""Training on a file of ten times the memory that is allowed, against the same rows in memory.

    python benchmarks/larger_than_memory.py      # writes benchmarks/results/larger_than_memory.json

Each contestant is a process of its own, in alternation: one with the limit of the suite (``PPVAE_MEMORY``), which maps
the file, one without, which has read it. The net is 784-200-10, M = 100, on rows of bytes that are binarised at each
batch. Time is that of the second epoch by the clock, the median of the rounds; memory is what the process holds beyond
files (RssAnon), the most between two steps, less what it held before it saw the data.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from ppvae.data import Dataset, load, write_npy
from ppvae.inference import Callback, TrainingState, fit
from ppvae.models import bernoulli_vae

RESULTS = Path(__file__).parent / "results"
D = 784


def held() -> int:
    """Bytes of this process that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class Watch(Callback):
    """Keeps the most memory between two steps, and the seconds of every epoch."""

    def __init__(self) -> None:
        self.most, self.seconds = 0, list[float]()

    def on_step(self, state: TrainingState) -> None:
        """Look now and then."""
        if state.step % 50 == 0:
            self.most = max(self.most, held())

    def on_epoch(self, state: TrainingState) -> None:
        """The seconds of the steps so far."""
        self.seconds.append(state.seconds)


def train(path: str, mapped: bool) -> None:
    """One contestant, from its command line."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pair, warm = bernoulli_vae(D, latent_dim=10, hidden=(200,)), torch.rand(1000, D).round()
    fit(pair, warm, num_epochs=2, progress=False, compile="compiled")
    before, watch = held(), Watch()
    if mapped:
        data = load(path, binarize="dynamic")
    else:
        rows = torch.from_numpy(np.load(path))
        data = Dataset(rows, value_space="byte", binarization="dynamic")
    assert data.memory_mapped == mapped
    fit(pair, data, num_epochs=2, callbacks=[watch], progress=False, compile="compiled")
    print(json.dumps({"seconds": watch.seconds[1] - watch.seconds[0], "bytes": watch.most - before}))


def main() -> None:
    """Write the file, let both take turns, print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=2**26, help="bytes that data may take in memory")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    parser.add_argument("--train", nargs=2, metavar=("FILE", "HOW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return train(options.train[0], options.train[1] == "mapped")
    with tempfile.TemporaryDirectory() as folder:
        path, num_rows, noise = Path(folder) / "rows.npy", 10 * options.limit // D, np.random.default_rng(0)
        pieces = (noise.integers(0, 256, (min(4096, num_rows - k), D), np.uint8) for k in range(0, num_rows, 4096))
        write_npy(pieces, path, progress=False)
        found: dict[str, list[dict[str, float]]] = {"mapped": [], "in memory": []}
        for _ in range(options.rounds):
            for how, several in found.items():
                # A quarter of the memory may be data: see ppvae.data.limits.
                limit = {"PPVAE_MEMORY": str(4 * options.limit)} if how == "mapped" else {}
                command = [sys.executable, __file__, "--train", str(path), how]
                done = subprocess.run(command, env={**os.environ, **limit}, capture_output=True, text=True, check=True)
                several.append(json.loads(done.stdout))
                print(
                    f"{how:<10} {several[-1]['seconds']:7.2f} s   {several[-1]['bytes'] / 2**20:7.1f} MiB", flush=True
                )
        size = path.stat().st_size
    pairs = zip(found["mapped"], found["in memory"], strict=True)
    result = {
        "time, mapped / in memory": statistics.median(one["seconds"] / other["seconds"] for one, other in pairs),
        "most memory mapped / limit": max(one["bytes"] for one in found["mapped"]) / options.limit,
        "file / limit": size / options.limit,
        "rounds": found,
        "setting": {"rows": num_rows, "pixels": D, "limit": options.limit, "torch": torch.__version__},
    }
    print({name: value for name, value in result.items() if isinstance(value, float)})
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "larger_than_memory.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
