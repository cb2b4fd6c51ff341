"""The command line. Nothing heavy is imported before a verb runs, so that ``ppvae --help`` answers at once."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import compare_elbos, data, demo, evaluate, fit, replay, report, restore, sample
from .commands import Command, Group
from .terminal import prepare_output

app = typer.Typer(
    name="ppvae",
    help="Deep latent-variable models on Pyro: a pair goes in, a number with an error bar comes out.",
    epilog="Start with: ppvae demo",
    no_args_is_help=True,
    cls=Group,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        from .. import __version__

        print(f"ppvae {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Deep latent-variable models on Pyro: a pair goes in, a number with an error bar comes out."""


app.command(cls=Command, epilog="Example: ppvae demo")(demo.demo)
app.command(cls=Command, epilog="Example: ppvae fit --model bernoulli-vae --data digits --out runs/x")(fit.fit)
app.command(cls=Command, epilog="Example: ppvae evaluate runs/x -k 100 -k 5000")(evaluate.evaluate)
app.command(
    name="compare-elbos",
    cls=Command,
    epilog="Example: ppvae compare-elbos runs/x --estimator trace --estimator score-function",
)(compare_elbos.compare_elbos)
app.command(cls=Command, epilog="Example: ppvae sample runs/x --num 64")(sample.sample)
app.command(cls=Command, epilog="Example: ppvae restore runs/x --task inpaint --mask left")(restore.restore)
app.command(cls=Command, epilog="Example: ppvae replay runs/x")(replay.replay)
app.command(cls=Command, epilog="Example: ppvae report runs/x")(report.report)
app.add_typer(data.app, name="data")


def main() -> None:
    """The entry point of the ``ppvae`` command."""
    prepare_output()
    try:
        app(prog_name="ppvae")  # as python -m ppvae too
    except KeyboardInterrupt:  # before or after a verb, while modules are imported for instance
        sys.exit(130)
