"""Tokenizer and chat template in mergekit's YAML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from merge_optuna.checkpoints import BY_ID, ZERO, Checkpoint, TokenRow, Vocabulary
from merge_optuna.errors import RecipeError
from merge_optuna.mergekit._chat_templates import CHAT_TEMPLATES
from merge_optuna.mergekit._node import Node
from merge_optuna.mergekit._sources import Sources, reference_of
from merge_optuna.recipes import Recipe


def read_texts(node: Node, leaves: Sequence[Checkpoint], sources: Sources) -> dict[str, Any]:
    """The fields of a recipe that say what its tokenizer and its chat template are.

    Raises:
        RecipeError: If they are not valid, or cannot be said.
    """
    fields: dict[str, Any] = {}
    short, long = node.get("tokenizer_source"), node.get("tokenizer")
    if short is not None and long is not None:
        raise long.error("there is a tokenizer_source too: leave one of them out.")

    def name(model: Node) -> str:
        return _leaf(model, leaves, sources)

    if short is not None:
        fields["tokenizer"] = Vocabulary(_source(short, name))
    elif long is not None:
        fields["tokenizer"] = _vocabulary(long, name)
    if (template := node.get("chat_template")) is not None:
        fields["chat_template"] = _chat_template(template)
    return fields


def _chat_template(node: Node) -> str:
    """The text of a template, or ``"auto"``."""
    said = node.text()
    if said == "auto" or "{" in said:
        return said
    if said not in CHAT_TEMPLATES:
        raise node.error(
            f"expected 'auto', {', '.join(map(repr, CHAT_TEMPLATES))} or the text of a template, "
            f"not {said!r}."
        )
    return CHAT_TEMPLATES[said]


def _vocabulary(node: Node, name: Callable[[Node], str]) -> Vocabulary:
    node.check_keys(("source", "tokens", "pad_to_multiple_of"))
    source, tokens = node.get("source"), node.get("tokens")
    rows = {} if tokens is None else {t: _row(t, row, name) for t, row in tokens.fields()}
    try:
        return Vocabulary(
            "union" if source is None else _source(source, name),
            tokens=rows,
            pad_to_multiple_of=node.mapping().get("pad_to_multiple_of"),
        )
    except RecipeError as error:
        raise node.error(str(error)) from error


def _source(node: Node, name: Callable[[Node], str]) -> str:
    return str(node.value) if node.value in ("base", "union") else name(node)


def _row(token: str, node: Node, name: Callable[[Node], str]) -> TokenRow:
    node.check_keys(("source", "force"))
    source, force = node.get("source"), bool(node.mapping().get("force", False))
    if source is None:
        raise node.error(f"say where the row of {token!r} comes from: source.")
    kind = source.value.get("kind") if isinstance(source.value, dict) else None
    if kind == "zero":
        return TokenRow(ZERO, force=force)
    if kind != "model_token":
        return TokenRow(name(source), force=force)
    model = source.get("model")
    if model is None:
        raise source.error("no model.")
    own = source.get("token") or source.get("token_id")
    return TokenRow(name(model), token=None if own is None else own.value, force=force)


def _leaf(node: Node, leaves: Sequence[Checkpoint], sources: Sources) -> str:
    """The name in the recipe of a model, or of some layers of it."""
    wanted = sources.open(node)
    for leaf in leaves:
        if isinstance(wanted, Checkpoint) and leaf.whole_name == wanted.name:
            return leaf.name
    raise node.error("the tokenizer must be that of a model that is merged.")


def texts(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says of tokenizer and chat template, as mergekit's YAML says it.

    Raises:
        RecipeError: If mergekit cannot.
    """
    places = {leaf.name: reference_of(leaf.origin).written() for leaf in recipe.leaves()}
    made: dict[str, Any] = {}
    vocabulary = recipe.tokenizer
    if vocabulary is not None and vocabulary.source != BY_ID:  # which is what mergekit does
        made["tokenizer"] = {"source": places.get(vocabulary.source, vocabulary.source)}
        if vocabulary.tokens:
            made["tokenizer"]["tokens"] = {t: _said(row, places) for t, row in vocabulary.tokens}
        if vocabulary.pad_to_multiple_of is not None:
            made["tokenizer"]["pad_to_multiple_of"] = vocabulary.pad_to_multiple_of
    if recipe.chat_template in places:
        raise RecipeError(
            f"mergekit cannot take the chat template of {recipe.chat_template!r}. Give its text."
        )
    if recipe.chat_template is not None:
        made["chat_template"] = recipe.chat_template
    return made


def _said(row: TokenRow, places: dict[str, Any]) -> dict[str, Any]:
    if row.source == ZERO:
        source: Any = {"kind": "zero"}
    elif row.token is None:
        source = places[row.source]
    else:
        key = "token" if isinstance(row.token, str) else "token_id"
        source = {"kind": "model_token", "model": places[row.source], key: row.token}
    return {"source": source} | ({"force": True} if row.force else {})
