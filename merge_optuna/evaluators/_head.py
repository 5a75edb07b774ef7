"""A task head of one checkpoint around the live encoder of another model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import EvaluationError, few


class Head:
    """The tensors of a checkpoint outside its ``base_model_prefix``.

    The head keeps its own class and config (number of labels, ``label2id``, dropout, ...). It is
    put around the live model's encoder without copying or changing anything of that model.
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
            EvaluationError: If ``model`` has no encoder, i.e. is not a transformers model.
        """
        encoder = getattr(model, "base_model", None)
        if not isinstance(encoder, nn.Module):
            raise EvaluationError(
                f"head={self.checkpoint.name!r} needs a transformers model to sit on, but the "
                f"live model is a {type(model).__name__}."
            )
        parameter = next(encoder.parameters())
        frame = self._placed(parameter.device, parameter.dtype)
        # A shell of its own for every call, so that two models can be scored in turns; copy.copy
        # alone would share the dict of submodules.
        shell: nn.Module = copy.copy(frame)
        shell._modules = {**frame._modules, frame.base_model_prefix: encoder}
        return shell

    def _placed(self, device: torch.device, dtype: torch.dtype) -> Any:
        if self._copy is None or self._copy[0] != (device, dtype):
            # from the original: a head that was once rounded to bfloat16 would stay so
            self._copy = (device, dtype), copy.deepcopy(self._frame).to(device, dtype)
        return self._copy[1]


def _frame(checkpoint: Checkpoint) -> Any:
    """The head's model with a hole in the place of its encoder."""
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
    tensors = {name: checkpoint.tensor(name).clone() for name in names}
    frame.load_state_dict(tensors, strict=False, assign=True)
    setattr(frame, prefix, nn.Identity())
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
