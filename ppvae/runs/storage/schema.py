"""What stands in the files of JSON of a run folder: whoever wrote one, what is read from it has these types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...core.errors import RunError

_Count = Field(ge=0, le=2**63 - 1)


class Stored(BaseModel):
    """A table of a file: keys of an other version may stand beside these; no number that is not finite."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())


class Segment(Stored):
    """A part of a run that went on with another recipe."""

    epoch: int | None
    step: int | None
    changes: dict[str, Annotated[list[Any], Field(min_length=2, max_length=2)]]


class Info(Stored):
    """``run.json``; what is absent is not known."""

    recipe_digests: list[str] = []
    versions: dict[str, str] = {}
    data: dict[str, str | None] = {}
    threads: int = 0
    processes: int = Field(1, ge=1)
    machine: str = ""
    outcome: str = ""
    message: str = ""
    started: str = ""
    finished: str = ""
    seed: int = 0
    segments: list[Segment] = []
    model: str = ""
    num_parameters: int = 0
    seconds: float = 0.0
    epochs: int = 0
    steps: int = 0
    best_epoch: int | None = Field(None, ge=1)


class DataOfEvaluation(Stored):
    """The data of an evaluation."""

    name: str
    part: str
    num_data: int = Field(ge=1, le=2**63 - 1)
    num_whole: int | None = None
    fingerprint: str
    whole: str


class MeanOfAllRow(Stored):
    """The mean over a whole part, from an estimate of some of its data."""

    value: float
    error: float | None
    side: Literal["exact", "lower", "upper", "consistent"]
    num_data: int = _Count
    num_estimated: int = _Count
    num_by_bound: int = _Count


class EstimateRow(Stored):
    """An estimate of an evaluation."""

    key: str
    name: str
    label: str
    method: str
    options: dict[str, bool | int | float | str | list[bool | int | float | str] | None]
    side: Literal["exact", "lower", "upper", "consistent"]
    mean: float | None
    monte_carlo_error: float | None
    sampling_error: float | None
    mean_of_all: float | None
    mean_of_all_standard_error: float | None
    worst_pareto_k: float | None
    num_data: int = _Count
    num_estimated: int = _Count
    num_trusted: int = _Count
    messages: dict[str, int]
    info: dict[str, Any] = {}
    over_all: MeanOfAllRow | None = None
    seconds: float
    seed: int
    command: str
    conditions: dict[str, Any] = {}


class SimulationRow(Stored):
    """A method in a check on simulated data."""

    label: str
    side: str
    is_sandwich: bool
    num_trusted: int = _Count
    below: list[list[float | None]]
    gap: list[float | None] = Field(min_length=1)
    seconds: float


class SimulationCheck(Stored):
    """A check of the methods on simulated data."""

    num_data: int = _Count
    levels: list[float]
    rows: list[SimulationRow]
    conditions: dict[str, Any] = {}


class EvaluationFile(Stored):
    """The JSON of an evaluation."""

    parameters: str
    parameters_sha256: str
    written: str = ""
    data: DataOfEvaluation
    estimates: list[EstimateRow]
    simulation_checks: list[SimulationCheck]


def require(table: type[Stored], values: Any, path: Path) -> None:
    """Raise a RunError that names the file and the first key in it whose value cannot be what was written."""
    try:
        table.model_validate(values)
    except (ValidationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise RunError(f"{path}: nested too deeply") from None
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "its content"
        raise RunError(f"{path}: {key}: {problem['msg']}, found {repr(problem['input'])[:60]}") from None
