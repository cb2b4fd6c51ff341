"""Evaluate a run on held-out data: the bound and any evidence methods, into ``evaluation.json``."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .atomic import plain, read_json, write_bytes, write_json
from .catalogue import build, evidence_entries, parsed
from .folder import RunFolder
from .run import Run
from .. import __version__
from ..core import PairError, structure
from ..core.errors import RunError, try_one_of
from ..data import Dataset
from ..inference import elbo
from ..inference.bound import BoundEvaluator
from ..inference.evidence import Evidence, EvidenceMethod, log_evidence
from ..inference.placement import choose_device, choose_mode, dtype_of, like_pair

REPEATS = 10
"""Independent evaluations of the bound, whose spread is its Monte Carlo error."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Method:
    """An evidence method as a recipe or the command line states it.

    Attributes:
        table: ``{name, **options}``, complete.
    """

    table: Mapping[str, Any]

    @staticmethod
    def parse(text: str) -> Method:
        """From "ais" or "ais:num_chains=16,num_temperatures=100".

        Raises:
            RunError: an unknown method or option, or a value of a wrong type.
        """
        return Method(parsed(evidence_entries(), text, "--method", "evidence method"))

    @property
    def key(self) -> str:
        """What tells it from the other estimates: its name and its options."""
        options = [f"{key}={value}" for key, value in self.table.items() if key != "name"]
        return str(self.table["name"]) + (":" + ",".join(options) if options else "")

    @property
    def label(self) -> str:
        """What tables call it."""
        if self.table["name"] == "importance-sampling":
            return f"L_{self.table['num_samples']}"
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", evidence_entries()[self.table["name"]].build.__name__)
        return " ".join([words[0], *(word if word.isupper() else word.lower() for word in words[1:])])

    def make(self) -> EvidenceMethod:
        """The method itself."""
        method = build(evidence_entries(), self.table)
        assert isinstance(method, EvidenceMethod)
        return method


def evaluate(
    run: Run,
    methods: Iterable[Method] = (),
    *,
    part: str | None = None,
    num_data: int | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    write: bool = True,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Estimate the bound and the log evidence of held-out data, in nats per datum.

    The file that is written holds for every estimate: its side, its mean, its Monte Carlo standard error (another
    seed), its standard error over the choice of data (other data), seconds, and the command that repeats it; the
    numbers of every datum stand beside it in ``evaluation.safetensors``.

    Args:
        run: the run.
        methods: evidence methods, besides the bound.
        part: "test", "validation" or "train"; None for the first of these that exists.
        num_data: the first so many data of the part; None for all.
        seed: of all draws.
        device: "auto", "cpu", "cuda".
        progress: show bars on a terminal.
        write: keep the result in the run folder (estimates of an earlier evaluation of the same data stay).
        say: told of every estimate when it is finished.

    Returns:
        what ``evaluation.json`` holds.

    Raises:
        RunError: no such part.
        PairError: a method cannot be used on this pair.
    """
    part = part or run.held_out
    data = run.part(part)
    if num_data is not None:
        data = data.take(min(num_data, len(data)))
    about = {
        "format": "ppvae-evaluation",
        "version": 1,
        "ppvae": __version__,
        "run": str(run.folder.path),
        "parameters": run.parameters,
        "data": {"name": run.data.name, "part": part, "num_data": len(data), "fingerprint": data.fingerprint()},
    }
    rows, columns = _kept(run.folder, about) if write else ([], {})
    ours = ["--part", part] + ([] if num_data is None else ["--num-data", str(num_data)])
    ours += ["--seed", str(seed), "--threads", str(torch.get_num_threads())]
    command = " ".join(["ppvae evaluate", str(run.folder.path), *ours])

    def add(row: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
        rows[:] = [old for old in rows if old["key"] != row["key"]] + [row]
        for name in [name for name in columns if name.startswith(row["key"] + "/")]:
            del columns[name]
        columns.update({f"{row['key']}/{name}": value.contiguous() for name, value in tensors.items()})
        rows.sort(key=_order)
        if write:  # after every estimate: a long evaluation that is stopped keeps what is finished
            _write(run.folder, about, rows, columns)
        say(describe(row))

    add(*bound_row(run, data, seed, device, command))
    held = bool(methods) and _holds_weights(run)
    if held:
        say("weights are held at the mean of their posterior: log p(x | w), not averaged over w")
    for method in methods:
        found = log_evidence(
            run.pair,
            data,
            method=method.make(),
            seed=seed,
            device=device,
            progress=progress,
            global_sites="mean" if held else None,
        )
        add(*_evidence_row(method, found, seed, f"{command} --method {method.key}"))
    return {**about, "estimates": rows}


def _holds_weights(run: Run) -> bool:
    """Whether the pair has latents outside the data plate, at which evidence must be told a value."""
    few = like_pair(run.data.batch(torch.arange(min(2, len(run.data)))), dtype_of(run.pair))
    return bool(structure(run.pair, few).global_latents)


def bound_row(
    run: Run, data: Dataset, seed: int, device: str, command: str = ""
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The bound of all data, as the mean over ten evaluations with seeds seed, seed + 1, ...: its row, its columns."""
    started = time.perf_counter()
    where = choose_device(device)
    run.pair.to(where)
    data = data.to(where)
    few = like_pair(data.batch(torch.arange(min(2, len(data)), device=where)), dtype_of(run.pair))
    estimator: elbo.ELBO = elbo.TraceMeanFieldELBO(on_missing_kl="sample")
    try:
        estimator.check(run.pair, few)
    except PairError:  # a discrete latent: nothing is differentiated here, but the estimator does not know
        estimator = elbo.TraceELBO()
    chunk = min(1000, len(data))
    mode = choose_mode("auto", REPEATS * math.ceil(len(data) / chunk))
    evaluator = BoundEvaluator(run.pair, estimator, mode, chunk, len(run.data))
    found = [evaluator(data, seed + repeat) for repeat in range(REPEATS)]
    means = torch.tensor([each.mean for each in found], dtype=torch.float64)
    columns = {
        name: torch.stack([getattr(each, name).double() for each in found]).mean(0)
        for name in ("elbo", "reconstruction", "kl")
    }
    value = columns["elbo"]
    row = {
        "key": "elbo",
        "label": "ELBO",
        "method": "elbo",
        "options": {"repeats": REPEATS},
        "side": "lower",
        "mean": float(means.mean()),
        "monte_carlo_error": float(means.std() / math.sqrt(REPEATS)),
        "sampling_error": float(value.std() / math.sqrt(len(value))) if len(value) > 1 else None,
        "reconstruction": float(columns["reconstruction"].mean()),
        "kl": float(columns["kl"].mean()),
        "worst_pareto_k": None,
        "num_data": len(value),
        "num_estimated": len(value),
        "messages": {},
        "seconds": time.perf_counter() - started,
        "seed": seed,
        "command": command,
    }
    return row, {name: value.float() for name, value in columns.items()}


def _evidence_row(method: Method, found: Evidence, seed: int, command: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    summary = found.to_dict(per_datum=False)
    row = {
        "key": method.key,
        "label": method.label,
        "method": method.table["name"],
        "options": {key: value for key, value in method.table.items() if key != "name"},
        "side": summary["bound"],
        "mean": summary["mean"],
        "monte_carlo_error": summary["mean_standard_error"],
        "sampling_error": summary["sampling_standard_error"],
        "worst_pareto_k": summary["worst_pareto_k"],
        "num_data": summary["num_data"],
        "num_estimated": summary["num_estimated"],
        "messages": summary["messages"],
        "info": summary["info"],
        "seconds": summary["seconds"],
        "seed": seed,
        "command": command,
    }
    names = ("log_evidence", "standard_error", "effective_sample_size", "pareto_k", "outcome")
    return row, {name: getattr(found, name) for name in names}


def describe(row: Mapping[str, Any]) -> str:
    """One line: ``L_5000 (lower): -20.13 +- 0.01 nats per datum (+- 0.31 over the choice of data), 1.2 s``."""
    text = f"{row['label']} ({row['side']}): {_number(row['mean'], 3)}"
    if row["monte_carlo_error"]:
        text += f" ± {_number(row['monte_carlo_error'], 3)}"
    text += " nats per datum"
    if row["sampling_error"] is not None:
        text += f" (± {_number(row['sampling_error'], 2)} over the choice of data)"
    if row["num_estimated"] < row["num_data"]:
        text += f", {row['num_estimated']} of {row['num_data']} data"
    if row["worst_pareto_k"] is not None:
        text += f", worst Pareto k {row['worst_pareto_k']:.2f}"
    return f"{text}, {row['seconds']:.1f} s"


def read_evaluation(folder: RunFolder) -> dict[str, Any] | None:
    """What ``evaluation.json`` holds; None where nothing was evaluated.

    Raises:
        RunError: the file is damaged.
    """
    if not folder.evaluation.exists():
        return None
    values = read_json(folder.evaluation)
    if not isinstance(values, dict) or values.get("format") != "ppvae-evaluation":
        raise RunError(f"{folder.evaluation}: not an evaluation" + try_one_of(f"ppvae evaluate {folder.path}"))
    return values


def read_per_datum(folder: RunFolder) -> dict[str, Tensor]:
    """The numbers of every datum, "key/column" to [N]; empty where there are none."""
    if not folder.per_datum.exists():
        return {}
    try:
        return dict(safetensors.torch.load(folder.per_datum.read_bytes()))
    except Exception as error:  # safetensors has an error of its own
        raise RunError(f"{folder.per_datum}: damaged: {error}" + try_one_of(f"ppvae evaluate {folder.path}")) from error


def _kept(folder: RunFolder, about: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Estimates of an earlier evaluation of the same data with the same parameters."""
    try:
        old = read_evaluation(folder)
        if old is None or any(old.get(key) != plain(about[key]) for key in ("version", "parameters", "data")):
            return [], {}
        return list(old["estimates"]), read_per_datum(folder)
    except (RunError, KeyError):
        return [], {}


def _write(
    folder: RunFolder, about: Mapping[str, Any], rows: list[dict[str, Any]], columns: Mapping[str, Tensor]
) -> None:
    write_bytes(folder.per_datum, safetensors.torch.save(dict(columns)))
    write_json(folder.evaluation, {**about, "estimates": rows})


def _order(row: Mapping[str, Any]) -> tuple[int, int, str, int]:
    """The bound first, then lower bounds from crude to fine, estimates on neither side, upper bounds, the truth."""
    sides = {"lower": 0, "consistent": 1, "upper": 2, "exact": 3}
    methods = ("elbo", "prior-sampling", "importance-sampling", "ais")
    place = methods.index(row["method"]) if row["method"] in methods else len(methods)
    return sides.get(row["side"], 4), place, str(row["method"]), _samples(row)


def _samples(row: Mapping[str, Any]) -> int:
    return int(row["options"].get("num_samples", 0))


def _number(value: float | None, digits: int) -> str:
    return "—" if value is None else f"{value:.{digits}f}"
