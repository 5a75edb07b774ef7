"""How the files of a checkpoint are called."""

from __future__ import annotations

from dataclasses import dataclass


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
