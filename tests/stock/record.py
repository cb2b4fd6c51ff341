"""What the table of stock programs records of each: where it comes from, how it is run, what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ppvae.core import ModelGuidePair, as_one_datum
from ppvae.core.pair import map_tensors
from ppvae.inference import elbo, evidence

ALL = ("fit", "evaluate_bound", "log_evidence", "sample_posterior")  # that local latents allow
AS_ONE_DATUM = "`as_one_datum(pair)`, the data with an axis of one before the others"
VERBS = {
    "fit": "``fit``",
    "evaluate_bound": "bound",
    "log_evidence": "evidence of a datum",
    "log_evidence_of_data_set": "evidence of all data",
    "sample_posterior": "HMC",
}
EXAMPLES = "https://github.com/pyro-ppl/pyro/blob/dev/examples/"
TUTORIALS = "https://pyro.ai/examples/"


@dataclass(frozen=True)
class Case:
    """A model and a guide, made anew, and the data that they are run on.

    Attributes:
        model: the model, with the arguments that Pyro's example gives it.
        guide: the guide.
        data: the batch, as `from_callables` hands it on.
        unpack: the members of a mapping are keyword arguments.
        one_datum: all the data are one datum, `as_one_datum(pair)`.
        about: what the truth needs to know besides, such as the networks.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    data: Any
    unpack: bool = False
    one_datum: bool = False
    about: Any = None

    def pair(self) -> ModelGuidePair:
        """The pair."""
        pair = ModelGuidePair.from_callables(self.model, self.guide, unpack=self.unpack)
        return as_one_datum(pair) if self.one_datum else pair

    def whole(self) -> Case:
        """The same with all its data as one datum."""
        return replace(self, data=map_tensors(lambda value: value[None], self.data), one_datum=True)


@dataclass(frozen=True)
class Refusal:
    """What is refused, and the one change after which it runs.

    Attributes:
        pattern: of the message, with the site's name.
        line: the line to change, as the table says it.
        changed: the program after that change.
        lines: how many lines the change is.
    """

    pattern: str
    line: str
    changed: Callable[[], Case]
    lines: int = 1


@dataclass(frozen=True)
class Stock:
    """A published program of Pyro's, written anew: its idioms and its calling convention, small.

    Attributes:
        title: what the table calls it.
        origin: where Pyro publishes it.
        case: the program.
        serves: the verbs that run, after the change where there is a refusal.
        refusal: what is refused as it stands, or None.
        enumerates: there are sites marked infer={"enumerate": "parallel"}.
        estimator: of `fit` and of the bound.
        whole: all data at every step, since there are parameters for every datum.
        exact: the log evidence from elsewhere, given the program's case and values by name (of the global sites and of
            bare pyro.param statements): [B] of every datum at these values, or [1] of the data set; None where there is
            none.
        method: of `log_evidence`; the default needs no trained guide.
        importance: draws of importance sampling from the guide, beside it; 0 where it is refused.
        warmup: of `sample_posterior`; with more of it, more draws and longer trajectories.
        note: what the table says beside it.
    """

    title: str
    origin: str
    case: Callable[[], Case]
    serves: tuple[str, ...]
    refusal: Refusal | None = None
    enumerates: bool = False
    estimator: Callable[..., elbo.ELBO] = elbo.TraceELBO
    whole: bool = False
    exact: Callable[[Case, dict[str, Tensor]], Tensor] | None = None
    method: evidence.EvidenceMethod = field(default_factory=lambda: evidence.PriorSampling(20_000))
    importance: int = 2000
    warmup: int = 100
    note: str = ""

    def final(self) -> Case:
        """The program that runs: as it is published, or after the one change."""
        return self.case() if self.refusal is None else self.refusal.changed()
