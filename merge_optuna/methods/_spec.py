"""What a method is: its parameters, how many models it takes, and its kernel."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, Literal

from torch import Tensor

from merge_optuna.errors import RecipeError, shown
from merge_optuna.methods._individual import Individual
from merge_optuna.methods._needs import Evolved, Need, Statistics

Scalar = float | int | bool | str

PROMISES = {
    "idempotent": "copies of one model, in full density and with weights that sum to 1, merge to "
    "that model",
    "selective": "weight 1 for one model and 0 for the others, in full density, gives that model",
    "symmetric": "the order of the models changes nothing beyond rounding",
    "vanishing": "density 0 gives the base",
    "elementwise": "an element depends only on the elements at its place, so parts of tensors "
    "merge on their own",
    "proportional": "scaling all weights changes nothing, so a search needs only their shares",
}
"""What a method can promise about its results, with ``lambda_`` 1 and any other parameters.

Where a method has no weights or no density, that condition falls away.
"""

RESERVED = frozenset({"base", "expert", "experts", "models", "statistics", "share"}) | frozenset(
    {"exclude", "name", "tokenizer", "chat_template", "config", "dtype"}
)
"""Names of arguments that every function of a method may have, and of what stands beside them."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        name: As in ``mo.recipes.<method>`` and in YAML.
        default: The value when none is given.
        low: Smallest allowed number.
        high: Largest allowed number.
        choices: The allowed words; a parameter with choices cannot be free.
        per_model: Whether each merged model has its own value.
        summary: One line for ``merge-optuna methods`` and the docs: what it is, without its range.
        plain: Whether a real number is the same for all layers and tensors, and cannot be free, as
            words, truth values and whole numbers are anyway.
        details: What else there is to know, in sentences; ``help`` shows both.
        search: Default range when the parameter is freed; those of ``recipe.free()`` without
            names are the ones that have it.
    """

    name: str
    default: Scalar
    summary: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    per_model: bool = False
    search: tuple[float, float] | None = None
    plain: bool = False
    details: str = ""

    def check(self, value: object) -> None:
        """Checks one value.

        Raises:
            RecipeError: If it has the wrong type or lies outside the range.
        """
        if self.choices:
            if value not in self.choices:
                raise RecipeError(f"{self.name} must be {self.range}, not {shown(value)}.")
        elif isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise RecipeError(f"{self.name} must be true or false, not {shown(value)}.")
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RecipeError(f"{self.name} must be a number, not {shown(value)}.")
        elif not self.low <= value <= self.high or not abs(value) <= sys.float_info.max:
            raise RecipeError(f"{self.name} must be in {self.range}, not {shown(value)}.")
        elif isinstance(self.default, int) and not isinstance(value, int):
            raise RecipeError(f"{self.name} must be a whole number, not {shown(value)}.")

    @property
    def numeric(self) -> bool:
        """Whether it is a real number, so that it can be free."""
        return isinstance(self.default, float)

    @property
    def grouped(self) -> bool:
        """Whether it may differ between layers or tensors."""
        return self.numeric and not self.plain

    @property
    def range(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return " or ".join(repr(c) for c in self.choices)
        if isinstance(self.default, bool):
            return "true or false"
        left = "(-∞" if self.low == -math.inf else f"[{self.low:g}"
        right = "∞)" if self.high == math.inf else f"{self.high:g}]"
        return f"{left}, {right}"

    @property
    def meaning(self) -> str:
        """What it is, what it may be and what else there is to know, in sentences."""
        if self.choices:
            ends = " or ".join(f'``"{word}"``' for word in self.choices) + "."
        elif isinstance(self.default, bool) or self.low == -self.high == -math.inf:
            ends = ""
        elif self.high == math.inf:
            ends = f"At least {self.low:g}."
        else:
            ends = f"In {self.range}."
        summary = f"{self.summary[:1].upper()}{self.summary[1:]}."
        return " ".join(part for part in (summary, ends, self.details) if part)

    @property
    def search_in_words(self) -> str:
        """The default search range, e.g. ``[0, 1]``; empty if there is none."""
        return "" if self.search is None else f"[{self.search[0]:g}, {self.search[1]:g}]"


@dataclass(frozen=True)
class Method:
    """One merge method.

    Attributes:
        name: As in ``mo.recipes.<name>``.
        kernel: ``kernel(base, models, **values) -> merged``, tensors of equal shape. Its
            docstring, up to ``Args:`` or the like, says what the method does: in ``help`` and in
            the docs.
        parameters: The spec of each parameter.
        source: The paper.
        base: Whether a base model is needed; if not, none is accepted. None: as you like.
        models: Smallest and largest number of merged models.
        coefficients: For methods whose result is a linear combination of the tensors:
            ``coefficients(gram, **values)`` returns one number per tensor, given the matrix of
            their dot products, base first if there is one. An engine then needs that matrix only
            once per study. It returns None if with these values the result is no such combination.
        promises: What holds for its results, of :data:`PROMISES`; tests hold it to them.
        needs: What computes the kernel's further arguments, see :class:`Need`.
        structure: How the models make up the merged one: ``"overlay"``, every tensor is made of
            those of its name; ``"stack"``, their layers follow each other; ``"route"``, a path
            goes through their layers.
        module: Import path of the module that registered it; None for those of merge_optuna.

    Raises:
        RecipeError: If a name is none for an argument, a default or search range lies outside the
            range, a promise is unknown, or the kernel does not take a parameter.
    """

    name: str
    kernel: Callable[..., Tensor]
    parameters: tuple[Parameter, ...]
    source: str
    base: bool | None = True
    models: tuple[int, float] = (1, math.inf)
    coefficients: Callable[..., Sequence[float] | None] | None = None
    promises: frozenset[str] = frozenset()
    needs: tuple[Need, ...] = ()
    structure: Literal["overlay", "stack", "route"] = "overlay"
    module: str | None = None

    def __post_init__(self) -> None:
        names = [self.name, *(parameter.name for parameter in self.parameters)]
        for name in names:
            if not name.isidentifier() or iskeyword(name) or name in RESERVED:
                raise RecipeError(f"{name!r} cannot be the name of a method or its parameter.")
            if names.count(name) > 1:
                raise RecipeError(f"{self.name} has several things called {name!r}.")
        for parameter in self.parameters:
            for value in (parameter.default, *(parameter.search or ())):
                parameter.check(value)
        if unknown := [repr(p) for p in self.promises if p not in PROMISES]:
            raise RecipeError(
                f"{self.name} promises {', '.join(unknown)}. Promises: {', '.join(PROMISES)}."
            )
        self._check_kernel()

    def _check_kernel(self) -> None:
        taken = inspect.signature(self.kernel).parameters
        if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
            return
        if missing := [p.name for p in self.parameters if p.name not in taken]:
            raise RecipeError(
                f"The kernel of {self.name} does not take {', '.join(missing)}. It must take "
                "every parameter by its name."
            )

    @property
    def elementwise(self) -> bool:
        """Whether its kernel may be applied to any part of the tensors."""
        return "elementwise" in self.promises

    @property
    def proportional(self) -> bool:
        """Whether only the shares of the weights matter, whatever the other parameters."""
        return "proportional" in self.promises

    @property
    def statistics(self) -> str | None:
        """The kind of statistics that it needs of every model, a function of ``mo.statistics``."""
        return next((need.kind for need in self.needs if isinstance(need, Statistics)), None)

    @property
    def individual(self) -> type[Individual] | None:
        """For methods whose result evolution has found: the kind of individual."""
        return next((need.kind for need in self.needs if isinstance(need, Evolved)), None)

    @property
    def description(self) -> str:
        """What it does: the kernel's docstring without its sections."""
        return re.split(r"\n\n(?=\w+:\n)", inspect.getdoc(self.kernel) or "")[0]

    @property
    def summary(self) -> str:
        """First line of the description."""
        return self.description.partition("\n")[0]

    @property
    def sources_in_words(self) -> str:
        """What is merged, e.g. ``a base and at least 2 models``, and what is known of it."""
        base = {True: "a base and ", False: "", None: "perhaps a base and "}[self.base]
        known = f", each with its mo.statistics.{self.statistics}" if self.statistics else ""
        return base + self.models_in_words + known

    @property
    def models_in_words(self) -> str:
        """How many models are merged, e.g. ``at least 2 models``."""
        low, high = self.models
        if (low, high) == (1, math.inf):
            return "any number of models"
        number = f"{low}" if low == high else f"at least {low}"
        return f"{number} model{'s' if low > 1 else ''}"

    def parameter(self, name: str) -> Parameter:
        """Returns a parameter's spec by name.

        Raises:
            RecipeError: If the method has none of that name.
        """
        names = [p.name for p in self.parameters]
        if name in names:
            return self.parameters[names.index(name)]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise RecipeError(
            f"{self.name} has no parameter {name!r}.{hint} "
            f"Its parameters: {', '.join(names) or 'none'}."
        )

    def check_sources(self, base: Any, models: int) -> None:
        """Checks that the right number of models is given.

        Raises:
            RecipeError: If there are too few or too many, or a base where none belongs.
        """
        if self.base and base is None:
            raise RecipeError(f"{self.name} needs a base model.")
        if self.base is False and base is not None:
            raise RecipeError(f"{self.name} takes no base model.")
        low, high = self.models
        if not low <= models <= high:
            wanted = "at least 1 model" if low == 1 < high else self.models_in_words
            raise RecipeError(f"{self.name} merges {wanted}, not {models}.")
