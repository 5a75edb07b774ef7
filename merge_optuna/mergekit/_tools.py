"""Files of mergekit's other tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from merge_optuna.mergekit._node import Node

_TOKENSURGEON = "mergekit-tokensurgeon, which gives a model another tokenizer and merges nothing"
_TOOLS = {
    "experts": (
        "mergekit-moe, which makes a mixture of experts out of models and merges no weights"
    ),
    "genome": (
        "mergekit-evolve, which searches. Search with it: "
        "mo.MergeStudy.from_mergekit_evolve(file, evaluator), or merge-optuna run file --dev data"
    ),
    "donor": _TOKENSURGEON,
    "approximation_method": _TOKENSURGEON,
    "layer_slices": (
        "bakllama, mergekit's first tool. Write its layers as slices with merge_method: "
        "passthrough"
    ),
}
"""A key that only the files of a tool have, and what the tool is."""

_MERGE = "merge_method"
_KEYS = {_MERGE, *_TOOLS}

_OF_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def is_theirs(documents: Sequence[Any]) -> bool:
    """Whether a file is of one of mergekit's tools, by the keys of its documents."""
    return any(isinstance(one, dict) and one.keys() & _KEYS for one in documents)


def check_tool(node: Node) -> None:
    """Refuses a file of another tool.

    Raises:
        RecipeError: With the name of the tool.
    """
    for key, tool in _TOOLS.items():
        if key in node.mapping() and _MERGE not in node.mapping():
            raise node.error(f"this is a file of {tool}.")


def check_folder(node: Node, path: str) -> None:
    """Refuses a file of weights in place of a model.

    Raises:
        RecipeError: With the name of the tool that takes it.
    """
    if path.endswith(_OF_WEIGHTS):
        raise node.error(
            f"{path!r} is a file of weights: this is a configuration of mergekit-pytorch, which "
            "knows nothing of models. Name the folder of a checkpoint, with its config.json."
        )
