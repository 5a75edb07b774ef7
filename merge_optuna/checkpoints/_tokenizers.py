"""The tokenizer of a merged model: what a user says of it; one source's, or the union of all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

from merge_optuna._documents import Bounds, read_text
from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._config import read_json
from merge_optuna.checkpoints._known_files import (
    PROCESSOR_FILES,
    TEXT_FILES,
    VOCABULARY_FILES,
    code_of,
    inside,
    present,
)
from merge_optuna.checkpoints._token_rows import rows_of
from merge_optuna.checkpoints._writer import copy_files
from merge_optuna.errors import CheckpointError, RecipeError, few, shown

_TEMPLATE = Bounds(1_000_000)
ZERO = "zero"
BY_ID = "ids"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **data: Any):
        try:
            super().__init__(**data)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
            raise RecipeError(f"Not a {type(self).__name__}: {'; '.join(lines)}.") from error


class TokenRow(_Spec):
    """Where the row of a token comes from in models that lack it.

    Attributes:
        source: Name of a source, or ``"zero"``.
        token: The token, or its id, whose row is taken; the same token when omitted.
        force: Take it in models that have the token as well.
    """

    source: str
    token: str | int | None = None
    force: bool = False

    def __init__(self, source: str, **data: Any):
        super().__init__(source=source, **data)


def _as_row(value: Any) -> Any:
    if isinstance(value, str):
        return TokenRow(value)
    return TokenRow(**{"source": None, **value}) if isinstance(value, Mapping) else value


class Vocabulary(_Spec):
    """The vocabulary of a merged model.

    A model that lacks a token gets its row from the base, or the mean of the models that have it
    if the base lacks it too or there is none. Rows that no token has are not kept.

    Attributes:
        source: ``"base"`` (of a method without one: the first model), ``"union"`` of all, or the
            name of a source; ``"ids"`` for rows as they are numbered, whatever the tokenizers say.
        tokens: Where to take rows of single tokens from; such tokens are added if need be.
        pad_to_multiple_of: Rows are added up to a multiple of this; they are the mean row.
    """

    source: str
    tokens: Annotated[
        tuple[tuple[str, Annotated[TokenRow, BeforeValidator(_as_row)]], ...],
        BeforeValidator(lambda v: tuple(v.items()) if isinstance(v, Mapping) else v),
        PlainSerializer(lambda v: {t: row.model_dump(exclude_defaults=True) for t, row in v}),
    ] = ()
    pad_to_multiple_of: int | None = Field(default=None, ge=1)

    def __init__(self, source: str, **data: Any):
        super().__init__(source=source, **data)


class CommonTokenizer:
    """The tokenizer of a merged model, with the config and the files that go with it.

    Args:
        spec: Whose tokenizer it is.
        sources: The first gives the config, but for the vocabulary.
    """

    def __init__(self, spec: Vocabulary, sources: tuple[Checkpoint, ...]) -> None:
        self._spec = spec
        self._sources = sources

    @cached_property
    def folder(self) -> Path:
        """A folder with everything of the merged model but its weights and its recipe."""
        folder = Path(self._temporary.name)
        frame = self._sources[0]
        if frame.folder is not None:  # the writer asks whether it is trusted
            copy_files(frame, code_of(frame.folder, ("config.json",)), folder)
        copy_files(frame, ("generation_config.json",), folder)
        if self.ids == load_tokenizer(self._owner).get_vocab():
            copy_files(self._owner, TEXT_FILES, folder)
        else:
            copy_files(self._owner, PROCESSOR_FILES, folder)
            self._tokenizer.save_pretrained(folder)
        _save(folder / "config.json", self.config)
        generation = _read(frame, "generation_config.json")
        if generation:
            own = _read(self._owner, "generation_config.json")
            _save(folder / "generation_config.json", self._with_token_ids(generation, own))
        return folder

    @cached_property
    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="merge_optuna-")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config of the first source with the size and the special tokens of this."""
        return self.config_of(self._sources[0])

    def config_of(self, source: Checkpoint) -> dict[str, Any]:
        """The config of a source with the size and the special tokens of this."""
        size = self.size
        config = self._with_token_ids(source.config or {}, self._owner.config or {})
        for part in (config, config.get("text_config") or {}):
            if "vocab_size" in part:
                part["vocab_size"] = size
        return config

    def _with_token_ids(self, config: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        """A copy with the ids of special tokens from the model that has given the ids."""
        result = {key: value for key, value in config.items() if not key.endswith("_token_id")}
        for key, value in own.items():
            if key.endswith("_token_id"):
                has_row = not isinstance(value, int) or value < self.size
                result[key] = value if has_row else None
        if "text_config" in config:
            text = own.get("text_config") or {}
            result["text_config"] = self._with_token_ids(config["text_config"], text)
        return result

    @cached_property
    def _owner(self) -> Checkpoint:
        """The source that gives the ids; a union keeps those of the first."""
        if self._spec.source in ("base", "union"):
            return self._sources[0]
        return next(source for source in self._sources if source.name == self._spec.source)

    @cached_property
    def _original_tokenizers(self) -> tuple[Any, ...]:
        return tuple(load_tokenizer(source) for source in self._sources)

    @cached_property
    def ids_in(self) -> tuple[dict[str, int], ...]:
        """Id by token in each source, for the tokens that have a row."""
        return tuple(
            {token: i for token, i in tokenizer.get_vocab().items() if i < rows}
            for tokenizer, rows in zip(self._original_tokenizers, self.rows, strict=True)
        )

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Number of rows of each source's embedding."""
        return tuple(rows_of(source) for source in self._sources)

    @cached_property
    def _tokenizer(self) -> Any:
        owner = self._sources.index(self._owner)
        tokenizer = load_tokenizer(self._owner)
        remove_rowless(tokenizer, self.rows[owner], self._owner.name)
        if self._spec.source == "union":
            add_missing(tokenizer, zip(self._original_tokenizers, self.rows, strict=True))
        ids = tokenizer.get_vocab()
        tokenizer.add_tokens([token for token, _ in self._spec.tokens if token not in ids])
        return tokenizer

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id by token in the common vocabulary."""
        ids: dict[str, int] = self._tokenizer.get_vocab()
        return ids

    @cached_property
    def size(self) -> int:
        """Number of rows, padding included."""
        used, multiple = max(self.ids.values()) + 1, self._spec.pad_to_multiple_of or 1
        return -(-used // multiple) * multiple


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer in the folder of a checkpoint.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    folder = checkpoint.folder
    # transformers makes an empty tokenizer of a folder without one
    if folder is None or not present(folder, VOCABULARY_FILES):
        raise CheckpointError(
            f"{checkpoint.name!r} ({checkpoint.ref}) has no tokenizer, so its rows cannot be "
            "aligned by token. Save it there: tokenizer.save_pretrained(folder)."
        )
    for name in present(folder, TEXT_FILES):  # what is read here may be written and published
        inside(folder / name, folder)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library's own parser raises nothing more special
        raise CheckpointError(
            f"The tokenizer of {checkpoint.name!r} ({folder}) cannot be loaded: {error}"
        ) from error


def remove_rowless(tokenizer: Any, size: int, name: str) -> None:
    """Removes the tokens that have no row in an embedding of ``size`` rows.

    Raises:
        CheckpointError: If they are part of a vocabulary from which none can be removed.
    """
    unused = {token for token, i in tokenizer.get_vocab().items() if i >= size}
    if not unused:
        return
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["id"] < size]
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {t: i for t, i in model["vocab"].items() if i < size}
    elif len(model["vocab"]) > size:
        raise CheckpointError(
            f"The tokenizer of {name!r} has {len(unused)} tokens without a row in its embedding "
            f"of {size} rows ({few(sorted(unused))}), and they cannot be removed from a "
            f"{model['type']} vocabulary. Resize the model: model.resize_token_embeddings(n)."
        )
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not _makes(pair, unused)]
    for role, token in tokenizer.special_tokens_map.items():
        if token in unused:
            setattr(tokenizer, role, None)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))


def _makes(merge: str | list[str], unused: set[str]) -> bool:
    """Whether a merge of a BPE model has an unused token as a part or as its result."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    return not unused.isdisjoint([*parts, "".join(parts)])


def add_missing(tokenizer: Any, others: Iterable[tuple[Any, int]]) -> None:
    """Adds the tokens of other tokenizers (with the sizes of their embeddings), in their order.

    What the tokenizer has keeps its id. Special tokens and the like come last, and with the
    settings of the first tokenizer that has them.
    """
    own = tokenizer.get_vocab()
    plain: dict[str, None] = {}
    added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    for other, size in others:
        vocabulary = {token: i for token, i in other.get_vocab().items() if i < size}
        plain |= dict.fromkeys(token for token in by_id(vocabulary) if token not in own)
        for i, token in sorted(other.added_tokens_decoder.items()):
            if i < size:
                added.setdefault(token.content, token)
    tokenizer.add_tokens([token for token in plain if token not in added])
    tokenizer.add_tokens(list(added.values()))


def by_id(vocabulary: Mapping[str, int]) -> list[str]:
    """The tokens in the order of their ids; ``get_vocab()`` gives them in any."""
    return sorted(vocabulary, key=vocabulary.__getitem__)


def chat_template_of(checkpoint: Checkpoint) -> str | None:
    """The chat template in the folder of a checkpoint, without white space around it."""
    folder = checkpoint.folder
    if folder is not None and (folder / "chat_template.jinja").is_file():
        file = folder / "chat_template.jinja"
        return read_text(file, error=CheckpointError, bounds=_TEMPLATE).strip()
    template = _read(checkpoint, "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several, by name
        named = [entry for entry in template if isinstance(entry, dict)]
        template = {entry.get("name"): entry.get("template") for entry in named}.get("default")
    if template and not isinstance(template, str):
        raise CheckpointError(
            f"The chat_template of {checkpoint.name!r} in tokenizer_config.json is no text: "
            f"{shown(template)}. Restore the file."
        )
    return template.strip() if template else None


def _read(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    file = checkpoint.folder / name if checkpoint.folder else None
    return {} if file is None else read_json(file) or {}


def _save(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
