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
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(content), encoding="utf-8")
        return architecture.config_class.from_pretrained(folder, local_files_only=True)


class FullConfig(NamedTuple):
    """A config with every default written out.

    Attributes:
        values: By dotted key, e.g. ``rope_parameters.rope_theta``.
        known: The keys of them that the architecture has; those that a file has besides are read
            by nobody we know.
    """

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
        return FullConfig(_flat(_as_json(content)), frozenset())
    known = _known(read)
    values = _flat(_as_json(read.to_dict()))
    if of_part:
        values = {key: value for key, value in values.items() if _top(key, known)}
    return FullConfig(values, frozenset(key for key in values if _top(key, known)))


def _read(content: Mapping[str, Any], of_part: bool, of_text: bool) -> Any:
    """The config object of the model type; None where transformers has none or refuses it."""
    kind = content.get("model_type")
    if not isinstance(kind, str):
        return None
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return None
    architecture = CONFIG_MAPPING[kind]
    own = set(architecture.__dataclass_fields__)
    around = {key for key in content if of_part and key.endswith("_config") and key not in own}
    try:
        read = architecture.from_dict({k: v for k, v in content.items() if k not in around})
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError):
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


def _top(key: str, known: Set[str]) -> bool:
    """Whether a dotted key, or one that it is inside of, is among the known."""
    parts = key.split(".")
    return any(".".join(parts[:i]) in known for i in range(1, len(parts) + 1))


def _flat(content: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """By dotted key; ``type``, which older files call ``rope_type``, only once."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key == "type" and "rope_type" in content:
            continue
        inner = isinstance(value, dict) and value
        found |= _flat(value, f"{place}{key}.") if inner else {f"{place}{key}": value}
    return found


def _as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """As it is read back from a file: lists for tuples, words for keys."""
    read: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return read
