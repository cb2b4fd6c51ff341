"""The interface of an evidence method, and the type of result that all of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from .difference import Difference, paired_difference
from .outcome import Outcome
from .whole import MeanOfAll, mean_of_all
from ...core import Data, DataError
from ...core.errors import try_one_of
from ...notebook import histogram, number, panel, with_error

if TYPE_CHECKING:
    from .run import EvidenceRun

Bound = Literal["exact", "lower", "upper", "consistent"]


class Estimate(NamedTuple):
    """A method's estimate for one chunk of data; every tensor is [B].

    Attributes:
        log_evidence: estimate of log p(x), nats.
        standard_error: its Monte Carlo standard error, nats; NaN where unknown.
        effective_sample_size: how many independent, equally weighted draws it is worth; NaN where undefined.
        pareto_k: tail index of the weights; NaN where undefined.
        outcome: :class:`Outcome` as int64.
        info: further numbers per datum, each [B].
    """

    log_evidence: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    outcome: Tensor
    info: dict[str, Tensor]


class Memory(NamedTuple):
    """What a method needs for one datum of a chunk.

    Attributes:
        per_datum: bytes that stay.
        least: further bytes, for the smallest unit of work.
        draws_at_once: samples or chains of a datum that are computed at once.
    """

    per_datum: float
    least: float
    draws_at_once: int


class EvidenceMethod(ABC):
    r"""A way to estimate $\log p(x) = \log \int p(x, z)\,dz$ of every datum; subclasses are frozen
    dataclasses of options.

    Attributes:
        bound: on which side of the truth the estimate lies: "exact"; "lower" or "upper", in expectation (the
            exponential of a "lower" one is an unbiased estimate of p(x), so that by Markov's inequality it
            also exceeds the truth by c nats with probability below exp(-c)); "consistent", neither.
    """

    bound: ClassVar[Bound]

    @property
    def name(self) -> str:
        """The class's name."""
        return type(self).__name__

    @abstractmethod
    def memory(self, run: EvidenceRun) -> Memory:
        """What the method needs for one datum."""

    @abstractmethod
    def estimate(self, run: EvidenceRun, x: Data) -> Estimate:
        """Estimate log p(x) of one chunk of data, under the seed that the caller has set.

        Args:
            run: the pair, its state, where and how to compute.
            x: the chunk, [B, *event].
        """

    def check(self, run: EvidenceRun) -> None:
        """Raise a PairError where the method cannot be used on this pair; called once, before any work."""
        return None


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    r"""Log marginal likelihood of every datum, with its error and diagnostics.

    Attributes:
        log_evidence: estimate of log p(x_b), [B], nats; NaN where there is none.
        standard_error: Monte Carlo standard error of each, [B], nats; NaN where unknown.
        effective_sample_size: how many independent, equally weighted draws each is worth, [B]; NaN where
            undefined.
        pareto_k: tail index of each datum's weights, [B]: below 0.5 good, above 0.7 not to be trusted by itself; NaN
            where undefined (weights equal up to rounding, too few of them, or none).
        bound: "exact", "lower" or "upper" (in expectation), or "consistent".
        outcome: :class:`Outcome` of each, [B], int64; 0 where the estimate stands.
        method: name of the method.
        seconds: wall-clock time.
        info: further numbers: tensors [B] (divergences, acceptance, ...) and scalars or strings about the
            run.
        common_error: the :attr:`mean_standard_error` where the data share noise (draws of the weights), so that their
            errors do not average out; None where every datum has noise of its own.
    """

    log_evidence: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    pareto_k: Tensor
    bound: Bound
    outcome: Tensor
    method: str
    seconds: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)
    common_error: float | None = None

    def __post_init__(self) -> None:
        shape = self.log_evidence.shape
        for name in ("standard_error", "effective_sample_size", "pareto_k", "outcome"):
            if getattr(self, name).shape != shape or len(shape) != 1:
                raise DataError(
                    f"Evidence: expected {name} of the shape [B] of log_evidence, found "
                    f"{list(getattr(self, name).shape)} beside {list(shape)}"
                )

    def __len__(self) -> int:
        return int(self.log_evidence.shape[0])

    @property
    def estimated(self) -> Tensor:
        """Which data have a finite estimate, [B], bool."""
        return torch.isfinite(self.log_evidence)

    @property
    def trusted(self) -> Tensor:
        """Which data have an estimate that stands, within its standard error: the outcome is OK, [B], bool."""
        return self.estimated & (self.outcome == Outcome.OK)

    @property
    def upper(self) -> Tensor | None:
        """The upper bound of every datum, [B], nats, from a method with two sides (:class:`~.bdmc.BDMC`); else None."""
        return self.info.get("upper")

    @property
    def upper_standard_error(self) -> Tensor | None:
        """Monte Carlo standard error of :attr:`upper`, [B], nats."""
        return self.info.get("upper_standard_error")

    @property
    def mean(self) -> float:
        """Mean of log p(x_b) over the trusted data (:meth:`summary` says how many), nats; NaN where there are none.

        These are not a random subset of the data: hard ones are left out. :attr:`mean_of_all` is over all that have
        an estimate, good or bad.
        """
        return _mean(self.log_evidence[self.trusted])

    @property
    def mean_of_all(self) -> float:
        """Mean of log p(x_b) over all data that have an estimate, trusted or not, nats."""
        return _mean(self.log_evidence[self.estimated])

    @property
    def mean_of_all_standard_error(self) -> float:
        """Monte Carlo standard error of :attr:`mean_of_all`, nats; NaN where that of one datum is unknown.

        Where data are not trusted, their true errors may be larger than their standard errors.
        """
        return self._error_of_mean(self.estimated)

    @property
    def mean_standard_error(self) -> float:
        r"""Monte Carlo standard error of :attr:`mean`, $\frac{1}{B} \sqrt{\sum_b \mathrm{se}_b^2}$, nats.

        For fixed data: the variation over seeds, which falls with more samples. The variation over other such data is
        :attr:`sampling_standard_error`. Neither contains a bias. Where all data share the draws of the weights, it is
        :attr:`common_error`.
        """
        return self._error_of_mean(self.trusted)

    def _error_of_mean(self, mask: Tensor) -> float:
        if self.common_error is not None:
            return self.common_error
        errors = self.standard_error[mask].double()
        return float(errors.square().sum().sqrt() / len(errors)) if len(errors) else math.nan

    @property
    def sampling_standard_error(self) -> float:
        r"""Standard deviation over data divided by $\sqrt{B}$, nats: how :attr:`mean` varies over other such data."""
        values = self.log_evidence[self.trusted].double()
        return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan

    def minus(self, other: Evidence) -> Difference:
        r"""The mean of $\log p(x_b) - \log p'(x_b)$ for two models of the same data, nats per datum.

        It is over the data on which both can be trusted, datum by datum: what makes one hard for both cancels. Of two
        lower bounds it is the difference of the bounds. :attr:`Difference.told_apart` says whether it is more than
        noise.

        Args:
            other: of the other model, from the same data in the same order.

        Raises:
            DataError: the data are others (or binarised by another seed), or one model has densities where the other
                has probabilities, or of other values (``obs=(x - mean) / scale``): then the difference has the unit of
                the data and says nothing of the models.
        """
        if len(self) != len(other):
            raise DataError(f"minus: expected the evidence of the same data, found {len(self)} beside {len(other)}")
        mine, theirs = ({key: one.info.get(key) for key in ("data", "measure", "observed")} for one in (self, other))
        if None not in (mine["data"], theirs["data"]) and mine["data"] != theirs["data"]:
            raise DataError(
                "minus: expected the evidence of the same data, found two of different data"
                + try_one_of("the same data in the same order", "the same seed, where the data are binarised anew")
            )
        if None not in (mine["measure"], theirs["measure"]) and mine["measure"] != theirs["measure"]:
            raise DataError(
                f"minus: one model has {mine['measure']}, the other {theirs['measure']}: these do not compare"
                + try_one_of("likelihoods of one kind for both models")
            )
        if None not in (mine["observed"], theirs["observed"]) and mine["observed"] != theirs["observed"]:
            raise DataError(
                "minus: the models observe other values of the same data, as obs=(x - mean) / scale beside obs=x: the "
                "densities of these differ by the unit of the values and say nothing of the models"
                + try_one_of(
                    "obs=x in both, with TransformedDistribution(..., AffineTransform(mean, scale)) for the scaled one",
                    "the data scaled before both",
                )
            )
        common = [error for one in (self, other) if (error := one.common_error) is not None]
        first, second = (one.log_evidence.double().where(one.trusted, math.nan) for one in (self, other))
        return paired_difference(first, second, common)

    def over_all(self, bounds: Tensor, rows: Tensor) -> MeanOfAll:
        r"""The mean of $\log p(x)$ over a whole data set, of which these are a few data, drawn at random.

        Data differ in $\log p(x)$ by tens of nats, and in its distance to a bound by a few: the bound $b$ of all, which
        is cheap, and what the evidence of the few lies above it, are sharper by far than the mean of the few.

        $$\overline{\log p} = \frac{1}{N} \sum_{i=1}^N b_i + \frac{1}{n} \sum_{j \in S} (\log p(x_j) - b_j),\quad
          \mathrm{se}^2 = \frac{s^2_{j \in S}(\log p(x_j) - b_j)}{n} (1 - \frac{n}{N}) + \text{noise}$$

        It is unbiased whatever the numbers $b$ are, their noise included (the difference estimator; Cochran 1977,
        Sampling Techniques, section 7). A datum whose estimate cannot be trusted counts with its bound, and the mean is
        a lower bound then.

        Args:
            bounds: b, a lower bound of log p(x) of every datum, [N], as :attr:`BoundEstimate.elbo` of
                :func:`~ppvae.inference.evaluate_bound`.
            rows: which of these the data are, drawn at random (:func:`~ppvae.data.random_rows`), int64 [B].

        Raises:
            DataError: shapes or rows that do not fit, a bound that is not finite, or an upper bound that is missing.
        """
        return mean_of_all(self, bounds, rows)

    @property
    def worst_pareto_k(self) -> float:
        """The largest Pareto k of all data, NaN where it is defined for none."""
        defined = self.pareto_k[~self.pareto_k.isnan()]
        return float(defined.max()) if len(defined) else math.nan

    def messages(self) -> dict[str, int]:
        """What went wrong, and for how many data; empty where nothing did."""
        values, counts = self.outcome.unique(return_counts=True)
        pairs = zip(values.tolist(), counts.tolist(), strict=True)
        return {Outcome(value).message: count for value, count in pairs if value != Outcome.OK}

    def summary(self) -> str:
        """One line: method, side, mean, its two errors, worst k, time; then the mean over all where not all are
        trusted, and a line for each kind of failure."""
        count, all_ = int(self.trusted.sum()), int(self.estimated.sum())
        over = f"{count} data" if count == len(self) else f"{count} of {len(self)} data that can be trusted"
        line = f"{self.method} ({self.bound}): {self.mean:.4f}"
        if self.bound != "exact":
            line += f" ± {self.mean_standard_error:.4f}"
        line += f" nats per datum, mean over {over}"
        if not math.isnan(self.sampling_standard_error):
            line += f" (± {self.sampling_standard_error:.2f} over the choice of data)"
        if not math.isnan(self.worst_pareto_k):
            line += f", worst Pareto k {self.worst_pareto_k:.2f}"
        line += f", {self.seconds:.1f} s"
        if all_ != count:
            line += f"\n  {self.mean_of_all:.4f} nats per datum over all {all_} data that have an estimate, good or bad"
            line += "; neither mean compares with one over other data"
        return "\n".join([line, *(f"  {count} data: {text}" for text, count in self.messages().items())])

    def __repr__(self) -> str:
        return f"Evidence({self.summary()})"

    def _repr_html_(self) -> str:
        """For notebooks: the mean with its errors, and the distribution over data."""
        count, all_ = int(self.trusted.sum()), int(self.estimated.sum())
        facts = {
            "mean": f"{with_error(self.mean, self.mean_standard_error)} nats per datum",
            "side": self.bound,
            "trusted": f"{count} of {len(self)} data",
        }
        if not math.isnan(self.sampling_standard_error):
            facts["choice of data"] = f"± {number(self.sampling_standard_error)} nats"
        if all_ != count:
            facts["mean of all"] = f"{with_error(self.mean_of_all, self.mean_of_all_standard_error)}, {all_} data"
        if not math.isnan(self.worst_pareto_k):
            facts["worst Pareto k"] = number(self.worst_pareto_k)
        facts["time"] = f"{number(self.seconds, 1)} s"
        values = self.log_evidence.double()
        groups = {"trusted": values[self.trusted].tolist(), "flagged": values[~self.trusted].tolist()}
        picture = histogram(groups, label="data by log evidence, nats")
        notes = [f"{count} data: {text}" for text, count in self.messages().items()]
        return panel(self.method, facts, picture, notes)

    def to_dict(self, *, per_datum: bool = True) -> dict[str, Any]:
        """All of it as numbers, strings, lists and dictionaries for JSON; a number that is not finite becomes
        None.

        Args:
            per_datum: with the lists of B numbers, or without.
        """
        result: dict[str, Any] = {
            "method": self.method,
            "bound": self.bound,
            "mean": _number(self.mean),
            "mean_standard_error": _number(self.mean_standard_error),
            "sampling_standard_error": _number(self.sampling_standard_error),
            "mean_of_all": _number(self.mean_of_all),
            "mean_of_all_standard_error": _number(self.mean_of_all_standard_error),
            "worst_pareto_k": _number(self.worst_pareto_k),
            "num_data": len(self),
            "num_estimated": int(self.estimated.sum()),
            "num_trusted": int(self.trusted.sum()),
            "messages": self.messages(),
            "seconds": self.seconds,
            "info": {key: _plain(value) for key, value in self.info.items() if not isinstance(value, Tensor)},
        }
        if per_datum:
            names = ("log_evidence", "standard_error", "effective_sample_size", "pareto_k", "outcome")
            result["data"] = {name: _plain(getattr(self, name)) for name in names}
            result["data"] |= {key: _plain(value) for key, value in self.info.items() if isinstance(value, Tensor)}
        return result


def nan_like(like: Tensor) -> Tensor:
    """NaN for every datum."""
    return torch.full_like(like, math.nan)


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else math.nan


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return _number(value) if isinstance(value, float) else value
