"""What discrete latents say of data: probabilities, and how well they agree with labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..evidence.outcome import Outcome
from ..execution.arguments import choose_name, require_integer
from ...core import PpvaeError
from ...core.errors import try_one_of
from ...notebook import histogram, number, panel


@dataclass(frozen=True, eq=False)
class Calibration:
    r"""Whether probabilities are as often right as they say (Guo, Pleiss, Sun & Weinberger 2017, arXiv 1706.04599).

    Data are put into bins of equal width by the probability of their most probable value, the confidence.

    Attributes:
        error: the expected calibration error, $\sum_i \frac{n_i}{n} |\mathrm{accuracy}_i - \mathrm{confidence}_i|$.
        edges: of the bins, [bins + 1].
        count: data in each bin, [bins], int64.
        confidence: mean confidence of each bin, [bins]; NaN where it is empty.
        accuracy: share of each bin whose most probable value is the label, [bins]; NaN where it is empty.
    """

    error: float
    edges: Tensor
    count: Tensor
    confidence: Tensor
    accuracy: Tensor

    def __repr__(self) -> str:
        lines = [f"Calibration(expected calibration error {self.error:.4f} over {int(self.count.sum())} labels)"]
        lines.append("  confidence      labels   mean confidence   accuracy")
        for i in self.count.nonzero().flatten().tolist():
            low, high = self.edges[i : i + 2].tolist()
            lines.append(
                f"  {low:.2f} to {high:.2f} {int(self.count[i]):>9} {float(self.confidence[i]):>17.3f} "
                f"{float(self.accuracy[i]):>10.3f}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, eq=False, repr=False)
class DiscretePosterior:
    """The posterior probabilities of discrete latents, of every datum.

    Attributes:
        probabilities: of every value, site to [N, *nested, K]; NaN where the site is masked out (its label is given).
        standard_error: their Monte Carlo standard error, likewise; zero where nothing was drawn.
        support: the values, in the order of ``enumerate_support``: site to [K, *event].
        weights: what they are averages over: draws of the "guide", these with "importance" weights, or "draws" of HMC.
        effective_sample_size: how many independent draws each datum's probabilities are worth, [N].
        outcome: :class:`~.evidence.Outcome` of each datum, [N], int64; 0 where the probabilities stand.
    """

    probabilities: dict[str, Tensor]
    standard_error: dict[str, Tensor]
    support: dict[str, Tensor]
    weights: Literal["guide", "importance", "draws"]
    effective_sample_size: Tensor
    outcome: Tensor

    @property
    def trusted(self) -> Tensor:
        """Which data's probabilities can be trusted as those of what was averaged, [N], bool."""
        return self.outcome == Outcome.OK

    @property
    def values(self) -> dict[str, Tensor]:
        """The most probable value by its place in :attr:`support`, which is the class of a Categorical, a Bernoulli or
        a OneHotCategorical: site to [N, *nested], int64, -1 where the probabilities are NaN."""
        known = {name: p.isfinite().all(-1) for name, p in self.probabilities.items()}
        return {name: p.argmax(-1).where(known[name], -1) for name, p in self.probabilities.items()}

    def accuracy(self, labels: Any, *, site: str | None = None) -> float:
        """The share of data whose most probable value is the label.

        Args:
            labels: [N, *nested], whole numbers, places in :attr:`support`; negative ones are gaps and do not count.
            site: a discrete site; None where there is one only.

        Raises:
            PairError: an unknown site, or several and none named.
            PpvaeError: labels of another shape, beyond the values, or none that counts.
        """
        _, hit = self._confidence_and_hit(labels, site)
        return float(hit.double().mean())

    def calibration(self, labels: Any, *, bins: int = 15, site: str | None = None) -> Calibration:
        """Whether the probabilities are as often right as they say: the expected calibration error and its table.

        Args:
            labels: as for :meth:`accuracy`.
            bins: of equal width, by the probability of the most probable value.
            site: a discrete site; None where there is one only.

        Raises:
            PairError, PpvaeError: as :meth:`accuracy`; no bin.
        """
        require_integer("bins", bins, 1)
        confidence, hit = self._confidence_and_hit(labels, site)
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
        # A bin has its upper edge: probability one is in the last.
        place = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
        count = torch.bincount(place, minlength=bins)
        means = [torch.bincount(place, weights=part, minlength=bins) / count for part in (confidence, hit.double())]
        error = ((means[1] - means[0]).abs().nan_to_num() * count).sum() / count.sum()
        return Calibration(float(error), edges, count, means[0], means[1])

    def __repr__(self) -> str:
        return f"DiscretePosterior({len(self.outcome)} data, {self._origin()})\n{self.table()}"

    def table(self) -> str:
        """For each site: the values' mean probabilities, the mean entropy and the largest standard error, in words."""
        lines = []
        for name, p in self.probabilities.items():
            rows = p.reshape(-1, p.shape[-1]).double()
            rows, error = rows[rows.isfinite().all(-1)], self.standard_error[name]
            if not len(rows):
                lines.append(f"  {name}: masked out everywhere")
                continue
            shown = " ".join(f"{value:.3f}" for value in rows.mean(0)[:10].tolist()) + " ..." * (p.shape[-1] > 10)
            worst = error[error.isfinite()]
            lines.append(
                f"  {name}: mean probabilities {shown}; entropy {float(entropy(rows).mean()):.3f} nats"
                + (f"; standard error at most {float(worst.max()):.2g}" if worst.numel() else "")
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For notebooks: what is averaged, and how sure the data are of their values."""
        facts = {"data": str(len(self.outcome)), "probabilities": self._origin()}
        sure = {}
        for name, p in list(self.probabilities.items())[:2]:
            top = p.amax(-1).flatten()
            sure[name] = top[top.isfinite()].tolist()
            facts[f"{name}, mean entropy"] = f"{number(float(entropy(p).nanmean()), 3)} nats"
        picture = histogram(sure, label="probability of the most probable value, data")
        return panel("Discrete latents", facts, picture)

    def _origin(self) -> str:
        if all(bool((error[error.isfinite()] == 0).all()) for error in self.standard_error.values()):
            return "without sampling error"
        size = f"effective sample size at least {float(self.effective_sample_size.min()):.0f}"
        if self.weights == "guide":
            return f"averages over {int(self.effective_sample_size.max())} draws of the guide"
        trusted = f"{int(self.trusted.sum())} data trusted"
        what = "importance-weighted draws of the guide" if self.weights == "importance" else "draws of the posterior"
        return f"averages over {what}, {size}, {trusted}"

    def _confidence_and_hit(self, labels: Any, site: str | None) -> tuple[Tensor, Tensor]:
        """The probability of the most probable value, and whether it is the label, of all that count, [n]."""
        name = choose_name(list(self.probabilities), site, "discrete site")
        p, labels = self.probabilities[name], torch.as_tensor(labels).cpu()
        labels = labels.long() if labels.dtype is torch.bool else labels
        if labels.shape != p.shape[:-1]:
            raise PpvaeError(
                f"labels: expected one for each value of {name!r}, {list(p.shape[:-1])}, found {list(labels.shape)}"
                + try_one_of("labels.argmax(-1), of one-hot labels")
            )
        if labels.numel() and bool((labels >= p.shape[-1]).any() | (labels != labels.round()).any()):
            raise PpvaeError(
                f"labels: expected whole numbers below {p.shape[-1]}, the number of values of {name!r}, negative where "
                f"there is none, found {float(labels[(labels >= p.shape[-1]) | (labels != labels.round())][0]):g}"
            )
        counts = (labels >= 0) & p.isfinite().all(-1)
        if not bool(counts.any()):
            raise PpvaeError(
                f"labels: expected some for data whose {name!r} is not given, found none"
                + try_one_of("labels of data that were held out", "data without their labels (-1), for the posterior")
            )
        confidence, value = p[counts].double().max(-1)
        return confidence, value == labels[counts]


def entropy(probabilities: Tensor) -> Tensor:
    """Of probabilities [*shape, K], in nats, [*shape]."""
    total: Tensor = torch.special.entr(probabilities).sum(-1)
    return total
