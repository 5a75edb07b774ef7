"""A checkpoint as a value: where it is, how it is called, what it contained."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from torch import nn

from merge_optuna.checkpoints._adapter import Adapter, check_chain, is_adapter, recorded_base
from merge_optuna.checkpoints._canonical import canonical
from merge_optuna.checkpoints._digest import FORM
from merge_optuna.checkpoints._files import hex_digest
from merge_optuna.checkpoints._folder import FolderStore
from merge_optuna.checkpoints._hub import snapshot, whole_snapshot
from merge_optuna.checkpoints._layers import LayerStore
from merge_optuna.checkpoints._lora import LoraStore, is_plain_lora
from merge_optuna.checkpoints._parts import ModuleOfModel, OpenedModule, open_part
from merge_optuna.checkpoints._peft import PeftStore
from merge_optuna.checkpoints._source import (
    IN_MEMORY,
    Content,
    Source,
    folder_of,
    is_hub,
    place_of,
)
from merge_optuna.checkpoints._store import ModuleStore, Store
from merge_optuna.errors import CheckpointError, few, shown


def is_name(value: object) -> bool:
    """Whether something can name a checkpoint or a recipe: parameters, masks, messages."""
    is_word = isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()
    return is_word and "/" not in str(value)


class Checkpoint(Content, BaseModel):
    """A model to merge: a folder in Hugging Face format or a model on the hub, read lazily.

    What has an ``adapter_config.json`` (peft format) is an adapter and stands for its base with
    the adapter merged. LoRA and rsLoRA are merged tensor by tensor when asked for, in float32 and
    without a rounding to the base's data type; other kinds need the ``peft`` extra and a full copy
    in memory. Config, tokenizer and the names of the tensors are the base's.

    Two checkpoints are equal when their names and digests are. The digest covers every byte of
    the tensors with their names, dtypes and shapes, and what of config, generation config,
    tokenizer, processor and chat template changes what the model does; not how the files are
    called or split. It is made when the checkpoint is opened and kept in the user's cache. A
    checkpoint that comes with a digest (from a stored recipe) is verified on first use, in the
    form in which it was recorded, so that a changed source is refused.

    Attributes:
        ref: Absolute path of the folder, the name on the hub, or ``module:<name>`` for a module
            in memory.
        name: Unique within a recipe. It keys random masks and names parameters, so give short
            names; defaults to 8 hexadecimal digits made of samples of the weights.
        digest: ``2:`` and 32 hexadecimal digits, 16 of the weights and 16 of the rest; 32 digits
            alone where an earlier version recorded it. That of an adapter covers its base too,
            that of some layers the whole checkpoint.
        revision: Commit hash of a model on the hub, so that a study reads the same files again.
        part: Component of a diffusers pipeline, e.g. ``unet``, or module of a model, e.g.
            ``language_model`` of a vision-language model, ``bert`` of a classifier. It is merged
            under the names of a model of its own, so such a model can be merged with it.
        base: The model that an adapter is put on, else None.
        layer_range: First layer and the one behind the last, of :meth:`layers`; else None.
    """

    model_config = ConfigDict(frozen=True)

    ref: str
    name: str
    digest: str
    revision: str | None = None
    part: str | None = None
    base: Checkpoint | None = None
    layer_range: tuple[int, int] | None = None
    _store: Store | None = PrivateAttr(default=None)
    _source: Source | None = PrivateAttr(default=None)
    _times: int = PrivateAttr(default=0)  # of the source, at the last look
    _whole: Checkpoint | None = PrivateAttr(default=None)

    def __init__(
        self,
        ref: str | Path,
        *,
        name: str | None = None,
        digest: str | None = None,
        revision: str | None = None,
        part: str | None = None,
        base: Checkpoint | None = None,
        layer_range: tuple[int, int] | None = None,
    ):
        """Opens a checkpoint.

        Args:
            ref: Folder with ``config.json`` and one or several files of tensors (safetensors, or
                ``pytorch_model.bin``), or with an adapter; or a name on the hub,
                ``organisation/model``, if there is no such folder.
            name: See the class.
            digest: What the content must be; read from the files when omitted.
            revision: Branch, tag or commit hash of a model on the hub; the commit is recorded.
            part: See the class; the others are copied from the base when a merge is written.
            base: Of an adapter; the ``base_model_name_or_path`` of its config when omitted.
            layer_range: See :meth:`layers`.

        Raises:
            CheckpointError: If the checkpoint is missing, is none or is damaged, or the base of an
                adapter is not found.
            CheckpointMismatch: If an adapter does not fit its base.
        """
        if name is not None and not is_name(name):
            raise CheckpointError(
                f"A checkpoint's name must be without '/', not {shown(name)}. It has up to 200 "
                "printable characters."
            )
        if base is not None and not isinstance(base, Checkpoint):
            raise CheckpointError(f"base must be a Checkpoint: base=mo.Checkpoint({base!r}).")
        place, source = place_of(ref, revision), None
        if digest is None or (name is None and str(digest).startswith(FORM)):
            if is_hub(place):
                revision = snapshot(place, revision, part=part).name
            base = base or _found_base(place, revision)
            part = part if base is None else base.part
            source = _opened(place, name, revision, part, base)
            name, digest = name or source.store.digest("")[:8], digest or source.digest
        try:
            super().__init__(
                ref=place,
                name=name or str(digest)[:8],
                digest=digest,
                revision=revision,
                part=part,
                base=base,
                layer_range=layer_range,
            )
        except ValidationError as error:
            wrong = few([f"{e['loc'][0]}: {e['msg']}" for e in error.errors()])
            raise CheckpointError(f"{shown(name)} is not a checkpoint: {wrong}.") from error
        if source is not None:
            self._take(source)

    @classmethod
    def from_module(cls, module: nn.Module, *, name: str) -> Checkpoint:
        """A checkpoint from a module in memory; the module is copied.

        A stored recipe can only name such a source. To rebuild or export from another process,
        pass it again: ``mo.export(study, folder, sources={name: checkpoint})``.
        """
        source = Source(ModuleStore(copy.deepcopy(module).cpu().requires_grad_(False)))
        self = cls(f"{IN_MEMORY}{name}", name=name, digest=source.digest)
        self._take(source)
        return self

    def layers(self, start: int, stop: int, *, name: str | None = None) -> Self:
        """The model with its layers ``start`` to ``stop - 1`` only, numbered from 0.

        Nothing is read or copied. Embedding, final norm and head stay.

        Args:
            start: The first layer.
            stop: The one behind the last; ``start`` for none, which leaves what is outside.
            name: ``NAME[start:stop]`` when omitted, counted in the whole model.

        Raises:
            CheckpointError: If there are no such layers.
        """
        store = LayerStore(self.store, start, stop)
        first = 0 if self.layer_range is None else self.layer_range[0]
        chosen = (first + start, first + stop)
        own = name or self.whole_name + _suffix(chosen)
        view = self.model_copy(update={"name": own, "layer_range": chosen})
        view._store = store
        return view

    @property
    def all_layers(self) -> Checkpoint:
        """The whole model, of which these are some layers; itself where it is that."""
        if self.layer_range is None:
            return self
        whole = self.model_copy(update={"name": self.whole_name, "layer_range": None})
        _, source = self.store, self._source  # opens it
        assert source is not None
        whole._store = source.store
        return whole

    @property
    def whole_name(self) -> str:
        """The name of the whole model, of which these are some layers."""
        return self.name.removesuffix(_suffix(self.layer_range)) if self.layer_range else self.name

    def holding(self, store: Store, *, name: str, digest: str) -> Checkpoint:
        """This place with a content that was made from it, which no recipe can name."""
        made = self.model_copy(update={"name": name, "digest": digest})
        made._store, made._source, made._whole = store, None, None
        return made

    def __eq__(self, other: object) -> bool:
        """Equal when name and content are: the place does not matter."""
        if not isinstance(other, Checkpoint):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        return self.name, self.digest, self.layer_range

    def __repr__(self) -> str:
        return f"Checkpoint({self.ref!r}, name={self.name!r})"

    @property
    def folder(self) -> Path | None:
        """The folder of config and weights, or None for a module in memory.

        For an adapter that of its base. A model on the hub is downloaded first.
        """
        if self.base is not None:
            return self.base.folder
        if self.ref.startswith(IN_MEMORY):
            return None
        if Path(self.ref).is_absolute() and self.part is None:
            return Path(self.ref)
        return self.store.folder

    @property
    def root(self) -> Path | None:
        """The folder of all parts; the same as :attr:`folder` without ``part``."""
        if self.part is None:
            return self.folder
        if self.base is not None:
            return self.base.root
        return whole_snapshot(self.ref, self.revision) if is_hub(self.ref) else Path(self.ref)

    @property
    def tokenizer_folder(self) -> Path | None:
        """The folder of the tokenizer whose ids are the numbers of its rows; None if unknown."""
        return self.folder

    @property
    def whole(self) -> Checkpoint:
        """The model that this is a module of; itself where it is a model of its own."""
        store = self.store
        if not isinstance(store, ModuleOfModel):
            return self
        if self._whole is None:
            whole = Checkpoint(
                self.ref,
                name=self.name,
                digest=self._digest_of_whole(store),
                revision=self.revision,
            )
            whole._store = store.whole
            self._whole = whole
        return self._whole

    def _digest_of_whole(self, store: ModuleOfModel) -> str:
        """That of the model in the folder; another one where the module was changed."""
        if isinstance(store, OpenedModule):
            return store.whole.digest()
        text = f"whole of {self.digest} {self.layer_range}"
        return hex_digest([text.encode()])

    @property
    def name_in_whole(self) -> Mapping[str, str]:
        """The name in :attr:`whole` of each tensor."""
        store = self.store
        if isinstance(store, ModuleOfModel):
            return store.names
        return {name: name for name in self.names()}

    @property
    def module(self) -> nn.Module | None:
        """The copied module of :meth:`from_module`, else None; not to be written to.

        For an adapter on such a module, the module without the adapter.
        """
        if self.base is not None:
            return self.base.module
        return self.store.module if isinstance(self.store, ModuleStore) else None

    @property
    def origin(self) -> Checkpoint:
        """The checkpoint that this one is a view of; else itself."""
        return self

    def _open(self) -> Store:
        place = Path(self.ref)
        if place.is_absolute() and not place.exists():
            raise CheckpointError(
                f"{self.name!r} was recorded at {self.ref!r}, where nothing is now. Restore "
                f"it, or say where it is now: sources={{{self.name!r}: folder}} "
                f"(--source {self.name}=DIR)."
            )
        return self._take(_opened(self.ref, self.name, self.revision, self.part, self.base))

    def _take(self, source: Source) -> Store:
        """Keeps what was opened, if it is what was recorded; the part of it that this is."""
        source.check(self.ref, self.name, self.digest)
        whole: Store = source.store
        self._source = source
        self._store = whole if self.layer_range is None else LayerStore(whole, *self.layer_range)
        return self._store

    def recorded_like(self, other: Checkpoint) -> Checkpoint:
        """The same checkpoint with its digest in the form that ``other`` was recorded in."""
        digest, base = self.digest_like(other.digest), self.base
        if base is not None and other.base is not None:
            base = base.recorded_like(other.base)
        if digest == self.digest and base is self.base:
            return self
        return self.model_copy(update={"digest": digest, "base": base})

    def at(self, ref: str | Path) -> Checkpoint:
        """The same checkpoint after it was moved.

        Raises:
            CheckpointError: If there is none; whether it is the same shows on comparison.
        """
        fields = {n: getattr(self, n) for n in ("name", "part", "base", "layer_range")}
        return Checkpoint(ref, **fields)

    def on(self, base: Checkpoint) -> Checkpoint:
        """The adapter on its base given again, e.g. a module of another process."""
        fields = {n: getattr(self, n) for n in type(self).model_fields if n != "base"}
        return Checkpoint(**fields, base=base)

    def places(self) -> tuple[Path, ...]:
        """Every folder that is read."""
        own = (Path(self.ref),) if Path(self.ref).is_absolute() else ()
        if self.base is not None:
            return own + self.base.places()
        return own if own or self.folder is None else (self.folder,)


def _suffix(layer_range: tuple[int, int]) -> str:
    return f"[{layer_range[0]}:{layer_range[1]}]"


def _found_base(place: str, revision: str | None) -> Checkpoint | None:
    """The base that an adapter names, or None if ``place`` is no adapter."""
    if place.startswith(IN_MEMORY) or not is_adapter(folder_of(place, revision)):
        return None
    named, commit = recorded_base(folder_of(place, revision))
    try:
        check_chain(folder_of(place, revision))
        return Checkpoint(named, revision=None if os.path.exists(named) else commit)
    except CheckpointError as error:
        raise CheckpointError(
            f"The adapter {place!r} was trained on {shown(named)}, which cannot be opened: "
            f"{error} Or pass the base: mo.Checkpoint(adapter, base=mo.Checkpoint(...))."
        ) from error


def _opened(
    place: str,
    name: str | None,
    revision: str | None,
    part: str | None,
    base: Checkpoint | None,
) -> Source:
    """Opens what is at a place: the one function that knows all kinds of sources."""
    if base is not None:
        adapter = Adapter(folder_of(place, revision))
        kind = LoraStore if is_plain_lora(adapter) else PeftStore
        return Source(kind(base.store, adapter, base.digest_like))
    if place.startswith(IN_MEMORY):
        raise CheckpointError(
            f"{name!r} was a module in memory. Pass it again: sources={{{name!r}: "
            "mo.Checkpoint.from_module(...)}."
        )
    folder = folder_of(place, revision, part)
    return Source(canonical(FolderStore(folder)) if part is None else open_part(folder, part))
