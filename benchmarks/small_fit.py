"""A whole fit of 2000 small steps against the loop that one would write by hand, everything included.

    python benchmarks/small_fit.py       # writes benchmarks/results/small_fit.json

784-500-20, M = 16, Adam. By hand: PyTorch alone, run eagerly, with minibatches of its own, one ``loss.item()`` a step,
and nothing else. Ours: :func:`ppvae.inference.fit`, from the untrained pair to the result, with its checks of pair and
data, the recording or compiling of the step, a check of every value and gradient, and the history. All take turns in
one process, whose first round, in which libraries load, is not counted; times are those of the processors, of one
thread, the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ppvae.inference import fit
from ppvae.models import bernoulli_vae

RESULTS = Path(__file__).parent / "results"
D, H, Z, M, NUM_DATA = 784, 500, 20, 16, 1600


def by_hand(x: Tensor, num_epochs: int) -> None:
    """Algorithm 1 of the paper with estimator B and L = 1."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(D, H), nn.Tanh(), nn.Linear(H, 2 * Z))
    decoder = nn.Sequential(nn.Linear(Z, H), nn.Tanh(), nn.Linear(H, D))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    total = 0.0
    for _ in range(num_epochs):
        order = torch.randperm(len(x))
        for index in order[: len(x) // M * M].split(M):
            batch = x[index]
            loc, log_scale = encoder(batch).chunk(2, -1)
            z = loc + log_scale.exp() * torch.randn_like(loc)
            kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1).sum() - log_scale.sum()
            loss = (binary_cross_entropy_with_logits(decoder(z), batch, reduction="sum") + kl) / M
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()


def ours(mode: Any, x: Tensor, num_epochs: int) -> None:
    """The same by one call."""
    torch.manual_seed(0)
    pair = bernoulli_vae(D, latent_dim=Z, hidden=(H,))
    fit(pair, x, learning_rate=1e-3, batch_size=M, num_epochs=num_epochs, compile=mode, progress=False)


def main() -> None:
    """Take turns, print the ratios, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20, help="of 100 steps")
    parser.add_argument("--modes", nargs="+", default=["eager", "graph", "compiled", "auto"])
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((NUM_DATA, D), 0.3))
    contestants: dict[str, Callable[[Tensor, int], None]] = {"by hand": by_hand}
    contestants |= {mode: partial(ours, mode) for mode in options.modes}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds + 1):
        for name, run in contestants.items():
            start = time.process_time()
            run(x, options.epochs)
            seconds[name].append(time.process_time() - start)
    found = {name: statistics.median(several[1:]) for name, several in seconds.items()}
    beside = seconds["by hand"][1:]
    ratios = {
        name: statistics.median(one / hand for one, hand in zip(several[1:], beside, strict=True))
        for name, several in seconds.items()
    }
    for name, value in found.items():
        print(f"{name:<10} {value:8.2f} s   {ratios[name]:.2f} of by hand   first round {seconds[name][0]:.2f} s")
    steps, net = options.epochs * (NUM_DATA // M), f"{D}-{H}-{Z}"
    result = {
        "seconds": found,
        "ratio to by hand": ratios,
        "first round, seconds": {name: several[0] for name, several in seconds.items()},
        "rounds": seconds,
        "setting": {"steps": steps, "M": M, "net": net, "torch": torch.__version__},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "small_fit.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
