"""The models of docs/compose.md, each through the verbs: training, evidence two ways, chains, predictions."""

from __future__ import annotations

import copy
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from test_docs import blocks
from torch import Tensor

from ppvae.core import check_pair, structure, sum_out
from ppvae.core.modes import evaluation_mode
from ppvae.data import as_dataset
from ppvae.inference import (
    elbo,
    embed,
    evidence,
    fit,
    generate,
    inpaint,
    log_evidence,
    posterior_checks,
    predict_given,
    reconstruct,
    sample_posterior,
    site_report,
)
from ppvae.models import LatentModel, Observed
from ppvae.report import write_report
from ppvae.runs import Recipe, Run, RunFolder

PAGE = Path(__file__).parents[1] / "docs" / "compose.md"
# What is not trained on the pictures alone.
DATA = {
    "few_labels": "few",
    "conditional": "with_class",
    "with_gaps": "gappy",
    "counts": "cells",
    "topics": "documents",
    "state_space": "steps",
    "deep_markov": "sequences",
    "two_views": "views",
}
NAMES = [
    *("mixture_prior", "vamp_prior", "flow_prior", "flow_posterior", "two_layers", "ladder", "binary", "relaxed"),
    *(
        "few_labels",
        "clusters",
        "conditional",
        "with_gaps",
        "counts",
        "topics",
        "state_space",
        "deep_markov",
        "two_views",
    ),
]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page defines."""
    namespace: dict[str, Any] = {}
    for block in blocks(PAGE.read_text(encoding="utf-8")):
        exec(compile(block.text, str(PAGE), "exec", dont_inherit=True), namespace)
    return namespace


def rows(x: Any, count: int) -> Any:
    """The first data."""
    return {key: value[:count] for key, value in x.items()} if isinstance(x, dict) else x[:count]


def test_every_model_of_the_page_is_tried(page: dict[str, Any]) -> None:
    assert {name for name, value in page.items() if isinstance(value, LatentModel)} == {"vae", *NAMES}


def test_a_model_takes_at_most_ten_lines_more_than_the_plain_one() -> None:
    text = PAGE.read_text(encoding="utf-8")
    plain = 4
    for name in NAMES:
        start = text.index(f"\n{name} = LatentModel(")
        assert text[start : text.index("\n)\n", start)].count("\n") + 1 <= plain + 10, name


@pytest.mark.parametrize("name", NAMES)
def test_the_verbs_serve_it(name: str, page: dict[str, Any]) -> None:
    torch.manual_seed(0)
    pair, x = page[name], page[DATA.get(name, "x")]
    check_pair(pair, x)
    estimator = elbo.VIMCO(5) if name == "binary" else elbo.TraceELBO()
    made = fit(pair, x, elbo=estimator, num_epochs=3, progress=False, compile="eager", seed=1)
    assert made.history[-1]["elbo_train"] > made.history[0]["elbo_train"]
    options: dict[str, Any] = {"progress": False, "compile": "eager"}
    few, sites = rows(x, 3), [info.name for info in structure(pair, x).observed]
    site = None if len(sites) == 1 else next(s for s in ("x", "picture") if s in sites)
    drawn = sum_out(pair, "y_unobserved") if name == "few_labels" else pair
    if name != "binary":
        chains = sample_posterior(drawn, few, num_samples=4, num_warmup=10, num_chains=2, **options)
        assert all(bool(value.isfinite().all()) for value in chains.samples.values())
        embed(pair, few, site="z" if name == "few_labels" else next(iter(chains.samples)))
    site_report(pair, rows(x, 20))
    checks: dict[str, Any] = {"num_replicates": 5, "site": site}
    posterior_checks(pair, rows(x, 20), **checks)
    kind: Any = "sample" if name == "few_labels" else "mean"  # the mean of a picture is given a class
    for value in (reconstruct(pair, few, site=site, num_samples=3), generate(pair, 3, like=x, site=site, kind=kind)):
        assert isinstance(value, Tensor) and bool(value.isfinite().all()) and len(value) == 3


def test_observed_sites_are_drawn_together_and_given_each_other(page: dict[str, Any]) -> None:
    pair, x = page["two_views"], rows(page["views"], 4)
    names = generate(pair, 4, like=x, site="name", kind="sample")
    assert torch.equal(names.sum(-1), torch.ones(4))
    named = x | {"has_name": torch.ones(4, dtype=torch.bool)}
    found = predict_given(pair, {"name": x["name"]}, like=named, site="picture", num_samples=50)
    assert found.mean.shape == (4, 64) and bool(((found.mean > 0) & (found.mean < 1)).all())
    filled = inpaint(pair, x, site="picture", num_steps=60, num_burn_in=50).mean
    here = x["has_picture"]
    assert torch.equal(filled[here], x["picture"][here]) and bool(((filled > 0) & (filled < 1))[~here].all())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_has_a_report(name: str, page: dict[str, Any], tmp_path: Path) -> None:
    """A page that shows every latent and every observed site, and nothing that it could not."""
    torch.manual_seed(0)
    pair, x = page[name], rows(page[DATA.get(name, "x")], 60)
    estimator = elbo.VIMCO(5) if name == "binary" else elbo.TraceELBO()
    made = fit(pair, x, elbo=estimator, num_epochs=2, progress=False, compile="eager", seed=1)
    recipe = Recipe.from_dict({"model": {"pair": f"compose.py:{name}"}})
    run = Run(RunFolder(tmp_path), recipe, pair, as_dataset(x), made.history, {"seconds": 1.0}, "epoch 2")
    text = write_report(run, out=tmp_path / "page.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'<(?:h2|figure) id="([^"]+)"', text))
    assert {"training", "latents", "checks", "recipe", "commands", "learning_curve"} <= ids
    assert "What this report could not show" not in text
    info = structure(pair, rows(x, 2))
    latents = [site.name for site in info.local_latents if site.name != "y_unobserved"]
    several = len(info.local_latents) > 1
    for site in latents:
        row = re.search(rf'<th scope="row">{site}</th><td>local latent</td>.*', text)
        assert row is not None and re.search(r"\d of \d+</td></tr>$", row[0])
        figures = {"latents", "aggregate_posterior"}
        assert {f"{figure}_{site}" if several else figure for figure in figures} <= ids
    observed = pair.description.named(Observed)
    for site in observed:
        figures = {"reconstructions", "predictive_checks"}
        assert {f"{figure}_{site}" if len(observed) > 1 else figure for figure in figures} <= ids
        assert re.search(rf'<th scope="row">{site}</th><td>observed</td>', text)
    assert ("discrete" in ids) == (name in ("few_labels", "clusters"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_methods_of_evidence_agree(name: str, page: dict[str, Any]) -> None:
    """Once trained: datum by datum, within their errors, where both vouch for their number."""
    torch.manual_seed(0)
    pair, x = copy.deepcopy(page[name]), page[DATA.get(name, "x")]
    estimator = elbo.VIMCO(5) if name == "binary" else elbo.TraceELBO()
    fit(pair, x, elbo=estimator, num_epochs=100, learning_rate=3e-3, progress=False, compile="graph", seed=1)
    methods: list[Any] = [evidence.ImportanceSampling(20_000), evidence.PriorSampling(50_000)]
    if name != "binary":
        methods[1:] = [evidence.AIS(num_temperatures=100), evidence.BridgeSampling()]
    with evaluation_mode(pair):
        pair = sum_out(pair, "y_unobserved") if name == "few_labels" else pair
        found = [log_evidence(pair, rows(x, 6), method=m, compile="graph", progress=False, seed=1) for m in methods]
    compared = []
    for first, second in combinations(found, 2):
        good = (first.outcome == 0) & (second.outcome == 0)
        spread = (first.standard_error.square() + second.standard_error.square()).sqrt()
        gap = ((first.log_evidence - second.log_evidence) / spread)[good]
        assert bool((gap.abs() < 4.5).all())
        compared.append(int(good.sum()))
    assert max(compared) >= 3
