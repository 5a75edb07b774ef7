"""A running vLLM engine whose model is refilled in place with the tensors of recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from merge_optuna.checkpoints import Checkpoint, model_dtype, renew, steadily
from merge_optuna.engine._build import check_names
from merge_optuna.engine._frame import (
    Source,
    as_dtype,
    check_finite,
    checkpoints_of,
    final_dtype,
    frame_of,
    origins,
    wanted_dtype,
)
from merge_optuna.engine._original import CALLER
from merge_optuna.engine._served_model import TESTED, ServedModel, check_version
from merge_optuna.engine._tensors import Merger
from merge_optuna.errors import EngineError
from merge_optuna.recipes import Recipe

_NEW_ENGINE = "Use a new mo.engine.VLLM, in a process of its own, for another architecture."

_ONE_PROCESS = "the tensors of recipes are handed over within one process"
_REFUSED = {
    **dict.fromkeys(("model", "model_weights", "tokenizer", "revision"), "recipes say it"),
    **dict.fromkeys(("load_format", "skip_tokenizer_init"), "the engine is filled by recipes"),
    **dict.fromkeys(("generation_config", "override_generation_config"), "evaluators say it"),
    **dict.fromkeys(("quantization", "quantization_config"), "models are served as merged"),
    **dict.fromkeys(("tensor_parallel_size", "pipeline_parallel_size"), _ONE_PROCESS),
    **dict.fromkeys(("data_parallel_size", "distributed_executor_backend"), _ONE_PROCESS),
    **dict.fromkeys(("enable_lora", "speculative_config", "spec_method"), "nobody refills it"),
}
"""Options of ``vllm.LLM`` that are not for callers, and why."""


class VLLM:
    """Turns recipes into one model that vLLM serves.

    The engine is started at the first :meth:`load`, from the config of the recipe and without a
    file of weights; every load fills it with the tensors of a recipe, where they are computed, and
    empties its cache of prompts. Evaluators that generate
    (:class:`mo.evaluators.Generation`) ask it for replies; it shows neither logits nor modules, so
    others refuse it. All models of an engine have the same architecture and shapes: layer paths
    need :class:`mo.Engine`, and so do mixtures of experts.

    The engine runs in this process, as one worker and until the process ends; vLLM has one in a
    process. It needs the extra ``vllm``.

    Args:
        device: Where merges are computed. Where the engine runs vLLM says itself.
        dtype: Data type of the model; that of the first recipe when omitted, or else that of its
            base checkpoint (vLLM alone would take 16 bits for 32).
        compute_dtype: Data type that merges are computed in before their one rounding:
            ``"float32"`` when omitted, or ``"float64"``.
        max_model_len: Most tokens of a prompt and its reply; as many as the model has positions
            when omitted.
        gpu_memory_utilization: Share of the memory of the GPU that the engine may take.
        kv_cache_memory_bytes: Bytes of the cache of keys and values, in place of that share.
        max_num_seqs: Most replies that are written at once; as vLLM has it when omitted.
        enforce_eager: Run the model as it is, without compiling and recording it.
        enable_prefix_caching: Read what prompts have in common once per model.
        seed: Of vLLM.
        options: Further options of ``vllm.LLM`` by name.

    Raises:
        EngineError: If vLLM is missing, another version than those tested, or an option is one
            that a refilled engine cannot have.

    Example:
        >>> engine = mo.engine.VLLM(dtype="bfloat16", max_model_len=2048)
        >>> objective = mo.MergeObjective(space, evaluator, engine=engine)
    """

    def __init__(
        self,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
        compute_dtype: torch.dtype | str | None = None,
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        kv_cache_memory_bytes: int | None = None,
        max_num_seqs: int | None = None,
        enforce_eager: bool = False,
        enable_prefix_caching: bool = True,
        seed: int = 0,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        check_version()
        for name in options:
            if name in _REFUSED:
                raise EngineError(
                    f"{name!r} is no option of mo.engine.VLLM: {_REFUSED[name]}. Leave it out."
                )
        self.device, self.dtype = torch.device(device), as_dtype(dtype)
        self._compute_dtype = compute_dtype
        named = {
            "max_model_len": max_model_len,
            "gpu_memory_utilization": gpu_memory_utilization,
            "kv_cache_memory_bytes": kv_cache_memory_bytes,
            "max_num_seqs": max_num_seqs,
            "enforce_eager": enforce_eager,
            "enable_prefix_caching": enable_prefix_caching,
            "seed": seed,
        }
        self._options = {name: value for name, value in named.items() if value is not None}
        self._options |= options
        self._running: tuple[Checkpoint, ServedModel] | None = None
        self._forget()

    @property
    def place(self) -> str:
        """Where models run: values of two places may differ where logits are all but equal."""
        return "vllm"

    def check(self, recipe: Recipe) -> None:
        """Checks that recipes of this kind can be served, and that their sources are numbers.

        Raises:
            EngineError: If it is a layer path or a mixture of experts.
            CheckpointError: If a source holds NaN or infinity.
        """
        _check_served(recipe)
        check_finite(recipe)

    def load(self, recipe: Source, *, user: str = CALLER, body: bool = False) -> ServedModel:
        """Fills the engine with a merged recipe, or with a checkpoint as it is.

        Args:
            recipe: A recipe without free numbers, or a checkpoint.
            user: Who gets the model. Nobody can change it.
            body: Whether the head may be another one than the recipe's. It never is.

        Returns:
            The model that the engine serves, always the same object.

        Raises:
            RecipeError: If numbers of the recipe are still free.
            CheckpointError: If the recipe has other tensors than the engine.
            EngineError: If vLLM has no such architecture, or cannot be refilled with it.
            InfeasibleRecipe: If the recipe's values have no well-defined result.
            SourceChanged: If a file of the sources is not what it was when it was opened.
        """
        return steadily(lambda: self._load(recipe), checkpoints_of(recipe), self._forget)

    def look_again(self, recipe: Source) -> None:
        """Makes sure that the files of a recipe still are what they were.

        Raises:
            SourceChanged: If not.
        """
        if renew(checkpoints_of(recipe)):
            self._forget()

    def put_back(self) -> list[str]:
        """Nothing: nobody can change a served model."""
        return []

    def _forget(self) -> None:
        """Drops what was learned of the sources."""
        self._merger = Merger(self.device, compute_dtype=self._compute_dtype)

    def _load(self, recipe: Source) -> ServedModel:
        _check_served(recipe)
        whole, wanted = frame_of(recipe).whole, wanted_dtype(recipe, self.dtype)
        if self._running is None:
            dtype = wanted or model_dtype(whole.config, whole.store.specs()) or torch.float32
            self._running = whole, ServedModel(whole, dtype, self._options)
        frame, model = self._running
        check_names(whole, {name: _shaped(frame, name) for name in frame.names()}, _NEW_ENGINE)
        model.refill(self._tensors(recipe, wanted))
        return model

    def _tensors(self, recipe: Source, wanted: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
        frame = frame_of(recipe).whole
        for name, (source, own) in origins(recipe).items():
            plan = self._merger.plan(source, own)
            yield name, plan.rounded(final_dtype(frame.dtype(name), wanted))


def _check_served(recipe: Source) -> None:
    """Refuses what an engine cannot be refilled with, or only to other replies."""
    if any(".experts." in name for name in frame_of(recipe).whole.names()):
        raise EngineError(
            f"vLLM {TESTED} writes other texts once a mixture of experts was refilled, also with "
            "its own means and the same weights. Search such models with mo.Engine, e.g. without "
            "engine=."
        )
    if isinstance(recipe, Recipe) and recipe.path is not None:
        raise EngineError(
            "A layer path has another number of layers in every trial, and a running vLLM engine "
            "has one. Search layer paths with mo.Engine, e.g. without engine=."
        )


def _shaped(frame: Checkpoint, name: str) -> Tensor:
    return torch.empty(frame.shape(name), device="meta")
