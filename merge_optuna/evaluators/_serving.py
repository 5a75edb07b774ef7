"""Models that an engine of its own serves: they give replies, where live models give logits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from torch import nn


@runtime_checkable
class Serving(Protocol):
    """A model in an engine that serves it, e.g. vLLM, with the weights of a recipe.

    An engine for inference holds weights in a form of its own and schedules requests by itself, so
    what it loads is no module. Evaluators of replies take it in the place of a live model.

    Attributes:
        config: Of the model, a transformers config. Its ``name_or_path`` is the folder where the
            tokenizer is.
        generation_config: Of the model, or None. Nothing of it but end tokens counts.
        most_tokens: The most tokens of a prompt and its reply together.
    """

    config: Any
    generation_config: Any
    most_tokens: int

    def serve(
        self,
        prompts: Sequence[Sequence[int]],
        most: Sequence[int],
        *,
        ends: Collection[int],
        stops: Sequence[str] = (),
    ) -> list[list[int] | None]:
        """Greedy replies to all prompts, whatever else stands in the folder of the model.

        Args:
            prompts: Token ids with the special tokens that begin them, at least one each.
            most: Of each, the most tokens of its reply, at least 1.
            ends: The tokens that end a reply; may be empty.
            stops: Texts at which a reply may end early. An engine may pass over them: what comes
                after is cut off anyway. It does not leave out the tokens of the text itself.

        Returns:
            The token ids of each reply, in the order of the prompts, with the end token or without
            it. None where logits were no numbers, if the engine can tell.
        """


Model: TypeAlias = "nn.Module | Serving"
"""What is asked for replies."""
