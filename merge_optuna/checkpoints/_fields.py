"""What the fields of a ``config.json`` may be, before anybody builds a model of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from merge_optuna.checkpoints._safetensors import Spec
from merge_optuna.errors import CheckpointError, shown

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
