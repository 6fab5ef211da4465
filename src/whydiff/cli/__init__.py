"""The command line: one file per command. Frameworks are imported by the commands that need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

import whydiff
from whydiff.cli._help import HELP, Command
from whydiff.cli.artifacts import artifacts
from whydiff.cli.capture import capture
from whydiff.cli.cause import cause
from whydiff.cli.compare import compare
from whydiff.cli.decoding import decoding
from whydiff.cli.demo import demo
from whydiff.cli.dumps import dumps
from whydiff.cli.logprobs import logprobs
from whydiff.cli.matrix import matrix
from whydiff.cli.port import port
from whydiff.cli.range import range_
from whydiff.cli.ranks import ranks
from whydiff.cli.sweep import sweep
from whydiff.cli.training import training

app = typer.Typer(
    name="whydiff",
    help="Two runs of the same model give different numbers: why, does it matter, how do I make it stop?",
    epilog="Exit status: 0 agrees, 1 differs beyond what was allowed, 2 usage or input error. "
    "Try `whydiff demo`; `whydiff COMMAND --help` shows examples.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes [batch, tokens] for markup, and its boxes leave 80 columns too few
)

_COMMANDS: dict[str, Callable[..., None]] = {
    "artifacts": artifacts,
    "capture": capture,
    "cause": cause,
    "compare": compare,
    "decoding": decoding,
    "demo": demo,
    "dumps": dumps,
    "logprobs": logprobs,
    "matrix": matrix,
    "port": port,
    "range": range_,
    "ranks": ranks,
    "sweep": sweep,
    "training": training,
}
for _name, _help in HELP.items():
    app.command(
        _name,
        cls=Command,
        short_help=_help.question,
        epilog=_help.epilog,
        context_settings={"allow_interspersed_args": False} if _name == "capture" else None,
    )(_COMMANDS[_name])


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"whydiff {whydiff.__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Two runs of the same model give different numbers: why, does it matter, how do I make it stop?"""


def main() -> None:
    """Entry point of the ``whydiff`` command."""
    app()
