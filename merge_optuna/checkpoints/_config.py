"""Configs as the classes of transformers read them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError


def read_config(architecture: Any, content: Mapping[str, Any]) -> Any:
    """The config object that a transformers class reads from the content of a ``config.json``.

    It is read from a file, as transformers has forms of its own for what JSON lacks, e.g. the
    infinite limit of a Mamba 2.
    """
    return _from_file(architecture.config_class, content)


def _from_file(kind: Any, content: Mapping[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(content), encoding="utf-8")
        return kind.from_pretrained(folder, local_files_only=True)


_FORMER = ("rope_theta", "rope_scaling")  # what rope_parameters were


class FullConfig(NamedTuple):
    """A config with every default written out.

    Attributes:
        content: As it could stand in ``config.json``.
        values: By dotted key, e.g. ``rope_parameters.rope_theta``.
        known: The keys of them that the architecture has; those that a file has besides are read
            by nobody we know.
    """

    content: dict[str, Any]
    values: Mapping[str, Any]
    known: frozenset[str]


def full_config(
    content: Mapping[str, Any], *, of_part: bool = False, of_text: bool = False
) -> FullConfig:
    """What a ``config.json`` says, in the form that transformers gives it today.

    Older forms (``rope_theta`` and ``rope_scaling``) become the new one, and what is left out has
    its default. A config that no class of transformers reads stays as it is written.

    Args:
        content: Of the file.
        of_part: It is the config of a module, with what the model around it says mixed in.
        of_text: The module is a language model.
    """
    read = _read(content, of_part, of_text)
    if read is None:
        return FullConfig(dict(content), _flat(content, "_config"), frozenset())
    full: dict[str, Any] = json.loads(read.to_json_string(use_diff=False))
    known, values = _known(read), _flat(full)
    inside = {key for key in values if _is_inside(key, known)}
    if of_part:
        around = {k: v for k, v in content.items() if k not in _FORMER}
        own = {key: values[key] for key in values if key in inside}
        return FullConfig({**around, **full}, own, frozenset(inside))
    return FullConfig(full, values, frozenset(inside))


def _read(content: Mapping[str, Any], of_part: bool, of_text: bool) -> Any:
    """The config object of the model type; None where transformers has none or refuses it."""
    kind = content.get("model_type")
    if not isinstance(kind, str):
        return None
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return None
    architecture: Any = CONFIG_MAPPING[kind]
    own = set(architecture.__dataclass_fields__)
    around = {key for key in content if of_part and key.endswith("_config") and key not in own}
    try:
        read = _from_file(architecture, {k: v for k, v in content.items() if k not in around})
    except (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError):
        return None  # what is wrong with it is for the engine to say, which needs the model
    if not of_part or "text_config" not in own:
        return read
    # once the model around it had one config for all, without a level for the language model
    return read.get_text_config(decoder=True) if of_text else None


def _known(config: Any, place: str = "") -> set[str]:
    """The keys of a config object and of those inside it."""
    keys = {f"{place}{name}" for name in (*config.__dataclass_fields__, "model_type")}
    for name, value in vars(config).items():
        if hasattr(value, "__dataclass_fields__"):
            keys = (keys - {f"{place}{name}"}) | _known(value, f"{place}{name}.")
    return keys


def _is_inside(key: str, known: Set[str]) -> bool:
    """Whether a dotted key, or one that it is inside of, is among the known."""
    parts = key.split(".")
    return any(".".join(parts[:i]) in known for i in range(1, len(parts) + 1))


def _flat(content: Mapping[str, Any], ending: str = "", place: str = "") -> dict[str, Any]:
    """By dotted key; what is inside of a key with another ending stays together.

    ``rope_type`` is ``type`` too in files of versions that came between.
    """
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key == "type" and "rope_type" in content:
            continue
        is_level = isinstance(value, dict) and value and key.endswith(ending)
        found |= _flat(value, ending, f"{place}{key}.") if is_level else {f"{place}{key}": value}
    return found
