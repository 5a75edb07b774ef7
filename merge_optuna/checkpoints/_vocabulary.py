"""What a user says about the vocabulary of a merged model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

from merge_optuna.errors import RecipeError

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
