"""A task head of one checkpoint around the live encoder of another model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import EvaluationError, few

_POOLER = "pooler"
_SHAPES = "model_type", "hidden_size"  # of a config: what a head sits on


class Head:
    """The tensors of a checkpoint outside its ``base_model_prefix``.

    The head keeps its own class and config (number of labels, ``label2id``, dropout, ...). It is
    put around the live model's encoder without copying or changing anything of that model. A
    pooler, which is trained with a head, comes with it where the live encoder has none, as that of
    a masked language model.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        if not isinstance(checkpoint, Checkpoint):
            raise EvaluationError(
                f"head must be a Checkpoint: head=mo.Checkpoint({checkpoint!r})."
            )
        self.checkpoint = checkpoint
        self._frame = _frame(checkpoint)
        self._copy: tuple[tuple[torch.device, torch.dtype], Any] | None = None

    def digest(self) -> dict[str, str]:
        """What a search is not continued without."""
        # "head" is what earlier versions have stored, and is compared with.
        head = self.checkpoint
        return {"head": head.digest_like(""), "head_content": head.digest}

    def on(self, model: nn.Module) -> nn.Module:
        """Returns a model that runs this head on the encoder of ``model``, which it shares.

        Raises:
            EvaluationError: If ``model`` has no encoder, i.e. is not a transformers model, or one
                that the head was not made for.
        """
        encoder = getattr(model, "base_model", None)
        if not isinstance(encoder, nn.Module):
            raise EvaluationError(
                f"head={self.checkpoint.name!r} needs a transformers model to sit on, but the "
                f"live model is a {type(model).__name__}."
            )
        self._check_fits(encoder)
        parameter = next(encoder.parameters())
        frame = self._placed(parameter.device, parameter.dtype)
        # Shells of their own for every call, so that two models can be scored in turns.
        prefix = frame.base_model_prefix
        pooler = frame._modules[prefix]._modules.get(_POOLER)
        if pooler is not None and getattr(encoder, _POOLER, None) is None:
            encoder = _with(encoder, _POOLER, pooler)
        return _with(frame, prefix, encoder)

    def _check_fits(self, encoder: nn.Module) -> None:
        mine, live = self._frame.config, getattr(encoder, "config", None)
        for name in _SHAPES:
            wanted, found = getattr(mine, name, None), getattr(live, name, None)
            if None not in (wanted, found) and wanted != found:
                raise EvaluationError(
                    f"The head of {self.checkpoint.name!r} ({self.checkpoint.ref}) is for models "
                    f"with {name}={wanted!r}, but the merged model has {found!r}. Heads are those "
                    "of models of one architecture."
                )

    def _placed(self, device: torch.device, dtype: torch.dtype) -> Any:
        if self._copy is None or self._copy[0] != (device, dtype):
            # from the original: a head that was once rounded to bfloat16 would stay so
            self._copy = (device, dtype), copy.deepcopy(self._frame).to(device, dtype)
        return self._copy[1]


def heads_of(evaluator: Any) -> dict[str, Checkpoint | None]:
    """Whose head an evaluator puts on a model for each task, by name; None for the model's own.

    It says so by ``heads``, or has one ``head``.
    """
    head = getattr(evaluator, "head", None)
    own = {head.checkpoint.name: head.checkpoint} if isinstance(head, Head) else {}
    return dict(getattr(evaluator, "heads", own))


def has_all_heads(evaluator: Any) -> bool:
    """Whether no head of a model counts, as an evaluator has one of its own for every task."""
    heads = heads_of(evaluator)
    return bool(heads) and None not in heads.values()


def _with(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """A model that shares everything with another but one of its modules."""
    shell: nn.Module = copy.copy(model)
    shell.__dict__.pop(name, None)  # None, where a model goes without
    shell._modules = {**model._modules, name: module}  # copy.copy alone would share this dict
    return shell


def _frame(checkpoint: Checkpoint) -> Any:
    """The head's model with a hole in the place of its encoder, but for the pooler."""
    cls, config = architecture(checkpoint)
    with torch.device("meta"):
        frame = cls(cls.config_class.from_dict(config))
    prefix = frame.base_model_prefix
    names = [name for name in frame.state_dict() if not name.startswith(f"{prefix}.")]
    if not hasattr(frame, prefix) or not names:
        raise EvaluationError(
            f"Checkpoint {checkpoint.name!r} ({cls.__name__}) has no task head: it has no tensors "
            f"outside {prefix!r}. Pass a checkpoint fine-tuned with a head."
        )
    missing = sorted(set(names) - set(checkpoint.names()))
    if missing:
        raise EvaluationError(
            f"Checkpoint {checkpoint.name!r} lacks {len(missing)} of the {len(names)} tensors of "
            f"its head ({cls.__name__}): {few(missing)}. Pass a checkpoint fine-tuned with a head."
        )
    pooled = [n for n in frame.state_dict() if n.startswith(f"{prefix}.{_POOLER}.")]
    pooled = [name for name in pooled if name in checkpoint.names()]
    tensors = {name: checkpoint.tensor(name).clone() for name in names + pooled}
    frame.load_state_dict(tensors, strict=False, assign=True)
    hole = nn.Module()
    if pooled:
        hole.add_module(_POOLER, getattr(frame, prefix).pooler)
    setattr(frame, prefix, hole)
    return frame.requires_grad_(False).eval()


def architecture(checkpoint: Checkpoint) -> tuple[Any, dict[str, Any]]:
    """The transformers class and the config of a checkpoint.

    Raises:
        EvaluationError: If transformers has no such class.
    """
    import transformers

    config = checkpoint.config or {}
    if checkpoint.module is not None and checkpoint.config is not None:
        return type(checkpoint.module), config
    for name in config.get("architectures") or []:
        if hasattr(transformers, name):
            return getattr(transformers, name), config
    raise EvaluationError(
        f"The config of checkpoint {checkpoint.name!r} names no architecture that transformers "
        f"knows ({config.get('architectures')}), so its model cannot be built. Save the "
        "fine-tuned model with save_pretrained()."
    )
