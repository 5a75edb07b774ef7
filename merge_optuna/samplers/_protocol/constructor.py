"""The constructor of a sampler, from the options of its algorithm.

Name, type, default and meaning of an option are said once, by the algorithm (a dataclass), and
what all samplers take and do by their base classes. ``class DESampler(PopulationSampler,
algorithm=DE)`` has both, in its signature as in its documentation.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from inspect import Parameter, Signature
from typing import Any

_NAMES = {"size": "population_size"}  # as a method of every algorithm is called already
_SPACE = "search_space"
_HANDED_OVER = "breeding"  # by the search space, see Algorithm.for_space


@dataclass(frozen=True)
class Options:
    """The options of an algorithm, as arguments of its sampler.

    Attributes:
        make: the algorithm's class, or a function of options (and the search space) that makes it.
        spread: those whose own options are arguments instead of themselves.
        without: those that are none.
    """

    make: Callable[..., Any]
    spread: Collection[str] = ()
    without: Collection[str] = ()

    def arguments(self) -> Iterator[Parameter]:
        """All of them, by keyword but for the search space."""
        for one, inner in self._each():
            if inner is not None:
                yield from inner.arguments()
            elif one.name == _SPACE:
                yield one
            elif one.name not in self.without:
                name = _NAMES.get(one.name, one.name)
                yield one.replace(name=name, kind=Parameter.KEYWORD_ONLY)

    def meanings(self) -> dict[str, str]:
        """Argument -> its entry in a docstring."""
        found = entries(self.make)
        for name, new in _NAMES.items():
            if name in found:
                found[new] = found.pop(name).replace(name, new, 1)
        for _, inner in self._each():
            found |= {} if inner is None else inner.meanings()
        return found

    def take(self, given: dict[str, Any]) -> Any:
        """The algorithm of some arguments, which are taken out (but for the search space)."""
        own: dict[str, Any] = {}
        for one, inner in self._each():
            name = _NAMES.get(one.name, one.name)
            if inner is not None:
                own[one.name] = inner.take(given)
            elif name in given:
                own[one.name] = given[name] if name == _SPACE else given.pop(name)
        return self.make(**own)

    def _each(self) -> Iterator[tuple[Parameter, Options | None]]:
        """Parameters, with the options in their place."""
        for one in inspect.signature(self.make).parameters.values():
            if one.name != _HANDED_OVER:
                yield one, Options(type(one.default)) if one.name in self.spread else None


def give_constructor(sampler: type, options: Options, base: type) -> None:
    """Let a class of samplers be made with the options of its algorithm.

    Args:
        sampler: the class; its docstring is what it says besides.
        options: those of the algorithm.
        base: the class whose constructor takes an algorithm, and other arguments after it.
    """
    make = base.__init__  # type: ignore[misc]
    itself, _, *common = inspect.signature(make).parameters.values()
    arguments = {one.name: one for one in (itself, common[0], *options.arguments(), *common[1:])}
    kept = [one for name, one in arguments.items() if name not in options.without]
    signature = Signature(kept, return_annotation=None)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{sampler.__name__}.__init__() {error}") from None
        make(given.pop("self"), options.take(given), **given)

    init.__name__, init.__qualname__ = "__init__", f"{sampler.__qualname__}.__init__"
    init.__signature__ = signature  # type: ignore[attr-defined]
    sampler.__init__ = init  # type: ignore[misc]
    meanings = entries(base) | options.meanings()
    above = [kind for kind in sampler.__mro__[1:] if issubclass(kind, base)]
    told = [inspect.cleandoc(sampler.__doc__ or ""), *map(_more, above)]
    listed = [meanings[name] for name in signature.parameters if name in meanings]
    raised = _section(base, "Raises")
    sampler.__doc__ = "\n".join(["\n\n".join(told), "\nArgs:", *listed, "\nRaises:", raised, ""])


def entries(of: Any) -> dict[str, str]:
    """Name -> entry of the section of a docstring that lists attributes or arguments."""
    text = _section(of, "Args") or _section(of, "Attributes")
    return {part.split(":")[0].strip(): part for part in re.split(r"\n(?=    \w)", text) if part}


def _section(of: Any, title: str) -> str:
    """The lines of a section of a docstring, indented by four."""
    found = re.search(rf"^{title}:\n((?:    .*\n?)+)", inspect.getdoc(of) or "", re.M)
    return found[1].rstrip() if found else ""


def _more(kind: type) -> str:
    """What a docstring says between its first line and its sections."""
    text = (inspect.getdoc(kind) or "").partition("\n\n")[2]
    return re.split(r"\n\n(?:Args|Raises):\n", text)[0]
