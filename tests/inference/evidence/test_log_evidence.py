"""The verb and its result: what goes in, what is refused, how errors are told apart."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.evidence_oracles import Explosive, GlobalMean, factor_analysis
from pyro.distributions.transforms import AffineTransform

from ppvae.core import DataError, ModelGuidePair, PairError, PpvaeError
from ppvae.data import load
from ppvae.inference.evidence import Evidence, ImportanceSampling, Outcome, PriorSampling, log_evidence
from ppvae.models import FactorAnalysis, bernoulli_vae, gaussian_vae


def evidence(values: list[float], errors: list[float], outcome: list[int] | None = None) -> Evidence:
    value, error = torch.tensor(values), torch.tensor(errors)
    codes = torch.tensor(outcome or [0] * len(values))
    return Evidence(value, error, value, value, "lower", codes, "Some", 1.5, {"seed": 3, "acceptance": value})


def test_means_and_their_two_errors() -> None:
    found = evidence([-1.0, -3.0, math.nan], [0.3, 0.4, math.nan], [0, 1, 3])
    assert found.mean == -1.0  # of what stands
    assert found.mean_of_all == -2.0
    assert found.mean_standard_error == pytest.approx(0.3)
    assert found.mean_of_all_standard_error == pytest.approx(0.25)
    assert math.isnan(found.sampling_standard_error)
    assert found.trusted.tolist() == [True, False, False]
    assert found.estimated.tolist() == [True, True, False]
    assert found.messages() == {Outcome.UNRELIABLE.message: 1, Outcome.INTERRUPTED.message: 1}
    lines = found.summary().splitlines()
    assert lines[0] == (
        "Some (lower): -1.0000 ± 0.3000 nats per datum, mean over 1 of 3 data that can be trusted, "
        "worst Pareto k -1.00, 1.5 s"
    )
    assert lines[1].startswith("  -2.0000 nats per datum over all 2 data that have an estimate, good or bad; neither")
    assert len(lines) == 4


def test_what_does_not_stand_is_never_in_the_mean() -> None:
    for code in Outcome:
        found = evidence([-1.0, 10.5], [0.1, 0.1], [0, int(code)])
        assert found.mean == (4.75 if code == Outcome.OK else -1.0)
    assert found.to_dict()["num_trusted"] == 1
    assert found.to_dict()["mean_of_all"] == 4.75


def test_to_dict_is_json() -> None:
    found = evidence([-1.0, math.nan], [0.3, math.inf]).to_dict()
    assert found["data"]["log_evidence"] == [-1.0, None]
    assert found["data"]["standard_error"] == [pytest.approx(0.3), None]
    assert found["data"]["acceptance"] == [-1.0, None]
    assert found["info"] == {"seed": 3}
    assert found["num_estimated"] == found["num_trusted"] == 1
    assert "data" not in evidence([-1.0], [0.3]).to_dict(per_datum=False)


def test_the_difference_of_two_models_by_hand() -> None:
    one = evidence([-1.0, -2.0, -4.0, -3.0, math.nan], [0.1] * 5, [0, 0, 0, 1, 3])
    other = evidence([-1.5, -2.0, -3.0, -9.0, -2.0], [0.1] * 5)
    gaps = [0.5, 0.0, -1.0]  # the last two are not trusted under the first
    expected = sum(gaps) / 3, statistics.stdev(gaps) / 3**0.5, 3
    assert one.minus(other) == pytest.approx(expected)
    assert not one.minus(other).told_apart  # of three data
    shared = replace(other, common_error=0.25)
    assert one.minus(shared).error == pytest.approx(math.hypot(expected[1], 0.25))
    assert other.minus(one).value == -expected[0]
    nothing = evidence([-1.0], [0.1], [1]).minus(evidence([-1.0], [0.1]))
    assert nothing.num_data == 0 and math.isnan(nothing.value) and not nothing.told_apart


def test_the_difference_is_that_of_the_closed_forms() -> None:
    pair, x = factor_analysis(dtype=torch.float64, num_data=200)
    fewer = FactorAnalysis.from_parameters(pair.loc, pair.loading[:, :2], pair.scale).with_wrong_guide()
    exact = (pair.log_evidence(x) - fewer.log_evidence(x)).detach()
    found, other = (log_evidence(p, x, method=ImportanceSampling(2000), progress=False) for p in (pair, fewer))
    gap, both = found.minus(other), found.trusted & other.trusted
    assert gap.num_data == int(both.sum()) > 100 and gap.told_apart
    assert gap.value == pytest.approx(float(exact[both].mean()), abs=5 * found.mean_standard_error)
    assert gap.error == pytest.approx(float(exact[both].std()) / gap.num_data**0.5, rel=0.1)
    # The same in single precision is of the same data.
    single = log_evidence(pair.float(), x.float(), progress=False)
    assert single.minus(other).value == pytest.approx(gap.value, abs=0.05)


def test_what_does_not_compare_is_refused() -> None:
    pair, x = factor_analysis(num_data=20)
    found = log_evidence(pair, x, method=PriorSampling(20), progress=False)
    with pytest.raises(DataError, match=r"same data, found 20 beside 10"):
        found.minus(log_evidence(pair, x[:10], method=PriorSampling(20), progress=False))
    with pytest.raises(DataError, match=r"(?s)two of different data.*the same order"):
        found.minus(log_evidence(pair, x.flip(0), method=PriorSampling(20), progress=False))
    torch.manual_seed(0)
    binary, options = (x > 0).float(), {"latent_dim": 2, "hidden": (4,)}
    of_each = [
        log_evidence(of(9, **options), binary, method=PriorSampling(20), progress=False)
        for of in (bernoulli_vae, gaussian_vae)
    ]
    message = "one model has probabilities of 9 values, the other densities of 9 values: these do not compare"
    with pytest.raises(DataError, match=message):
        of_each[0].minus(of_each[1])
    assert of_each[0].minus(of_each[0]) == (0.0, 0.0, int(of_each[0].trusted.sum()))


@pytest.mark.parametrize("inside", [True, False])
def test_data_scaled_inside_a_model_are_others(inside: bool) -> None:
    """One model, written with obs=x, with obs=(x - 3) / 5 or a transform: D log 5 nats apart, or none."""
    x = 3 + 5 * torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    scale = AffineTransform(torch.full((2,), 3.0), 5.0)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    def found_by(scaled: bool) -> Evidence:
        def model(x: torch.Tensor) -> None:
            with pyro.plate("data", len(x)):
                fn = dist.Normal(pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1)) + torch.zeros(2), 1.0)
                if not scaled:
                    pyro.sample("x", dist.Normal(3 + 5 * fn.loc, 5.0).to_event(1), obs=x)
                elif inside:
                    pyro.sample("x", fn.to_event(1), obs=scale.inv(x))
                else:
                    pyro.sample("x", dist.TransformedDistribution(fn, [scale]).to_event(1), obs=x)

        pair = ModelGuidePair.from_callables(model, guide)
        return log_evidence(pair, x, method=ImportanceSampling(30), progress=False, compile="eager")

    plain, other = found_by(False), found_by(True)
    distance = (plain.log_evidence - other.log_evidence).mean()
    assert distance == pytest.approx(-2 * math.log(5) if inside else 0, abs=1e-4)
    if inside:
        with pytest.raises(DataError, match=r"observe other values of the same data, as obs=\(x - mean\) / scale"):
            plain.minus(other)
    else:
        assert plain.minus(other).value == pytest.approx(0, abs=1e-4)


def test_shapes_are_checked() -> None:
    with pytest.raises(DataError, match=r"expected standard_error of the shape \[B\]"):
        evidence([-1.0, -2.0], [0.1])


def test_every_outcome_has_a_message() -> None:
    messages = [code.message for code in Outcome]
    assert len(set(messages)) == len(Outcome)


def test_default_method_and_dataset() -> None:
    digits = load("digits", binarize="static")
    pair = bernoulli_vae(64, latent_dim=2, hidden=(16,))
    found = log_evidence(pair, digits.test, progress=False)
    assert found.method == "ImportanceSampling"
    assert len(found) == 300


def test_nothing_is_changed() -> None:
    pair, x = factor_analysis(num_data=4)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    requires = [parameter.requires_grad for parameter in pair.parameters()]
    log_evidence(pair, x, method=PriorSampling(10), progress=False)
    assert all(torch.equal(before[name], value) for name, value in pair.state_dict().items())
    assert [parameter.requires_grad for parameter in pair.parameters()] == requires
    assert all(parameter.grad is None for parameter in pair.parameters())


def test_global_sites() -> None:
    pair, x = GlobalMean(), torch.randn(50, 2)
    names = ('global_sites="mean"', "global_sites={site: value}")
    with pytest.raises(PairError) as caught:
        log_evidence(pair, x, progress=False)
    assert all(name in str(caught.value) for name in names)
    mean = log_evidence(pair, x, global_sites="mean", progress=False)
    # The mean of 1000 draws of scale 0.1 lies within 5 x 0.0032 of the guide's.
    exact = GlobalMean.log_evidence_at(x, pair.guide_loc.detach())
    assert float((mean.log_evidence - exact).abs().max()) < 5 * float(mean.standard_error.max()) + 0.1
    assert mean.info["global_sites"] == "mean"
    for values, message in (
        ({"v": torch.zeros(2)}, r"'v' is not a global latent site"),
        ({}, r"global latent site 'w' has no value"),
        ({"w": torch.zeros(3)}, r"'w': expected a value of shape \[2\], found \[3\]"),
        ("median", r"expected 'mean' or a mapping"),
    ):
        with pytest.raises(PairError, match=message):
            log_evidence(pair, x, global_sites=values, progress=False)
    plain, y = factor_analysis(num_data=3)
    with pytest.raises(PairError, match=r"the pair has no global latent site"):
        log_evidence(plain, y, global_sites={"w": torch.zeros(2)}, progress=False)
    assert torch.isfinite(log_evidence(plain, y, global_sites="mean", progress=False).log_evidence).all()


def test_held_sites_of_a_trained_pair_are_not_touched() -> None:
    pair = GlobalMean()
    log_evidence(pair, torch.randn(5, 2), global_sites="mean", progress=False)
    assert pair.guide_loc.tolist() == pytest.approx([0.3, -1.0])
    assert pair._pyro_name.startswith("GlobalMean")


def test_an_impossible_datum_stops_no_other() -> None:
    pair, x = Explosive(-math.inf), torch.randn(6, 2)
    x[1, 0] = 20.0
    found = log_evidence(pair, x, method=ImportanceSampling(100), progress=False)
    assert float(found.log_evidence[1]) == -math.inf
    assert found.outcome.tolist() == [0, Outcome.NOT_FINITE, 0, 0, 0, 0]
    with pytest.raises(PairError, match=r"fails on a batch"):  # validation names the site
        log_evidence(Explosive(math.nan), x, progress=False)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.zeros(0, 9), DataError, "empty"),
        (torch.full((2, 9), torch.nan), DataError, "not finite"),
        (torch.zeros(9), DataError, "1-D vector"),
        (torch.zeros(2, 8), PairError, "fails on a batch of shape"),
        ("x", DataError, "expected a tensor or an array"),
    ],
)
def test_bad_data(data: object, error: type[Exception], message: str) -> None:
    pair, _ = factor_analysis(num_data=3)
    with pytest.raises(error, match=message):
        log_evidence(pair, data, progress=False)


def test_grey_pixels_are_refused() -> None:
    with pytest.raises(PairError, match=r"in the support of its likelihood"):
        log_evidence(bernoulli_vae(4, latent_dim=2, hidden=(3,)), torch.full((1500, 4), 0.5), progress=False)


def test_bad_options() -> None:
    pair, x = factor_analysis(num_data=3)
    with pytest.raises(PpvaeError, match=r"expected an evidence method with its options, found 'ais'"):
        log_evidence(pair, x, method="ais", progress=False)  # type: ignore[arg-type]
    with pytest.raises(PpvaeError, match=r"expected an evidence method with its options, found <class"):
        log_evidence(pair, x, method=ImportanceSampling, progress=False)  # type: ignore[arg-type]
    with pytest.raises(PpvaeError, match=r"compile: expected"):
        log_evidence(pair, x, compile="fast", progress=False)  # type: ignore[arg-type]
    with pytest.raises(PpvaeError, match=r"unknown device 'tpu9'"):
        log_evidence(pair, x, device="tpu9", progress=False)
