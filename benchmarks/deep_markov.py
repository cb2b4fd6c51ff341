"""A training step of the deep Markov model on the JSB chorales: ours, one site a sequence, against stock Pyro's.

    PPVAE_DATA=data python benchmarks/deep_markov.py     # writes benchmarks/results/deep_markov.json
    PPVAE_DATA=data python benchmarks/deep_markov.py --compiled    # inductor as well: minutes to compile

The model is that of Krishnan, Shalit & Sontag 2016 (arXiv 1609.09869) in the sizes of Pyro's example: z 100, emission
100-100, transition 200, a backward RNN of 600 relu units, M 20; Pyro's has a site for every step. Either side goes
through the same batches in turns, Adam, in one thread; a step's time is their mean, the best of the rounds, in seconds
of the CPU, which other work on the machine disturbs less, and of the clock. Pyro's side cuts every batch at its longest
sequence, as its example does; ours is given batches that are padded to the longest of the data, and sees the lengths.
Before that both are given the same parameters and draws, and their bounds must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import scipy.io
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from svi_step import fit_step
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ppvae.core import ModelGuidePair
from ppvae.core.compile import Mode
from ppvae.distributions import Bernoulli, DiagonalNormal, EachStep, GatedTransition, MarkovNormal
from ppvae.inference import elbo
from ppvae.inference.comparison.statistics import seconds_of
from ppvae.models import Latent, LatentModel, Lengths, Observed
from ppvae.networks import MLP, Combiner, Recurrent

RESULTS = Path(__file__).parent / "results"
NOTES, M = 88, 20
LEARNING_RATE = 3e-5  # a tenth of the example's, which clips its gradients: a standard deviation underflows otherwise
Batch = dict[str, Tensor]


class Sizes(NamedTuple):
    """Units of every network."""

    z: int = 100
    emission: int = 100
    transition: int = 200
    rnn: int = 600


def ours(sizes: Sizes, num_steps: int) -> ModelGuidePair:
    """The model as a description: one latent site, one observed site."""
    trunk = Recurrent(NOTES, sizes.rnn, cell="relu", direction="backward")
    step = DiagonalNormal(Combiner(sizes.z, sizes.rnn), sizes.z)
    notes = Bernoulli(MLP(sizes.z, [sizes.emission] * 2, activation="relu"), NOTES)
    return LatentModel(
        n=Lengths(),
        z=Latent(
            MarkovNormal(GatedTransition(sizes.z, hidden=sizes.transition), num_steps, lengths=True).given("n"),
            posterior=MarkovNormal(step, num_steps, trunk=trunk, lengths=True).given("x", "n"),
        ),
        x=Observed(EachStep(notes, num_steps).given("z"), lengths="n"),
    )


class StockDMM(nn.Module):
    """The same as a Pyro program, a site for every step."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        z, emission, transition, rnn = sizes
        self.emitter = nn.Sequential(
            nn.Linear(z, emission), nn.ReLU(), nn.Linear(emission, emission), nn.ReLU(), nn.Linear(emission, NOTES)
        )
        self.gate = nn.Sequential(nn.Linear(z, transition), nn.ReLU(), nn.Linear(transition, z), nn.Sigmoid())
        self.proposal = nn.Sequential(nn.Linear(z, transition), nn.ReLU(), nn.Linear(transition, z))
        self.linear, self.scale = nn.Linear(z, z), nn.Linear(z, z)
        self.rnn = nn.RNN(NOTES, rnn, nonlinearity="relu", batch_first=True)
        self.combine, self.loc, self.log_scale = nn.Linear(z, rnn), nn.Linear(rnn, z), nn.Linear(rnn, z)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(z)), nn.Parameter(torch.zeros(z))

    def model(self, x: Tensor, lengths: Tensor, annealing: float = 1.0) -> None:
        pyro.module("dmm", self)
        inside = _inside(x, lengths)
        z = self.z_0.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                gate, proposal = self.gate(z), self.proposal(z)
                loc = (1 - gate) * self.linear(z) + gate * proposal
                scale = nn.functional.softplus(self.scale(proposal.relu()))
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).mask(inside[:, t, None]).to_event(1))
                notes = dist.Bernoulli(logits=self.emitter(z)).mask(inside[:, t, None]).to_event(1)
                pyro.sample(f"x_{t}", notes, obs=x[:, t])

    def guide(self, x: Tensor, lengths: Tensor, annealing: float = 1.0) -> None:
        pyro.module("dmm", self)
        inside = _inside(x, lengths)
        features = _turned(self._read(_turned(x, lengths), lengths), lengths)
        z = self.z_q_0.expand(len(x), -1)
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                hidden = 0.5 * (self.combine(z).tanh() + features[:, t])
                step = dist.Normal(self.loc(hidden), self.log_scale(hidden).exp())
                with poutine.scale(scale=annealing):
                    z = pyro.sample(f"z_{t}", step.mask(inside[:, t, None]).to_event(1))

    def _read(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])[0]

    def in_our_order(self) -> list[Tensor]:
        """Its parameters in the order and the shapes of those of :func:`ours`."""
        gate, proposal = self.gate[0], self.proposal[0]
        return [
            self.z_0,
            torch.cat([gate.weight, proposal.weight]),
            torch.cat([gate.bias, proposal.bias]),
            *(p for layer in (self.gate[2], self.proposal[2], self.linear, self.scale) for p in layer.parameters()),
            *self.emitter.parameters(),
            self.z_q_0,
            *(p for layer in (self.combine, self.loc, self.log_scale, self.rnn) for p in layer.parameters()),
        ]


def _inside(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(x.shape[1]) < lengths[:, None]


def _turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Sequences backwards, each from its own last step, the padding where it is."""
    steps = torch.arange(x.shape[1])
    order = torch.where(_inside(x, lengths), lengths[:, None] - 1 - steps, steps)
    return x.gather(1, order[..., None].expand_as(x))


def difference(pair: ModelGuidePair, stock: StockDMM, batch: Batch) -> float:
    """The largest difference of the bounds of a datum, in nats: the same parameters, the draws of the stock guide.

    In float64: the padding is hundreds of nats in both of our densities.
    """
    pair, stock, batch = pair.double(), stock.double(), {**batch, "x": batch["x"].double()}
    with torch.no_grad():
        for parameter, value in zip(pair.parameters(), stock.in_our_order(), strict=True):
            parameter.copy_(value)
        of_steps = poutine.trace(stock.guide).get_trace(**batch)
        of_steps_model = poutine.trace(poutine.replay(stock.model, of_steps)).get_trace(**batch)
        z = torch.stack([of_steps.nodes[f"z_{t}"]["value"] for t in range(batch["x"].shape[1])], 1)
        ours_in = {"x": batch["x"], "n": batch["lengths"]}
        guide, model = (
            poutine.trace(poutine.condition(program, {"z": z})).get_trace(ours_in)
            for program in (pair.guide, pair.model)
        )
        return float((_bound(model, guide) - _bound(of_steps_model, of_steps)).abs().max())


def _bound(model: Any, guide: Any) -> Tensor:
    """log p(x, z) - log q(z | x), [B]."""
    for trace in (model, guide):
        trace.compute_log_prob()
    terms = [
        sign * node["log_prob"]
        for sign, trace in ((1, model), (-1, guide))
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and name != "data"
    ]
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0)


def chorales(num: int) -> list[Batch]:
    """Batches of an epoch of the training part, padded to its longest; so many at most."""
    path = Path(os.environ["PPVAE_DATA"]) / "jsb_chorales" / "JSB_Chorales.mat"
    songs = [torch.as_tensor(song).float() for song in scipy.io.loadmat(path)["traindata"][0]]
    x, lengths = nn.utils.rnn.pad_sequence(songs, batch_first=True), torch.tensor([len(song) for song in songs])
    order = torch.randperm(len(songs), generator=torch.Generator().manual_seed(0))
    rows = [part for part in order.split(M) if len(part) == M]
    return [{"x": x[part], "lengths": lengths[part]} for part in rows[:num]]


def cut(batch: Batch, num_steps: int) -> Batch:
    """The batch up to its longest sequence, and no longer than that."""
    lengths = batch["lengths"].clamp(max=num_steps)
    return {"x": batch["x"][:, : int(lengths.max())], "lengths": lengths}


def our_epoch(sizes: Sizes, batches: list[Batch], mode: Mode) -> Callable[[], None]:
    """The step of ``fit`` on every batch."""
    x = {"x": batches[0]["x"].clone(), "n": batches[0]["lengths"].clone()}
    pair = ours(sizes, x["x"].shape[1])
    step = fit_step(pair, x, elbo.TraceELBO(), num_data=M, learning_rate=LEARNING_RATE, mode=mode)

    def epoch() -> None:
        for batch in batches:
            x["x"].copy_(batch["x"])
            x["n"].copy_(batch["lengths"])
            step()

    return epoch


def stock_epoch(sizes: Sizes, batches: list[Batch], *, validated: bool) -> Callable[[], None]:
    """Pyro's SVI on every batch, each cut at its longest sequence."""
    pyro.clear_param_store()
    program, short = StockDMM(sizes), [cut(batch, batch["x"].shape[1]) for batch in batches]
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": LEARNING_RATE}), Trace_ELBO())

    def epoch() -> None:
        with pyro.validation_enabled(validated):
            for batch in short:
                svi.step(**batch)

    return epoch


def watch(epoch: Callable[[], None], seconds: list[float]) -> Callable[[], None]:
    """The epoch, which notes its seconds of the CPU."""

    def watched() -> None:
        start = time.process_time()
        epoch()
        seconds.append(time.process_time() - start)

    return watched


def main() -> None:
    """Check that both sides have one bound, time them, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=11, help="of 20 chorales each; 11 are an epoch")
    parser.add_argument("--small", action="store_true", help="few units and ten steps, to see that it runs")
    parser.add_argument("--compiled", action="store_true", help="inductor as well")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes, batches = Sizes(), chorales(options.batches)
    if options.small:
        sizes, batches = Sizes(4, 5, 6, 7), [cut(batch, 10) for batch in batches]
    num_steps = batches[0]["x"].shape[1]
    differs = difference(ours(sizes, num_steps), StockDMM(sizes), batches[0])
    print(f"bounds differ by at most {differs:.1e} nats a sequence")
    contestants = {
        "stock Pyro": stock_epoch(sizes, batches, validated=True),
        "stock Pyro, no validation": stock_epoch(sizes, batches, validated=False),
    }
    modes: tuple[Mode, ...] = ("eager", "graph", "compiled") if options.compiled else ("eager", "graph")
    contestants |= {f"ppvae {mode}": our_epoch(sizes, batches, mode) for mode in modes}
    of_cpu: dict[str, list[float]] = {name: [] for name in contestants}
    watched = {name: watch(epoch, of_cpu[name]) for name, epoch in contestants.items()}
    of_clock = seconds_of(watched, options.rounds, warm_up=1)
    cpu, clock = (
        {name: 1e3 * min(times[-options.rounds :]) / len(batches) for name, times in taken.items()}
        for taken in (of_cpu, of_clock)
    )
    ratios = {name: cpu[name] / cpu["stock Pyro"] for name in cpu}
    for name, value in cpu.items():
        print(f"{name:<26}{value:9.1f} ms of the CPU a step   {ratios[name]:.2f} of Pyro's   {clock[name]:9.1f} ms")
    results = {
        "milliseconds of the CPU": cpu,
        "milliseconds of the clock": clock,
        "ratio to stock Pyro, CPU": ratios,
        "ratio to stock Pyro, clock": {name: clock[name] / clock["stock Pyro"] for name in clock},
        "difference of the bounds": differs,
        "setting": {
            "sizes": {**sizes._asdict(), "M": M, "batches": len(batches)},
            "steps": {"padded to": num_steps, "mean of the longest": fmean(float(b["lengths"].max()) for b in batches)},
            "statistic": "best of rounds",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "pyro": pyro.__version__,
        },
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "deep_markov.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
