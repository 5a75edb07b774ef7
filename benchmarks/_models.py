"""Llama-shaped checkpoints with random weights: a base and models near it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPES = {
    "270m": {"hidden": 1024, "mlp": 2816, "layers": 16, "heads": 16, "vocab": 32000},
    "270m x4 layers": {"hidden": 1024, "mlp": 2816, "layers": 64, "heads": 16, "vocab": 32000},
    "110m": {"hidden": 768, "mlp": 2048, "layers": 12, "heads": 12, "vocab": 16000},
    "7b": {"hidden": 4096, "mlp": 14336, "layers": 32, "heads": 32, "vocab": 32000},
    "tiny": {"hidden": 64, "mlp": 128, "layers": 3, "heads": 4, "vocab": 256},
}
NAMES = ("base", "ja", "math", "code")


def make(root: Path, shape: str, *, shards: int = 3) -> list[Path]:
    """The folders of base and three models in bfloat16; made once.

    Weights are normal with deviation 0.02, task vectors with 0.002.
    """
    folders = [root / shape.replace(" ", "-") / name for name in NAMES]
    for i, folder in enumerate(folders):
        if (folder / "config.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, SHAPES[shape], i, shards)
    return folders


def tensors(shape: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    hidden, mlp = shape["hidden"], shape["mlp"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape["vocab"], hidden)}
    for i in range(shape["layers"]):
        block = f"model.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"{block}.self_attn.{name}.weight"] = (hidden, hidden)
        for name in ("gate_proj", "up_proj"):
            found[f"{block}.mlp.{name}.weight"] = (mlp, hidden)
        found[f"{block}.mlp.down_proj.weight"] = (hidden, mlp)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{block}.{name}.weight"] = (hidden,)
    return found | {"model.norm.weight": (hidden,), "lm_head.weight": (shape["vocab"], hidden)}


def elements(shape: str) -> int:
    """Number of parameters."""
    return sum(math.prod(size) for size in tensors(SHAPES[shape]).values())


def _write(folder: Path, shape: dict[str, int], model: int, shards: int) -> None:
    names = list(tensors(shape).items())
    per_shard = math.ceil(len(names) / shards)
    where = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {}
        for i, (name, size) in enumerate(names[shard * per_shard : (shard + 1) * per_shard]):
            number = shard * per_shard + i
            part[name] = _values(number, model, size)
            where[name] = file
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["mlp"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["heads"],
        "vocab_size": shape["vocab"],
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def _values(tensor: int, model: int, size: tuple[int, ...]) -> torch.Tensor:
    def normal(stream: int, deviation: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1000 * tensor + stream)
        return torch.randn(size, generator=generator) * deviation

    values = normal(0, 0.02)
    return (values + normal(model, 0.002) if model else values).bfloat16()
