"""The page that holds every command's help, for the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.main import get_command

from whydiff.cli import app


def write(path: Path) -> None:
    """Write the page that holds every command's ``--help``, 80 columns wide."""
    group: Any = get_command(app)
    parts = ["# Every command's help", "[The command line](cli.md) says what the options mean and when to use them."]
    for name, command in group.commands.items():
        with command.make_context(f"whydiff {name}", [], resilient_parsing=True, terminal_width=80) as context:
            parts.append(f"## `whydiff {name}`\n\n```\n{command.get_help(context).rstrip()}\n```")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
