"""As much work as each datum needs: cheap first, more where the estimate does not stand or is not good enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .ais import AIS
from .base import Bound, Estimate, EvidenceMethod, Memory
from .bridge import BridgeSampling
from .importance import ImportanceSampling
from .outcome import Outcome
from .run import EvidenceRun
from ...core import Data, PpvaeError, rows_of
from ...core.errors import try_one_of


@dataclass(frozen=True)
class Auto(EvidenceMethod):
    r"""Importance sampling for all data; for those whose outcome is not OK or whose standard error is above the target,
    ten times the draws, then AIS from the guide, bridge sampling, and AIS from the prior, which needs no guide that
    knows all modes, until the target or the budget is reached.

    ``info["stage"]`` is, for each datum, the index of its method in ``info["stages"]``, from 0. Lower bounds and
    consistent estimates are mixed, by a rule that depends on the estimates: the result is on neither side of the
    truth, "consistent". A datum that no stage estimates reliably keeps the last estimate that it has, with its outcome.

    Limitations: a mode that all methods miss goes unseen. A pair with discrete latents, or with parameters for each
    datum, has fewer stages.

    Args:
        target_error: standard error, in nats, that is good enough.
        budget: density evaluations per datum at most, a gradient counting three; a stage that would exceed it is not
            run. None for all stages.

    Raises:
        PpvaeError: a target or a budget that is not positive.
    """

    target_error: float = 0.05
    budget: int | None = None
    bound: ClassVar[Bound] = "consistent"

    def __post_init__(self) -> None:
        for name, value in (("target_error", self.target_error), ("budget", self.budget)):
            if value is not None and not value > 0:
                raise PpvaeError(f"Auto: expected a positive {name}, found {value}" + try_one_of("Auto()"))

    @property
    def _ladder(self) -> list[tuple[EvidenceMethod, float]]:
        """Methods with their cost, in density evaluations."""
        ais, bridge = AIS(), BridgeSampling()
        annealing = 1.25 * 3 * ais.num_chains * ais.num_temperatures * (ais.num_leapfrog + 1)
        chains, per_chain = bridge.num_chains, bridge.num_warmup + bridge.num_draws // bridge.num_chains
        return [
            (ImportanceSampling(1000), 1.3e3),
            (ImportanceSampling(10_000), 1.3e4),
            (ais, 2 * annealing),
            (bridge, 3.0 * chains * per_chain * bridge.num_leapfrog),
            (AIS(start="prior"), 2 * annealing),
        ]

    def usable(self, run: EvidenceRun) -> list[EvidenceMethod]:
        """The stages that this pair and the budget allow; the first always."""
        stages: list[EvidenceMethod] = []
        total = 0.0
        for method, cost in self._ladder:
            total += cost
            if stages and (self.budget is not None and total > self.budget):
                break
            try:
                method.check(run)
            except PpvaeError:
                continue
            stages.append(method)
        return stages

    def memory(self, run: EvidenceRun) -> Memory:
        """What the most demanding stage needs."""
        needs = [method.memory(run) for method in self.usable(run)]
        return Memory(*(max(column) for column in zip(*needs, strict=True)))

    def estimate(self, run: EvidenceRun, x: Data) -> Estimate:
        """Stage by stage, each for the data that still need it."""
        batch = run.batch_of(x)
        stages = self.usable(run)
        run_share, tick = 1.0 / len(stages), run.tick
        run.tick = lambda amount: tick(amount * run_share)
        try:
            best = stages[0].estimate(run, x)
            stage = torch.zeros_like(best.outcome)
            for number, method in enumerate(stages[1:], 1):
                good = (best.outcome == Outcome.OK) & (best.standard_error <= self.target_error)
                rows = (~good & (best.outcome != Outcome.NOT_FINITE)).nonzero()[:, 0]
                if not len(rows):
                    break
                rows_padded = torch.arange(batch, device=rows.device) if run.needs_all_data else _pad(rows, batch)
                again = method.estimate(run, rows_of(x, rows_padded))
                place = (rows_padded[:, None] == rows).int().argmax(0)
                new = Estimate(again[0][place], again[1][place], again[2][place], again[3][place], again[4][place], {})
                better = self._better(new, best, rows)
                stage[rows[better]] = number
                best = _update(best, new, rows, better)
        finally:
            run.tick = tick
        return best._replace(info={"bias": best.info["bias"], "stage": stage.to(run.dtype)})

    @staticmethod
    def _better(new: Estimate, old: Estimate, rows: Tensor) -> Tensor:
        """Which of the new estimates replace the old: an OK one is better than one that is not, then the smaller error;
        where neither is OK the new one, if it is finite."""
        good, old_good = new.outcome == Outcome.OK, old.outcome[rows] == Outcome.OK
        smaller = new.standard_error < old.standard_error[rows]
        return torch.where(old_good, good & smaller, torch.isfinite(new.log_evidence))


def _pad(rows: Tensor, batch: int) -> Tensor:
    """The rows, the last repeated up to a power of two, so that few shapes are captured."""
    size = min(batch, 1 << (len(rows) - 1).bit_length())
    return torch.cat([rows, rows[-1:].expand(max(0, size - len(rows)))])


def _update(best: Estimate, new: Estimate, rows: Tensor, better: Tensor) -> Estimate:
    def merge(name: str) -> Tensor:
        value: Tensor = getattr(best, name).clone()
        value[rows[better]] = getattr(new, name)[better]
        return value

    info = {name: value.clone() for name, value in best.info.items()}
    info["bias"][rows[better]] = torch.nan
    return Estimate(
        merge("log_evidence"),
        merge("standard_error"),
        merge("effective_sample_size"),
        merge("pareto_k"),
        merge("outcome"),
        info,
    )
