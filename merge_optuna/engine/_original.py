"""What a live model is made of, and how it becomes that again after somebody has had it."""

from __future__ import annotations

import enum
import logging
import types
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

from merge_optuna.errors import few

CALLER = "The caller of load()"
"""Who has had a live model, if nobody else is named."""

_SHARED = (type, types.FunctionType, types.MethodType, types.ModuleType, enum.Enum, logging.Logger)
"""What has attributes and is not the model's own."""
_VALUES = (int, float, str, bytes, torch.dtype, torch.device)
"""What may be another object and still the same."""
_OF_MODULES = ("_modules", "_parameters", "_buffers")
"""Dictionaries whose entries are called as if they were attributes of the module."""
_CAPTURING = "output_capturing"
_CONTAINERS = (dict, list, set)
_SHOWN = 4

_requires_grad = attrgetter("requires_grad")
_AUTOGRAD = ("grad", "_backward_hooks", "_post_accumulate_grad_hooks")
_NO_AUTOGRAD = (None,) * len(_AUTOGRAD)
_autograd = attrgetter(*_AUTOGRAD)


class Original:
    """All that makes up a model beside the numbers in its tensors.

    That is its modules, configs, lists, dictionaries and tensors: of each of them its class and
    its attributes or entries in their order, of tensors also the memory. Each is kept itself, not
    as a copy, so that a model is put back by writing down once more what it is made of.

    Args:
        model: In evaluation mode, without gradients.
        without: Objects that are left out, and with them what is reached through them alone.

    Attributes:
        memory: Of every tensor: another tensor on the same memory, which stays on it.
    """

    def __init__(self, model: nn.Module, without: Sequence[object] = ()) -> None:
        found = list(_reachable(model, without))
        tensors = [(one, name) for one, name in found if isinstance(one, Tensor)]
        containers = [(one, name) for one, name in found if isinstance(one, _CONTAINERS)]
        owners = [(o, name) for o, name in found if not isinstance(o, (Tensor, *_CONTAINERS))]
        self._owners: list[Any] = [one for one, _ in owners]
        self._containers: list[Any] = [one for one, _ in containers]
        self._contents_names = [name for _, name in chain(owners, containers)]
        self._saved = [_copied(one) for one in self._contents()]
        self._tensors = [one for one, _ in tensors]
        self.memory = [tensor.detach() for tensor in self._tensors]
        self._storages = [tensor.untyped_storage() for tensor in self.memory]
        self._sizes = [storage.nbytes() for storage in self._storages]
        self._with_classes: list[Any] = [*self._owners, *self._tensors]
        self._classes = list(map(type, self._with_classes))
        self._names = [name for _, name in chain(owners, tensors)]

        # The same once more, in the form that is compared fastest: see _is_itself.
        self._attributes = self._saved[: len(owners)]
        self._configs = [(o, vars(o)["config"]) for o in self._owners if "config" in vars(o)]
        self._empty = [one for one in self._containers if not one]
        self._sets = [one for one in self._containers if one and isinstance(one, set)]
        self._saved_sets = list(map(_copied, self._sets))
        self._filled = [one for one in self._containers if one and not isinstance(one, set)]
        self._lengths = list(map(len, self._filled))
        self._keys = list(chain.from_iterable(self._filled))
        self._dicts: list[dict[Any, Any]] = [d for d in self._filled if isinstance(d, dict)]
        self._values = list(self._all_values())
        self._no_autograd = [_NO_AUTOGRAD] * len(tensors)

    def put_back(self) -> list[str]:
        """Makes the model what it was, but for the numbers in its tensors.

        Returns:
            The names of what was something else: none for a model that nobody has changed.
        """
        if self._is_itself():
            return []
        return [*self._put_back_classes(), *self._put_back_contents(), *self._put_back_tensors()]

    def _is_itself(self) -> bool:
        """In C as far as possible: a model has ten thousand attributes and entries.

        Attributes are compared by value, which is three times as fast as by identity: one that is
        another object of equal value computes the same. Configs are shared, and what is changed in
        one, such as the number of layers of a path, must be changed for all modules.
        """
        return (
            list(map(type, self._with_classes)) == self._classes
            and self._has_its_attributes()
            and all(vars(owner).get("config") is own for owner, own in self._configs)
            and not any(self._empty)
            and self._sets == self._saved_sets
            and list(map(len, self._filled)) == self._lengths
            and all(map(is_, chain.from_iterable(self._filled), self._keys))
            and all(map(is_, self._all_values(), self._values))
            and not any(map(_requires_grad, self._tensors))
            and list(map(_autograd, self._tensors)) == self._no_autograd
            and all(map(Tensor.is_set_to, self._tensors, self.memory))
            and [storage.nbytes() for storage in self._storages] == self._sizes
        )

    def _has_its_attributes(self) -> bool:
        try:
            return list(map(vars, self._owners)) == self._attributes
        except (RuntimeError, ValueError):  # an array where a number was: neither true nor false
            return False

    def _contents(self) -> Iterator[Any]:
        return chain(map(vars, self._owners), self._containers)

    def _all_values(self) -> Iterator[Any]:
        return chain.from_iterable(map(dict.values, self._dicts))

    def _put_back_classes(self) -> Iterator[str]:
        for one, cls, name in zip(self._with_classes, self._classes, self._names, strict=True):
            if type(one) is not cls:
                yield f"{name or 'the model'} (now a {type(one).__name__})"
                one.__class__ = cls

    def _put_back_contents(self) -> Iterator[str]:
        for content, saved, name in zip(
            self._contents(), self._saved, self._contents_names, strict=True
        ):
            if not _is_identical(content, saved):
                yield from _differences(content, saved, name)
                _rewrite(content, saved)

    def _put_back_tensors(self) -> Iterator[str]:
        for storage, size in zip(self._storages, self._sizes, strict=True):
            if storage.nbytes() != size:
                storage.resize_(size)
        names = self._names[len(self._owners) :]
        for tensor, memory, name in zip(self._tensors, self.memory, names, strict=True):
            if tensor.requires_grad or _autograd(tensor) != _NO_AUTOGRAD:
                yield f"{name} (has gradients)"
                tensor.detach_()
                for attribute in _AUTOGRAD:
                    setattr(tensor, attribute, None)
            if not tensor.is_set_to(memory):
                yield f"{name} (now {tensor.dtype} on {tensor.device})"
                tensor.data = memory


class Loan:
    """Who has a live model, and who was told that it had to be put back."""

    def __init__(self) -> None:
        self._user = CALLER
        self._told: set[str] = set()

    def to(self, user: str) -> None:
        """The model is handed to somebody."""
        self._user = user

    def ended(self, changed: Sequence[str]) -> None:
        """The model was put back where it was changed; whoever has had it is told that once."""
        if changed and self._user not in self._told:
            self._told.add(self._user)
            warnings.warn(
                f"{self._user} has changed the live model: {few(changed, _SHOWN)}. That is put "
                "back before the next model is loaded, now and every time, and not said again. "
                "Change a copy, copy.deepcopy(model), to be rid of this warning.",
                stacklevel=3,
            )


def _reachable(model: nn.Module, without: Iterable[object]) -> Iterator[tuple[Any, str]]:
    """Everything of a model that can be changed, once, with its name."""
    seen = set(map(id, without))
    todo: list[tuple[Any, str]] = [(model, "")]
    while todo:
        one, name = todo.pop()
        if id(one) in seen or isinstance(one, _SHARED):
            continue
        seen.add(id(one))
        if isinstance(one, _CONTAINERS) or hasattr(one, "__dict__"):
            yield one, name
        for key, part in reversed(list(_parts(one))):
            is_plain = isinstance(one, nn.Module) and key in _OF_MODULES
            todo.append((part, name if is_plain else f"{name}.{key}".lstrip(".")))


def _parts(one: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(one, Tensor):
        return ()
    if isinstance(one, (list, tuple, set)):
        return enumerate(one)
    parts: dict[Any, Any] = one if isinstance(one, dict) else getattr(one, "__dict__", {})
    return parts.items()


def _copied(content: Any) -> Any:
    return next(kind(content) for kind in _CONTAINERS if isinstance(content, kind))


def _is_identical(content: Any, saved: Any) -> bool:
    """Whether these are the same objects in the same order."""
    if isinstance(content, set):
        return bool(content == saved)
    values = content.values() if isinstance(content, dict) else ()
    kept = saved.values() if isinstance(content, dict) else ()
    return (
        len(content) == len(saved)
        and all(map(is_, content, saved))
        and all(map(is_, values, kept))
    )


def _differences(content: Any, saved: Any, name: str) -> list[str]:
    """The names of entries that differ in more than identity."""
    if not isinstance(content, dict):
        return [name]
    differing = [
        key
        for key in {**saved, **content}
        if key not in saved or key not in content or not _is_same(content[key], saved[key])
        if not _is_for_capturing(key, content.get(key))
    ]
    if not differing and content.keys() == saved.keys() and list(content) != list(saved):
        return [f"{name} (in another order)"]
    return [f"{name}.{key}".lstrip(".") for key in differing]


def _is_for_capturing(key: object, value: object) -> bool:
    """Whether transformers has put it there to return hidden states; it does so again if asked."""
    return _CAPTURING in f"{key} of {getattr(value, '__module__', '')}"


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, _VALUES) and a == b)


def _rewrite(content: Any, saved: Any) -> None:
    content.clear()
    (content.extend if isinstance(content, list) else content.update)(saved)
