"""``ppvae fit``: train a pair into a run folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    LARGEST_INTEGER,
    Force,
    Json,
    Pair,
    Threads,
    emit,
    pair_of,
    require_writable,
    say,
    threads,
    verb,
)
from .completion import DATA_SETS, ELBOS, LIKELIHOODS, MODELS, POSTERIORS, PRIORS, among
from .listing import list_entries
from .several import model_for, refuse_changes, several_of, tell_several, trackers_of, value_of

if TYPE_CHECKING:
    from ..runs import Run

_MODEL, _TRAINING = "Model and data", "Training"


@verb
def fit(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="A recipe (TOML), a run folder whose recipe to use, or data, as --data."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model by name, for instance bernoulli-vae; list shows all.",
            autocompletion=among(*MODELS, "list"),
            rich_help_panel=_MODEL,
        ),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="The prior of an auto-encoder with its options, for instance vamp:num_components=500; list shows all.",
            metavar="NAME[:OPTIONS]",
            autocompletion=among(*PRIORS, "list"),
            rich_help_panel=_MODEL,
        ),
    ] = None,
    posterior: Annotated[
        str | None,
        typer.Option(
            help="Its posterior with its options, for instance iaf:num_transforms=4; list shows all.",
            metavar="NAME[:OPTIONS]",
            autocompletion=among(*POSTERIORS, "list"),
            rich_help_panel=_MODEL,
        ),
    ] = None,
    likelihood: Annotated[
        str | None,
        typer.Option(
            help="The likelihood of a model that takes any, with its options, for instance gaussian:scale=shared; list "
            "shows all.",
            metavar="NAME[:OPTIONS]",
            autocompletion=among(*LIKELIHOODS, "list"),
            rich_help_panel=_MODEL,
        ),
    ] = None,
    pair: Pair = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A data set by name (ppvae data list), a file, or a folder of images; digits if absent.",
            autocompletion=among(*DATA_SETS),
            rich_help_panel=_MODEL,
        ),
    ] = None,
    binarize: Annotated[str | None, typer.Option(help="auto, none, static or dynamic.", rich_help_panel=_MODEL)] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A small net, few epochs and data that suit the model, in a package: less than a minute. What other "
            "options say wins.",
            rich_help_panel=_MODEL,
        ),
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Epochs in all.", min=1, rich_help_panel=_TRAINING)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Data per step.", min=1, rich_help_panel=_TRAINING)] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adam, adamw, adagrad or sgd.", rich_help_panel=_TRAINING)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Step size.", rich_help_panel=_TRAINING)] = None,
    elbo: Annotated[
        str | None,
        typer.Option(
            help="An estimator of the bound with its options, for instance importance-weighted:num_particles=5; list "
            "shows all.",
            metavar="NAME[:OPTIONS]",
            autocompletion=among(*ELBOS, "list"),
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    bayesian: Annotated[
        list[str] | None,
        typer.Option(
            help="A module whose weights get a posterior (full variational Bayes), for instance likelihood. May be "
            "repeated; options with --set bayesian.prior_scale=0.5.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    logger: Annotated[
        list[str] | None,
        typer.Option(
            help="Metrics to tensorboard, mlflow or wandb too (pip install 'ppvae\\[track]'), with options: "
            "mlflow:experiment=digits. May be repeated. With --resume those of the run go on by themselves; "
            "none leaves them out.",
            metavar="NAME[:OPTIONS]",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Any other key of the recipe, for instance model.latent_dim=2. May be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/MODEL-DATA where absent.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that stands there.")] = False,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder, bit for bit.", metavar="RUN")] = None,
    force: Force = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of all random numbers; 0 where absent.", min=0, max=LARGEST_INTEGER)
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Several runs at once, into a folder with a run folder for each: 8 for the seeds 0 to 7, or 0,3,5.",
            metavar="NUMBER|LIST",
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Several runs at once, with each of these values of a key of the recipe: model.latent_dim=2,5,10. May "
            "be repeated, for all combinations, and stand beside --seeds.",
            metavar="KEY=VALUES",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    threads_: Threads = None,
    json: Json = False,
) -> None:
    """Train a pair and keep everything in a run folder: recipe, metrics, checkpoints.

    Ctrl-C saves the state; --resume goes on from there to the numbers of a run that was never interrupted. Beside it,
    --epochs asks for more epochs, and a few options (--learning-rate, --elbo, --device, --set training.kl_warmup...)
    change the recipe from there on, which the run folder and the report record.

    --seeds and --sweep train several runs, as many at a time as there are cores; --resume and ppvae report take their
    folder too.
    """
    from ..runs import (
        Recipe,
        is_several,
        loggers_again,
        loggers_of,
        members_of,
        resume_several,
        train,
        train_several,
    )
    from ..runs import resume as go_on
    from ..runs.recipe.catalogue import elbo_entries, model_entries, parse_table, part_entries
    from ..runs.recipe.quick import quick_recipe
    from ..runs.recipe.recipe import merge

    if recipe is not None and data is None and _is_data(recipe):
        data, recipe = str(recipe), None
    parts = _without_none(prior=prior, posterior=posterior, likelihood=likelihood)
    catalogues = {"model": model_entries(), "elbo": elbo_entries(), **part_entries()}
    for name, asked in {"model": model, "elbo": elbo, **parts}.items():
        if asked == "list":
            list_entries(catalogues[name], json)
            return
    training = _without_none(batch_size=batch_size, optimizer=optimizer, learning_rate=learning_rate)
    if epochs is not None and resume is None:
        training["num_epochs"] = epochs
    if elbo is not None:
        training["elbo"] = parse_table(elbo_entries(), elbo, "--elbo", "estimator")
    changes: dict[str, Any] = {
        "model": {
            **_without_none(name=model),
            **{part: parse_table(part_entries()[part], text, f"--{part}", part) for part, text in parts.items()},
        },
        "data": _without_none(source=data, binarize=binarize),
        "training": training,
        "bayesian": _without_none(modules=list(bayesian) if bayesian else None),
        **_without_none(seed=seed, device=device),
    }
    for text in set_ or []:
        changes = merge(changes, _setting(text))
    changes = {key: value for key, value in changes.items() if value != {}}
    if resume is not None:
        given = {"RECIPE": recipe, "--out": out, "--overwrite": overwrite or None, "--quick": quick or None}
        _refuse_beside(resume, _without_none(**given, **{"--seeds": seeds, "--sweep": sweep}))
        if is_several(resume):
            _refuse_beside(resume, _without_none(**{"--force": force or None}))
            refuse_changes(resume, changes)
            several = resume_several(
                resume,
                num_epochs=epochs,
                pair=pair,
                callbacks=trackers_of(logger),
                threads=threads_ or 1,
                progress=True,
            )
            tell_several(several, json)
            return
        table = changes.get("training")
        epochs = epochs or (table.pop("num_epochs", None) if isinstance(table, dict) else None)
        with threads(threads_):
            trackers = loggers_again(resume, logger or ())
            run = go_on(resume, num_epochs=epochs, changes=changes, pair=pair_of(pair), force=force, callbacks=trackers)
    else:
        if recipe is None and model is None and pair is None and data is None:
            raise typer.BadParameter("give a RECIPE, data, --model, --pair or --resume")
        if quick and (recipe is not None or pair is not None):
            raise typer.BadParameter("--quick goes with a model by name: neither a RECIPE nor --pair beside it")
        values = merge(_start(recipe, pair), changes)
        if quick:
            if "name" not in values.get("model", {}):
                values["model"] = model_for(values)
            values = merge(quick_recipe(values["model"]["name"], source=values.get("data", {}).get("source")), values)
        if seeds is not None or sweep:
            by_data = recipe is None and pair is None
            members = members_of(*several_of(values, seed, seeds, sweep or [], changes, by_data))
            first = members[0].recipe
            folder = out or Path("runs") / f"{first.model_name}-{Path(first.data.source).stem}-several"
            require_writable(folder, folder=True)
            several = train_several(
                members, folder, pair=pair, overwrite=overwrite, callbacks=trackers_of(logger), threads=threads_ or 1
            )
            tell_several(several, json)
            return
        if recipe is None and pair is None and "name" not in values.get("model", {}):
            values["model"] = model_for(values)
        full_recipe = Recipe.from_dict(values)
        folder = out or Path("runs") / f"{full_recipe.model_name}-{Path(full_recipe.data.source).stem}"
        require_writable(folder, folder=True)
        with threads(threads_):
            trackers = loggers_of(folder, logger or (), full_recipe)
            run = train(full_recipe, folder, pair=pair_of(pair), overwrite=overwrite, callbacks=trackers)
    _tell(run, pair, json)


def _is_data(argument: Path) -> bool:
    """Whether the first argument names data: a data set by its name, a file that is no recipe, a folder of images."""
    from ..data.images import is_folder_of_images
    from ..data.registry import REGISTRY

    if str(argument) in REGISTRY or is_folder_of_images(argument):
        return True
    return argument.suffix.lower() not in ("", ".toml") and not argument.is_dir()


def _refuse_beside(resume: Path, options: Mapping[str, Any]) -> None:
    from ..core.errors import RunError, try_one_of

    if options:
        raise RunError(
            f"--resume goes on with the recipe of {resume}; {', '.join(options)} has no place beside it"
            + try_one_of("--epochs N for more epochs", f"a new run: ppvae fit {resume} ... --out OTHER")
        )


def _start(recipe: Path | None, pair: str | None) -> dict[str, Any]:
    """The recipe that the options change."""
    from ..runs import Recipe
    from ..runs.recipe.source import digest_of, split_spec

    values = Recipe.read(recipe).to_dict() if recipe is not None else {}
    if pair is not None:
        file, _ = split_spec(pair)
        values["model"] = {"pair": pair, "sha256": digest_of(file)}
    return values


def _tell(run: Run, pair: str | None, json: bool) -> None:
    best = run.info.get("best_epoch")
    row = run.history[best - 1] if best else run.history[-1]
    if json:
        emit({"run": str(run.folder.path), "parameters": run.parameters, **run.info, "metrics": row})
        return
    say(str(run.info["message"]))
    bound = "validation" if "elbo_validation" in row else "train"
    print(
        f"{run.folder.path}: {run.parameters}: elbo {row[f'elbo_{bound}']:.3f} nats per datum ({bound}), "
        f"{run.info['seconds']:.1f} s"
    )
    own = "" if pair is None else f" --pair {shlex.quote(pair)}"
    say(f"next: ppvae evaluate {run.folder.path}{own}; ppvae report {run.folder.path}{own}")


def _without_none(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _setting(text: str) -> dict[str, Any]:
    """From "training.learning_rate=0.01" to a nested dictionary; a value that is no TOML is a word."""
    from ..core.errors import RunError

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RunError(f"--set: expected KEY=VALUE, found {text!r}")
    table = value_of(value)
    for part in reversed(key.strip().split(".")):
        table = {part: table}
    result: dict[str, Any] = table
    return result
