"""Schedules: their formulae, and that a recorded step, a resumed run and the report have them right."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro.infer
import pytest
import torch
from contracts.training import binary, quiet, relaxed, small
from core.pairs import Hierarchy
from torch import Tensor, nn

from ppvae.core import PpvaeError, site_terms
from ppvae.inference import (
    Callback,
    Constant,
    Cyclic,
    Exponential,
    KLWarmup,
    Linear,
    Schedule,
    TrainingState,
    elbo,
)

TEMPERATURES = {
    "posterior.temperature": Exponential(1.0, 0.5, over=6, unit="steps"),
    "prior.temperature": Linear(0.9, 0.6, over=2),
}


class EveryStep(Callback):
    """Keeps something of every step."""

    def __init__(self, read: Callable[[TrainingState], Any]) -> None:
        self.read, self.values = read, []  # type: ignore[var-annotated]

    def on_step(self, state: TrainingState) -> None:
        self.values.append(self.read(state))


def parameters_of(pair: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for value in pair.parameters()])


# --- the formulae ---


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (Constant(0.3), lambda t: 0.3),
        (Linear(2.0, 0.5, over=4), lambda t: 2.0 - 1.5 * t / 4 if t < 4 else 0.5),
        (Exponential(1.0, 0.25, over=4), lambda t: 0.25 ** (t / 4) if t < 4 else 0.25),
        (Cyclic(0.2, 1.0, period=4), lambda t: min(1.0, 0.2 + 0.8 * (t % 4) / 2)),
        (Cyclic(1.0, 0.0, period=2, rise=0.25), lambda t: max(0.0, 1.0 - (t % 2) / 0.5)),
        (
            Cyclic(0.0, 1.0, period=3, rise=1.0, num_periods=2),
            lambda t: (t % 3) / 3 if t < 6 else 1.0,
        ),
        (KLWarmup(10, start=0.5), lambda t: min(1.0, 0.5 + 0.05 * t)),
    ],
    ids=lambda value: str(value) if not callable(value) else "",
)
def test_values_are_those_of_the_formula(schedule: Schedule, formula: Callable[[float], float]) -> None:
    times = [0, 0.25, 1, 1.5, 2, 2.75, 3, 4, 5, 6, 7, 20]
    assert [schedule.value(t) for t in times] == pytest.approx([formula(t) for t in times])
    assert schedule.lowest == pytest.approx(min(formula(t / 4) for t in range(80)))
    assert schedule.at(epochs=1.5, steps=7) == schedule.value(1.5)


def test_a_schedule_counts_epochs_or_steps_and_says_so() -> None:
    assert Linear(0.0, 1.0, over=10, unit="steps").at(epochs=0.1, steps=5) == 0.5
    assert str(Linear(0.0, 1.0, over=10, unit="steps")) == "linearly from 0 to 1 over 10 steps"
    assert str(Cyclic(0.0, 1.0, period=4, num_periods=3)) == "in periods of 4 epochs from 0 to 1, 3 times"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Linear(0.0, 1.0, over=0), "Linear: expected over to be a positive number of epochs, found 0"),
        (lambda: Linear(0.0, math.inf, over=1), "Linear: expected a finite number for end, found inf"),
        (lambda: Linear(0.0, "1", over=1), "Linear: expected a finite number for end, found '1'"),  # type: ignore[arg-type]
        (lambda: Linear(0.0, 1.0, over=1, unit="epoch"), "unknown unit 'epoch': did you mean 'epochs'"),  # type: ignore[arg-type]
        (lambda: Exponential(1.0, 0.0, over=3), "Exponential: expected start and end to be positive, found 1.0 and 0"),
        (lambda: Cyclic(0.0, 1.0, period=-1), "Cyclic: expected period to be a positive number of epochs"),
        (lambda: Cyclic(0.0, 1.0, period=1, rise=0.0), r"Cyclic: expected rise to be in \(0, 1\], found 0"),
        (lambda: Cyclic(0.0, 1.0, period=1, num_periods=0), "Cyclic: expected num_periods of at least 1, found 0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(build: Callable[[], Schedule], message: str) -> None:
    with pytest.raises(PpvaeError, match=message):
        build()


# --- in a run ---


def test_every_step_has_the_value_of_the_formula() -> None:
    pair = relaxed()
    read = EveryStep(lambda state: [float(pair.get_buffer(name)) for name in TEMPERATURES])
    history = quiet(
        pair, binary(), schedules=TEMPERATURES, callbacks=[read], kl_weight=Linear(0.0, 2.0, over=3)
    ).history
    expected = [[s.at(step / 4, step) for s in TEMPERATURES.values()] for step in range(12)]
    assert read.values == [pytest.approx(row, rel=1e-6) for row in expected]
    assert [row["posterior.temperature"] for row in history] == pytest.approx([expected[i][0] for i in (3, 7, 11)])
    assert [row["kl_weight"] for row in history] == pytest.approx([2 * i / 12 for i in (3, 7, 11)])


@pytest.mark.parametrize("mode", ["graph", pytest.param("compiled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kl_weight", [Cyclic(0.0, 1.0, period=1), {"z": Linear(0.0, 2.0, over=2)}], ids=str)
def test_a_recorded_step_equals_an_eager_one(mode: str, kl_weight: Any) -> None:
    """Were a value baked into the graph, the runs would part at the second step."""
    pairs, options = [], {"schedules": TEMPERATURES, "kl_weight": kl_weight, "learning_rate": 0.05}
    for compile in ("eager", mode):
        pairs.append(relaxed().double())
        result = quiet(pairs[-1], binary().double(), compile=compile, **options)
        assert len(result.history) == 3
    torch.testing.assert_close(parameters_of(pairs[1]), parameters_of(pairs[0]), rtol=1e-9, atol=1e-9)
    for left_out in options:
        without = relaxed().double()
        quiet(without, binary().double(), **{k: v for k, v in options.items() if k != left_out})
        assert not torch.allclose(parameters_of(without), parameters_of(pairs[0]), atol=1e-4), left_out


@pytest.mark.parametrize("stop_at", [3, 4, 6])
def test_a_resumed_run_is_the_uninterrupted_one(stop_at: int) -> None:
    options: dict[str, Any] = {
        "schedules": TEMPERATURES,
        "kl_weight": {"z": Cyclic(0.0, 1.0, period=5, unit="steps")},
        "validation": binary(seed=1),
    }
    whole = relaxed()
    full = quiet(whole, binary(), **options)

    class Stop(Callback):
        saved: Any = None

        def on_step(self, state: TrainingState) -> None:
            if state.step == stop_at:
                Stop.saved = copy.deepcopy(state.state_dict())
                raise KeyboardInterrupt

    quiet(relaxed(), binary(), callbacks=[Stop()], **options)
    second = relaxed()
    resumed = quiet(second, binary(), resume=Stop.saved, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    for one, other in zip(full.history, resumed.history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


# --- the weight of the KL ---


def test_the_report_is_the_bound_under_any_weight() -> None:
    """With a vanishing step and the same noise, weights and free bits change nothing that is reported."""
    options: list[dict[str, Any]] = [
        {},
        {"kl_weight": 4.0},
        {"kl_weight": {"z": Cyclic(0.0, 1.0, period=1)}},
        {"elbo": elbo.TraceMeanFieldELBO(free_bits=3.0)},
    ]
    rows = [quiet(small().double(), binary().double(), learning_rate=1e-14, **o).history[-1] for o in options]
    for row in rows[1:]:
        for key in ("elbo_train", "reconstruction_train", "kl_train"):
            assert row[key] == pytest.approx(rows[0][key], rel=1e-10), key
        assert row["gradient_norm"] != pytest.approx(rows[0]["gradient_norm"], rel=1e-3)


def test_kl_warmup_is_a_schedule_of_the_weight() -> None:
    pairs = [small(), small()]
    quiet(pairs[0], binary(), kl_warmup=KLWarmup(2))
    quiet(pairs[1], binary(), kl_weight=Linear(0.0, 1.0, over=2))
    assert torch.equal(parameters_of(pairs[0]), parameters_of(pairs[1]))


def test_each_site_has_its_own_weight() -> None:
    """The gradient by a site's weight is minus its KL; a mapping of all to one number is that number."""
    pair, x = Hierarchy().double(), torch.randn(20, 4).double()
    estimator = elbo.TraceMeanFieldELBO(on_missing_kl="sample")

    def objective(weight: Any) -> Tensor:
        torch.manual_seed(1)
        return estimator.terms(pair, x, kl_weight=weight).objective()

    torch.manual_seed(1)
    kls = {name: term.kl.sum() for name, term in site_terms(pair, x, 1).items() if term.kl is not None}
    assert len(kls) > 1
    full = objective(1.0)
    for name, kl in kls.items():
        torch.testing.assert_close(objective({name: 0.25}) - full, 0.75 * kl)
    torch.testing.assert_close(objective(dict.fromkeys(kls, 0.25)), objective(0.25))
    site = next(iter(kls))
    history = quiet(Hierarchy(), torch.randn(50, 4), kl_weight={site: Linear(0.5, 1.0, over=1)}).history
    assert history[-1][f"kl_weight.{site}"] == 1.0 and "kl_weight" not in history[-1]


# --- free bits ---


@pytest.mark.parametrize("per", ["dimension", "site"])
def test_free_bits_are_the_formula(per: Any) -> None:
    """Two dimensions of known KLs on the batch mean: what is below the threshold is charged at it, without gradient."""
    torch.manual_seed(0)
    pair, x = small().double(), binary(20).double()
    term = site_terms(pair, x)["z"]
    assert term.kl_per_dimension is not None and term.kl is not None
    kl = term.kl_per_dimension.mean((0, 1)) if per == "dimension" else term.kl.mean()[None]
    threshold = kl.mean().item() + (0.0 if per == "dimension" else 0.1)
    estimator = elbo.TraceMeanFieldELBO(free_bits=threshold, free_bits_per=per)
    torch.manual_seed(1)
    found = estimator.terms(pair, x, kl_weight=0.5)
    torch.manual_seed(1)
    plain = elbo.TraceMeanFieldELBO().terms(pair, x)
    expected = plain.reconstruction.mean() - 0.5 * kl.clamp(min=threshold).sum()
    torch.testing.assert_close(found.objective_local.mean(), expected)
    torch.testing.assert_close(found.local, plain.local)
    assert not estimator.unbiased_gradient and elbo.TraceMeanFieldELBO().unbiased_gradient
    charged = plain.reconstruction.mean() - found.objective_local.mean()
    gradient = torch.autograd.grad(charged, list(pair.parameters()), allow_unused=True, materialize_grads=True)
    free = sum(value for value in kl if value > threshold) if per == "dimension" else 0 * kl.sum()
    wanted = torch.autograd.grad(0.5 * free, list(pair.parameters()), allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
    for one, other in zip(gradient, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6)


def test_free_bits_hold_the_kl_up() -> None:
    """A decoder that ignores the latent lets the KL fall to zero; with free bits it rests at the threshold."""
    kls = []
    for free_bits in (None, 0.3):
        estimator = elbo.TraceMeanFieldELBO(free_bits=free_bits)
        noise = (torch.rand(200, 9, generator=torch.Generator().manual_seed(0)) < 0.5).float()
        row = quiet(small(), noise, elbo=estimator, num_epochs=60, learning_rate=0.02).history[-1]
        kls.append(row["kl_train"])
    assert kls[0] < 0.2 and kls[1] > 0.45


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedules": {"posterior.temprature": Constant(1.0)}}, r"did you mean 'posterior.temperature'\?"),
        ({"schedules": {"posterior.head": Constant(1.0)}}, "'posterior.head' is no buffer"),
        ({"schedules": {"posterior.temperature": "linear"}}, "expected a finite number or a schedule, found 'linear'"),
        ({"kl_weight": -0.5}, "kl_weight: expected no negative weight, found -0.5 throughout"),
        ({"kl_weight": Linear(1.0, -1.0, over=2)}, "no negative weight, found linearly from 1 to -1 over 2 epochs"),
        ({"kl_weight": {"y": 0.5}}, "kl_weight: the pair has no latent site 'y': Known: z"),
        ({"kl_weight": {"z": -1.0}}, "kl_weight of site 'z': expected no negative weight"),
        ({"kl_weight": "cyclic"}, "kl_weight: expected a finite number or a schedule"),
        ({"kl_weight": 0.5, "kl_warmup": KLWarmup(2)}, "kl_weight and kl_warmup both weigh the KL"),
        ({"kl_weight": {"z": 0.5}, "elbo": elbo.TraceELBO()}, "TraceELBO takes one weight for the KL of all sites"),
        ({"kl_weight": 0.5, "elbo": pyro.infer.Trace_ELBO()}, "Trace_ELBO of Pyro takes no weight of the KL"),
        (
            {"elbo": elbo.TraceMeanFieldELBO(on_missing_kl="sample", free_bits=1.0)},
            "free bits for every dimension need",
        ),
    ],
)
def test_what_cannot_be_scheduled_is_refused(options: dict[str, Any], message: str) -> None:
    pair = relaxed()
    before = parameters_of(pair)
    with pytest.raises(PpvaeError, match=message):
        quiet(pair, binary(), **options)
    assert torch.equal(before, parameters_of(pair))


def test_only_a_saved_number_of_the_pair_is_scheduled() -> None:
    pair = relaxed()
    pair.register_buffer("several", torch.ones(2))
    pair.register_buffer("count", torch.tensor(1))
    pair.register_buffer("passing", torch.tensor(1.0), persistent=False)
    parameter = next(name for name, _ in pair.named_parameters())
    for name, message in (
        ("several", r"one floating-point number, found \(2,\)"),
        ("count", "one floating-point number, found .* of torch.int64"),
        ("passing", "'passing' is not saved with the pair"),
        (parameter, "a parameter, which the optimiser moves"),
    ):
        with pytest.raises(PpvaeError, match=message):
            quiet(pair, binary(), schedules={name: Constant(1.0)})


@pytest.mark.parametrize("options", [{"free_bits": 0.0}, {"free_bits": -1.0}, {"free_bits_per": "latent"}])
def test_free_bits_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(PpvaeError, match=next(iter(options))):
        elbo.TraceMeanFieldELBO(**options)
