"""The gradient of a chain's draw and of the density of that draw: what they are, and what they cost."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ppvae.core import ModelGuidePair, compile
from ppvae.core.compile import record
from ppvae.core.conditioning import at_values
from ppvae.core.lengths import longest, no_longer_than, present
from ppvae.distributions import (
    Bernoulli,
    DiagonalNormal,
    EachStep,
    FlowPrior,
    FullCovarianceNormal,
    GatedTransition,
    LinearTransition,
    MarkovNormal,
    NormalChain,
    normal_chain,
)
from ppvae.distributions.weight_gradients import WeightGradientsAtOnce
from ppvae.inference import elbo
from ppvae.inference.training.objective import Objective
from ppvae.models import Latent, LatentModel, Lengths, Observed, bayesianise
from ppvae.networks import MLP, Combiner, JoinedMLP, Recurrent

EXACT = {"rtol": 1e-12, "atol": 1e-12}
T, Z, D, H = 6, 2, 3, 5
LENGTHS = torch.tensor([4, 1, 3])


class Written(TorchDispatchMode):
    """Counts the numbers that operations put out, and the results of each shape."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.shapes = 0, dict[tuple[int, ...], int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.total += found.numel()
            if func is torch.ops.aten.mm.default:
                self.shapes[tuple(found.shape)] = self.shapes.get(tuple(found.shape), 0) + 1
        return found


def test_the_gradient_of_a_draw_writes_as_much_a_step_whatever_their_number() -> None:
    """A slice of the features a step would have gradients as large as all of them: T tensors of T steps."""
    written = []
    for steps in (10, 20, 40):
        chain = MarkovNormal(DiagonalNormal(Combiner(1, 50), 1), steps, trunk=nn.Identity())
        x = torch.randn(8, steps, 50, requires_grad=True)
        with Written() as counted:
            torch.autograd.grad(chain(x).rsample().sum(), x)
        written.append(counted.total)
    assert 0 < written[2] - written[1] < 2.2 * (written[1] - written[0])


# --- the density of a chain's own draw ---

KINDS: dict[str, Any] = {
    "linear": (lambda: LinearTransition(Z), False),
    "gated": (lambda: GatedTransition(Z, hidden=4), False),
    "correlated": (lambda: FullCovarianceNormal(MLP(Z, [4]), Z), False),
    "combined": (lambda: DiagonalNormal(Combiner(Z, H), Z), True),
    "joined": (lambda: FullCovarianceNormal(JoinedMLP([Z, H], [4]), Z), True),
}


def scrambled(module: Any) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return module


def made_of(kind: str, padded: bool) -> tuple[MarkovNormal, tuple[Tensor, ...]]:
    make, reads = KINDS[kind]
    trunk = Recurrent(D, H, direction="backward") if reads else None
    made = scrambled(MarkovNormal(make(), T, trunk=trunk, lengths=padded))
    return made, (*([torch.randn(3, T, D)] if reads else []), *([LENGTHS] if padded else []))


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_density_of_its_own_draw_is_that_of_the_value(
    kind: str, padded: bool, float64: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradient, through the draw and past it: from drawing it, and by the formula at a copy of it."""
    made, context = made_of(kind, padded)
    chain = made(*context).expand((3,))
    z = chain.rsample((2,))
    anew = chain.log_prob(z.clone())
    monkeypatch.setattr(chain, "step", None)  # not asked again
    kept = chain.log_prob(z)
    torch.testing.assert_close(kept, anew, **EXACT)
    parameters = list(made.parameters())
    weight = torch.randn(2, 3)
    found, expected = (
        torch.autograd.grad((weight * value).sum() + z.sin().sum(), parameters, retain_graph=True)
        for value in (kept, anew)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
        assert bool(one.any())


def flow() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return FlowPrior(3), ()


@pytest.mark.parametrize("make", [lambda: made_of("combined", True), flow], ids=["chain", "flow"])
def test_a_draw_without_gradients_keeps_no_density_without_gradients(make: Any, float64: torch.dtype) -> None:
    made, context = make()
    chain = made(*context)
    z = chain.sample()
    parameters = list(made.parameters())
    found = torch.autograd.grad(chain.log_prob(z).sum(), parameters, allow_unused=True)
    expected = torch.autograd.grad(made(*context).log_prob(z.clone()).sum(), parameters, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    assert any(g is not None and bool(g.any()) for g in found)


def deep_markov_model() -> LatentModel:
    step = DiagonalNormal(Combiner(Z, H), Z)
    trunk = Recurrent(D, H, direction="backward")
    model: LatentModel = scrambled(
        LatentModel(
            n=Lengths(),
            z=Latent(
                MarkovNormal(GatedTransition(Z, hidden=4), T, lengths=True).given("n"),
                posterior=MarkovNormal(step, T, trunk=trunk, lengths=True).given("x", "n"),
            ),
            x=Observed(EachStep(Bernoulli(MLP(Z, [4]), D), T).given("z"), lengths="n"),
        )
    )
    return model


def objective(pair: ModelGuidePair, estimator: elbo.ELBO, mode: Any) -> Objective:
    options: Any = {"weight_prior": None, "prior_names": frozenset(), "clip_norm": None, "mode": mode}
    return Objective(pair, estimator, num_data=30, **options)


def step_of(made: Objective, x: dict[str, Tensor]) -> list[Tensor]:
    torch.manual_seed(3)
    found = made(x, torch.ones((), dtype=x["x"].dtype))
    return [found.metrics, *found.gradients.values()]


@pytest.mark.parametrize(
    "estimator",
    [
        elbo.TraceELBO(num_particles=2),
        elbo.TraceMeanFieldELBO(on_missing_kl="sample"),
        elbo.ImportanceWeightedELBO(3),
        elbo.StickingTheLandingELBO(),
        elbo.DoublyReparameterizedELBO(2),
        elbo.ScoreFunctionELBO(num_particles=2, baseline="leave-one-out"),
        elbo.VIMCO(3),
        elbo.ReweightedWakeSleep(3),
    ],
    ids=lambda made: type(made).__name__,
)
def test_the_kept_density_changes_no_estimator(
    estimator: elbo.ELBO, float64: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The score among them, which is the gradient of log q at a draw that is held."""
    pair = deep_markov_model()
    x = {"x": torch.bernoulli(torch.full((3, T, D), 0.4)), "n": LENGTHS}
    found = step_of(objective(pair, estimator, "eager"), x)
    monkeypatch.setattr(normal_chain, "kept_density", lambda last, value: None)
    for one, other in zip(found, step_of(objective(pair, estimator, "eager"), x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        assert bool(one.any())


# --- no further than the longest sequence ---


def test_a_chain_ends_at_the_longest_sequence(float64: torch.dtype) -> None:
    """Neither draw nor density goes on to the padding of all; what they give is as if they did."""
    seen: list[int] = []

    def step(previous: Tensor, index: int | slice) -> Any:
        seen.append(index.stop if isinstance(index, slice) else index + 1)
        return dist.Normal(0.5 * previous, 2.0 * torch.ones_like(previous)).to_event(1)

    initial, found = dist.Normal(torch.ones(3, Z), 1.0).to_event(1), []
    for told in (T, None, 5):
        with no_longer_than(told, [LENGTHS]):
            assert longest(present(LENGTHS + 1, T)) == 5  # not what was told of
            chain = NormalChain(initial, step, T, present=present(LENGTHS, T))
            torch.manual_seed(1)
            z = chain.rsample()
            found.append([z, chain.log_prob(z), chain.log_prob(z.clone())])
            assert max(seen) == (told or 4)
            seen.clear()
    for other in found[1:]:
        for one, expected in zip(other, found[0], strict=True):
            torch.testing.assert_close(one, expected, **EXACT)


def test_a_recorded_step_has_a_graph_for_a_number_of_steps(
    float64: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes: list[int] = []

    def counted(*args: Any) -> Any:
        graph = record(*args)
        nodes.append(len(graph.graph.nodes))
        return graph

    monkeypatch.setattr(compile, "record", counted)
    pair, graphs = deep_markov_model(), []
    recorded, eager = (objective(pair, elbo.TraceELBO(), mode) for mode in ("graph", "eager"))
    for lengths in ([4, 1, 3], [2, 3, 4], [2, 1, 2], [T, 1, 1], [4, 4, 4]):
        x = {"x": torch.bernoulli(torch.full((3, T, D), 0.4)), "n": torch.tensor(lengths)}
        for one, other in zip(step_of(recorded, x), step_of(eager, x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        graphs.append(recorded.captured.graphs)
    assert graphs == [1, 1, 2, 3, 3] and recorded.fallback == ""
    of_two, of_four, of_six = nodes[1], nodes[0], nodes[2]
    assert of_four - of_two > 70 and of_six - of_four > 70  # some forty for each step of the draw


def test_pairs_around_it_tell_its_lengths(float64: torch.dtype) -> None:
    """One of random weights, and around that one of other programs: a graph for each number of steps as before."""
    pair = at_values(bayesianise(deep_markov_model(), modules="likelihood_x"), {})
    recorded, eager = (objective(pair, elbo.TraceELBO(), mode) for mode in ("graph", "eager"))
    for graphs, lengths in enumerate(([2, 1, 2], [4, 1, 3]), start=1):
        x = {"x": torch.bernoulli(torch.full((3, T, D), 0.4)), "n": torch.tensor(lengths)}
        for one, other in zip(step_of(recorded, x), step_of(eager, x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        assert (recorded.captured.graphs, recorded.fallback) == (graphs, "")


# --- one product for a weight ---


def loop(layer: nn.Linear, x: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        x = layer(x).tanh()
    return x.square().sum()


@pytest.mark.parametrize("bias", [True, False])
def test_weight_gradients_at_once_are_the_gradients_of_any_order(bias: bool, float64: torch.dtype) -> None:
    layer, x = nn.Linear(4, 4, bias=bias), torch.randn(2, 3, 4, requires_grad=True)
    inputs = [x, *layer.parameters()]
    found = []
    for mode in (torch.enable_grad(), WeightGradientsAtOnce()):
        with mode:
            value = loop(layer, x, 5)
        # A pass that does not ask for the weights leaves nothing behind for one that does.
        (alone,) = torch.autograd.grad(value, x, retain_graph=True)
        first = torch.autograd.grad(value, inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        found.append([value, alone, *first, *second])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_weights_that_are_made_anew_at_every_step_are_told_apart(float64: torch.dtype) -> None:
    """Parts of a parameter, as in a layer of several inputs, which live for a step only."""
    whole, x, found = torch.randn(4, 6, requires_grad=True), torch.randn(3, 4), []
    for mode in (torch.enable_grad(), WeightGradientsAtOnce()):
        value = x
        with mode:
            for t in range(40):
                first, second = whole.split([2, 4], -1) if t % 2 else whole.split([4, 2], -1)[::-1]
                value = (nn.functional.linear(value[:, :2], first) + nn.functional.linear(value, second)).tanh()
        found.append((value, *torch.autograd.grad(value.sum(), whole)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_the_gradient_of_a_draw_multiplies_once_for_a_weight() -> None:
    """Of shape [H, Z] is the gradient by the combiner's weight alone."""
    counts = []
    for steps in (5, 9):
        chain = MarkovNormal(DiagonalNormal(Combiner(2, 50), 2), steps, trunk=nn.Identity())
        x = torch.randn(8, steps, 50)
        with Written() as counted:
            torch.autograd.grad(chain(x).rsample().sum(), list(chain.transition.parameters()))
        counts.append(counted.shapes[50, 2])
    assert counts == [2, 2]  # that of the first step, which begins at a parameter, and of the others
