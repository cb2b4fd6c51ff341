"""The auxiliary objective: what is written by hand, the base's bound and facts, what is refused, what it is for."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.elbo import declared_facts
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, PairError, PpvaeError
from ppvae.core.compile import bind, capture, state_of
from ppvae.data import Dataset, keep_labels, load
from ppvae.distributions import draw_gaps, observe_with_gaps
from ppvae.inference import discrete_posterior, elbo, fit
from ppvae.inference.training.objective import _options
from ppvae.models import bernoulli_vae, semi_supervised_vae
from ppvae.runs.recipe.catalogue import build, elbo_entries, parse_table

D, K = 4, 3


class Classes(ModelGuidePair):
    """A class and nothing else, M2 without a style: every term can be written by hand."""

    def __init__(self, kind: str = "one-hot", guided: bool = True, site: str = "label", peeks: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.classifier, self.loc = nn.Linear(D, K), nn.Parameter(torch.randn(K, D))
        self.kind, self.guided, self.site, self.peeks = kind, guided, site, peeks

    def of(self, logits: Tensor) -> Any:
        return {"one-hot": dist.OneHotCategorical, "number": dist.Categorical}[self.kind](logits=logits)

    def model(self, batch: Any, num_data: int | None = None) -> None:
        x = batch["x"]
        with self.data_plate(x, num_data):
            y = observe_with_gaps(self.site, self.of(torch.zeros(len(x), K)), batch["label"])
            loc = y @ self.loc if self.kind == "one-hot" else Vindex(self.loc)[y.long()]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, batch: Any, num_data: int | None = None) -> None:
        with self.data_plate(batch["x"], num_data):
            if self.guided:
                logits = self.classifier(batch["x"])
                if self.peeks:  # at the label that it is asked for
                    logits = logits + 9.0 * (batch["label"][:, None] == torch.arange(K))
                draw_gaps(self.site, self.of(logits), batch["label"])

    def by_hand(self, batch: Any, weight: float) -> Tensor:
        """The objective of the batch, over all classes."""
        x, labels = batch["x"], batch["label"]
        log_p = dist.Normal(self.loc, 1.0).log_prob(x[:, None]).sum(-1) - math.log(K)
        log_q, known = self.classifier(x).log_softmax(-1), labels >= 0
        unlabelled = (log_q.exp() * (log_p - log_q)).sum(-1)[~known].sum()
        of_labels = (log_p + weight * log_q)[known].gather(1, labels[known].long()[:, None])
        return unlabelled + of_labels.sum()


@pytest.fixture
def batch(float64: torch.dtype) -> dict[str, Tensor]:
    return {"x": torch.randn(6, D), "label": torch.tensor([0, -1, 2, -1, -1, 1])}


def gradients(value: Tensor, pair: nn.Module) -> list[Tensor]:
    trained = [parameter for parameter in pair.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(value, trained, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("kind", ["one-hot", "number"])
@pytest.mark.parametrize("peeks", [False, True])
def test_objective_and_gradient_are_those_written_by_hand(batch: dict[str, Tensor], kind: str, peeks: bool) -> None:
    pair, estimator = Classes(kind, peeks=peeks), elbo.WithClassifier(weight=7.0)
    estimator.check(pair, batch)
    terms, expected = estimator.terms(pair, batch, 60), pair.by_hand(batch, 7.0)
    torch.testing.assert_close(terms.objective(), expected)
    torch.testing.assert_close(gradients(terms.objective(), pair), gradients(expected, pair))
    torch.testing.assert_close(terms.objective(60), 10 * expected)
    torch.testing.assert_close(terms.bound(), pair.by_hand(batch, 0.0))  # what is reported is the bound


BASES = [
    elbo.TraceELBO(num_particles=2),
    elbo.TraceMeanFieldELBO(on_missing_kl="sample"),
    elbo.ImportanceWeightedELBO(3),
    elbo.ReweightedWakeSleep(3),
]


@pytest.mark.parametrize("base", BASES, ids=repr)
def test_bound_and_facts_are_those_of_the_base(batch: dict[str, Tensor], base: elbo.ELBO) -> None:
    pair = semi_supervised_vae(D, K, latent_dim=2, hidden=(4,)).double()
    batch["x"] = (batch["x"] > 0).double()
    estimator, known = elbo.WithClassifier(base, weight=7.0), batch["label"] >= 0
    estimator.check(pair, batch)
    differing = [fact for fact in declared_facts() if getattr(estimator, fact) != getattr(base, fact)]
    assert differing in ([], ["unbiased_gradient"]) and not estimator.unbiased_gradient
    found = []
    for each in (base, estimator):
        torch.manual_seed(3)
        found.append(each.terms(pair, batch, 60, kl_weight=0.3))
    for name in ("local", "global_", "reconstruction", "kl", "objective_global"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))
    logits = pair.posterior_label(batch["x"]).logits.log_softmax(-1)
    added = 7.0 * torch.where(known, logits.gather(1, batch["label"].clamp_min(0)[:, None])[:, 0], 0.0)
    torch.testing.assert_close(found[1].objective_local - found[0].objective_local, added)
    difference = gradients(found[1].objective_local.sum() - found[0].objective_local.sum(), pair)
    torch.testing.assert_close(difference, gradients(added.sum(), pair))


def test_recorded_equals_eager_and_labels_are_an_input(batch: dict[str, Tensor]) -> None:
    pair, estimator = Classes("number"), elbo.WithClassifier(weight=7.0)
    estimator.check(pair, batch)
    recorded = capture(bind(pair, lambda pair, x: estimator.terms(pair, x).objective()), mode="graph")
    for labels in (batch["label"], batch["label"].roll(1)):
        given = {**batch, "label": labels}
        torch.testing.assert_close(recorded(state_of(pair), given), pair.by_hand(given, 7.0))
    assert recorded.fallback == ""


def test_stock_svi(batch: dict[str, Tensor]) -> None:
    pair, estimator = Classes(), elbo.WithClassifier(weight=7.0)
    expected = gradients(pair.by_hand(batch, 7.0), pair)
    assert estimator.loss_and_grads(pair.model, pair.guide, batch) == pytest.approx(-pair.by_hand(batch, 0.0).item())
    torch.testing.assert_close([-p.grad for p in pair.parameters() if p.grad is not None], expected)


def test_what_has_no_classifier_is_refused(batch: dict[str, Tensor]) -> None:
    estimator = elbo.WithClassifier()
    with pytest.raises(PairError, match=r"the batch has no member 'label', found a Tensor"):
        estimator.check(bernoulli_vae(D, latent_dim=1, hidden=(2,)).double(), (batch["x"] > 0).double())
    with pytest.raises(PairError, match=r"the guide draws no label 'label_unobserved'[\s\S]*posterior=\.\.\."):
        estimator.check(Classes(guided=False), batch)
    other = Classes(site="y")
    with pytest.raises(PairError, match=r"did you mean 'y_unobserved'\?[\s\S]*site=\.\.\."):
        estimator.check(other, batch)
    elbo.WithClassifier(site="y_unobserved").check(other, batch)
    moved = {"x": batch["x"], "label": batch["label"], "class": batch["label"].roll(1)}
    with pytest.raises(PairError, match="it is not known which labels are given"):
        elbo.WithClassifier(label="class", site="label_unobserved").check(Classes(), moved)
    with pytest.raises(PpvaeError, match="positive, finite weight, found 0"):
        elbo.WithClassifier(weight=0)
    with pytest.raises(PpvaeError, match=r"found Trace_ELBO[\s\S]*elbo\.TraceELBO"):
        elbo.WithClassifier(pyro.infer.Trace_ELBO())  # type: ignore[arg-type]


def test_a_recipe_states_it() -> None:
    table = parse_table(elbo_entries(), "with-classifier:weight=2,site=y_unobserved", "--elbo", "estimator")
    found = build(elbo_entries(), table)
    assert (found.weight, found.site, repr(found.base)) == (2.0, "y_unobserved", "TraceELBO(num_particles=1)")


def test_what_a_recorded_step_has_of_the_base_is_watched() -> None:
    options = _options(elbo.WithClassifier(elbo.RenyiELBO(0.5)), "elbo")
    assert options["elbo.weight"] == 46.0 and options["elbo.base.alpha"] == 0.5


def test_few_labels_go_further() -> None:
    digits = load("digits", binarize="static")
    some = digits.take(600)
    few = Dataset({"x": some.tensor(), "label": keep_labels(some.labels, 100)})
    held_out = {"x": digits.test.tensor(), "label": torch.full((300,), -1)}
    accuracy = []
    for estimator in (elbo.TraceELBO(), elbo.WithClassifier(weight=10.0)):
        torch.manual_seed(0)
        pair = semi_supervised_vae(64, 10, latent_dim=2, hidden=(30,))
        fit(pair, few, elbo=estimator, num_epochs=6, learning_rate=5e-3, compile="eager", progress=False)
        accuracy.append(discrete_posterior(pair, held_out).accuracy(digits.test.labels))
    assert accuracy[1] > accuracy[0] + 0.2
