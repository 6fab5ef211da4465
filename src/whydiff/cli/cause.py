"""``whydiff cause``."""

from __future__ import annotations

import inspect
import json as jsons
from typing import Annotated, Any

import typer

from whydiff.cli._guard import guard
from whydiff.cli._options import Color, ColorOption, Json, Traceback
from whydiff.errors import UsageError, meant


@guard
def cause(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="A cause's code (PR001) or name; none: list them all.")
    ] = None,
    json: Json = False,
    color: ColorOption = Color.AUTO,
    traceback: Traceback = False,
) -> None:
    """Explain a cause: what it detects, why it happens, how it is verified; or list all causes."""
    pages = _pages()
    shown = pages if code is None else [_find(code, pages)]
    if json:
        data = [{"code": p["code"], "name": p["name"], "summary": p["summary"]} for p in shown]
        typer.echo(jsons.dumps(data if code is None else shown[0], indent=2, ensure_ascii=False))
    elif code is None:
        _list(pages, color)
    else:
        _page(shown[0], color)


def _pages() -> list[dict[str, str]]:
    from whydiff import registry

    found = [_describe(part) for part in registry.parts("causes").values()]
    return sorted(found, key=lambda page: page["code"])


def _describe(part: Any) -> dict[str, str]:
    text = inspect.getdoc(part) or ""
    return {"code": part.code, "name": part.name, "summary": text.partition("\n")[0], "text": text}


def _find(wanted: str, pages: list[dict[str, str]]) -> dict[str, str]:
    for page in pages:
        if wanted.lower() in (page["code"].lower(), page["name"].lower()):
            return page
    known = [name for page in pages for name in (page["code"], page["name"])]
    raise UsageError(
        "There is no such cause.",
        actual=wanted,
        expected=meant(wanted, known) or meant(wanted.upper(), known),
        next_step="whydiff cause lists all of them.",
    )


def _list(pages: list[dict[str, str]], color: Color) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("code", "name", "what it is"):
        table.add_column(column, overflow="fold")
    for page in pages:
        table.add_row(Text(page["code"], "bold"), Text(page["name"]), Text(page["summary"]))
    _console(color).print(table)


def _page(page: dict[str, str], color: Color) -> None:
    from rich.markdown import Markdown

    from whydiff.report.answer import WIDTH

    console = _console(color)
    width = min(console.width, WIDTH)  # prose is read in columns, piped or not
    with console.capture() as written:
        console.print(Markdown(f"# {page['code']} {page['name']}\n\n{page['text']}"), width=width)
    typer.echo("\n".join(line.rstrip() for line in written.get().splitlines()), color=True)  # it is coloured as asked


def _console(color: Color) -> Any:
    from whydiff.report.terminal import make_console

    return make_console(color.value)
