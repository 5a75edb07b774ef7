"""Writes a merged model to a folder, streaming."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merge_optuna._bar import ProgressBar
from merge_optuna.checkpoints import (
    BY_ID,
    Checkpoint,
    Parts,
    Vocabulary,
    WritePlan,
    renew,
    write_checkpoint,
    write_checkpoints,
)
from merge_optuna.engine._card import PICTURE, Told, model_card, picture
from merge_optuna.engine._contents import Content, checked_heads, merged, under_head
from merge_optuna.engine._frame import Source, checkpoints_of, frame_of, wanted_dtype
from merge_optuna.engine._tensors import Merger
from merge_optuna.errors import CheckpointError, ExportError, RecipeError, SourceChanged
from merge_optuna.recipes import Panel, Recipe

_NARROW = (torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)


def write(
    recipe: Source,
    folder: str | Path,
    *,
    force: bool = False,
    dtype: torch.dtype | str | None = None,
    tokenizer: str | None = None,
    device: torch.device | str = "cpu",
    compute_dtype: torch.dtype | str | None = None,
    max_shard_size: int = 5_000_000_000,
    trust_remote_code: bool = False,
    score: Mapping[str, Any] | None = None,
    command: str | None = None,
    heads: Mapping[str, Checkpoint | None] | None = None,
    comparison: str | None = None,
    panels: Sequence[Panel] = (),
) -> Path:
    """Writes a merged model as a Hugging Face checkpoint.

    Tensors are computed and written one at a time. The folder holds the safetensors files, config
    and generation config of the base, tokenizer, processor and chat template files, a model card
    with a picture of the recipe (``recipe.svg``), ``recipe.yaml``, and ``mergekit_config.yml`` if
    mergekit can do the same. It appears at its place only when it is complete.

    With heads there is a folder in it for each: a model as the checkpoint of the head is one, with
    its labels and tokenizer, but with the merged model inside. The files of what they share are
    hard links to one, where the file system can: copy a folder before you change files in it.

    Args:
        recipe: A recipe without free numbers, or a checkpoint.
        folder: Where to.
        force: Replace an earlier export. A folder that holds anything else is never replaced.
        dtype: Data type of float tensors; the recipe's when omitted, or else that of the base.
        tokenizer: Name of the source whose tokenizer files are copied; the base when omitted.
        device: Where to compute.
        compute_dtype: Data type of the computation: float32 when omitted, or float64.
        max_shard_size: Bytes per safetensors file.
        trust_remote_code: Also copy the Python files that the configs name as the code of model
            or tokenizer. Read them first: whoever loads the model with this option runs them.
        score: Results by name, for the model card.
        command: How to make this model again, for the model card.
        heads: Checkpoints with the heads that the merged model is written under, by name of the
            folder, e.g. ``{"mr": mr, "subj": subj}``; None for the merged model as it is.
        comparison: Of its score with others, in Markdown, for the model card.
        panels: What the picture of the model card shows, where that is more than the recipe says.

    Returns:
        The folder.

    Raises:
        ExportError: If a head does not fit; if the folder holds a source; if it is not empty and
            ``force`` is not set, or holds anything but an earlier export; if a value is out of
            the range of the data type; or if the disk is full. What was there is untouched.
        SourceChanged: If a file of a source is not what it was when it was opened.
        CheckpointError: If a file to be copied is a link that leads out of its checkpoint.
        RecipeError: If numbers are still free, or no source is called ``tokenizer``.
    """
    folder = Path(os.path.realpath(Path(folder).expanduser()))
    heads = checked_heads(heads)
    read = (*checkpoints_of(recipe), *(head for head in heads.values() if head is not None))
    renew(read)
    _check_not_a_source(read, folder)
    out = wanted_dtype(recipe, dtype)
    contents = {
        name: merged(recipe, out) if head is None else under_head(recipe, head, out)
        for name, head in (heads or {folder.name: None}).items()
    }
    merger = Merger(device, compute_dtype=compute_dtype, keep=False)
    told = Told(score or {}, command, comparison, panels)
    total = sum(len(content.specs) for content in contents.values())
    with ProgressBar(desc="Writing", total=total, delay=2, leave=False, unit="tensor") as bar:

        def plan(name: str, content: Content) -> tuple[WritePlan, Parts]:
            whose = content.tokenizer if tokenizer is None else _source(recipe, tokenizer)
            texts = {"README.md": model_card(recipe, name, told, heads.get(name))}
            texts |= _texts(recipe, told, out, as_it_is=heads.get(name) is None)
            specs, common = content.specs, content.common
            how = content.frame, whose, specs, texts, max_shard_size, trust_remote_code, common
            return WritePlan(*how), _parts(content, merger, bar)

        plans = {name: plan(name, content) for name, content in contents.items()}
        check, threads = partial(_check_untouched, read), merger.threads(recipe)
        if heads:
            card = {"README.md": model_card(recipe, folder.name, told)}
            card |= _texts(recipe, told, out, as_it_is=False)
            write_checkpoints(folder, plans, card, check=check, force=force, threads=threads)
        else:
            [(whole, parts)] = plans.values()
            write_checkpoint(folder, whole, parts, check=check, force=force, threads=threads)
    return folder


def _parts(content: Content, merger: Merger, bar: Any) -> Parts:
    """The tensors of a model, computed one after the other."""
    final = {spec.name: spec.dtype for spec in content.specs}

    def parts(name: str) -> Iterator[Tensor]:
        source, own = content.origins[name]
        for part in merger.plan(source, own).parts(final[name]):
            _check_range(source, own, part)
            yield part
        bar.update()

    return parts


def _texts(
    recipe: Source, told: Told, dtype: torch.dtype | None, *, as_it_is: bool
) -> dict[str, str]:
    """The recipe, and what else goes with a model: of one under another head mergekit has none."""
    if not isinstance(recipe, Recipe):
        return {}
    texts = {"recipe.yaml": recipe.to_yaml()}
    texts |= _for_mergekit(recipe, dtype) if as_it_is else {}
    if (template := recipe.chat_template_text()) is not None:
        texts["chat_template.jinja"] = template
    if (drawn := picture(recipe, told)) is not None:
        texts[PICTURE] = drawn
    return texts


def _check_untouched(read: Sequence[Checkpoint]) -> None:
    """Refuses what was read while somebody wrote to it, even if it is now what it was."""
    if renew(read):
        raise SourceChanged(
            "A source was written to while it was merged. Write the merge again; the folder is "
            "as it was before."
        )


def _for_mergekit(recipe: Recipe, dtype: torch.dtype | None) -> dict[str, str]:
    """The configuration with which mergekit makes the same model, if there is one."""
    final = {} if dtype is None else {"dtype": str(dtype).removeprefix("torch.")}
    try:
        return {"mergekit_config.yml": recipe.with_fields(**final).to_mergekit()}
    except (RecipeError, CheckpointError):  # it says what mergekit cannot
        return {}


def _check_range(recipe: Source, name: str, part: Tensor) -> None:
    """Refuses numbers that the data type of the file does not reach, stored as infinity or NaN."""
    is_copied = isinstance(recipe, Checkpoint) or name in recipe.alignment.copied
    if part.dtype not in _NARROW or (is_copied and part.dtype == frame_of(recipe).dtype(name)):
        return
    if not torch.isfinite(part.float()).all():
        raise ExportError(
            f"{name} has values beyond {torch.finfo(part.dtype).max:g}, which "
            f"{str(part.dtype).removeprefix('torch.')} does not reach. Write it as dtype="
            "'bfloat16' or 'float32'."
        )


def _leaves(recipe: Source) -> tuple[Checkpoint, ...]:
    return recipe.leaves() if isinstance(recipe, Recipe) else (recipe,)


def _check_not_a_source(read: Sequence[Checkpoint], folder: Path) -> None:
    for source in read:
        files = (file for place in source.places() for file in (place, *place.glob("*")))
        real = (Path(os.path.realpath(file)) for file in files)  # loops of links, too
        if any(file.is_relative_to(folder) for file in real):
            raise ExportError(
                f"The folder {str(folder)!r} holds {source.name!r}, a source of this merge. "
                "Choose another one."
            )


def _source(recipe: Source, name: str | None) -> Checkpoint:
    if name is None:
        return frame_of(recipe).whole
    if isinstance(recipe, Recipe) and recipe.tokenizer not in (None, Vocabulary(BY_ID)):
        raise RecipeError(
            f"The recipe has a tokenizer of its own ({recipe.tokenizer.source!r}), which the "
            f"weights fit. Leave out tokenizer={name!r}."
        )
    for leaf in _leaves(recipe):
        if leaf.name == name:
            return leaf
    raise RecipeError(
        f"No source is called {name!r}; tokenizer must be one of "
        f"{', '.join(leaf.name for leaf in _leaves(recipe))}."
    )
