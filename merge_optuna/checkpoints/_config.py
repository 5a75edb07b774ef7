"""``config.json`` and the other JSON files of a checkpoint: read, checked, completed."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError

from merge_optuna._documents import Bounds, load_json, read_text
from merge_optuna.checkpoints._files import Spec
from merge_optuna.errors import CheckpointError, FileTooLarge, shown

_SETTINGS = Bounds(20_000_000)  # an index of 100,000 tensors has half of it
TOKENIZER = Bounds(100_000_000, 5_000_000, FileTooLarge)
"""Of a vocabulary: that of Gemma 3, with 260,000 tokens and 510,000 merges, has a third of it."""
_NUMBER: tuple[type | tuple[type, ...], str] = (int, "a whole number")
_NUMBERS: tuple[type | tuple[type, ...], str] = ((int, list), "a whole number, or one per layer")
_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "architectures": (list, "a list of names"),
    "model_type": (str, "a name"),
    **dict.fromkeys(
        ("auto_map", "id2label", "label2id", "quantization_config"), (dict, "a table")
    ),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), (dict, "a table")),
    # a whole number where it is a word of a vocabulary, as in Emu 3
    **dict.fromkeys(("dtype", "torch_dtype"), ((str, dict, int), "the name of a data type")),
    **dict.fromkeys(("text_config", "vision_config", "audio_config"), (dict, "a table")),
    **dict.fromkeys(("hidden_size", "vocab_size", "num_hidden_layers"), _NUMBER),
    **dict.fromkeys(("intermediate_size", "num_attention_heads"), _NUMBERS),
}
_COUNT = re.compile(r"layers?$|depth|experts?$|heads?$|blocks?$")
_MOST_COUNTED = 1000  # of layers, heads and the like, whatever the tensors are
_WIDTHS = ("hidden_size", "vocab_size", "intermediate_size")
_MOST_PACKED = 16  # so many numbers in one of a quantised tensor


def read_json(file: Path, bounds: Bounds = _SETTINGS) -> dict[str, Any] | None:
    """The object in a JSON file, or None if there is no file.

    Raises:
        CheckpointError: If it cannot be read, is no JSON object or more than the bounds.
    """
    if not file.is_file():
        return None
    text = read_text(file, error=CheckpointError, bounds=bounds)
    content = load_json(text, str(file), error=CheckpointError, bounds=bounds)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no JSON object. Restore the file.")
    return content


# -- what the fields may be ----------------------------------------------------------------------


def check_config(config: Mapping[str, Any] | None, file: Path, specs: Mapping[str, Spec]) -> None:
    """Checks the types of a config, and its numbers against the tensors that there are.

    A config that says that there are a thousand million layers would be believed, layer by layer.

    Raises:
        CheckpointError: Naming the key and its value.
    """
    widest = max((n for _, shape in specs.values() for n in shape), default=0)
    for part in _parts(config or {}):
        for key, value in part.items():
            wanted, words = _TYPES.get(key, (object, ""))
            if value is not None and (not isinstance(value, wanted) or _is_odd(key, value)):
                raise CheckpointError(
                    f"{key} in {file} must be {words}, not {shown(value)}. Restore the file."
                )
            if type(value) is not int:
                continue
            is_count = _COUNT.search(key) and value > max(_MOST_COUNTED, len(specs))
            if is_count or (key in _WIDTHS and value > _MOST_PACKED * max(widest, _MOST_COUNTED)):
                raise CheckpointError(
                    f"{key} in {file} is {shown(value)}, which does not go with its "
                    f"{len(specs)} tensors, of at most {widest} rows or columns. Restore the file."
                )


def _parts(config: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The config and those of the models inside it."""
    yield config
    yield from (inner for inner in config.values() if isinstance(inner, dict))


def _is_odd(key: str, value: Any) -> bool:
    if key == "architectures":
        return not all(isinstance(name, str) for name in value)
    if key == "id2label":
        return not all(re.fullmatch(r"[0-9]{1,9}", str(number)) for number in value)
    return isinstance(value, bool) and _TYPES.get(key) in (_NUMBER, _NUMBERS)


def model_dtype(config: Mapping[str, Any] | None, specs: Mapping[str, Spec]) -> torch.dtype | None:
    """The data type that the live model of a checkpoint has.

    That of its float tensors; where they differ (a router kept in float32 inside a bfloat16
    model) or are of 8 bits, which nothing computes in, what the config says, as transformers
    reads it, else the one that most numbers have. None if there are no float tensors.
    """
    numbers: Counter[torch.dtype] = Counter()
    for dtype, shape in specs.values():
        if dtype.is_floating_point:
            numbers[dtype] += prod(shape)
    wide = [dtype for dtype in numbers if dtype.itemsize > 1]
    if len(numbers) == len(wide) == 1 or not numbers:
        return next(iter(numbers), None)
    most = max(wide, key=lambda dtype: numbers[dtype], default=torch.float32)
    return _said(config) or most


def _said(config: Mapping[str, Any] | None) -> torch.dtype | None:
    config = config or {}
    name = config.get("dtype") or config.get("torch_dtype")
    found = getattr(torch, name, None) if isinstance(name, str) else None
    return found if isinstance(found, torch.dtype) else None


# -- as the classes of transformers read it ------------------------------------------------------


def architecture_of(config: Mapping[str, Any] | None) -> Any:
    """The class of transformers that a config names first; None if there is none."""
    import transformers

    name = ((config or {}).get("architectures") or [None])[0]
    return getattr(transformers, name, None) if isinstance(name, str) else None


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
