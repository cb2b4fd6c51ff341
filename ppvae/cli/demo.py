"""``ppvae demo``: from real handwritten digits to numbers and pictures, in one command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import Device, Json, Seed, emit, require_writable, say, threads, verb
from .evaluate import show

RECIPE: dict[str, Any] = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [200, 100]},
    "data": {"source": "digits", "binarize": "static"},
    "training": {
        "num_epochs": 400,
        "learning_rate": 5e-3,
        # So small a network gains nothing from a compiler that takes seconds, nor from a second thread.
        "compile": "graph",
        "early_stopping": {"patience": 40},
    },
}
NUM_DATA = 100
METHODS = (
    *(f"importance-sampling:num_samples={count}" for count in (100, 1000, 5000)),
    "ais:num_temperatures=80,num_chains=12",
    "bridge-sampling:num_draws=300,num_warmup=150,num_chains=4",
    "ris:num_draws=300,num_warmup=150,num_chains=4",
)


@verb
def demo(
    out: Annotated[Path, typer.Option(help="The run folder; a demo that stands there is replaced.")] = Path(
        "runs/demo"
    ),
    epochs: Annotated[int, typer.Option(help="Epochs at most.", min=1)] = 400,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a variational auto-encoder on real handwritten digits, evaluate it, and write a report.

    Scikit-learn's 8 x 8 digits, binarised; two latent dimensions; early stopping on validation data; then the bound,
    the importance-weighted bounds L_K, annealed importance sampling, bridge sampling and the estimator of the AEVB
    paper's appendix D of held-out digits, side by side.
    """
    from ..report import write_report
    from ..runs import Recipe, train
    from ..runs.evaluation.evaluation import Method
    from ..runs.evaluation.evaluation import evaluate as run_evaluation

    start = time.perf_counter()
    quiet = json
    require_writable(out, folder=True)
    recipe = Recipe.from_dict(RECIPE).replace(seed=seed, device=device, training={"num_epochs": epochs})
    with threads(1):
        _say(quiet, "1/3  training a VAE with two latent dimensions on 1297 handwritten digits")
        run = train(recipe, out, overwrite=True)
        _say(quiet, f"     {run.info['message']}")
        _say(quiet, f"2/3  evaluating on {NUM_DATA} held-out digits")
        methods = [Method.parse(text) for text in METHODS]
        report_line = _quiet if json else (lambda line: say(f"     {line}"))
        result = run_evaluation(
            run, methods, num_data=NUM_DATA, seed=seed, device=device, progress=not json, say=report_line
        )
        if not json:
            show(result)
        _say(quiet, "3/3  drawing figures")
        report = write_report(run, seed=seed, device=device, chains_for=6)
    seconds = time.perf_counter() - start
    if json:
        emit({"run": str(out), "report": str(report), "seconds": seconds, "fit": run.info, "evaluation": result})
    else:
        print(f"\nreport: {report.resolve()}  ({seconds:.0f} s in all)")


def _quiet(line: str) -> None:
    return None


def _say(quiet: bool, line: str) -> None:
    if not quiet:
        say(line)
