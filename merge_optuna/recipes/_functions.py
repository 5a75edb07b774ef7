"""``mo.recipes.<method>``, made from the method's spec: signature, documentation and checks."""

from __future__ import annotations

import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from merge_optuna.checkpoints import Checkpoint, Vocabulary
from merge_optuna.errors import RecipeError, shown
from merge_optuna.methods import Method, Parameter
from merge_optuna.recipes._tree import Recipe, check_sources
from merge_optuna.recipes._values import Free, PerGroup, as_value

Source = Checkpoint | Recipe
Setting = float | Free | PerGroup | Mapping[str, Any]
PerModel = Setting | Sequence[Setting]
Tokenizer = str | Vocabulary | None

# A docstring is indented by 4 where the stub has it, and 4 characters are left.
_filled = partial(textwrap.fill, width=91, break_on_hyphens=False)


@dataclass(frozen=True)
class Argument:
    """One argument of a function: its name, its type as it is written, and what it means."""

    name: str
    type: str
    meaning: str
    default: Any = inspect.Parameter.empty
    positional: bool = False

    @property
    def parameter(self) -> inspect.Parameter:
        """As a part of a signature."""
        kinds = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        kind = kinds[self.positional]
        return inspect.Parameter(self.name, kind, default=self.default, annotation=self.type)


_BASE = Argument("base", "Source", "What task vectors are taken from.", positional=True)
_PERHAPS_BASE = Argument(
    "base", "Source | None", "What task vectors are taken from; without, the models count.", None
)
_EXPERT = Argument("expert", "Source", "The model that is merged into it.", positional=True)
_TEXTS = (
    Argument(
        "tokenizer",
        "Tokenizer",
        'Whose tokens the merged model has, where vocabularies differ: ``"base"`` (the first '
        'model, for methods without one), ``"union"``, the name of a source or a '
        ":class:`mo.Vocabulary`.",
        None,
    ),
    Argument(
        "chat_template",
        "str | None",
        '``"auto"``, the name of a source, or a template; the tokenizer\'s when omitted.',
        None,
    ),
)
_EXCLUDE = Argument(
    "exclude",
    "Sequence[str]",
    "Name filters of tensors that come unchanged from the base (from the first model for methods "
    "without one).",
    (),
)
_NAME = Argument("name", "str | None", "Prefix of parameter names inside another recipe.", None)
_CONFIG = Argument(
    "config",
    "str | None",
    'Whose config counts, where configs give weights another meaning: ``"base"`` or the name of '
    "a source.",
    None,
)


@cache
def function_of(method: Method) -> Callable[..., Recipe]:
    """The function that makes recipes of a method."""
    arguments = tuple(arguments_of(method))
    signature = inspect.Signature([a.parameter for a in arguments], return_annotation="Recipe")
    models_as = [argument.name for argument in _models(method)]
    own = [parameter.name for parameter in method.parameters]

    def make(*args: Any, **kwargs: Any) -> Recipe:
        _check_listed(method, args)
        given = _bound(method.name, signature, args, kwargs)
        base = given.pop("base", None)
        merged = [given.pop(name) for name in models_as]
        models = merged if _takes_each(method) else merged[0]
        check_sources(method.name, base, models)
        values = {name: as_setting(given.pop(name)) for name in own if name in given}
        if "exclude" in given:
            given["exclude"] = _filters(given["exclude"])
        return Recipe(
            method=method.name, base=base, models=tuple(models), parameters=values, **given
        )

    make.__name__ = make.__qualname__ = method.name
    make.__module__ = __package__
    make.__doc__ = "\n".join(_documentation(method, arguments))
    make.__annotations__ = {a.name: a.type for a in arguments} | {"return": "Recipe"}
    make.__signature__ = signature  # type: ignore[attr-defined]
    return make


def arguments_of(method: Method) -> Iterator[Argument]:
    """The arguments of a method's function, in order."""
    if method.base:
        yield _BASE
    yield from _models(method)
    if method.base is None:
        yield _PERHAPS_BASE
    if method.statistics is not None:
        meaning = f"``mo.statistics.{method.statistics}(model, data)`` of each model."
        yield Argument("statistics", "Sequence[Checkpoint]", meaning)
    for parameter in method.parameters:
        meaning = parameter.meaning
        yield Argument(parameter.name, _type(parameter), meaning, parameter.default)
    if method.structure == "overlay":
        yield _EXCLUDE
    yield _NAME
    if method.statistics is None:  # which belong to the models' own vocabularies
        yield from _TEXTS
    yield _CONFIG


def _models(method: Method) -> Iterator[Argument]:
    """The merged models: one by one, or a list."""
    if not _takes_each(method):
        name = "sources" if method.structure == "stack" else "experts" if method.base else "models"
        meaning = f"{method.models_in_words.capitalize()}."
        yield Argument(name, "Sequence[Source]", meaning, positional=True)
    elif method.models == (1, 1) and method.base:
        yield _EXPERT
    else:
        for i in range(method.models[0]):
            yield Argument(chr(ord("a") + i), "Source", f"Model {i + 1}.", positional=True)


def _takes_each(method: Method) -> bool:
    """Whether every model is an argument of its own: where their number, with a base, is fixed."""
    low, high = method.models
    return low == high and method.base is not None


def _type(parameter: Parameter) -> str:
    if not parameter.grouped:
        return type(parameter.default).__name__
    return "PerModel" if parameter.per_model else "Setting"


def _documentation(method: Method, arguments: Sequence[Argument]) -> Iterator[str]:
    """The lines of the docstring, without their indentation."""
    yield method.description
    yield "\nArgs:"
    for argument in arguments:
        text = f"{argument.name}: {argument.meaning}"
        yield _filled(text, initial_indent="    ", subsequent_indent="        ")
    lacks = ", or a model lacks statistics" if method.statistics else ""
    yield f"\nRaises:\n    RecipeError: If an argument is none of what it may be{lacks}."
    yield "\n" + _filled(f"Source: {method.source}.")


def _check_listed(method: Method, args: Sequence[Any]) -> None:
    """Checks that models are not given one by one to a method that takes a list.

    Raises:
        RecipeError: If they are.
    """
    models = args[1:] if method.base else args
    if _takes_each(method) or len(models) < 2:
        return
    if all(isinstance(model, (Checkpoint, Recipe)) for model in models):
        listed = ", ".join(model.name or model.method for model in models)
        raise RecipeError(
            f"{method.name} takes a list of models: [{listed}], not one after the other."
        )


def _bound(
    name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments by name, as Python would take them.

    Raises:
        TypeError: If one is missing, unknown or given twice.
    """
    for unknown in kwargs.keys() - signature.parameters.keys():
        close = difflib.get_close_matches(unknown, signature.parameters, n=1)
        hint = f". Did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"{name}() got an unexpected keyword argument {unknown!r}{hint}")
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        needed = [p.name for p in signature.parameters.values() if p.default is p.empty]
        raise TypeError(f"{name}({', '.join(needed)}, ...): {error}") from None


def _filters(exclude: Any) -> tuple[str, ...]:
    if isinstance(exclude, str):
        return (exclude,)
    if not isinstance(exclude, Sequence):
        raise RecipeError(f"exclude takes name filters, ['lm_head'], not {shown(exclude)}.")
    return tuple(exclude)


def as_setting(value: Any) -> Any:
    """A setting as a recipe holds it: one value, or one per model."""
    if isinstance(value, (list, tuple)):
        return tuple(as_value(v) for v in value)
    return as_value(value)
