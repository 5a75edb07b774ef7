"""The models that a configuration of mergekit names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import CheckpointError, RecipeError
from merge_optuna.mergekit._layers import count_layers, layers_of
from merge_optuna.mergekit._node import Node
from merge_optuna.mergekit._tools import check_folder
from merge_optuna.recipes import Recipe


@dataclass(frozen=True)
class Reference:
    """A model as mergekit names it: ``path@revision+lora@revision``.

    Attributes:
        path: Folder or hub id.
        revision: Branch, tag or commit on the hub.
        lora: An adapter on top of it, named the same way.
    """

    path: str
    revision: str | None = None
    lora: Reference | None = None

    def written(self) -> Any:
        """As YAML: the name, or its parts where that would be read otherwise."""
        if "+" not in self.path and "@" not in self.path:
            return str(self)
        model = {"path": self.path} | (
            {} if self.revision is None else {"revision": self.revision}
        )
        return {"model": model} | ({} if self.lora is None else {"lora": self.lora.written()})

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        lora = "" if self.lora is None else f"+{self.lora}"
        return f"{self.path}{revision}{lora}"

    @property
    def short(self) -> str:
        """A name without the folders around it."""
        path = self.path.rstrip("/").rpartition("/")[2]
        lora = None if self.lora is None else self.lora.short
        return str(Reference(path, self.revision)) + ("" if lora is None else f"+{lora}")


def reference(node: Node) -> Reference:
    """Reads the name of a model, a word or a mapping.

    Raises:
        RecipeError: If it is none.
    """
    if isinstance(node.value, dict):
        return _from_mapping(node)
    model, plus, lora = node.text().partition("+")
    if "+" in lora or (plus and not (model and lora)):
        raise node.error(f"{node.value!r} is not one model with one adapter, 'model+adapter'.")
    found = _from_path(node, model)
    return Reference(found.path, found.revision, _from_path(node, lora)) if plus else found


def _from_mapping(node: Node) -> Reference:
    """What mergekit writes for names with spaces: {model: {path, revision}, lora: ...}."""
    node.check_keys(("model", "lora", "path", "revision", "override_architecture"))
    if (path := node.get("path")) is not None:
        revision = node.get("revision")
        return Reference(path.text(), None if revision is None else revision.text())
    model, lora = node.get("model"), node.get("lora")
    if model is None:
        raise node.error("no model.")
    inner = reference(model)
    return Reference(inner.path, inner.revision, None if lora is None else reference(lora))


def _from_path(node: Node, text: str) -> Reference:
    path, _, revision = text.partition("@")
    if not path or "@" in revision:
        raise node.error(f"{text!r} is not a path, or 'path@revision'.")
    return Reference(path, revision or None)


def reference_of(checkpoint: Checkpoint) -> Reference:
    """How mergekit names a checkpoint.

    Raises:
        RecipeError: If it cannot.
    """
    if checkpoint.base is not None:
        below = reference_of(checkpoint.base)
        if below.lora is not None:
            raise RecipeError(
                f"mergekit cannot put the adapter {checkpoint.name!r} on another. Save the model "
                "with both."
            )
        return Reference(
            below.path, below.revision, Reference(checkpoint.ref, checkpoint.revision)
        )
    if checkpoint.folder is None:
        raise RecipeError(
            f"{checkpoint.name!r} is a module in memory, which mergekit cannot read. Save it to a "
            "folder and use that."
        )
    if checkpoint.part is not None:
        raise RecipeError(
            f"mergekit cannot merge {checkpoint.part!r} of {checkpoint.name!r} and keep the rest."
        )
    return Reference(checkpoint.ref, checkpoint.revision)


class Named(Protocol):
    """Configurations by name, which can be models of others; also a dict."""

    def __contains__(self, name: object) -> bool: ...

    def __getitem__(self, name: str) -> Recipe: ...


class Sources:
    """The models of a file, each opened once and named after its folder, or as it says.

    Args:
        merges: The configurations that are models of others.
        names: Of checkpoints, by where they are.
        opened: The checkpoints that are open already.
    """

    def __init__(
        self, merges: Named, names: Mapping[str, str], opened: Mapping[Reference, Checkpoint]
    ) -> None:
        self._merges = merges
        self._names = names
        self._opened = dict(opened)

    def open(
        self, node: Node, layers: tuple[int, int] | None = None, place: Node | None = None
    ) -> Checkpoint | Recipe:
        """The model that is named here, or some of its layers.

        Args:
            node: The name.
            layers: The first layer and the one behind the last.
            place: Where these are said.

        Raises:
            RecipeError: If the name is none, or there are no such layers.
            CheckpointError: If it cannot be opened.
        """
        wanted = reference(node)
        if str(wanted) in self._merges:
            whole: Checkpoint | Recipe = self._merges[str(wanted)]
        else:
            whole = self._whole(wanted, node)
        if layers is None or layers == (0, count_layers(whole)):
            return whole
        try:
            return layers_of(whole, *layers)
        except CheckpointError as error:
            raise (place or node).error(str(error)) from error

    def _whole(self, wanted: Reference, node: Node) -> Checkpoint:
        if wanted not in self._opened:
            self._opened[wanted] = self._open(wanted, node)
        return self._opened[wanted]

    def _open(self, wanted: Reference, node: Node) -> Checkpoint:
        check_folder(node, wanted.path)
        name = self._names.get(str(wanted)) or self._free_name(wanted.short)
        try:
            if wanted.lora is None:
                return Checkpoint(wanted.path, name=name, revision=wanted.revision)
            below = self._whole(Reference(wanted.path, wanted.revision), node)
            adapter = wanted.lora
            return Checkpoint(adapter.path, name=name, revision=adapter.revision, base=below)
        except CheckpointError as error:
            raise type(error)(f"{node.place}: {error}") from error

    def _free_name(self, name: str) -> str:
        taken = {checkpoint.name for checkpoint in self._opened.values()}
        names = [name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))]
        return next(n for n in names if n not in taken)
