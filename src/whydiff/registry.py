"""One list per kind of part: adapters, metrics, causes, reporters.

Adding a part is adding one file to its package: the file defines ``REGISTER`` (the object) and is found by
listing the package. Third parties use entry points of the group ``whydiff.<kind>``; see
``docs/how-to/write-a-plugin.md``. Nothing is imported before someone asks.

A package says in ``CONTRACT`` what its parts must be. Every part is held to it when it is loaded. An own part that
breaks it is an error at once; another distribution's is left out, and `problems` names it, so that it hurts nobody.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from whydiff.errors import MissingPackageError, PluginError, UsageError, WhydiffError, one_line
from whydiff.garbage import not_collecting

if TYPE_CHECKING:
    import importlib.metadata

PACKAGES = {
    "adapters": "whydiff.capturing.adapters",
    "metrics": "whydiff.numbers.metrics",
    "causes": "whydiff.explain.causes",
    "reporters": "whydiff.report",
}
"""Kind of part → the package whose files are such parts. A package lists what is shared there in ``SHARED``."""
FOLDERS = tuple(PACKAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What the parts of a package must be.

    Attributes:
        base: every part is an instance of it.
        classes: parts are subclasses of ``base`` instead, made anew for every use.
        demands: (part, name it is registered under) → sentences about what is missing or wrong.
        keys: part → names that no other part of the package may have; None: the registered name is the only one.
        together: raises a `UsageError` if these parts, by name, contradict each other.
    """

    base: type
    classes: bool = False
    demands: Callable[[Any, str], Iterator[str]] = lambda part, name: iter(())
    keys: Callable[[Any], tuple[str, ...]] | None = None
    together: Callable[[Mapping[str, Any]], Any] | None = None

    def broken(self, part: Any, name: str) -> list[str]:
        """Everything that a part lacks; empty if it may be used."""
        if self.classes:
            if not (isinstance(part, type) and issubclass(part, self.base)):
                return [f"it is {_described(part)}, not a subclass of {_path(self.base)}"]
            missing = sorted(getattr(part, "__abstractmethods__", ()))
            if missing:
                return [f"it lacks {', '.join(f'{method}()' for method in missing)}"]
        elif not isinstance(part, self.base):
            return [f"it is {_described(part)}, not an instance of {_path(self.base)}"]
        return [*_other_signatures(self.base, part), *self.demands(part, name)]


@dataclass(frozen=True, slots=True)
class _Plugin:
    """An entry point of another distribution."""

    folder: str
    entry: importlib.metadata.EntryPoint

    def __str__(self) -> str:
        by = f"{self.entry.dist.name} {self.entry.dist.version}" if self.entry.dist else "an unknown distribution"
        return f"{self.folder[:-1]} {self.entry.name!r} of {by} ({self.entry.value})"

    def error(self, what: str, actual: str) -> PluginError:
        return PluginError(
            what, where=str(self), actual=actual, next_step="mend or uninstall it; whydiff goes on without it"
        )

    def load(self) -> Any:
        """The part, held to its package's contract.

        Raises:
            PluginError: it cannot be imported, or lacks something.
        """
        try:
            part = self.entry.load()
        except (Exception, SystemExit) as error:
            raise self.error("A plugin cannot be imported.", one_line(error)) from error
        try:
            broken = _contract(self.folder).broken(part, self.entry.name)
        except Exception as error:
            raise self.error("A plugin cannot be checked.", one_line(error)) from error
        if broken:
            raise self.error("A plugin is not what its kind must be.", "; ".join(broken))
        return part


@dataclass(frozen=True, slots=True)
class _Third:
    """The parts of other distributions that may be used, and why the others may not."""

    parts: Mapping[str, Any]
    plugins: Mapping[str, _Plugin]
    problems: tuple[PluginError, ...]


def names(folder: str) -> tuple[str, ...]:
    """Names of every part in a folder, own files first, sorted; imports none of the own parts.

    Raises:
        UsageError: no such folder.
    """
    return (*_own(folder), *_third(folder).parts)


@functools.cache
def get(folder: str, name: str) -> Any:
    """The part itself (its file's ``REGISTER``, or the loaded entry point).

    Raises:
        UsageError: unknown name.
        MissingPackageError: the part needs a package that is not installed.
        PluginError: the part is not what its folder's contract asks for.
    """
    if name not in _own(folder):
        third = _third(folder)
        if name in third.parts:
            return third.parts[name]
        raise UsageError(f"No {folder[:-1]} has this name.", actual=name, expected=", ".join(names(folder)) or "(none)")
    try:
        with not_collecting():
            module = importlib.import_module(f"{PACKAGES[folder]}.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("whydiff"):
            raise
        raise MissingPackageError.of(error) from error
    part = vars(module).get("REGISTER")
    broken = _contract(folder).broken(part, name)
    if broken:
        raise PluginError("A file registers no such part.", where=module.__name__, actual="; ".join(broken))
    return part


def parts(folder: str) -> dict[str, Any]:
    """Every part of a folder by name."""
    return {name: get(folder, name) for name in names(folder)}


def problems() -> tuple[PluginError, ...]:
    """Parts of other distributions that cannot be used, one error each."""
    return tuple(problem for folder in FOLDERS for problem in _third(folder).problems)


def described(folder: str, name: str) -> str:
    """A part in words: where a third party's comes from."""
    plugin = _third(folder).plugins.get(name)
    return str(plugin) if plugin is not None else f"{folder[:-1]} {name}"


@contextmanager
def blamed() -> Iterator[None]:
    """What a plugin's own code raises inside is an error that names the plugin.

    Raises:
        PluginError: a plugin raised; anything else comes through as it is.
    """
    try:
        yield
    except WhydiffError:
        raise
    except Exception as error:
        plugin = _owner(error)
        if plugin:
            raise PluginError("A plugin failed.", where=plugin, actual=one_line(error)) from error
        raise


def _owner(error: BaseException) -> str:
    """The plugin whose own code raised an error, in words; empty if none did."""
    frame, files = error.__traceback__, []
    while frame is not None:
        files.append(frame.tb_frame.f_globals.get("__name__", ""))
        frame = frame.tb_next
    for folder in FOLDERS:
        for plugin in _third(folder).plugins.values():
            if plugin.entry.module in files:
                return str(plugin)
    return ""


def reporter_for(path: str) -> Any:
    """The reporter that writes a path's suffix.

    Raises:
        UsageError: no reporter does.
    """
    suffix = PurePath(path).suffix.lower()
    writers = {s: r for r in parts("reporters").values() for s in r.suffixes}
    if suffix not in writers:
        raise UsageError(
            "No reporter writes this kind of file.",
            where=path,
            actual=suffix or "(no suffix)",
            expected=", ".join(sorted(writers)),
        )
    return writers[suffix]()


@functools.cache
def _own(folder: str) -> tuple[str, ...]:
    if folder not in FOLDERS:
        raise UsageError("There is no such registry.", actual=folder, expected=", ".join(FOLDERS))
    package = importlib.import_module(PACKAGES[folder])
    shared = vars(package).get("SHARED", ())
    modules = (module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(name for name in modules if not name.startswith("_") and name not in shared))


def _contract(folder: str) -> Contract:
    found: Contract = vars(importlib.import_module(PACKAGES[folder])).get("CONTRACT", Contract(base=object))
    return found


@functools.cache
def _third(folder: str) -> _Third:
    """Everything that other distributions offer for a folder, loaded and checked; own parts win every clash."""
    from importlib.metadata import entry_points  # takes longer to import than all of this module

    own = _own(folder)
    entries = sorted(entry_points(group=f"whydiff.{folder}"), key=lambda e: (e.name, e.value))
    plugins = [_Plugin(folder, entry) for entry in dict.fromkeys(entries)]
    if not plugins:
        return _Third(MappingProxyType({}), MappingProxyType({}), ())
    errors: dict[str, PluginError] = {}
    found: dict[_Plugin, Any] = {}
    for plugin in plugins:
        clash = _name_clash(plugin, plugins, own)
        if clash:
            errors.setdefault(clash, plugin.error("Two parts have one name.", clash))
            continue
        try:
            found[plugin] = plugin.load()
        except PluginError as error:
            errors[str(plugin)] = error
    for plugin, shared in _key_clashes(folder, own, found):
        errors[str(plugin)] = plugin.error("Two parts claim one name.", shared)
        del found[plugin]
    for plugin, contradiction in _contradictions(folder, own, found):
        errors[str(plugin)] = contradiction
        del found[plugin]
    return _Third(
        MappingProxyType({plugin.entry.name: part for plugin, part in found.items()}),
        MappingProxyType({plugin.entry.name: plugin for plugin in found}),
        tuple(errors.values()),
    )


def _key_clashes(folder: str, own: tuple[str, ...], found: Mapping[_Plugin, Any]) -> list[tuple[_Plugin, str]]:
    """Plugins that claim what an own part or another plugin claims too, and a sentence that names both."""
    keys = _contract(folder).keys
    if keys is None:
        return []
    claims = [(f"{PACKAGES[folder]}.{name}", key) for name in own for key in keys(get(folder, name))]
    claims += [(str(plugin), key) for plugin, part in found.items() for key in keys(part)]
    clashes = []
    for plugin, part in found.items():
        shared = [
            f"{key} is claimed by {plugin} and by {other}"
            for key in keys(part)
            for other, claimed in claims
            if claimed == key and other != str(plugin)
        ]
        if shared:
            clashes.append((plugin, "; ".join(shared)))
    return clashes


def _contradictions(
    folder: str, own: tuple[str, ...], found: Mapping[_Plugin, Any]
) -> list[tuple[_Plugin, PluginError]]:
    """Plugins that do not go together with the own parts and the plugins before them."""
    together = _contract(folder).together
    if together is None or not found:
        return []
    accepted = {name: get(folder, name) for name in own}
    contradictions = []
    for plugin, part in found.items():
        try:
            together(accepted | {plugin.entry.name: part})
            accepted[plugin.entry.name] = part
        except UsageError as error:
            contradictions.append((plugin, plugin.error(error.what, error.actual)))
    return contradictions


def _name_clash(plugin: _Plugin, plugins: list[_Plugin], own: tuple[str, ...]) -> str:
    """A sentence that names all that are registered under a plugin's name; empty if it is the only one."""
    name = plugin.entry.name
    named = [f"{PACKAGES[plugin.folder]}.{name}"] if name in own else []
    named += [str(other) for other in plugins if other.entry.name == name]
    return f"{name!r} is registered by {' and by '.join(named)}" if len(named) > 1 else ""


def _other_signatures(base: type, part: Any) -> Iterator[str]:
    """Methods that cannot be called as the base declares them."""
    owner = part if isinstance(part, type) else type(part)
    for name, (declared, wanted) in _methods(base).items():
        method = getattr(owner, name)
        if method is declared:
            continue
        if isinstance(inspect.getattr_static(owner, name), staticmethod):
            wanted = wanted[1:]
        if not callable(method):
            yield f"{name} is {_described(method)}, not a method"
            continue
        try:
            inspect.signature(method).bind(*wanted)
        except TypeError:
            given = ", ".join(p.name for p in wanted)
            yield f"{name}{inspect.signature(method)} cannot be called as {name}({given})"


@functools.cache
def _methods(base: type) -> dict[str, tuple[Any, tuple[inspect.Parameter, ...]]]:
    """Name → (function, what it must be given) of what a base declares; it is asked for each part of a folder."""
    found = {}
    for name, declared in inspect.getmembers(base, inspect.isfunction):
        if not name.startswith("_"):
            parameters = inspect.signature(declared).parameters.values()
            needed = (p for p in parameters if p.default is p.empty)
            found[name] = declared, tuple(p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    return found


def _described(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {_path(value)}"
    return "missing" if value is None else f"an object of type {_path(type(value))}"


def _path(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
