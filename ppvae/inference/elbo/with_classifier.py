"""The auxiliary objective of semi-supervised models: known labels train the classifier too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast, get_type_hints

import torch
from torch import Tensor

from .base import ELBO, BoundTerms
from .trace import TraceELBO
from ...core import Data, ModelGuidePair, PairError, PpvaeError, draw, log_guide_site, structure
from ...core.errors import did_you_mean, try_one_of
from ...core.modes import in_evaluation_mode
from ...distributions.gaps import class_values


class WithClassifier(ELBO):
    r"""The bound of another estimator, and the log probability that the classifier gives to the labels that are known.

    $$\mathcal{J}^\alpha = \mathcal{J} + \alpha\, \mathrm{E}_{\text{labelled}}[\log q_\phi(y \mid x)]
      = \mathcal{J} + w \sum_{b\ \text{labelled}} \log q_\phi(y_b \mid x_b)$$

    (Kingma, Rezende, Mohamed & Welling 2014, arXiv 1406.5298, equation 9 with its sign turned.) In the bound itself
    $q(y \mid x)$ occurs where a label is missing only, so that known labels do not train it. With $N_l$ labels among N
    data, $w = \alpha / N_l$; the paper has $\alpha = 0.1 N$, hence w = 0.1 N / N_l, and Pyro's tutorial on the model
    has w = 46.

    The sum enters the objective alone: the reported bound is the other estimator's, and so is every fact about it. The
    classifier is asked with all labels hidden; where its site comes after other latents of the guide, at a draw of
    these, which gives a lower bound of $\log q(y \mid x)$ on average.

    Args:
        base: the estimator of $\mathcal{J}$; None for TraceELBO(). That of two labels is one of these itself.
        weight: w, positive.
        label: the member of the batch that holds the labels, [B], whole numbers, negative in the gaps.
        site: the classifier in the guide, made by :func:`~ppvae.distributions.draw_gaps` or a
            :class:`~ppvae.models.Label` with a posterior; None for ``label_unobserved``, after the member's name.

    Raises:
        PpvaeError: a weight that is not positive and finite, or a base of another library.
    """

    unbiased_gradient = False

    def __init__(
        self, base: ELBO | None = None, *, weight: float = 46.0, label: str = "label", site: str | None = None
    ) -> None:
        base = TraceELBO() if base is None else base
        if not isinstance(base, ELBO):
            raise PpvaeError(
                f"WithClassifier: expected an estimator of ppvae.inference.elbo, found {type(base).__name__}"
                + try_one_of("elbo.TraceELBO()", "elbo.TraceMeanFieldELBO()")
            )
        if not 0 < weight < math.inf:
            raise PpvaeError(
                f"WithClassifier: expected a positive, finite weight, found {weight}"
                + try_one_of("the base alone, without labels", "weight=46", "0.1 N / N_l, with N_l labels for N data")
            )
        super().__init__(num_particles=base.num_particles)
        self.base, self.weight, self.label, self.site = base, float(weight), label, site or f"{label}_unobserved"
        self.module = base.module
        for fact, kind in get_type_hints(ELBO).items():
            if kind is bool and fact != "unbiased_gradient":
                setattr(self, fact, getattr(base, fact))

    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """The terms of the base, with the labels in the objective; see :meth:`ELBO.terms`.

        Raises:
            PairError: no such member or site.
        """
        bound = self.base.terms(pair, x, num_data, kl_weight=kl_weight)
        log_q = self.log_classifier(pair, x, num_data)
        return bound._replace(objective_local=bound.objective_local + self.weight * log_q)

    def log_classifier(self, pair: ModelGuidePair, x: Data, num_data: int | None = None) -> Tensor:
        r"""$\log q_\phi(y_b \mid x_b)$ of every datum, [B], in nats; 0 where no label is given.

        Raises:
            PairError: no such member or site.
        """
        labels = _find(x, self.label)
        if labels is None:
            members = ", ".join(map(repr, x)) if isinstance(x, Mapping) else f"a {type(x).__name__}"
            raise PairError(
                f"WithClassifier: the batch has no member {self.label!r}, found {members}"
                + try_one_of(
                    "a model of labels with gaps, such as semi_supervised_vae",
                    'WithClassifier(label=...) with its name, in a batch {"x": ..., "label": ...}',
                )
            )
        site = next((info for info in structure(pair, x).guide_latents if info.name == self.site), None)
        if site is None:
            known = [info.name for info in structure(pair, x).guide_latents]
            raise PairError(
                f"WithClassifier: the guide draws no label {self.site!r}: {did_you_mean(self.site, known)}"
                + try_one_of(
                    "Label(prior, posterior=...), whose posterior is the classifier",
                    f"draw_gaps({self.label!r}, q, labels) in the guide, q(y | x)",
                    "WithClassifier(site=...), the name of the site",
                    "the base alone, where the label is summed out of the model without a guide",
                )
            )
        hidden = cast(Data, _replaced(x, self.label, torch.full_like(labels, -1)))
        log_q = log_guide_site(pair, hidden, self.site, class_values(labels, site.event_shape), num_data)
        return torch.where(labels >= 0, log_q, torch.zeros_like(log_q))

    @in_evaluation_mode
    def check(self, pair: ModelGuidePair, x: Data, *, trains: bool = True) -> None:
        """As :meth:`ELBO.check` of the base; and the guide draws the label where it is missing, and there alone.

        Raises:
            PairError: as that, no such member or site, or a site that does not follow the gaps.
        """
        self.base.check(pair, x, trains=trains)
        labels = _find(x, self.label)
        with torch.no_grad(), torch.random.fork_rng():
            self.log_classifier(pair, x)  # names what is missing
            drawn = draw(pair, x, 1).present.get(self.site)
        assert labels is not None
        drawn = torch.ones_like(labels, dtype=torch.bool) if drawn is None else drawn[0].reshape(len(labels), -1).all(1)
        if not torch.equal(drawn, labels < 0):
            raise PairError(
                f"WithClassifier: expected {self.site!r} of the guide to be drawn where {self.label!r} is negative, a "
                "gap, and masked out elsewhere; found otherwise: it is not known which labels are given"
                + try_one_of(f"draw_gaps({self.label!r}, q, labels) in the guide", "-1 for labels that are not known")
            )

    def __repr__(self) -> str:
        return f"WithClassifier({self.base!r}, weight={self.weight:g})"


def _find(x: Any, name: str) -> Tensor | None:
    """The member of a batch, or of what stock SVI was called with: positional and keyword arguments."""
    if isinstance(x, Mapping) and isinstance(x.get(name), Tensor):
        return cast(Tensor, x[name])
    inner = x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple) else ()
    return next((found for value in inner if (found := _find(value, name)) is not None), None)


def _replaced(x: Any, name: str, value: Tensor) -> Any:
    if isinstance(x, Mapping):
        return {key: value if key == name else _replaced(member, name, value) for key, member in x.items()}
    return tuple(_replaced(member, name, value) for member in x) if isinstance(x, tuple) else x
