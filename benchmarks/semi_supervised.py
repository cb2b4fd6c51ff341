"""M2, the semi-supervised VAE (Kingma et al. 2014): the time of a step, and the accuracy that summing y out brings.

    python benchmarks/semi_supervised.py speed      # a step on unlabelled data, ours against Pyro's TraceEnum_ELBO
    python benchmarks/semi_supervised.py accuracy   # 1000 labels of 50 000: y drawn, y summed out; needs PPVAE_DATA

``speed`` runs all contestants in one process, in turns (10 classes, M = 200, 784-500-50, no label): Pyro's SVI on a
stock program, ``fit``'s step on the same program, and on the M2 of the suite's parts, whose first layer does not repeat
the product with the data for every class. The time of each is the best of the rounds.

``accuracy`` is the protocol of Pyro's tutorial "ss-vae": z 50, hidden 500, Adam 4.2e-4 with beta1 0.9, M = 200; its
table has .2006 with y drawn and .7562 with y summed out, without the auxiliary objective. Where y is drawn the
objective is Pyro's own Trace_ELBO, as there: the score function for y, the pathwise gradient for z. It resumes from its
checkpoint (``--folder``), and writes benchmarks/results/semi_supervised.json.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from svi_step import fit_step
from torch import Tensor, nn

from ppvae.core import ModelGuidePair
from ppvae.core.compile import Mode
from ppvae.data import Dataset, keep_labels, load
from ppvae.distributions import draw_gaps, observe_with_gaps
from ppvae.inference import elbo, fit
from ppvae.inference.comparison.statistics import seconds_of
from ppvae.networks import JoinedMLP

RESULTS = Path(__file__).parent / "results"
D, H, Z, K = 784, 500, 50, 10


def joined(*parts: Tensor) -> Tensor:
    """Side by side on the last axis, the axes to the left broadcast."""
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)


class M2(ModelGuidePair):
    """x from a class y and a style z; labels with gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(D, H), nn.Softplus(), nn.Linear(H, K))
        self.encoder = nn.ModuleList([JoinedMLP([D, K], [H], activation="softplus"), nn.Linear(H, 2 * Z)])
        self.decoder = nn.ModuleList([JoinedMLP([Z, K], [H], activation="softplus"), nn.Linear(H, D)])
        # As there: at first no class differs from another, so that the labels, and no accident, name them.
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=1e-3)

    def model(self, batch: Any, num_data: int | None = None) -> None:
        x = batch["x"]
        with self.data_plate(x, num_data):
            y = observe_with_gaps("y", dist.OneHotCategorical(x.new_ones(K) / K).expand([len(x)]), batch["label"])
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            trunk, head = self.decoder
            pyro.sample("x", dist.Bernoulli(logits=head(trunk(z, y)), validate_args=False).to_event(1), obs=x)

    def guide(self, batch: Any, num_data: int | None = None) -> None:
        x = batch["x"]
        with self.data_plate(x, num_data):
            y = draw_gaps("y", dist.OneHotCategorical(logits=self.classifier(x)), batch["label"])
            trunk, head = self.encoder
            loc, log_scale = head(trunk(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class StockM2(nn.Module):
    """The same for unlabelled data, as a Pyro program."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(D, H), nn.Softplus(), nn.Linear(H, K))
        self.encoder = nn.Sequential(nn.Linear(D + K, H), nn.Softplus(), nn.Linear(H, 2 * Z))
        self.decoder = nn.Sequential(nn.Linear(Z + K, H), nn.Softplus(), nn.Linear(H, D))

    def model(self, x: Tensor) -> None:
        pyro.module("m2", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(K) / K), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(joined(z, y)), validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("m2", self)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.classifier(x)), infer={"enumerate": "parallel"})
            loc, log_scale = self.encoder(joined(x, y)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def pyro_step(x: Tensor) -> Callable[[], None]:
    """Pyro's SVI with TraceEnum_ELBO."""
    pyro.clear_param_store()
    program = StockM2()
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": 4.2e-4}), TraceEnum_ELBO(max_plate_nesting=1))

    def step() -> None:
        svi.step(x)

    return step


def speed(rounds: int, steps: int) -> dict[str, Any]:
    """Seconds of a step, the best of the rounds, and ratios to Pyro's."""
    torch.manual_seed(0)
    x = torch.rand(200, D)
    contestants = {"Pyro TraceEnum_ELBO": pyro_step(x)}
    unlabelled = {"x": x, "label": torch.full((200,), -1)}
    modes: tuple[Mode, ...] = ("graph", "compiled")
    for mode in modes:
        program = StockM2()
        stock = ModelGuidePair.from_callables(program.model, program.guide)
        for name, pair, data in (("the same program", stock, x), ("M2 of JoinedMLP", M2(), unlabelled)):
            step = fit_step(pair, data, elbo.TraceELBO(), num_data=200, learning_rate=4.2e-4, mode=mode)
            contestants[f"{name}, {mode}"] = step
    best = {name: min(times) for name, times in seconds_of(contestants, rounds, calls=steps).items()}
    pyros = best["Pyro TraceEnum_ELBO"]
    for name, seconds in best.items():
        print(f"{name:<28} {1e3 * seconds:8.2f} ms a step   {seconds / pyros:.2f} of Pyro's")
    return {
        "milliseconds": {name: round(1e3 * seconds, 3) for name, seconds in best.items()},
        "ratio": {name: round(seconds / pyros, 3) for name, seconds in best.items() if name != "Pyro TraceEnum_ELBO"},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def accuracy(num_epochs: int, num_labels: int, seed: int, folder: Path, which: tuple[str, ...]) -> dict[str, Any]:
    """Test accuracy of the classifier at the epoch of the best validation accuracy, for both objectives."""
    mnist = load("mnist", binarize="none")
    parts = [
        (part.x.reshape(-1, D).float(), torch.as_tensor(part.labels).long())
        for part in (mnist.train, mnist.validation, mnist.test)
    ]
    (x, labels), (held_x, held_labels), (test_x, test_labels) = parts
    data = Dataset({"x": x, "label": keep_labels(labels, num_labels, seed)})
    objectives = {"y drawn": Trace_ELBO(), "y summed out": elbo.TraceELBO()}
    outcome: dict[str, Any] = {}
    for name in which:
        torch.manual_seed(seed)
        pair = M2()
        path = folder / f"{name.replace(' ', '_')}_{num_labels}_{seed}.pt"
        rows: list[dict[str, float]] = []
        state = torch.load(path, weights_only=True) if path.exists() else None
        if state is not None:
            pair.load_state_dict(state["pair"])
            rows = state["rows"]
        optimizer = torch.optim.Adam(pair.parameters(), lr=4.2e-4, betas=(0.9, 0.999))
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
        for epoch in range(len(rows), num_epochs):
            made = fit(
                pair,
                data,
                elbo=objectives[name],
                optimizer=lambda parameters, optimizer=optimizer: optimizer,
                num_epochs=1,
                batch_size=200,
                seed=seed * 10_000 + epoch,
                progress=False,
            )
            with torch.no_grad():
                held = float((pair.classifier(held_x).argmax(-1) == held_labels).double().mean())
                hit = float((pair.classifier(test_x).argmax(-1) == test_labels).double().mean())
            rows.append({"epoch": epoch + 1, "elbo": made.history[-1]["elbo_train"], "validation": held, "test": hit})
            print(
                f"{name}: epoch {epoch + 1}, bound {rows[-1]['elbo']:.2f}, validation {held:.4f}, test {hit:.4f}",
                flush=True,
            )
            temporary = path.with_suffix(".new")
            torch.save({"pair": pair.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows}, temporary)
            os.replace(temporary, path)
        best = max(rows, key=lambda row: row["validation"])
        outcome[name] = {"test accuracy": best["test"], "at epoch": best["epoch"], "epochs": len(rows), "rows": rows}
    return {"labels": num_labels, "seed": seed, "objectives": outcome, "torch": torch.__version__}


def main() -> None:
    """Run one of the two and keep its numbers beside the other's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "accuracy"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("semi_supervised_runs"))
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    parser.add_argument("--only", choices=("y drawn", "y summed out"))
    options = parser.parse_args()
    if options.what == "speed":
        result = speed(options.rounds, options.steps)
    else:
        options.folder.mkdir(parents=True, exist_ok=True)
        which = (options.only,) if options.only else ("y drawn", "y summed out")
        result = accuracy(options.epochs, options.labels, options.seed, options.folder, which)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "semi_supervised.json"
    kept = json.loads(results.read_text()) if results.exists() else {}
    if "objectives" in result:  # the other one's numbers stay
        before = kept.get("accuracy", {}).get("objectives", {})
        result["objectives"] = {**before, **result["objectives"]}
    results.write_text(json.dumps({**kept, options.what: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
