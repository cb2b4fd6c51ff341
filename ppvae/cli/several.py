"""Several runs on the command line: ``--seeds``, ``--sweep``, and what is printed of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .common import LARGEST_INTEGER, emit, say

if TYPE_CHECKING:
    from ..runs import Recipe, SeveralFolder


def several_of(
    values: dict[str, Any],
    seed: int | None,
    seeds: str | None,
    sweep: list[str],
    changes: Mapping[str, Any],
    by_data: bool,
) -> tuple[dict[str, Any], list[int], dict[str, list[Any]]]:
    """The values of the recipe, the seeds, and the values of each key that is swept.

    Args:
        values: of the recipe.
        seed, seeds, sweep: the options.
        changes: what other options say of the recipe.
        by_data: whether the model is to be chosen by the data where nothing names it.

    Raises:
        RunError: an option that cannot be read, or two that contradict each other.
    """
    from ..core.errors import RunError, try_one_of

    if seed is not None and seeds is not None:
        raise RunError(
            f"--seed {seed} and --seeds {seeds}: one run has one seed, several have --seeds"
            + try_one_of(f"--seeds {seed},{seed + 1},{seed + 2}")
        )
    swept: dict[str, list[Any]] = {}
    for text in sweep:
        key, several = _swept(text)
        if key in swept:
            raise RunError(f"--sweep {key} is there twice" + try_one_of(f"--sweep {key}=V1,V2,V3"))
        if _says(changes, key):
            raise RunError(f"--sweep {key}: another option gives {key} one value" + try_one_of("one of the two"))
        swept[key] = several
    if "seed" in swept:
        raise RunError(f"--sweep seed={_joined(swept['seed'])}" + try_one_of(f"--seeds {_joined(swept['seed'])}"))
    if by_data and "name" not in values.get("model", {}) and not {"model", "model.name", "data.source"} & set(swept):
        values = {**values, "model": model_for(values)}
    return values, [] if seeds is None else _seeds(seeds), swept


def _says(changes: Mapping[str, Any], key: str) -> bool:
    """Whether nested values have one at a key like "training.learning_rate"."""
    table: Any = changes
    for part in key.split("."):
        if not isinstance(table, Mapping) or part not in table:
            return False
        table = table[part]
    return True


def model_for(values: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the model for the values of the data."""
    from ..runs import Recipe, model_for_data

    preset = model_for_data(Recipe.from_dict({**values, "model": {"name": "bernoulli-vae"}}))
    say(f"model: {preset['name']}, by the values of the data (--model list shows all)")
    return {**preset, **values.get("model", {})}


def trackers_of(names: list[str] | None) -> Any:
    """A function that makes the trackers of a run where it is trained, in another process."""
    return functools.partial(_trackers, names or [])


def _trackers(names: list[str], folder: Path, recipe: Recipe, goes_on: bool) -> list[Any]:
    from ..runs import loggers_again, loggers_of

    return loggers_again(folder, names) if goes_on else loggers_of(folder, names, recipe)


def refuse_changes(folder: Path, changes: Mapping[str, Any]) -> None:
    """Raise a RunError where several runs are to go on with another recipe than each has."""
    from ..core.errors import RunError, try_one_of

    left = {key: value for key, value in changes.items() if key != "training" or set(value) - {"num_epochs"}}
    if left:
        raise RunError(
            f"--resume {folder} goes on with several runs, each with its own recipe: {', '.join(left)} has no place "
            "beside it" + try_one_of("--epochs N for more epochs of each", "--resume of one of its run folders")
        )


def tell_several(several: SeveralFolder, json: bool) -> None:
    """Print the table of several runs; exit status 1 where some failed."""
    rows, groups = several.rows(), several.groups()
    if json:
        emit({"runs": str(several.path), "rows": rows, "groups": groups, "failures": several.failures})
    else:
        for table in (rows, groups):
            _print_table(table)
            print()
    say("mean and sd (standard deviation of a single run) are over the runs that came to their end")
    say(f"next: ppvae report {several.path}")
    if several.failures:
        raise typer.Exit(1)


def _print_table(rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _joined(values: list[Any]) -> str:
    return ",".join(map(str, values))


def _seeds(text: str) -> list[int]:
    from ..core.errors import RunError, try_one_of

    words = [word.strip() for word in text.split(",") if word.strip()]
    numbers = [int(word) for word in words if word.isdecimal() and int(word) <= LARGEST_INTEGER]
    if len(numbers) < len(words) or not numbers or (len(words) == 1 and "," not in text and numbers == [0]):
        raise RunError(
            f"--seeds: expected how many, or several whole numbers, found {text!r}"
            + try_one_of("--seeds 8", "--seeds 0,1,2")
        )
    return list(range(numbers[0])) if len(words) == 1 and "," not in text else numbers


def _swept(text: str) -> tuple[str, list[Any]]:
    """From "model.latent_dim=2,5" to the key and its values; what is no TOML is a word."""
    import tomllib

    from ..core.errors import RunError, try_one_of

    key, equals, several = text.partition("=")
    if not equals or not key.strip() or not several.strip():
        raise RunError(f"--sweep: expected KEY=V1,V2, found {text!r}" + try_one_of("--sweep model.latent_dim=2,5,10"))
    try:
        values: list[Any] = tomllib.loads(f"value = [{several}]")["value"]
    except ValueError:
        values = [value_of(word.strip()) for word in several.split(",") if word.strip()]
    return key.strip(), values


def value_of(text: str) -> Any:
    """A value of TOML; what is none is a word."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:  # or a number of thousands of digits
        return text
