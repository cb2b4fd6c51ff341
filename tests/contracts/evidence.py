"""The inherited test case of an evidence method: its value, side, error, seed, memory, failures, on exact truths."""

from __future__ import annotations

import importlib
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError, PpvaeError
from ppvae.data import Dataset
from ppvae.inference.evidence import Evidence, EvidenceMethod, Outcome, log_evidence

from .evidence_oracles import DiscreteLatent, Explosive, GammaPoisson, GlobalMean, factor_analysis


def assert_calibrated(
    evidence: Evidence, exact: Tensor, *, spread: tuple[float, float], side: bool = True, share: float = 1.0
) -> None:
    """Errors over data are what the standard errors say, and on the side that the method declares.

    Args:
        evidence: of B data.
        exact: the truth, [B].
        spread: within which the standard deviation of the standardised errors must lie.
        side: check the side as well.
        share: of the data must have an estimate; the others were refused.
    """
    assert float(evidence.estimated.double().mean()) >= share
    found = evidence.trusted  # what does not stand promises nothing
    assert bool(found.any())
    error, standard_error = (evidence.log_evidence - exact).double()[found], evidence.standard_error.double()[found]
    scaled = error / standard_error
    assert spread[0] < float(scaled.square().mean().sqrt()) < spread[1]
    count = len(error)
    # At least 99 % within three; of B data that allows, beside one in a hundred, three sigma of a binomial.
    allowed = 0.01 * count + 3 * math.sqrt(0.01 * 0.99 * count)
    assert int((scaled.abs() > 3).sum()) <= allowed
    mean, mean_error = float(error.mean()), evidence.mean_standard_error
    if side and evidence.bound == "lower":
        assert mean < 5 * mean_error
    if side and evidence.bound == "upper":
        assert mean > -5 * mean_error
    # A bias of a log of an average is of the order of the variance of one datum's estimate.
    bias = float(standard_error.square().mean())
    assert abs(mean) < 5 * mean_error + bias


class _Bar:
    """In the place of a progress bar, with all it was told."""

    def __init__(self, bars: list[_Bar], total: int, **options: Any) -> None:
        self.n, self.total, self.updates = 0.0, total, list[float]()
        bars.append(self)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, amount: float) -> None:
        self.n += amount
        self.updates.append(amount)


class EvidenceContract:
    """Inherit, give :meth:`make`, and an evidence method has its tests.

    Attributes:
        spread: bounds on the root mean square of standardised errors.
        continuous: needs continuous latents.
        random: whether a seed matters.
        share: of the data with constrained latents have an estimate at the least; others may be refused.
        trusted: no outcome but OK on the factor analysis.
    """

    spread: tuple[float, float] = (0.65, 1.35)
    continuous: bool = True
    random: bool = True
    trusted: bool = True
    share: float = 1.0
    num_data: int = 60

    def make(self) -> EvidenceMethod:
        """The method, with options that take about a second on 60 data."""
        raise NotImplementedError

    def data(self, pair: ModelGuidePair, x: Tensor) -> Any:
        """What the method is given for data x."""
        return x

    def observed(self, data: Any) -> Tensor:
        """The data proper, for the exact evidence."""
        return data

    def run(self, pair: ModelGuidePair, data: Any, **options: Any) -> Evidence:
        # Eager where speed does not matter: recording takes longer than so little work.
        options = {"progress": False, "compile": "eager"} | options
        return log_evidence(pair, data, method=options.pop("method", None) or self.make(), **options)

    # --- truth ---

    def test_factor_analysis(self) -> None:
        pair, x = factor_analysis(num_data=self.num_data)
        data = self.data(pair, x)
        found = self.run(pair, data, seed=1)
        exact = pair.log_evidence(self.observed(data)).detach()
        assert found.bound == self.make().bound
        assert found.method == type(self.make()).__name__
        assert_calibrated(found, exact, spread=self.spread)

    def test_constrained_latent(self) -> None:
        pair, x = GammaPoisson(), GammaPoisson.data(self.num_data)
        data = self.data(pair, x)
        found = self.run(pair, data, seed=2)
        exact = pair.log_evidence(self.observed(data)).detach()
        assert_calibrated(found, exact, spread=self.spread, share=self.share)

    def test_global_sites_are_held(self) -> None:
        pair, x = GlobalMean(), torch.randn(30, 2)
        with pytest.raises(PairError, match=r"global latent site 'w'.*(?s:.*)global_sites=\"mean\""):
            self.run(pair, x)
        w = torch.tensor([0.5, -0.5])
        data = self.data_held(pair, x, w)
        found = self.run(pair, data, global_sites={"w": w})
        exact = GlobalMean.log_evidence_at(self.observed(data), w)
        assert_calibrated(found, exact, spread=(0.3, 2.0), side=False)
        assert "global_sites" in found.info

    def data_held(self, pair: ModelGuidePair, x: Tensor, w: Tensor) -> Any:
        return x

    # --- the result ---

    def test_result(self) -> None:
        pair, x = factor_analysis(num_data=5)
        found = self.run(pair, self.data(pair, x))
        assert len(found) == 5
        for name in ("log_evidence", "standard_error", "effective_sample_size", "pareto_k", "outcome"):
            assert getattr(found, name).shape == (5,)
        assert found.log_evidence.dtype == torch.float32
        if self.trusted:
            assert found.outcome.eq(0).all()
            assert found.messages() == {}
        assert found.method in repr(found)
        text = json.dumps(found.to_dict(), allow_nan=False)
        assert json.loads(text)["data"]["log_evidence"][0] == pytest.approx(float(found.log_evidence[0]))

    def test_the_progress_of_a_run_is_its_data(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pair, x = factor_analysis(num_data=5)
        bars: list[_Bar] = []
        module = importlib.import_module("ppvae.inference.evidence.log_evidence")  # hidden by its function's name
        monkeypatch.setattr(module, "progress_bar", lambda **options: _Bar(bars, **options))
        self.run(pair, self.data(pair, x), method=self.brief())
        (bar,) = bars
        assert bar.total == 5
        assert bar.n == pytest.approx(5)
        if self.random:  # the method has told of all its work before its end
            assert bar.updates[-1] == pytest.approx(0, abs=1e-5)

    def test_float64(self) -> None:
        pair, x = factor_analysis(num_data=4, dtype=torch.float64)
        found = self.run(pair, self.data(pair, x), method=self.brief())
        assert found.log_evidence.dtype == torch.float64
        assert torch.isfinite(found.log_evidence).all()

    # --- seeds, modes, chunks ---

    def test_seeded(self) -> None:
        pair, x = factor_analysis(num_data=6)
        data, method = self.data(pair, x), self.brief()
        before = torch.get_rng_state()
        first, again = (self.run(pair, data, method=method, seed=4) for _ in range(2))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first.log_evidence, again.log_evidence)
        torch.testing.assert_close(first.standard_error, again.standard_error, rtol=0, atol=0, equal_nan=True)
        if self.random:
            assert not torch.equal(first.log_evidence, self.run(pair, data, method=method, seed=5).log_evidence)

    def test_eager_is_graph(self) -> None:
        pair, x = factor_analysis(num_data=4, dtype=torch.float64)
        data, method = self.data(pair, x), self.brief()
        eager = self.run(pair, data, method=method, compile="eager")
        graph = self.run(pair, data, method=method, compile="graph")
        torch.testing.assert_close(eager.log_evidence, graph.log_evidence, rtol=1e-7, atol=1e-7)

    def brief(self) -> EvidenceMethod:
        """The method with as little work as possible, for what does not depend on how much."""
        return self.make()

    def test_other_data_do_not_matter(self) -> None:
        pair, x = factor_analysis(num_data=6)
        data = self.data(pair, x)
        other = self.changed(data, 2)
        first, second = self.run(pair, data, method=self.brief()), self.run(pair, other, method=self.brief())
        rest = torch.arange(6) != 2
        torch.testing.assert_close(first.log_evidence[rest], second.log_evidence[rest], rtol=1e-4, atol=1e-4)
        assert abs(float(first.log_evidence[2] - second.log_evidence[2])) > 0.01

    def changed(self, data: Any, row: int) -> Any:
        """The data with another row."""
        other = data.clone()
        other[row] = other[row] + 1.5
        return other

    def test_chunks(self) -> None:
        pair, x = factor_analysis(num_data=3)
        data = self.data(pair, x)
        whole = self.run(pair, data, method=self.brief())
        parts = self.smallest_chunks(pair, data)
        assert whole.info["chunk_size"] == 3
        assert parts.info["chunk_size"] < 3
        assert len(parts) == 3
        exact = pair.log_evidence(self.observed(data)).detach()
        for found in (whole, parts):
            known = ~found.standard_error.isnan()  # so brief a run may say that it does not know
            error, its = (found.log_evidence - exact).abs()[known], found.standard_error[known]
            assert bool((error <= 6 * its + 0.5 * its**2 + 1e-4).all())

    def smallest_chunks(self, pair: ModelGuidePair, data: Any) -> Evidence:
        """The run with the smallest power of two of bytes that is enough for one datum."""
        for power in range(10, 40):
            try:
                return self.run(pair, data, method=self.brief(), memory_budget=2**power)
            except PpvaeError:
                continue
        raise AssertionError("no memory budget was enough")

    def test_budget_too_small(self) -> None:
        pair, x = factor_analysis(num_data=3)
        with pytest.raises(PpvaeError, match=r"memory_budget of 10 bytes is too small for one datum"):
            self.run(pair, self.data(pair, x), memory_budget=10)

    def test_what_goes_in(self) -> None:
        pair, x = factor_analysis(num_data=5)
        data = self.data(pair, x)
        if not isinstance(data, Tensor):
            pytest.skip("takes simulated data only")
        method = self.brief()
        first = self.run(pair, data, method=method).log_evidence
        assert torch.equal(first, self.run(pair, data.numpy(), method=method).log_evidence)
        assert torch.equal(first, self.run(pair, Dataset(data), method=method).log_evidence)

    # --- trouble ---

    def test_a_datum_of_infinite_density_stops_no_other(self) -> None:
        pair, x = Explosive(), torch.randn(8, 2)
        x[3, 0] = 11.0
        data = self.troubled(pair, x)
        found = self.run(pair, data, method=self.brief())
        assert math.isnan(float(found.log_evidence[3]))
        assert int(found.outcome[3]) in (Outcome.NOT_FINITE, Outcome.DIVERGED)
        rest = torch.arange(8) != 3
        assert torch.isfinite(found.log_evidence[rest]).all()
        exact = Explosive.log_evidence_of(self.observed(data))[rest]
        error = (found.log_evidence[rest] - exact).abs()
        assert bool((error < 6 * found.standard_error[rest] + 0.05).all())
        assert "1 data" in found.summary()
        assert math.isfinite(found.mean_of_all)

    def troubled(self, pair: ModelGuidePair, x: Tensor) -> Any:
        return x

    def test_discrete_latent(self) -> None:
        pair, x = DiscreteLatent(), torch.randn(20, 1)
        if self.continuous:
            with pytest.raises(PairError, match=r"latent site 'k' is discrete"):
                self.run(pair, self.discrete(pair, x))
        else:
            found = self.run(pair, x)
            assert_calibrated(found, DiscreteLatent.log_evidence_of(x), spread=(0.2, 2.0))

    def discrete(self, pair: ModelGuidePair, x: Tensor) -> Any:
        return self.data(pair, x)


class Biased(EvidenceMethod):
    """Another method's estimates, moved by so many nats: what a contract must not let pass."""

    def __init__(self, method: EvidenceMethod, by: float, *, error: float = 1.0) -> None:
        self.method, self.by, self.error = method, by, error
        self.bound = method.bound  # type: ignore[misc]

    def memory(self, run: Any) -> Any:
        return self.method.memory(run)

    def estimate(self, run: Any, x: Any) -> Any:
        found = self.method.estimate(run, x)
        return found._replace(
            log_evidence=found.log_evidence + self.by, standard_error=found.standard_error * self.error
        )
