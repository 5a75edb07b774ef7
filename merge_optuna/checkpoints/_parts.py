"""Parts of a checkpoint that are merged while the others stay.

A part is a component of a diffusers pipeline, or a module of a model: the language model inside a
vision-language model, the encoder inside a classifier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from torch import Tensor

from merge_optuna.checkpoints._canonical import canonical
from merge_optuna.checkpoints._config import read_json
from merge_optuna.checkpoints._digest import sampled_digest
from merge_optuna.checkpoints._files import Spec
from merge_optuna.checkpoints._folder import FolderStore, check_folder
from merge_optuna.checkpoints._known_files import (
    COMPONENT_FILES,
    PIPELINE,
    WEIGHT_FILES,
    copy_known,
    with_imports,
)
from merge_optuna.checkpoints._layers import NUMBERED, renumbered
from merge_optuna.checkpoints._store import (
    DerivedStore,
    Opened,
    OpenedUnderNames,
    RenamedStore,
    Store,
)
from merge_optuna.errors import CheckpointError, few


class ModuleOfModel(RenamedStore):
    """A module of a model, under the names that it has in a checkpoint of its own."""

    def holding(self, content: Store) -> ModuleOfModel:
        """The same module with other layers, in a model that is otherwise the same."""
        names = {own: self._outer(own) for own in content.specs()}
        config = _with_module(self.whole.config or {}, self.config or {}, content.config or {})
        whole = _Refilled(self.whole, set(self.names.values()), names, content, config)
        return ModuleOfModel(whole, names, content.config)

    def _outer(self, own: str) -> str:
        """The name in the model, also of a layer that the module does not have."""
        if own in self.names:
            return self.names[own]
        number = NUMBERED.match(own)
        assert number is not None
        return renumbered(self.names[renumbered(own, 0)], int(number["index"]))


class OpenedModule(ModuleOfModel, OpenedUnderNames):
    """A module of a model as it lies in a folder."""

    def weights(self) -> Iterable[str]:
        """Those of the whole model: the rest is written with the module."""
        return [*self.whole.weights(), *(f"{own}|{outer}" for own, outer in self.names.items())]

    def _sampled(self) -> str:
        return sampled_digest(self.specs(), self.tensor, around=self.whole.digest(""))


class _Refilled(DerivedStore):
    """A model with another content of one of its modules.

    Args:
        whole: The model.
        old: Names in it of what the module had.
        new: The name in the model by the module's own of what it has.
        content: The module.
        config: Of the model.
    """

    def __init__(
        self,
        whole: Store,
        old: Set[str],
        new: Mapping[str, str],
        content: Store,
        config: dict[str, Any] | None,
    ) -> None:
        super().__init__(whole, content)
        self.config, self._old = config, old
        self._own = {outer: own for own, outer in new.items()}

    def _made(self, specs: list[Mapping[str, Spec]]) -> dict[str, Spec]:
        whole, content = specs
        around = {n: spec for n, spec in whole.items() if n not in self._old}
        return around | {outer: content[own] for outer, own in self._own.items()}

    def tensor(self, name: str) -> Tensor:
        whole, content = self.parts
        own = self._own.get(name)
        return whole.tensor(name) if own is None else content.tensor(own)


def _with_module(
    whole: dict[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of a model with another of one of its modules; what did not change stays."""
    changed = {key: value for key, value in new.items() if key not in old or old[key] != value}
    removed = old.keys() - new.keys()
    levels = (key for key in whole if key.endswith("_config") and _holds(whole[key], old))
    place = next(levels, None)
    if place is None:
        return {k: v for k, v in {**whole, **changed}.items() if k not in removed}
    level = {k: v for k, v in {**whole[place], **changed}.items() if k not in removed}
    return {**whole, place: level}


def _holds(level: Any, module: Mapping[str, Any]) -> bool:
    """Whether what a config says of a module is this level of it."""
    return (
        bool(level)
        and isinstance(level, dict)
        and all(module.get(k) == v for k, v in level.items())
    )


def open_part(folder: Path, part: str) -> Opened:
    """Opens one part of the checkpoint in ``folder``.

    Raises:
        CheckpointError: If there is no such part.
    """
    check_folder(folder)
    if not (folder / PIPELINE).is_file():
        return _module(canonical(FolderStore(folder)), part, folder)
    components = _components(folder)
    if part not in components:
        raise CheckpointError(
            f"The pipeline {str(folder)!r} has no part {part!r}. Choose one of "
            f"{', '.join(components)}."
        )
    return canonical(FolderStore(folder / part))


def _module(whole: Opened, part: str, folder: Path) -> OpenedModule:
    names = own_names(whole.specs(), part)
    if not names:
        modules = dict.fromkeys(n.removeprefix("model.").split(".")[0] for n in whole.specs())
        raise CheckpointError(
            f"{str(folder)!r} has no part {part!r}: it has no {PIPELINE}, so it is no diffusers "
            f"pipeline, and its modules are {few(sorted(modules))}. Choose one of these. Leave "
            "part= out to merge the whole model."
        )
    return OpenedModule(whole, names, _config_of_module(whole.config or {}, part, names))


def own_names(names: Iterable[str], part: str) -> dict[str, str]:
    """The name in the model by the own name of each tensor of one of its modules.

    A language model is named as a causal language model of its own: ``model.layers.0...`` and
    ``lm_head.weight``, in whatever form its tensors are saved inside the larger model::

        language_model.model.layers.0...   language_model.lm_head.weight   (LLaVA)
        model.language_model.layers.0...   lm_head.weight                  (Qwen3-VL)
        model.layers.0...                  lm_head.weight                  (Qwen2-VL)
    """
    names = sorted(names)
    for prefix in (f"{part}.", f"model.{part}."):
        own = {n.removeprefix(prefix): n for n in names if n.startswith(prefix)}
        if own:
            break
    else:
        if part != "language_model" or "model.embed_tokens.weight" not in names:
            return {}
        own = {n.removeprefix("model."): n for n in names if n.startswith("model.")}
    if "embed_tokens.weight" in own:
        own = {f"model.{name}": outer for name, outer in own.items()}
        own |= {n: n for n in names if n.startswith("lm_head.")}
    return dict(sorted(own.items()))


def _config_of_module(
    config: Mapping[str, Any], part: str, names: Mapping[str, str]
) -> dict[str, Any]:
    """The config that the module would have as a model of its own, as far as it is known."""
    is_text = "model.embed_tokens.weight" in names
    key = "text_config" if is_text else "vision_config" if "vis" in part else f"{part}_config"
    own = {k: v for k, v in {**config, **(config.get(key) or {})}.items() if k != "architectures"}
    if not is_text:
        return own
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(own.get("model_type"))
    return own | ({"architectures": [causal]} if causal else {})


def copy_around(root: Path, part: str, target: Path) -> None:
    """Copies a pipeline without the weights of one part.

    Single-file forms of the whole pipeline, which would be the unmerged one, are left out.

    Args:
        root: The pipeline.
        part: Its component.
        target: An empty folder.

    Raises:
        CheckpointError: If one of the files is a link that leads out of the pipeline.
    """
    copy_known(root, (PIPELINE,), target)
    for name in _components(root):
        known = COMPONENT_FILES if name == part else (*COMPONENT_FILES, *WEIGHT_FILES)
        copy_known(root / name, known, target / name, root=root)
    (target / part).mkdir(exist_ok=True)


def code_of_pipeline(root: Path) -> list[str]:
    """Relative paths of the Python files that a pipeline names as its code."""
    index = read_json(root / PIPELINE) or {}
    own = index.get("_class_name")
    found = with_imports(root, own[:1] if isinstance(own, list) else [])
    for name in _components(root):
        found += [f"{name}/{file}" for file in with_imports(root / name, index[name][:1])]
    return found


def _components(folder: Path) -> list[str]:
    """Names of the components; a component that a pipeline was saved without is [null, null]."""
    index = read_json(folder / PIPELINE) or {}
    return [name for name, value in index.items() if isinstance(value, list) and all(value)]
