"""The files that a checkpoint is known to have, how they are called, and how they are copied.

Nothing else is copied: a folder may hold anything, and what is written may be published.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from merge_optuna.checkpoints._config import read_json
from merge_optuna.errors import CheckpointError


@dataclass(frozen=True)
class Format:
    """How the files of a checkpoint are called, e.g. ``model.safetensors``.

    Attributes:
        stem: Before the first dot.
        kind: ``safetensors`` or ``bin``.
        variant: Half precision kept beside the full one, e.g. ``.fp16``.
    """

    stem: str
    kind: str
    variant: str = ""

    @property
    def weights(self) -> str:
        """The one file."""
        return f"{self.stem}{self.variant}.{self.kind}"

    @property
    def index(self) -> str:
        """Or the index of several."""
        return f"{self.stem}.{self.kind}.index{self.variant}.json"

    def shard(self, number: int, total: int) -> str:
        """One of several files."""
        return f"{self.stem}{self.variant}-{number:05}-of-{total:05}.{self.kind}"

    @property
    def written(self) -> Format:
        """What takes the place of these files when the checkpoint is written again."""
        return Format(self.stem.removeprefix("pytorch_"), "safetensors", self.variant)


PIPELINE = "model_index.json"  # what diffusers writes beside the folders of the components
TRANSFORMERS = Format("model", "safetensors")
# In the order in which transformers and diffusers look for them.
FORMATS = tuple(
    Format(stem, kind, variant)
    for variant in ("", ".fp16", ".bf16")
    for stem, kind in (
        ("model", "safetensors"),
        ("pytorch_model", "bin"),
        ("diffusion_pytorch_model", "safetensors"),
        ("diffusion_pytorch_model", "bin"),
    )
)

CONFIG_FILES = ("config.json", "generation_config.json")
PROCESSOR_FILES = (
    "audio_tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
# Vocabularies as the tokenizers of transformers name them, and those of well-known models that
# bring their own tokenizer. A pattern such as vocab* or *.model would take private files along.
VOCABULARY_FILES = (
    *("*.tiktoken", "bpe.codes", "byte_maps.json", "dict.txt", "emoji.json", "entity_vocab.json"),
    *("merges.txt", "normalizer.json", "prophetnet.tokenizer", "sentencepiece.bpe.model"),
    *("sentencepiece.model", "source.spm", "spiece.model", "spm.model", "spm_char.model"),
    *("target.spm", "target_vocab.json", "tekken.json", "tiktoken.model", "tokenizer.json"),
    *("tokenizer.model", "tokenizer.model.v[0-9]", "vocab-src.json", "vocab-tgt.json"),
    *("vocab.bpe", "vocab.json", "vocab.txt", "word_pronunciation.json", "word_shape.json"),
)
TEXT_FILES = (
    *PROCESSOR_FILES,
    *VOCABULARY_FILES,
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
WEIGHT_FILES = tuple(
    pattern
    for stem, kind in dict.fromkeys((known.stem, known.kind) for known in FORMATS)
    for pattern in (
        f"{stem}.{kind}",
        f"{stem}.*.{kind}",  # variants of diffusers, e.g. fp16 and non_ema
        f"{stem}-?????-of-?????.{kind}",
        f"{stem}.{kind}.index.json",
        f"{stem}.{kind}.index.*.json",
    )
)
# Of a component of a pipeline; the scheduler has a config of its own name.
COMPONENT_FILES = (*CONFIG_FILES, "scheduler_config.json", *TEXT_FILES)

_CODE = re.compile(r"(\w+)\.\w+")  # module.Class in an auto_map; other_repo--module.Class is not
_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)


def present(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Relative paths of what is there under names that match, links that lead nowhere too."""
    listed: dict[str, list[str]] = {}
    found: set[str] = set()
    for pattern in patterns:
        inner, slash, last = pattern.rpartition("/")
        if inner not in listed:
            listed[inner] = os.listdir(folder / inner) if (folder / inner).is_dir() else []
        found |= {f"{inner}{slash}{name}" for name in fnmatch.filter(listed[inner], last)}
    return sorted(found)


def is_known(name: str, patterns: Iterable[str]) -> bool:
    """Whether a relative path matches one of the patterns."""
    folder, _, last = name.rpartition("/")
    split = (pattern.rpartition("/") for pattern in patterns)
    return any(folder == f and fnmatch.fnmatchcase(last, known) for f, _, known in split)


def copy_known(
    folder: Path, patterns: Sequence[str], target: Path, *, root: Path | None = None
) -> None:
    """Copies the files of a folder whose names match.

    Args:
        folder: The checkpoint, or a part of it.
        patterns: Relative paths.
        target: Where to.
        root: The whole checkpoint, out of which no link may lead; ``folder`` when omitted.

    Raises:
        CheckpointError: If one of them is a link that leads out of the checkpoint.
    """
    for name in present(folder, patterns):
        file = inside(folder / name, root or folder)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / name)


def inside(path: Path, root: Path) -> Path:
    """The file at a path, links followed, which must be one of the checkpoint's own.

    Links within the checkpoint are its own, and so are those of a snapshot in the cache of the
    hub to the blobs of the same model.

    Raises:
        CheckpointError: If it lies elsewhere, or there is no file.
    """
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(place) for place in _own_places(root)):
        raise CheckpointError(
            f"'{path}' leads to '{real}', which is outside of the checkpoint, and would be "
            "copied from there. Put a copy in the place of the link, or remove the link."
        )
    if not real.is_file():
        raise CheckpointError(
            f"'{path}' cannot be copied: '{real}' is not there or is no file. Restore the "
            "checkpoint."
        )
    return real


def _own_places(root: Path) -> list[Path]:
    """The folder itself; of a snapshot (models--x/snapshots/commit) also models--x/blobs."""
    home = Path(os.path.realpath(root))
    snapshots = (place.parent for place in (home, *home.parents))
    return [home, *(place.parent / "blobs" for place in snapshots if place.name == "snapshots")]


def code_of(folder: Path, configs: Iterable[str]) -> list[str]:
    """Names of the Python files that configs name as the code of the model.

    Args:
        folder: The checkpoint.
        configs: Names of the files that may have an ``auto_map``.

    Returns:
        The files that are there, with those that they import from beside them.

    Raises:
        CheckpointError: If a config cannot be read.
    """
    return with_imports(folder, (n for config in configs for n in _auto_map(folder / config)))


def with_imports(folder: Path, modules: Iterable[str]) -> list[str]:
    """Names of the files of some modules in a folder, and of what these import from it."""
    found: dict[str, None] = {}
    waiting = list(modules)
    while waiting:
        file = folder / f"{waiting.pop()}.py"
        if file.name not in found and os.path.lexists(file):
            found[file.name] = None
            text = inside(file, folder).read_text(encoding="utf-8", errors="replace")
            waiting += _IMPORT.findall(text)
    return sorted(found)


def _auto_map(config: Path) -> Iterator[str]:
    """The modules beside a config file that it names; those of a vocabulary are none."""
    content = read_json(config) if config.name.endswith("config.json") else None
    named = (content or {}).get("auto_map")
    for value in (named if isinstance(named, dict) else {}).values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and (code := _CODE.fullmatch(one)):
                yield code[1]
