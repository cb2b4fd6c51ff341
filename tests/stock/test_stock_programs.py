"""Pyro's published examples through the verbs: each runs and gives the truth, or says which line to change."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from stock.programs import PROGRAMS
from stock.record import VERBS, Case, Refusal, Stock
from torch import Tensor

from ppvae.core import ModelGuidePair, PpvaeError, check_pair, draw
from ppvae.core.parameters import local_parameters
from ppvae.data import as_dataset
from ppvae.inference import (
    evaluate_bound,
    evidence,
    fit,
    log_evidence,
    log_evidence_of_data_set,
    sample_global_posterior,
    sample_posterior,
)

QUIET: dict[str, Any] = {"progress": False, "compile": "eager"}


def _fit(stock: Stock, case: Case, pair: ModelGuidePair) -> None:
    size = None if stock.whole or _num_data(case) < 3 else 3
    run = fit(
        pair, case.data, elbo=stock.estimator(), num_epochs=2, batch_size=size, learning_rate=1e-3, seed=1, **QUIET
    )
    assert len(run.history) == 2 and all(torch.isfinite(torch.tensor(row["elbo_train"])) for row in run.history)


class _Unweighted(Messenger):
    """Takes out a poutine.scale, as reported bounds do."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["scale"] = 1.0


def _bound(stock: Stock, case: Case, pair: ModelGuidePair) -> None:
    """Under the same noise the same number as Pyro's own estimator, without a Monte Carlo tolerance."""
    found = evaluate_bound(pair, case.data, elbo=stock.estimator(), **QUIET)
    assert bool(torch.isfinite(found.elbo).all())
    theirs: Any = TraceEnum_ELBO if stock.enumerates else Trace_ELBO
    pyros, x = theirs(max_plate_nesting=2), as_dataset(case.data).tensor()
    pair.eval()
    for seed in range(5):
        torch.manual_seed(seed)
        with torch.no_grad():
            bound = stock.estimator().terms(pair, x)
        torch.manual_seed(seed)
        with local_parameters(pair), _Unweighted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = -pyros.loss(pair.model, pair.guide, x)
        torch.testing.assert_close(float(bound.local.sum() + bound.global_), expected, rtol=1e-4, atol=1e-3)


def _num_data(case: Case) -> int:
    return len(next(iter(case.data.values())) if isinstance(case.data, dict) else case.data)


def _held(case: Case, pair: ModelGuidePair) -> dict[str, Tensor]:
    """A draw of the global sites from the guide."""
    names = [info.name for info in check_pair(pair, case.data).global_latents]
    with torch.no_grad():
        return {name: draw(pair, case.data, 1).latents[name][0] for name in names} if names else {}


def _known(pair: ModelGuidePair, held: dict[str, Tensor]) -> dict[str, Any]:
    parameters = {name: pair.adopted_value(name) for name in pair.adopted_names()}
    return {**parameters, **held}


def _log_evidence(stock: Stock, case: Case, pair: ModelGuidePair) -> None:
    """Of every datum, given a draw of the global sites: what is marked good is within its error."""
    held = _held(case, pair)
    importance = [evidence.ImportanceSampling(stock.importance)] if stock.importance else []
    for method in (stock.method, *importance):
        found = log_evidence(pair, case.data, method=method, global_sites=held or None, **QUIET)
        good = found.outcome == evidence.Outcome.OK
        assert found.log_evidence.shape == (_num_data(case),)
        if stock.exact is None:
            continue
        with torch.no_grad():
            exact = stock.exact(case, _known(pair, held))
        error = 4 * found.standard_error[good] + 2e-3
        assert bool(((found.log_evidence - exact)[good].abs() <= error).all()), (found.log_evidence, exact, error)
        if method is stock.method:
            assert bool(good.all()), found


def _log_evidence_of_data_set(stock: Stock, case: Case, pair: ModelGuidePair) -> None:
    """All latents integrated out."""
    check_pair(pair, case.data)
    draws = sample_global_posterior(pair, case.data, num_samples=120, num_warmup=80, num_chains=2, progress=False)
    found = log_evidence_of_data_set(pair, draws)
    assert stock.exact is not None and len(found) == 1
    exact = stock.exact(case, _known(pair, {}))
    assert float(found.standard_error) < 0.3
    assert abs(float(found.log_evidence) - float(exact)) < 4 * float(found.standard_error), (found, exact)


def _sample_posterior(stock: Stock, case: Case, pair: ModelGuidePair) -> None:
    """A few draws, from the prior as start: the guide is not trained."""
    held = _held(case, pair)
    draws = sample_posterior(
        pair,
        case.data,
        num_samples=max(120, stock.warmup // 100 * 60),
        num_warmup=stock.warmup,
        num_chains=2,
        num_leapfrog=8 if stock.warmup > 100 else 4,
        start="prior",
        global_sites=held or None,
        progress=False,
        compile="graph",
    )
    assert bool(draws.ok.all())
    for name, value in draws.samples.items():
        assert bool(torch.isfinite(value).all())
        assert float(draws.rhat()[name].nan_to_num().max()) < 1.3


VERB: dict[str, Callable[[Stock, Case, ModelGuidePair], None]] = {
    "fit": _fit,
    "evaluate_bound": _bound,
    "log_evidence": _log_evidence,
    "log_evidence_of_data_set": _log_evidence_of_data_set,
    "sample_posterior": _sample_posterior,
}


LONG = ("log_evidence_of_data_set", "sample_posterior")  # seconds each: of these programs, in the default suite
CORE = {"minipyro", "vae"}
LONG_EVIDENCE = {"scanvi-labelled", "scanvi-unlabelled", "cvae", "prodlda", "hmm-3", "hmm-4"}


def cases() -> Iterator[Any]:
    """Every program under every verb that serves it."""
    for name, stock in PROGRAMS.items():
        for verb in stock.serves:
            marks: list[Any] = []
            if (verb in LONG and name not in CORE) or (verb == "log_evidence" and name in LONG_EVIDENCE):
                marks.append(pytest.mark.slow)
            yield pytest.param(name, verb, marks=marks, id=f"{name}-{verb}")


@pytest.mark.parametrize(("name", "verb"), list(cases()))
def test_runs(name: str, verb: str) -> None:
    stock = PROGRAMS[name]
    case = stock.final()
    VERB[verb](stock, case, case.pair())


def refusals() -> Iterator[Any]:
    """Every program that is refused as it stands."""
    for name, stock in PROGRAMS.items():
        if stock.refusal is not None:
            yield pytest.param(name, stock.refusal, id=name)


@pytest.mark.parametrize(("name", "refusal"), list(refusals()))
def test_refused_before_work(name: str, refusal: Refusal) -> None:
    """By name and with a remedy."""
    case = PROGRAMS[name].case()
    pair = case.pair()
    with pytest.raises(PpvaeError, match=refusal.pattern) as caught:
        check_pair(pair, case.data)
    assert "Try one of" in str(caught.value)


def test_the_table_is_whole() -> None:
    """Nearly all run as published or with one line changed, every verb known, a truth beside nearly all of them."""
    assert len(PROGRAMS) >= 35
    assert sum(stock.refusal is None for stock in PROGRAMS.values()) >= 18
    assert [name for name, stock in PROGRAMS.items() if stock.refusal and stock.refusal.lines > 1] == ["hmm-0", "lda"]
    assert all(set(stock.serves) <= set(VERBS) == set(VERB) for stock in PROGRAMS.values())
    assert [name for name, stock in PROGRAMS.items() if stock.exact is None] == ["hmm-0", "sparse-gamma"]
