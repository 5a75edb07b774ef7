"""What of a config gives weights their meaning.

The base of the rotary positions, the ε of the norms, the activation, the number of heads: with
another one, equal weights are another model. Every key of a config counts unless it is listed here
as one that changes nothing.
"""

from __future__ import annotations

import copy
import json
import re
from functools import lru_cache
from typing import Any, NamedTuple

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._config import FullConfig, full_config

_LONGEST = "max_position_embeddings"
_CHANGE_NOTHING = {
    "where it comes from and how it is stored": (
        *("architectures", "transformers_version", "torch_dtype", "dtype", "auto_map"),
        *("tokenizer_class", "model_max_length", "unsloth_version", "unsloth_fixed"),
        "quantization_config",  # quantised models are refused anyway
    ),
    "how it is run, with the same result": (
        *("use_cache", "cache_implementation", "attn_implementation", "torchscript"),
        *("chunk_size_feed_forward", "gradient_checkpointing", "pretraining_tp", "use_bfloat16"),
        *("upcast_attention", "reorder_and_upcast_attn", "attention_softmax_in_fp32"),
        *("force_upcast", "disable_custom_kernels", "use_mamba_kernels", "use_mambapy"),
        *("keys_to_ignore_at_inference", "pruned_heads"),
    ),
    "what is returned": (
        *("output_hidden_states", "output_attentions", "output_router_logits", "return_dict"),
        "use_return_dict",
    ),
    "training only": (
        *("init_std", "init_xavier_std", "router_jitter_noise", "apply_spec_augment"),
        *("label_smoothing", "problem_type", "finetuning_task", "neftune_noise_alpha"),
    ),
    "heads and labels, which have rules of their own": ("id2label", "label2id", "num_labels"),
    "what the shapes of the tensors say, or that there are none": (
        *("vocab_size", "type_vocab_size", "tie_word_embeddings", "intermediate_size", "n_inner"),
        *("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    ),
    # Learned positions are rows of a tensor. Others only have a limit here; what a rotary scaling
    # makes of the limit stands in rope_parameters, but for the dynamic one, see _is_dynamic.
    "how many positions there are": (
        *(_LONGEST, "n_positions", "n_ctx", "seq_length", "max_sequence_length"),
    ),
}
_GENERATION = frozenset(
    (
        *("max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping"),
        *("num_beams", "num_beam_groups", "num_return_sequences", "diversity_penalty"),
        *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
        *("remove_invalid_values", "exponential_decay_length_penalty", "output_scores"),
        *("return_dict_in_generate", "task_specific_params", "prefix"),
    )
)
"""Of generation, which old versions kept here; an architecture may have such a key too."""
_NAMES = frozenset(key for keys in _CHANGE_NOTHING.values() for key in keys)
_FORMS = re.compile(
    r"^_|^js_config$"  # private: _name_or_path, _attn_implementation_autoset, _diffusers_version
    r"|_token_ids?$|_token_index$|suppress_tokens$"  # which rows special tokens are
    r"|(^|_)(?<!token_)(dropout|dropout_prob|dropout_p|dropout_rate|pdrop|layerdrop|droppath)$"
    r"|^(drop_path_rate|drop_rate|drop_connect_rate|attention_drop_rate|attn_drop_rate)$"
    r"|^initializer_|_initializer_range$|_init_value$"
    r"|(^|_)loss(_|$)|^mask_(time|feature)_"  # training only
    r"|^summary_"  # of a head
)
"""ESM's ``token_dropout`` is no dropout: it scales embeddings."""

_ALIKE = {
    "mistral": "llama",  # a Llama with a sliding window, which is compared
    **dict.fromkeys(("camembert", "xlm-roberta"), "roberta"),
    "mt5": "t5",
    # the language models inside of vision-language models
    **{"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"},
}
"""Model types that compute what another does, by the name of that other."""
_POSITIONS_AFTER_PADDING = frozenset(
    (
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod"),
        *("longformer", "data2vec-text", "esm", "ibert", "luke", "lilt", "layoutlmv3", "markuplm"),
        *("altclip_text_model", "bridgetower_text_model", "clap_text_model", "trocr"),
        *("m2m_100", "nllb-moe", "kosmos_2_text_model", "kosmos_2_5_text_model"),
        *("speech_to_text", "speecht5", "seamless_m4t", "seamless_m4t_v2"),
    )
)
"""Model types that count positions from the id of the padding token on, so that it moves them."""
_OF_SEVERAL_MODALITIES = frozenset(("mrope_section", "mrope_interleaved"))
"""Positions of images; on text they change nothing, so a model without them does not differ."""
_DERIVED = dict.fromkeys(
    ("max_window_layers", "sliding_window_pattern", "full_attention_interval"), "layer_types"
)
"""What another key is made of where there is one."""


class Setting(NamedTuple):
    """A key that two configs answer differently.

    Attributes:
        key: Dotted.
        mine: The value in the first.
        theirs: The value in the second.
    """

    key: str
    mine: Any
    theirs: Any

    def __str__(self) -> str:
        return f"{self.key} is {self.theirs!r} and {self.mine!r}"


def differing(frame: Checkpoint, other: Checkpoint, *, stacked: bool = False) -> list[Setting]:
    """What the config of another model says otherwise of the meaning of weights.

    Of another architecture only that: its other keys are not to be compared.

    Args:
        frame: A model; nothing differs from one without a config.
        other: Another.
        stacked: Their layers follow each other: there may be other numbers and kinds of them.
    """
    found = _differences(frame, other, stacked)
    return [setting for setting in found if setting.key == "model_type"] or found


def _differences(frame: Checkpoint, other: Checkpoint, stacked: bool) -> list[Setting]:
    if frame.config is None or other.config is None or _written(frame) == _written(other):
        return []
    mine, theirs = _full(frame), _full(other)
    return [
        Setting(key, one, another)
        for key in dict.fromkeys((*mine.values, *theirs.values))
        if _counts(key, mine, theirs) and not (stacked and _is_of_each_layer(key, mine, theirs))
        for one in [_value(key, mine, stacked)]
        for another in [_value(key, theirs, stacked)]
        if (one or None) != (another or None)  # what is left out is off
    ]


def _written(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config without what changes nothing in any model; equal ones need no class."""
    config = checkpoint.config or {}
    sometimes = {_LONGEST, "pad_token_id"}
    return {k: v for k, v in config.items() if k in sometimes or not _is_listed(k)}


def _full(checkpoint: Checkpoint) -> FullConfig:
    of_text = "model.embed_tokens.weight" in checkpoint.store.specs()
    return _completed(json.dumps(checkpoint.config), checkpoint.part is not None, of_text)


@lru_cache(maxsize=64)  # a search over layer paths asks at every trial
def _completed(text: str, of_part: bool, of_text: bool) -> FullConfig:
    return full_config(json.loads(text), of_part=of_part, of_text=of_text)


def _counts(key: str, mine: FullConfig, theirs: FullConfig) -> bool:
    """Whether a difference in a key is one in what weights mean."""
    in_both = key in mine.values and key in theirs.values
    last = key.rpartition(".")[2]
    if not in_both and (key not in mine.known | theirs.known or last in _OF_SEVERAL_MODALITIES):
        return False
    if last == _LONGEST and _is_dynamic(key, mine):
        return True
    if last == "pad_token_id" and _beside(key, "model_type", mine) in _POSITIONS_AFTER_PADDING:
        return True
    if last in _GENERATION and key not in mine.known & theirs.known:
        return False
    if (source := _DERIVED.get(last)) and all(_beside(key, source, c) for c in (mine, theirs)):
        return False
    return not any(_is_listed(part) for part in key.split("."))


def _is_listed(key: str) -> bool:
    return key in _NAMES or _FORMS.search(key) is not None


def _is_dynamic(key: str, config: FullConfig) -> bool:
    """Whether rotary frequencies follow from the number of positions."""
    kind: str | None = _beside(key, "rope_parameters.rope_type", config)
    return kind == "dynamic"


def _beside(key: str, other: str, config: FullConfig) -> Any:
    """The value of another key at the same level."""
    return config.values.get(key.removesuffix(key.rpartition(".")[2]) + other)


def _is_of_each_layer(key: str, *configs: FullConfig) -> bool:
    """Whether there is a list with an entry of each layer, or of layer numbers."""
    return "layer" in key and any(isinstance(c.values.get(key), list) for c in configs)


def _value(key: str, config: FullConfig, stacked: bool) -> Any:
    value = config.values.get(key)
    is_kind = key.rpartition(".")[2] == "model_type" and not stacked
    return _ALIKE.get(str(value), value) if is_kind else value


def with_meaning_of(
    checkpoint: Checkpoint, owner: Checkpoint, *, stacked: bool = False
) -> dict[str, Any] | None:
    """The config of a checkpoint with what gives weights their meaning from another's.

    Args:
        checkpoint: Everything else stays as it says.
        owner: Whose config counts.
        stacked: See :func:`differing`.
    """
    settings = _differences(checkpoint, owner, stacked)
    if not settings:
        return checkpoint.config
    made, theirs = copy.deepcopy(_full(checkpoint).content), _full(owner)
    for setting in settings:
        *places, key = setting.key.split(".")
        level = made
        for place in places:
            if not isinstance(level.get(place), dict):  # it may be off: null
                level[place] = {}
            level = level[place]
        level.pop(key, None)
        if setting.key in theirs.values:
            level[key] = theirs.values[setting.key]
    if made.get("model_type") != (checkpoint.config or {}).get("model_type"):
        made["architectures"] = (owner.config or {}).get("architectures")
    return made
