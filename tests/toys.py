"""Tiny models of real architectures, and families of them: a base and experts around it.

Everything is a function of its seed alone; no global random state is touched.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import merge_optuna as mo

M = TypeVar("M", bound=nn.Module)

EXPERTS = ("ja", "math", "code", "law")


def llama(seed: int = 0, *, tied: bool = False, layers: int = 2, **config: object) -> nn.Module:
    """A Llama with grouped queries; 18 thousand parameters with two layers."""
    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    made = LlamaConfig(
        **{**settings, **config}, num_hidden_layers=layers, tie_word_embeddings=tied
    )
    return _initialised(LlamaForCausalLM, made, seed)


def gpt2(seed: int = 0, *, layers: int = 2, **config: object) -> nn.Module:
    """A GPT-2; its head is tied to its embedding, its projections are Conv1D."""
    settings = {
        "vocab_size": 64,
        "n_embd": 32,
        "n_head": 2,
        "n_positions": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return _initialised(
        GPT2LMHeadModel, GPT2Config(**{**settings, **config}, n_layer=layers), seed
    )


def bert(
    seed: int = 0,
    *,
    labels: Sequence[str] = ("negative", "positive"),
    layers: int = 2,
    **config: object,
) -> nn.Module:
    """A BERT with a classification head."""
    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 32,
    }
    made = BertConfig(**{**settings, **config}, num_hidden_layers=layers, **_labels(labels))
    return _initialised(BertForSequenceClassification, made, seed)


def vit(
    seed: int = 0,
    *,
    labels: Sequence[str] = ("cat", "dog", "owl"),
    layers: int = 2,
    **config: object,
) -> nn.Module:
    """A ViT with a classification head; transformers renames its tensors while loading."""
    settings = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": 8,
        "patch_size": 4,
    }
    made = ViTConfig(**{**settings, **config}, num_hidden_layers=layers, **_labels(labels))
    return _initialised(ViTForImageClassification, made, seed)


def t5(seed: int = 0, *, layers: int = 2, **config: object) -> nn.Module:
    """A T5, whose encoder, decoder and head share an embedding."""
    settings = {
        "vocab_size": 64,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 48,
        "num_heads": 2,
        "num_decoder_layers": 3,
        "decoder_start_token_id": 0,
    }
    made = T5Config(**{**settings, **config}, num_layers=layers)
    return _initialised(T5ForConditionalGeneration, made, seed)


def decoder(family: str, seed: int = 0, *, layers: int = 2, **config: object) -> nn.Module:
    """A decoder of a family that is configured like Llama, e.g. ``"Mixtral"`` or ``"Gemma2"``."""
    settings: dict[str, object] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    own: dict[str, dict[str, object]] = {
        "Mixtral": {"num_local_experts": 4},
        "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
        | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [1]},
        "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8}
        | {"num_experts_per_tok": 2},
        "Qwen3": {"head_dim": 8},
        "Mamba2": {"state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 1},
        "Gemma": {"head_dim": 8},
        "Gemma2": {"head_dim": 8},
        "Gemma3": {"head_dim": 8},
    }
    text = "Text" if family == "Gemma3" else ""
    made = getattr(transformers, f"{family}{text}Config")(
        **{**settings, **own.get(family, {}), **config}, num_hidden_layers=layers
    )
    return _initialised(getattr(transformers, f"{family}ForCausalLM"), made, seed)


def whisper(seed: int = 0) -> nn.Module:
    """A Whisper: an encoder of sounds and a decoder of text."""
    sizes = {
        f"{side}_{what}": size
        for side in ("encoder", "decoder")
        for what, size in (("attention_heads", 2), ("ffn_dim", 48))
    }
    made = WhisperConfig(
        vocab_size=64,
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        num_mel_bins=8,
        max_source_positions=16,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **sizes,
    )
    return _initialised(WhisperForConditionalGeneration, made, seed)


def clip(seed: int = 0) -> nn.Module:
    """A CLIP: a tower for images of width 16 and one for texts of width 32."""
    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    made = CLIPConfig(text_config=text, vision_config=_vision().to_dict(), projection_dim=16)
    return _initialised(CLIPModel, made, seed)


def _vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=16,
    )


def encoder(
    family: str, seed: int = 0, *, head: str = "SequenceClassification", **config: object
) -> nn.Module:
    """An encoder of a family that is configured like BERT, e.g. ``"Roberta"``."""
    settings: dict[str, object] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "max_position_embeddings": 32,
    }
    made = getattr(transformers, f"{family}Config")(**{**settings, **config})
    return _initialised(getattr(transformers, f"{family}For{head}"), made, seed)


def llava(seed: int = 0, **text: object) -> nn.Module:
    """A vision-language model: a CLIP vision tower of width 16, a projector, and a Llama."""
    made = LlavaConfig(
        vision_config=_vision(),
        text_config=llama(**text).config,
        image_token_id=63,
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    return _initialised(LlavaForConditionalGeneration, made, seed)


def gemma3(text: object, seed: int = 0) -> nn.Module:
    """A vision-language model of the other form of names, around a Gemma 3."""
    vision = {k: v for k, v in _vision().to_dict().items() if k != "model_type"}
    made = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return _initialised(Gemma3ForConditionalGeneration, made, seed)


def inputs(model: nn.Module) -> dict[str, Tensor]:
    """A batch that the model accepts, the same for equal configurations."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 60, (2, 9), generator=generator)
    images = torch.randn(2, 3, 8, 8, generator=generator).to(model.dtype)
    if isinstance(model, LlavaForConditionalGeneration):
        tokens[:, 1:5] = model.config.image_token_id
        return {"input_ids": tokens, "pixel_values": images}
    if model.main_input_name == "pixel_values":
        return {"pixel_values": images}
    if model.config.is_encoder_decoder:
        return {"input_ids": tokens, "decoder_input_ids": tokens[:, :5]}
    return {"input_ids": tokens}


def noised(model: M, seed: int, scale: float = 0.02) -> M:
    """A copy of the model with normal noise on every parameter: a fine-tuned expert."""
    made = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += (noise * scale).to(parameter.dtype)
    return made


def save(
    model: nn.Module,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    sharded: bool = False,
) -> Path:
    """Saves a copy of the model in ``dtype``, in one file or in shards of 16 kB."""
    assert isinstance(model, PreTrainedModel)
    saved = copy.deepcopy(model).to(dtype)
    saved.save_pretrained(folder, max_shard_size="16KB" if sharded else "5GB")
    return folder


def family(
    root: Path,
    make: Callable[[], nn.Module] = llama,
    *,
    experts: int = 3,
    dtype: torch.dtype = torch.float32,
    sharded: bool = False,
    scale: float = 0.02,
) -> list[mo.Checkpoint]:
    """Saves a base and experts below ``root``; returns their checkpoints, the base first.

    Names are ``base`` and then those of ``EXPERTS``, and so are the folders'.
    """
    base = make()
    models = {"base": base}
    models |= {name: noised(base, 100 + i, scale) for i, name in enumerate(EXPERTS[:experts])}
    return [
        mo.Checkpoint(save(model, root / name, dtype=dtype, sharded=sharded), name=name)
        for name, model in models.items()
    ]


def _initialised(architecture: type[PreTrainedModel], config: object, seed: int) -> nn.Module:
    # Large weights, so that outputs differ; noise, so that no bias is 0 and no norm weight 1.
    config.initializer_range = 0.2  # type: ignore[attr-defined]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architecture(config)
    return noised(model, seed, 0.05).eval()


def _labels(labels: Sequence[str]) -> dict[str, object]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
