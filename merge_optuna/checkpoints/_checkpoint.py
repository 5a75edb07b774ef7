"""A checkpoint as a value: where it is, how it is called, what it contained."""

from __future__ import annotations

import copy
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from torch import Tensor, nn

from merge_optuna.checkpoints._adapter import (
    Adapter,
    AdapterStore,
    check_chain,
    is_adapter,
    recorded_base,
)
from merge_optuna.checkpoints._canonical import canonical
from merge_optuna.checkpoints._digest import FORM, digest_of, halves
from merge_optuna.checkpoints._files import Stamp, first_changed
from merge_optuna.checkpoints._folder import FolderStore
from merge_optuna.checkpoints._hub import is_hub_id, snapshot, whole_snapshot
from merge_optuna.checkpoints._layers import LayerStore, depth_of
from merge_optuna.checkpoints._lora import LoraStore, is_plain_lora
from merge_optuna.checkpoints._parts import ModuleOfModel, OpenedModule, open_part
from merge_optuna.checkpoints._peft import PeftStore
from merge_optuna.checkpoints._sampled import sampled_digest
from merge_optuna.checkpoints._store import ModuleStore, Opened, Store
from merge_optuna.errors import CheckpointError, SourceChanged, few, shown

_IN_MEMORY = "module:"


def is_name(value: object) -> bool:
    """Whether something can name a checkpoint or a recipe: parameters, masks, messages."""
    is_word = isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()
    return is_word and "/" not in str(value)


class Checkpoint(BaseModel):
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
    _opened: Opened | AdapterStore | None = PrivateAttr(default=None)
    _stamps: dict[Path, Stamp] = PrivateAttr(default_factory=dict)
    _content: str = PrivateAttr(default="")
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
        place = _place(ref, revision)
        opened, content = None, ""
        if digest is None or (name is None and str(digest).startswith(FORM)):
            if _is_hub(place):
                revision = snapshot(place, revision, part=part).name
            base = base or _found_base(place, revision)
            part = part if base is None else base.part
            opened = _open(place, name, revision, part, base)
            content = _full(opened, base)
            name, digest = name or _sampled(opened, base)[:8], digest or content
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
        if opened is not None:
            self._take(opened, content)

    @classmethod
    def from_module(cls, module: nn.Module, *, name: str) -> Checkpoint:
        """A checkpoint from a module in memory; the module is copied.

        A stored recipe can only name such a source. To rebuild or export from another process,
        pass it again: ``mo.export(study, folder, sources={name: checkpoint})``.
        """
        store = ModuleStore(copy.deepcopy(module).cpu().requires_grad_(False))
        content = _full(store, None)
        self = cls(f"{_IN_MEMORY}{name}", name=name, digest=content)
        self._take(store, content)
        return self

    def layers(self, start: int, stop: int, *, name: str | None = None) -> Checkpoint:
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
    def depth(self) -> int:
        """Number of layers.

        Raises:
            CheckpointError: If they are not one stack, numbered from 0.
        """
        return depth_of(self.store)

    @property
    def all_layers(self) -> Checkpoint:
        """The whole model, of which these are some layers; itself where it is that."""
        if self.layer_range is None:
            return self
        _ = self.store  # opens it
        whole = self.model_copy(update={"name": self.whole_name, "layer_range": None})
        whole._store = whole._opened
        return whole

    @property
    def whole_name(self) -> str:
        """The name of the whole model, of which these are some layers."""
        return self.name.removesuffix(_suffix(self.layer_range)) if self.layer_range else self.name

    def holding(self, store: Store, *, name: str, digest: str) -> Checkpoint:
        """This place with a content that was made from it, which no recipe can name."""
        made = self.model_copy(update={"name": name, "digest": digest})
        made._store, made._opened, made._whole = store, None, None
        return made

    def _seen(self, whole: Store) -> Store:
        """The part of the content that this is."""
        return whole if self.layer_range is None else LayerStore(whole, *self.layer_range)

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
        if self.ref.startswith(_IN_MEMORY):
            return None
        if Path(self.ref).is_absolute() and self.part is None:
            return Path(self.ref)
        return getattr(self.store, "folder", None)

    @property
    def root(self) -> Path | None:
        """The folder of all parts; the same as :attr:`folder` without ``part``."""
        if self.part is None:
            return self.folder
        if self.base is not None:
            return self.base.root
        return whole_snapshot(self.ref, self.revision) if _is_hub(self.ref) else Path(self.ref)

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
            return _full(store.whole, None)
        text = f"whole of {self.digest} {self.layer_range}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

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

    @property
    def config(self) -> dict[str, Any] | None:
        """The content of ``config.json``, or None if there is none."""
        return self.store.config

    @property
    def store(self) -> Store:
        """The opened content; opens and verifies the folder on first use.

        Raises:
            CheckpointError: If the folder cannot be read or its content has changed.
        """
        if self._store is None:
            self._check_place()
            opened = _open(self.ref, self.name, self.revision, self.part, self.base)
            self._take(opened, _full(opened, self.base))
        assert self._store is not None
        return self._store

    def _take(self, opened: Opened | AdapterStore, content: str) -> None:
        """Keeps what was opened, if it is what was recorded.

        Its digest is kept in full, however it was recorded: a change during a search is noticed.
        """
        form = _form_of(self.digest)
        found = content if form is _full else form(opened, self.base)
        if found != self.digest:
            raise SourceChanged(
                f"The content of {self.ref!r} has changed: {_differing(self.digest, found)}, "
                f"but {self.name!r} was recorded as {self.digest}. Restore the checkpoint, or "
                "start a new study with the new content."
            )
        self._content, self._stamps = content, opened.stamps()
        if changed := first_changed(self._stamps):
            raise SourceChanged(
                f"{changed[0]} {changed[1]} while it was read. Wait until {self.name!r} is "
                "complete, and open it again."
            )
        self._opened = opened
        self._store = self._seen(opened)

    @property
    def touched(self) -> tuple[Path, str] | None:
        """The first file that is not as it was opened, and what has happened to it."""
        inner = None if self.base is None else self.base.touched
        return inner or first_changed(self._stamps)

    def renew(self) -> bool:
        """Opens the files again if one was touched, and makes sure that they say the same.

        Returns:
            Whether a file was touched: what was made of the old ones must be made again.

        Raises:
            SourceChanged: If the content is another, or cannot be read.
        """
        touched, opened = self.touched, self._opened
        if self.base is not None:
            self.base.renew()
        if touched is None or opened is None:
            return touched is not None
        file, what = touched
        try:
            opened.reopen()
            found = _full(opened, self.base)
        except (CheckpointError, OSError) as error:
            raise _changed(self.name, file, what, "it cannot be opened again") from error
        if found != self._content:
            raise _changed(self.name, file, what, _differing(self._content, found))
        self._stamps = opened.stamps()
        warnings.warn(
            f"{file} {what} since {self.name!r} was opened. All of it was read again: the content "
            "is the same, so the search goes on.",
            stacklevel=2,
        )
        return True

    def digest_like(self, recorded: str) -> str:
        """The digest in the form in which another one was recorded, maybe by an earlier version.

        Raises:
            CheckpointError: If a newer version has recorded it.
        """
        form = _form_of(recorded)
        if form is _form_of(self.digest) or self.store is None or self._opened is None:
            return self.digest
        return form(self._opened, self.base)

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

    def _check_place(self) -> None:
        place = Path(self.ref)
        if place.is_absolute() and not place.exists():
            raise CheckpointError(
                f"{self.name!r} was recorded at {self.ref!r}, where nothing is now. Restore "
                f"it, or say where it is now: sources={{{self.name!r}: folder}} "
                f"(--source {self.name}=DIR)."
            )

    def names(self) -> tuple[str, ...]:
        """Names of all tensors, tied ones once."""
        return tuple(self.store.specs())

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.store.specs()[name][1]

    def dtype(self, name: str) -> torch.dtype:
        """Data type of a tensor in the checkpoint."""
        return self.store.specs()[name][0]

    def tensor(self, name: str) -> Tensor:
        """A tensor, mapped from disk where possible; not to be written to."""
        return self.store.tensor(name)


def _suffix(layer_range: tuple[int, int]) -> str:
    return f"[{layer_range[0]}:{layer_range[1]}]"


def _place(ref: str | Path, revision: str | None) -> str:
    """The absolute path of a folder, the name of a model on the hub or of a module."""
    if not isinstance(ref, str | Path):
        raise CheckpointError(f"A checkpoint is a folder or a name on the hub, not {shown(ref)}.")
    text = str(ref)
    if text.startswith(_IN_MEMORY):
        return text
    try:
        path = Path(ref).expanduser().absolute()
        is_there = path.exists()
    except (OSError, RuntimeError) as error:  # RuntimeError: no such home
        said = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{shown(text)} is no path: {said}. Check it.") from error
    # A revision makes it a model on the hub, whatever folders there are where it is opened again.
    if revision is None and is_there:
        return str(path)
    named = isinstance(ref, str) and is_hub_id(ref)
    if revision is not None and not named:
        raise CheckpointError(
            f"{text!r} is a path, and revision={revision!r} is for models on the hub. Leave "
            "revision= out."
        )
    return text if named else str(path)


def _is_hub(place: str) -> bool:
    return not (place.startswith(_IN_MEMORY) or Path(place).is_absolute())


def _folder(place: str, revision: str | None, part: str | None = None) -> Path:
    return snapshot(place, revision, part=part) if _is_hub(place) else Path(place)


def _found_base(place: str, revision: str | None) -> Checkpoint | None:
    """The base that an adapter names, or None if ``place`` is no adapter."""
    if place.startswith(_IN_MEMORY) or not is_adapter(_folder(place, revision)):
        return None
    named, commit = recorded_base(_folder(place, revision))
    try:
        check_chain(_folder(place, revision))
        return Checkpoint(named, revision=None if os.path.exists(named) else commit)
    except CheckpointError as error:
        raise CheckpointError(
            f"The adapter {place!r} was trained on {shown(named)}, which cannot be opened: "
            f"{error} Or pass the base: mo.Checkpoint(adapter, base=mo.Checkpoint(...))."
        ) from error


def _full(opened: Opened | AdapterStore, base: Checkpoint | None) -> str:
    if isinstance(opened, AdapterStore):
        assert base is not None
        return opened.adapter.digest(base.digest_like(FORM))
    return digest_of(opened.weights(), opened.texts())


def _sampled(opened: Opened | AdapterStore, base: Checkpoint | None) -> str:
    if isinstance(opened, AdapterStore):
        assert base is not None
        return opened.adapter.sampled_digest(base.digest_like(""))
    return sampled_digest(opened)


_Form = Callable[[Opened | AdapterStore, "Checkpoint | None"], str]
_FORMS: dict[str, _Form] = {FORM: _full, "": _sampled}


def _form_of(digest: str) -> _Form:
    """How a digest was made.

    Raises:
        CheckpointError: If a newer version made it.
    """
    before, colon, _ = digest.rpartition(":")
    if before + colon not in _FORMS:
        raise CheckpointError(
            f"The digest {digest!r} was recorded by a newer version of merge_optuna. Update this "
            "one: pip install -U merge_optuna."
        )
    return _FORMS[before + colon]


def _differing(recorded: str, found: str) -> str:
    """What differs between two digests of the same form."""
    if not found.startswith(FORM):
        return f"its digest is {found}"
    parts = ("the weights", "config, tokenizer or other texts")
    pairs = zip(parts, halves(recorded), halves(found), strict=True)
    differing = " and ".join(part for part, old, new in pairs if old != new)
    return f"{differing} differ: its digest is {found}"


def _changed(name: str, file: Path, what: str, now: str) -> SourceChanged:
    return SourceChanged(
        f"{file} {what} since {name!r} was opened, and {now}. Nothing that was made of it is "
        "kept. Restore the file and start again, or open the checkpoint anew, in a new study."
    )


def _open(
    place: str,
    name: str | None,
    revision: str | None,
    part: str | None,
    base: Checkpoint | None,
) -> Opened | AdapterStore:
    """The one place that knows all kinds of sources."""
    if base is not None:
        adapter = Adapter(_folder(place, revision))
        return (LoraStore if is_plain_lora(adapter) else PeftStore)(base.store, adapter)
    if place.startswith(_IN_MEMORY):
        raise CheckpointError(
            f"{name!r} was a module in memory. Pass it again: sources={{{name!r}: "
            "mo.Checkpoint.from_module(...)}."
        )
    folder = _folder(place, revision, part)
    return canonical(FolderStore(folder)) if part is None else open_part(folder, part)
