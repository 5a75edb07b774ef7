"""What must hold of a recipe: how large it may be, and what its fields say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from merge_optuna import methods
from merge_optuna.checkpoints import is_name
from merge_optuna.errors import RecipeError, shown
from merge_optuna.recipes._values import Constant, Free, form_of

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_MOST_NESTED = 50
_MOST_SOURCES = 10_000


def joint_extent(sources: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """How many recipes stand inside each other, and how many sources they have together.

    Args:
        sources: The same of every source; (0, 1) of a checkpoint.

    Raises:
        RecipeError: If these are too many.
    """
    inner = tuple(sources)
    nested = 1 + max((nested for nested, _ in inner), default=0)
    total = sum(total for _, total in inner)
    _check_extent(nested, total)
    return nested, total


def check_extent(data: Mapping[str, Any]) -> None:
    """The same of a document, before anything of it is made.

    Raises:
        RecipeError: If these are too many.
    """
    nested = total = 0
    level: list[Mapping[str, Any]] = [data]
    while level:
        nested, total = nested + 1, total + len(level)
        _check_extent(nested, total)
        level = [one for each in level for one in _sources_in(each) if isinstance(one, Mapping)]


def _sources_in(data: Mapping[str, Any]) -> list[Any]:
    models = data.get("models")
    return [data.get("base"), *(models if isinstance(models, list | tuple) else ())]


def _check_extent(nested: int, total: int) -> None:
    if nested > _MOST_NESTED:
        raise RecipeError(
            f"More than {_MOST_NESTED} recipes stand inside each other. Write an inner one to a "
            "folder, and merge that."
        )
    if total > _MOST_SOURCES:
        raise RecipeError(f"A recipe may have {_MOST_SOURCES:,} sources, this one has more.")


def check_dtype(name: str | None) -> str | None:
    """The name of a data type, if it is one that weights are written in.

    Raises:
        RecipeError: If not.
    """
    if name is not None and name not in _DTYPES:
        raise RecipeError(f"dtype must be one of {', '.join(_DTYPES)}, not {name!r}.")
    return name


def individual_of(method: methods.Method, given: Any) -> methods.Individual | None:
    """The individual of a recipe, from what a file says of it.

    Raises:
        RecipeError: If it is none, or the method needs one or takes none.
    """
    if method.individual is None:
        if given is not None:
            raise RecipeError(f"{method.name} takes no individual.")
        return None
    if given is None:
        raise RecipeError(f"{method.name} needs an individual.")
    is_one = isinstance(given, method.individual)
    return given if is_one else method.individual.from_rows(given)


def complete(method: methods.Method, given: Mapping[str, Any], models: int) -> dict[str, Any]:
    """All parameters of a method in its order: those given, checked, and defaults.

    Raises:
        RecipeError: If one is unknown, of the wrong form or outside its range.
    """
    for name in given:
        method.parameter(name)
    found = {p.name: _checked(given.get(p.name, p.default), p, models) for p in method.parameters}
    if found.get("trim_over") == "model" and not all(form_of(d).is_one for d in found["density"]):
        raise RecipeError("trim_over='model' needs one density per model, not per group.")
    return found


def _checked(value: Any, parameter: methods.Parameter, models: int) -> Any:
    if parameter.per_model:
        values = value if isinstance(value, tuple) else (value,) * models
        if len(values) != models:
            raise RecipeError(
                f"{parameter.name} has {len(values)} values for {models} models. Give one value "
                "per model; for one per layer use mo.per_group([...])."
            )
        return tuple(_checked_one(one, parameter) for one in values)
    if isinstance(value, tuple):
        raise RecipeError(
            f"{parameter.name} is one value for all models. For one per layer use "
            "mo.per_group([...])."
        )
    return _checked_one(value, parameter)


def _checked_one(value: Any, parameter: methods.Parameter) -> Any:
    form = form_of(value)
    if not parameter.grouped and not isinstance(form, Constant):
        raise RecipeError(f"{parameter.name} must be one plain value, not {value!r}.")
    for number in form.numbers():
        for bound in (number.low, number.high) if isinstance(number, Free) else (number,):
            parameter.check(bound)
    # Whole numbers as floats: equal recipes have equal digests.
    return form.mapped(float) if parameter.numeric else value


def check_names(
    name: str | None,
    method: methods.Method,
    nested: Sequence[str],
    models: Sequence[str],
    read: Iterable[str],
) -> None:
    """Names key parameters, masks and sources, so they must be unique.

    Args:
        name: That of the recipe.
        method: Its method.
        nested: Prefixes of the recipes inside.
        models: How the models are called.
        read: Names of the checkpoints.

    Raises:
        RecipeError: If they are not.
    """
    if name is not None and not is_name(name):
        raise RecipeError(
            f"A recipe's name must be without '/', not {shown(name)}. It has up to 200 "
            "printable characters."
        )
    taken = {"share", *(p.name for p in method.parameters)} & set(nested)
    if taken:
        raise RecipeError(f"A recipe inside another cannot be called {', '.join(sorted(taken))}.")
    several = _twice(nested) | _twice(models) | _twice(read)
    if several:
        raise RecipeError(
            f"Several models are called {', '.join(sorted(several))}. Give each its own name: "
            "mo.Checkpoint(folder, name=...) or name=... of a recipe."
        )


def check_inner(prefix: str, dtype: str | None, *texts: object) -> None:
    """What is said of the whole merged model is said by the outermost recipe.

    Args:
        prefix: How a recipe inside another is called.
        dtype: Its data type.
        texts: Its tokenizer, chat template and config.

    Raises:
        RecipeError: If the one inside says it.
    """
    if dtype is not None:
        raise RecipeError("dtype is that of the whole merged model: give it to the outer recipe.")
    if any(text is not None for text in texts):
        raise RecipeError(
            "tokenizer, chat_template and config belong to the outermost recipe, not to "
            f"{prefix!r}."
        )


def _twice(names: Iterable[str]) -> set[str]:
    return {name for name, times in Counter(names).items() if times > 1}
