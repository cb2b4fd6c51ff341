"""What saving a checkpoint costs, against an epoch of MNIST (784-500-20, M = 100).

Trains for a few epochs into a run folder on the disk at hand, saving after every epoch, and takes the median seconds
of a save (state, two SHA-256, three files synced and renamed; the best epoch's parameters where it is a new one), and
seconds of the steps of the fastest epoch. Training itself saves no more often than every five seconds or fifty times
the last save, whichever is longer, which keeps it below 2 % where an epoch is shorter than that.

    PPVAE_DATA=... python benchmarks/checkpoint.py      # writes benchmarks/results/checkpoint.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ppvae.inference import TrainingState
from ppvae.runs import Recipe, train
from ppvae.runs.training import history, run

RESULTS = Path(__file__).parent / "results"


class Timed(history.Checkpoints):
    """Saves after every epoch and keeps the seconds."""

    found: list[tuple[float, bool]]

    def on_start(self, state: TrainingState) -> None:
        """Begin the list."""
        Timed.found = []

    def on_epoch(self, state: TrainingState) -> None:
        """Save, timed."""
        self._next = 0.0
        best = state.best_epoch == state.epoch
        started = time.perf_counter()
        super().on_epoch(state)
        Timed.found.append((time.perf_counter() - started, best))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", help="on the disk to measure; the system's temporary folder where absent")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe.from_dict(
        {
            "model": {"name": "bernoulli-vae", "latent_dim": 20, "hidden": [500]},
            "data": {"source": "mnist", "binarize": "static"},
            "training": {"num_epochs": options.epochs, "batch_size": 100},
            "device": "cpu",
        }
    )
    setattr(run, "Checkpoints", Timed)  # noqa: B010  a name that the module does not export
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        done = train(recipe, Path(folder) / "run")
        files = list(done.folder.checkpoints.glob("last-*"))
        size = sum(file.stat().st_size for file in files) / len(list(done.folder.checkpoints.glob("last-*.sha256")))
    clock = [0.0, *(row["seconds"] for row in done.history)]
    epochs = [after - before for before, after in itertools.pairwise(clock)][1:]  # the first compiles
    saves = [seconds for seconds, _ in Timed.found]
    result = {
        "setting": "MNIST, 784-500-20, M = 100, adam, compiled",
        "data": len(done.data),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "epoch_seconds": epochs,
        "save_seconds": saves,
        "saves_with_a_new_best": sum(best for _, best in Timed.found),
        "bytes": size,
        "fastest_epoch_seconds": min(epochs),
        "median_save_seconds": statistics.median(saves),
        # The fastest epoch: on a machine that others use too, a slow one would flatter the result.
        "percent_of_the_fastest_epoch": 100 * statistics.median(saves) / min(epochs),
        "load_average": list(os.getloadavg()),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "checkpoint.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
