"""Every verb on every idiom: the truth within its error, or a refusal by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from audit.idioms import IDIOMS, VERBS, Idiom, data
from torch import Tensor

from ppvae.core import ModelGuidePair, PpvaeError
from ppvae.inference import elbo, evaluate_bound, evidence, fit, log_evidence, sample_posterior

CHAINS: dict[str, Any] = {"num_chains": 4, "num_leapfrog": 3}
LONGER: dict[str, Any] = {"num_chains": 4, "num_leapfrog": 5}


def _fit(pair: ModelGuidePair, x: Tensor, idiom: Idiom) -> None:
    size = None if idiom.whole else 2
    run = fit(
        pair,
        x,
        elbo=elbo.TraceELBO(),
        num_epochs=1,
        batch_size=size,
        learning_rate=1e-4,
        compile="eager",
        progress=False,
    )
    assert run.history[-1]["elbo_train"] < float(idiom.evidence(x).mean()) + 3.0


def _bound(pair: ModelGuidePair, x: Tensor, idiom: Idiom) -> None:
    """On average below the evidence: by as many standard errors as 400 draws leave."""
    means = [
        evaluate_bound(pair, x, elbo=elbo.TraceELBO(num_particles=100), seed=s, compile="eager", progress=False).mean
        for s in range(5)
    ]
    found = torch.tensor(means)
    assert float(found.mean()) <= float(idiom.evidence(x).mean()) + 4 * float(found.std()) / 5**0.5 + 1e-5


def _evidence(method: evidence.EvidenceMethod) -> Callable[..., None]:
    def check(pair: ModelGuidePair, x: Tensor, idiom: Idiom) -> None:
        found = log_evidence(pair, x, method=method, compile="graph", progress=False, **idiom.options)
        exact = idiom.evidence(x)
        assert found.log_evidence.shape == exact.shape
        error = 4 * found.standard_error + 1e-4
        assert bool(((found.log_evidence - exact).abs() <= error).all()), (found.log_evidence, exact, error)

    return check


def _sample(pair: ModelGuidePair, x: Tensor, idiom: Idiom) -> None:
    draws = sample_posterior(
        pair, x, num_samples=120, num_warmup=80, progress=False, compile="graph", **LONGER, **idiom.options
    )
    assert bool(draws.ok.all())
    for name, value in draws.samples.items():
        assert bool(torch.isfinite(value).all())
        assert float(draws.rhat()[name].max()) < 1.2
    if idiom.mean is not None:
        z, size = draws.samples["z"], draws.ess()["z"]
        error = 4 * z.flatten(0, 1).std(0) / size.sqrt()
        assert bool(((z.mean((0, 1)) - idiom.mean(x)).abs() <= error).all())


VERB: dict[str, Callable[[ModelGuidePair, Tensor, Idiom], None]] = {
    "fit": _fit,
    "bound": _bound,
    "importance": _evidence(evidence.ImportanceSampling(4000)),
    "ais": _evidence(evidence.AIS(num_temperatures=25, num_chains=16, num_leapfrog=2)),
    "bridge": _evidence(evidence.BridgeSampling(num_draws=320, num_warmup=50, **CHAINS)),
    "sample": _sample,
}


LONG = {"guide-particles"}  # runs particle by particle
# Chains take seconds: of these idioms they are run in the default suite, of the others among the slow tests.
CORE = {"plain", "scale-both", "auto-mvn", "mask", "bounded-by-global", "mixture-prior"}


def cases() -> Iterator[Any]:
    """Every idiom under every verb."""
    for name, idiom in IDIOMS.items():
        for verb in VERBS:
            chains = verb in ("ais", "bridge", "sample") and verb not in idiom.verdicts and name not in CORE
            marks = pytest.mark.slow if chains or name in LONG else ()
            yield pytest.param(name, verb, marks=marks, id=f"{name}-{verb}")


@pytest.mark.parametrize(("name", "verb"), list(cases()))
def test_served_or_refused(name: str, verb: str) -> None:
    idiom, x = IDIOMS[name], data()
    refusal = idiom.verdicts.get(verb, "served")
    pair = idiom.pair()
    if refusal == "served":
        VERB[verb](pair, x, idiom)
        return
    with pytest.raises(PpvaeError, match=refusal) as caught:
        VERB[verb](pair, x, idiom)
    assert "Try one of" in str(caught.value)
