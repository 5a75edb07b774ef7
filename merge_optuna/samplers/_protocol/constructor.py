"""The constructor of a sampler, from the options of its algorithm.

Name, type, default and meaning of an option are said once, by the algorithm (a dataclass), and
what all samplers take by :class:`~.sampler.StoredSampler`. ``class DESampler(PopulationSampler,
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


@dataclass(frozen=True)
class Options:
    """The options of an algorithm, as arguments of its sampler.

    Attributes:
        make: the algorithm's class, or a function that makes it.
        spread: those whose own options are arguments instead of themselves.
        without: those that are none.
    """

    make: Callable[..., Any]
    spread: Collection[str] = ()
    without: Collection[str] = ()

    def arguments(self) -> Iterator[Parameter]:
        """All of them, by keyword."""
        for one in inspect.signature(self.make).parameters.values():
            if one.name in self.spread:
                yield from Options(type(one.default)).arguments()
            elif one.name not in self.without:
                name = _NAMES.get(one.name, one.name)
                yield one.replace(name=name, kind=Parameter.KEYWORD_ONLY)

    def meanings(self) -> dict[str, str]:
        """Argument -> its entry in a docstring."""
        found = entries(self.make)
        for name, new in _NAMES.items():
            if name in found:
                found[new] = found.pop(name).replace(name, new, 1)
        for one in inspect.signature(self.make).parameters.values():
            if one.name in self.spread:
                found |= Options(type(one.default)).meanings()
        return found

    def take(self, given: dict[str, Any]) -> Any:
        """The algorithm of some arguments, which are taken out."""
        own: dict[str, Any] = {}
        for one in inspect.signature(self.make).parameters.values():
            name = _NAMES.get(one.name, one.name)
            if one.name in self.spread:
                own[one.name] = Options(type(one.default)).take(given)
            elif name in given:
                own[one.name] = given.pop(name)
        return self.make(**own)


def give_constructor(sampler: type, options: Options, base: type) -> None:
    """Let a class of samplers be made with the options of its algorithm.

    Args:
        sampler: the class; its docstring is what it says besides.
        options: those of the algorithm.
        base: the class whose constructor takes an algorithm, and other arguments after it.
    """
    itself, _, space, *common = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
    common = [one for one in common if one.name not in options.without]
    signature = Signature([itself, space, *options.arguments(), *common], return_annotation=None)
    make = base.__init__  # type: ignore[misc]

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
    told = [meanings[name] for name in signature.parameters if name in meanings]
    raised = section(base, "Raises")
    said = inspect.cleandoc(sampler.__doc__ or "")
    sampler.__doc__ = "\n".join([said, "\nArgs:", *told, "\nRaises:", raised, ""])


def section(of: Any, title: str) -> str:
    """The lines of a section of a docstring, indented by four."""
    found = re.search(rf"^{title}:\n((?:    .*\n?|\n(?=    ))+)", inspect.getdoc(of) or "", re.M)
    return found[1].rstrip() if found else ""


def entries(of: Any) -> dict[str, str]:
    """Name -> entry of the section of a docstring that lists attributes or arguments."""
    text = section(of, "Args") or section(of, "Attributes")
    return {part.split(":")[0].strip(): part for part in re.split(r"\n(?=    \w)", text) if part}
