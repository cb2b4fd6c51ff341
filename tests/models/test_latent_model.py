"""A latent-variable model from one description: the densities of programs written by hand, or a refusal by name."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.pair import PairContract
from torch import Tensor, nn

from ppvae.core import (
    Data,
    ModelGuidePair,
    PairError,
    check_pair,
    discrete_marginals,
    draw,
    log_joint,
    structure,
    sum_out,
)
from ppvae.data import Dataset
from ppvae.distributions import (
    Bernoulli,
    Categorical,
    DiagonalNormal,
    EachStep,
    FullCovarianceNormal,
    LinearTransition,
    MarkovNormal,
    Normal,
    OneHotCategorical,
    ProductOfExperts,
    StandardNormal,
    StepwiseNormal,
    draw_gaps,
    observe_with_gaps,
)
from ppvae.inference import elbo, evidence, fit, log_evidence
from ppvae.models import (
    VAE,
    Covariate,
    Exposure,
    Features,
    Label,
    Latent,
    LatentModel,
    Lengths,
    Mask,
    Observed,
    bayesianise,
)
from ppvae.networks import MLP, JoinedMLP, Recurrent

D, Z, K, SIZE = 6, 2, 3, 6


def two_layers() -> LatentModel:
    """Two layers of latents, the guide from the top down."""
    return LatentModel(
        x=Observed(Bernoulli(MLP(Z, [4]), D).given("z1")),
        z1=Latent(
            DiagonalNormal(MLP(3, [4]), Z).given("z2"),
            posterior=DiagonalNormal(JoinedMLP([D, 3], [4]), Z).given("x", "z2"),
        ),
        z2=Latent(StandardNormal(3), posterior=DiagonalNormal(MLP(D, [4]), 3).given("x")),
    )


def ladder() -> LatentModel:
    """Both posteriors read one trunk, and the prior of the lower latent a network of the upper."""
    return LatentModel(
        h=Features(MLP(D, [5])).given("x"),
        up=Features(MLP(3, [4])).given("z2"),
        z2=Latent(StandardNormal(3), posterior=DiagonalNormal(MLP(5, []), 3).given("h")),
        z1=Latent(
            DiagonalNormal(MLP(4, []), Z).given("up"),
            posterior=DiagonalNormal(JoinedMLP([5, 4], [4]), Z).given("h", "up"),
        ),
        x=Observed(Bernoulli(MLP(Z, [4]), D).given("z1")),
    )


def semi_supervised(guided: bool = True) -> LatentModel:
    """M2: a class with gaps, summed out of both programs or of the model alone."""
    y = Label(OneHotCategorical(None, K), posterior=OneHotCategorical(MLP(D, [4]), K).given("x") if guided else None)
    of_z = DiagonalNormal(MLP(D, [5]), Z).given("x")
    if guided:
        of_z = DiagonalNormal(JoinedMLP([D, K], [5]), Z).given("x", "y")
    return LatentModel(
        y=y,
        z=Latent(StandardNormal(Z), posterior=of_z),
        x=Observed(Bernoulli(JoinedMLP([Z, K], [4]), D).given("z", "y")),
    )


def conditional() -> LatentModel:
    """A covariate in the prior, the likelihood and the guide; gaps in x."""
    return LatentModel(
        u=Covariate(2),
        z=Latent(
            DiagonalNormal(MLP(2, [3]), Z).given("u"),
            posterior=DiagonalNormal(JoinedMLP([D, D, 2], [5]), Z).given("x", "seen", "u"),
        ),
        x=Observed(Normal(JoinedMLP([Z, 2], [4]), D, scale="shared").given("z", "u"), mask="seen"),
        seen=Mask(),
    )


class TestTwoLayers(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return two_layers()

    def make_data(self) -> Data:
        return torch.bernoulli(torch.full((SIZE, D), 0.4))


class TestLadder(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return ladder()

    def make_data(self) -> Data:
        return torch.bernoulli(torch.full((SIZE, D), 0.4))


class TestConditional(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return conditional()

    def make_data(self) -> Data:
        return {"x": torch.randn(SIZE, D), "u": torch.randn(SIZE, 2), "seen": torch.rand(SIZE, D) > 0.3}


# --- the same as by hand --------------------------------------------------------------------------


class TwoLayersByHand(ModelGuidePair):
    """The programs of two_layers."""

    def __init__(self, parts: LatentModel) -> None:
        super().__init__()
        self.parts = nn.ModuleList([parts])

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        parts: Any = self.parts[0]
        with self.data_plate(x, num_data):
            z2 = pyro.sample("z2", parts.prior_z2())
            z1 = pyro.sample("z1", parts.prior_z1(z2))
            pyro.sample("x", parts.likelihood_x(z1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        parts: Any = self.parts[0]
        with self.data_plate(x, num_data):
            z2 = pyro.sample("z2", parts.posterior_z2(x))
            pyro.sample("z1", parts.posterior_z1(x, z2))


class LabelsByHand(ModelGuidePair):
    """The programs of semi_supervised."""

    def __init__(self, parts: LatentModel) -> None:
        super().__init__()
        self.parts = nn.ModuleList([parts])

    def model(self, x: Any, num_data: int | None = None) -> None:
        parts: Any = self.parts[0]
        with self.data_plate(x, num_data):
            y = observe_with_gaps("y", parts.prior_y().expand((len(x["x"]),)), x["y"])
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            pyro.sample("x", parts.likelihood_x(z, y), obs=x["x"])

    def guide(self, x: Any, num_data: int | None = None) -> None:
        parts: Any = self.parts[0]
        with self.data_plate(x, num_data):
            y = draw_gaps("y", parts.posterior_y(x["x"]), x["y"])
            pyro.sample("z", parts.posterior_z(x["x"], y))


def labelled() -> dict[str, Tensor]:
    """Of every second datum the class is known."""
    return {"x": torch.bernoulli(torch.full((SIZE, D), 0.4)), "y": torch.tensor([0, -1, 2, -1, 1, -1])}


@pytest.mark.parametrize(
    ("make", "by_hand", "data"),
    [
        (two_layers, TwoLayersByHand, lambda: torch.bernoulli(torch.full((SIZE, D), 0.4))),
        (semi_supervised, LabelsByHand, labelled),
    ],
    ids=["two layers", "labels"],
)
def test_the_programs_are_those_written_by_hand(make: Any, by_hand: Any, data: Any) -> None:
    torch.manual_seed(0)
    pair, x = make(), data()
    hand = by_hand(pair)
    check_pair(pair, x)
    values = []
    for each in (pair, hand):
        torch.manual_seed(1)
        values.append(elbo.TraceELBO(num_particles=3).terms(each, x).local)
    assert torch.equal(*values)
    assert [i.name for i in structure(pair, x).model] == [i.name for i in structure(hand, x).model]


def test_vae_is_the_simplest_case() -> None:
    pair = VAE(StandardNormal(Z), Bernoulli(MLP(Z, [4]), D), DiagonalNormal(MLP(D, [4]), Z))
    assert isinstance(pair, LatentModel)
    assert {name.partition(".")[0] for name, _ in pair.named_parameters()} == {"likelihood", "posterior"}
    x = torch.bernoulli(torch.full((SIZE, D), 0.4))
    latents = draw(pair, x, 2).latents
    alone = log_joint(pair, x, latents).local
    assert torch.equal(alone, log_joint(pair, {"x": x, "not read": torch.zeros(SIZE)}, latents).local)


def test_whole_numbers_arrive_as_floats() -> None:
    """Classes that the guide reads: their likelihood draws whole numbers, data are floats."""
    pair = VAE(StandardNormal(Z), Categorical(MLP(Z, [4]), D, K), DiagonalNormal(MLP(D, [4]), Z))
    check_pair(pair, torch.randint(K, (SIZE, D)).float())


def test_lengths_that_parts_alone_read() -> None:
    """No variable has gaps by them: a likelihood and a chain leave their padding out themselves."""
    pair = LatentModel(
        n=Lengths(),
        z=Latent(
            MarkovNormal(LinearTransition(Z), 4, lengths=True).given("n"),
            posterior=StepwiseNormal(Recurrent(3, 4), (4, Z), lengths=True).given("x", "n"),
        ),
        x=Observed(EachStep(Bernoulli(MLP(Z, []), 3), 4, lengths=True).given("z", "n")),
    )
    check_pair(pair, {"x": torch.zeros(SIZE, 4, 3), "n": torch.tensor([1, 2, 3, 4, 4, 4])})


def test_missing_modalities() -> None:
    """A modality that is missing, NaN in its place, is as one that the model does not have."""
    torch.manual_seed(0)
    experts = [DiagonalNormal(MLP(D, [4]), Z), DiagonalNormal(MLP(K, [4]), Z)]
    pair = LatentModel(
        has_x=Mask(per_datum=True),
        has_y=Mask(per_datum=True),
        z=Latent(StandardNormal(Z), posterior=ProductOfExperts(experts).given("x", "y", "has_x", "has_y")),
        x=Observed(Bernoulli(MLP(Z, [4]), D).given("z"), mask="has_x"),
        y=Observed(OneHotCategorical(MLP(Z, [4]), K).given("z"), mask="has_y"),
    )
    alone = LatentModel(
        z=Latent(StandardNormal(Z), posterior=ProductOfExperts(experts[:1]).given("x")),
        x=Observed(pair.likelihood_x.given("z")),
    )
    x = torch.bernoulli(torch.full((SIZE, D), 0.4))
    without = {"x": x, "y": torch.full((SIZE, K), torch.nan), "has_x": torch.ones(SIZE), "has_y": torch.zeros(SIZE)}
    check_pair(pair, without)
    bounds = []
    for each, batch in ((pair, without), (alone, x)):
        torch.manual_seed(1)
        bounds.append(elbo.TraceELBO(num_particles=3).terms(each, batch).local)
    torch.testing.assert_close(*bounds)


def test_a_shared_trunk_runs_once() -> None:
    pair = ladder()
    calls = []
    pair.network_h.register_forward_hook(lambda *_: calls.append(1))
    pair.guide(torch.zeros(SIZE, D))
    assert calls == [1]
    pair.model(torch.zeros(SIZE, D))
    assert calls == [1]  # the model does without it


def test_labels_without_a_posterior_are_summed_out_of_the_model() -> None:
    torch.manual_seed(0)
    pair, x = semi_supervised(guided=False), labelled()
    check_pair(pair, x)
    assert [info.name for info in structure(pair, x).enumerated] == ["y_unobserved"]
    z = draw(pair, x, 1).latents["z"]
    found = discrete_marginals(pair, x, {"z": z})["y_unobserved"]
    logits = torch.stack([log_joint(pair, {**x, "y": torch.full((SIZE,), k)}, {"z": z}).local[0] for k in range(K)], -1)
    torch.testing.assert_close(found[0, 1::2], logits.softmax(-1)[1::2])


def test_lengths_are_gaps_at_the_end() -> None:
    """What stands beyond a sequence's length changes nothing, and the evidence is that of its steps."""

    def of_steps(steps: int) -> LatentModel:
        torch.manual_seed(2)
        return LatentModel(
            z=Latent(StandardNormal((1,)), posterior=DiagonalNormal(None, 1)),
            x=Observed(Normal(MLP(1, []), (steps, 2), scale=0.5).given("z"), lengths="lengths"),
            lengths=Lengths(),
        )

    pair = of_steps(4)
    with torch.no_grad():
        weight = torch.randn(8, 1)
        pair.likelihood_x.head.layers[0].weight.copy_(weight)
    short = of_steps(2)
    with torch.no_grad():
        short.likelihood_x.head.layers[0].weight.copy_(weight[:4])
        short.likelihood_x.head.layers[0].bias.copy_(pair.likelihood_x.head.layers[0].bias[:4])
    x, z = torch.randn(3, 4, 2), {"z": torch.randn(3, 1)}
    batch = {"x": x, "lengths": torch.tensor([2, 2, 2])}
    noise = {"x": torch.cat([x[:, :2], torch.full((3, 2, 2), torch.nan)], 1), "lengths": batch["lengths"]}
    for each in (pair, bayesianise(pair, modules="likelihood_x"), sum_out(pair)):
        check_pair(each, noise)
    expected = log_joint(short, {"x": x[:, :2], "lengths": batch["lengths"]}, z).local
    for each in (batch, noise):
        torch.testing.assert_close(log_joint(pair, each, z).local, expected)


def test_the_verbs_serve_a_description() -> None:
    """From fit to two methods of evidence that agree, with gaps given as NaN."""
    torch.manual_seed(0)
    pair = conditional()
    data: Any = {"x": torch.randn(60, D), "u": torch.randn(60, 2), "seen": (torch.rand(60, D) > 0.3).float()}
    data["x"] = data["x"].where(data["seen"] > 0, torch.tensor(torch.nan))
    made = fit(pair, data, num_epochs=3, progress=False, compile="graph")
    assert all(row["elbo_train"] == row["elbo_train"] for row in made.history)
    few = {key: value[:8] for key, value in data.items()}
    one = log_evidence(pair, few, method=evidence.ImportanceSampling(2000), progress=False, compile="eager")
    two = log_evidence(pair, Dataset(few), method=evidence.PSIS(2000), seed=1, progress=False, compile="eager")
    spread = (one.standard_error.square() + two.standard_error.square()).sqrt()
    assert float(((one.log_evidence - two.log_evidence) / spread).abs().max()) < 4


# --- words ----------------------------------------------------------------------------------------


def test_it_prints_as_its_factorisations() -> None:
    assert str(two_layers()).splitlines() == [
        "p(x, z1, z2) = p(z2) p(z1 | z2) p(x | z1)",
        "q(z1, z2 | x) = q(z2 | x) q(z1 | x, z2)",
        "",
        f"x: observed [{D}], likelihood Bernoulli",
        f"z1: latent [{Z}], prior DiagonalNormal, posterior DiagonalNormal",
        "z2: latent [3], prior StandardNormal, posterior DiagonalNormal",
    ]
    assert str(conditional()).splitlines()[:2] == [
        "p(x, z | u) = p(z | u) p(x | z, u)",
        "q(z | u, x, seen) = q(z | x, seen, u)",
    ]
    assert "y: label [3], prior OneHotCategorical, summed out" in str(semi_supervised(guided=False))
    assert "h: features, MLP of x" in str(ladder())


# --- bad input ------------------------------------------------------------------------------------

Z_OF_X = Latent(StandardNormal(Z), posterior=DiagonalNormal(MLP(D, [4]), Z).given("x"))
X_OF_Z = Observed(Bernoulli(MLP(Z, [4]), D).given("z"))

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown parent": ({"z": Z_OF_X, "x": Observed(Bernoulli(MLP(Z, []), D).given("zz"))}, r"'x' depends on 'zz'.*'z'"),
    "circle": (
        {
            "a": Latent(DiagonalNormal(MLP(Z, []), Z).given("b"), posterior=DiagonalNormal(None, Z)),
            "b": Latent(DiagonalNormal(MLP(Z, []), Z).given("a"), posterior=DiagonalNormal(None, Z)),
            "x": Observed(Bernoulli(MLP(Z, []), D).given("a")),
        },
        r"of the model depend on each other in a circle: 'a' -> 'b' -> 'a'|'b' -> 'a' -> 'b'",
    ),
    "circle in the guide": (
        {
            "a": Latent(StandardNormal(Z), posterior=DiagonalNormal(MLP(Z, []), Z).given("b")),
            "b": Latent(StandardNormal(Z), posterior=DiagonalNormal(MLP(Z, []), Z).given("a")),
            "x": Observed(Bernoulli(JoinedMLP([Z, Z], [3]), D).given("a", "b")),
        },
        r"of the guide depend on each other in a circle",
    ),
    "event shapes": (
        {"z": Latent(StandardNormal(Z), posterior=DiagonalNormal(MLP(D, []), 3).given("x")), "x": X_OF_Z},
        r"site 'z': expected the posterior's event shape to be the prior's \(2,\), found \(3,\)",
    ),
    "width of a network": (
        {"z": Z_OF_X, "x": Observed(Bernoulli(MLP(5, [4]), D).given("z"))},
        r"'x', its likelihood given 'z', fails at 'z' \[2, 2\]",
    ),
    "several parents of one input": (
        {"u": Covariate(1), "z": Z_OF_X, "x": Observed(Bernoulli(MLP(Z, [4]), D).given("z", "u"))},
        r"'x', its likelihood given 'z', 'u', fails(?s:.*)JoinedMLP",
    ),
    "no context": ({"z": Z_OF_X, "x": Observed(Bernoulli(MLP(Z, []), D))}, r"'x', its likelihood: .*is conditional"),
    "no posterior": (
        {"z": Latent(StandardNormal(Z)), "x": X_OF_Z},
        r"'z' has no posterior, and its prior no list of values",
    ),
    "posterior given what is summed out": (
        {
            "y": Latent(OneHotCategorical(None, K)),
            "z": Latent(StandardNormal(Z), posterior=DiagonalNormal(MLP(K, []), Z).given("y")),
            "x": Observed(Bernoulli(JoinedMLP([Z, K], [3]), D).given("z", "y")),
        },
        r"'z': its posterior depends on 'y', which has none of its own",
    ),
    "nothing observed": (
        {"z": Latent(StandardNormal(Z), posterior=DiagonalNormal(None, Z))},
        r"no variable is observed",
    ),
    "no variable": ({"z": StandardNormal(Z), "x": X_OF_Z}, r"'z': expected a Latent, .*, found a StandardNormal"),
    "no distribution": ({"z": Z_OF_X, "x": Observed(nn.Linear(2, D))}, r"'x', its likelihood: expected a conditional"),
    "idle covariate": ({"z": Z_OF_X, "x": X_OF_Z, "u": Covariate(2)}, r"'u' is declared and nothing depends on it"),
    "unknown mask": (
        {"z": Z_OF_X, "x": Observed(X_OF_Z.likelihood, mask="sen"), "seen": Mask()},
        r"'x': 'sen' is no Mask of the model: did you mean 'seen'",
    ),
    "labels of coins": (
        {"z": Z_OF_X, "y": Label(Bernoulli(None, 1)), "x": X_OF_Z},
        r"'y', its prior: labels: expected a distribution of one class for each datum, found a Bernoulli",
    ),
    "mask of nothing": (
        {
            "z": Latent(StandardNormal(Z), posterior=DiagonalNormal(MLP(1, []), Z).given("seen")),
            "x": X_OF_Z,
            "seen": Mask(),
        },
        r"'seen' is the mask of no variable",
    ),
    "lengths for a mask": (
        {"z": Z_OF_X, "x": Observed(X_OF_Z.likelihood, mask="n"), "n": Lengths()},
        r"'n' is no Mask",
    ),
    "gaps of a parent": (
        {
            "z": Z_OF_X,
            "x": Observed(X_OF_Z.likelihood, mask="seen"),
            "seen": Mask(),
            "y": Observed(Bernoulli(MLP(D, []), 2).given("x")),
        },
        r"'y' depends on 'x' in the model, which has gaps",
    ),
    "gaps in one density": (
        {
            "z": Z_OF_X,
            "x": Observed(FullCovarianceNormal(MLP(Z, [3]), D).given("z"), mask="seen"),
            "seen": Mask(),
        },
        r"MultivariateNormal has one density for several entries",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    variables, message = REFUSED[case]
    with pytest.raises(PairError, match=message):
        LatentModel(**variables)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(4, D), r"expected a batch with the members 'u', 'x', 'seen', found one tensor"),
        ({"x": torch.zeros(4, D), "u": torch.zeros(4, 2)}, r"no member 'seen' \(Mask\): expected 'u', 'x', 'seen'"),
        (
            {"x": torch.zeros(4, D), "u": torch.zeros(4, 2), "seen": torch.ones(4)},
            r"member 'seen': expected the shape of 'x', \[4, 6\], found \[4\](?s:.*)per_datum",
        ),
        (
            {"x": torch.full((4, D), torch.nan), "u": torch.zeros(4, 2), "seen": torch.ones(4, D)},
            r"batch member 'x': value at \[0, 0\] is not finite",
        ),
    ],
    ids=["tensor", "missing", "shape", "NaN that is there"],
)
def test_batches_that_do_not_fit(batch: Any, message: str) -> None:
    with pytest.raises(PairError, match=message):
        check_pair(conditional(), batch)


def test_exposure_is_a_number_for_each_datum() -> None:
    assert Exposure().shape == () and Covariate(3).shape == (3,)
    with pytest.raises(ValueError, match="Covariate: expected at least one entry"):
        Covariate(0)
