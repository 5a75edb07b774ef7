"""Layer groups of real architectures and of plain modules, each spelled out."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import RecipeError
from merge_optuna.recipes import Layout
from tests import toys


def names_of(model: nn.Module) -> tuple[str, ...]:
    return mo.Checkpoint.from_module(model, name="m").names()


def groups(names: tuple[str, ...], per: object) -> dict[str, list[str]]:
    """Names by label, in the order of the labels, for groupings that do not interpolate."""
    grouping = Layout(names).grouping(per)
    found: dict[str, list[str]] = {label: [] for label in grouping.labels}
    for name, [(index, share)] in grouping.shares.items():
        assert share == 1
        found[grouping.labels[index]].append(name)
    return {label: sorted(members) for label, members in found.items()}


def expand(prefix: str, *names: str) -> list[str]:
    return sorted(f"{prefix}.{name}" for name in names)


def both(*names: str) -> list[str]:
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


LLAMA_ATTENTION = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
)
LLAMA_MLP = (
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
)
GPT2_ATTENTION = both("ln_1", "attn.c_attn", "attn.c_proj")
GPT2_MLP = both("ln_2", "mlp.c_fc", "mlp.c_proj")
BERT_ATTENTION = both(
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
)
BERT_MLP = both("intermediate.dense", "output.dense", "output.LayerNorm")
VIT_ATTENTION = both(
    "layernorm_before",
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
)
VIT_MLP = both("layernorm_after", "intermediate.dense", "output.dense")

ARCHITECTURES = {
    "llama": (
        toys.llama(layers=3),
        "model.layers",
        ["model.embed_tokens.weight"],
        LLAMA_ATTENTION,
        LLAMA_MLP,
        ["lm_head.weight", "model.norm.weight"],
    ),
    "llama-tied": (
        toys.llama(layers=3, tied=True),
        "model.layers",
        ["model.embed_tokens.weight"],
        LLAMA_ATTENTION,
        LLAMA_MLP,
        ["model.norm.weight"],
    ),
    "gpt2": (
        toys.gpt2(layers=3),
        "transformer.h",
        ["transformer.wpe.weight", "transformer.wte.weight"],
        GPT2_ATTENTION,
        GPT2_MLP,
        ["transformer.ln_f.bias", "transformer.ln_f.weight"],
    ),
    "bert": (
        toys.bert(layers=3),
        "bert.encoder.layer",
        expand(
            "bert.embeddings",
            *both("LayerNorm"),
            "position_embeddings.weight",
            "token_type_embeddings.weight",
            "word_embeddings.weight",
        ),
        BERT_ATTENTION,
        BERT_MLP,
        sorted(both("bert.pooler.dense", "classifier")),
    ),
    "vit": (
        toys.vit(layers=3),
        "vit.encoder.layer",
        expand(
            "vit.embeddings",
            "cls_token",
            *both("patch_embeddings.projection"),
            "position_embeddings",
        ),
        VIT_ATTENTION,
        VIT_MLP,
        sorted(both("classifier", "vit.layernorm")),
    ),
}


@pytest.mark.parametrize("case", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_groups_of_transformers_models(case: tuple) -> None:
    model, stack, embed, attention, mlp, head = case
    names = names_of(model)
    attn = [expand(f"{stack}.{i}", *attention) for i in range(3)]
    ffn = [expand(f"{stack}.{i}", *mlp) for i in range(3)]
    block = [sorted(attn[i] + ffn[i]) for i in range(3)]

    assert groups(names, "model") == {"": sorted(names)}
    assert groups(names, "tensor") == {name: [name] for name in names}
    for per in ("layer", 1):
        expected = {"embed": embed, "00": block[0], "01": block[1], "02": block[2], "head": head}
        assert groups(names, per) == expected
        assert list(groups(names, per)) == list(expected)
    expected = {"embed": embed, "00-01": sorted(block[0] + block[1]), "02": block[2], "head": head}
    assert groups(names, 2) == expected
    assert list(groups(names, 2)) == list(expected)
    assert groups(names, 7) == {
        "embed": embed,
        "00-02": sorted(block[0] + block[1] + block[2]),
        "head": head,
    }
    expected = {
        "embed": embed,
        **{
            label: members
            for i in range(3)
            for label, members in ((f"0{i}/attn", attn[i]), (f"0{i}/mlp", ffn[i]))
        },
        "head": head,
    }
    assert groups(names, "module") == expected
    assert list(groups(names, "module")) == list(expected)


@pytest.mark.parametrize(
    "per", ["model", "layer", 1, 2, 3, "module", "tensor", *map(mo.depth, (1, 2, 3, 5))], ids=str
)
@pytest.mark.parametrize("case", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_tensor_is_covered_exactly_once(case: tuple, per: object) -> None:
    names = names_of(case[0])
    grouping = Layout(names).grouping(per)
    assert set(grouping.shares) == set(names)
    assert len(set(grouping.labels)) == len(grouping.labels)
    for pairs in grouping.shares.values():
        assert len({index for index, _ in pairs}) == len(pairs)
        assert sum(share for _, share in pairs) == pytest.approx(1)
        assert all(0 < share <= 1 and 0 <= i < len(grouping.labels) for i, share in pairs)


# Order of the layers; then of any block, and of what is outside them, the names of the modules.
FAMILIES = {
    "mistral": (
        lambda: toys.decoder("Mistral"),
        "embed 00 01 head",
        {
            "attn": "input_layernorm self_attn.{q_proj,k_proj,v_proj,o_proj}",
            "mlp": "post_attention_layernorm mlp.{gate_proj,up_proj,down_proj}",
            "embed": "model.embed_tokens",
            "head": "lm_head model.norm",
        },
    ),
    "qwen3": (
        lambda: toys.decoder("Qwen3"),
        "embed 00 01 head",
        {
            "attn": "input_layernorm self_attn.{q_proj,k_proj,v_proj,o_proj,q_norm,k_norm}",
            "mlp": "post_attention_layernorm mlp.{gate_proj,up_proj,down_proj}",
        },
    ),
    "gemma2": (  # here the norm after attention belongs to attention
        lambda: toys.decoder("Gemma2"),
        "embed 00 01 head",
        {
            "attn": "input_layernorm post_attention_layernorm"
            " self_attn.{q_proj,k_proj,v_proj,o_proj}",
            "mlp": "pre_feedforward_layernorm post_feedforward_layernorm"
            " mlp.{gate_proj,up_proj,down_proj}",
        },
    ),
    "mixtral": (
        lambda: toys.decoder("Mixtral"),
        "embed 00 01 head",
        {
            "attn": "input_layernorm self_attn.{q_proj,k_proj,v_proj,o_proj}",
            "mlp": "post_attention_layernorm block_sparse_moe.gate"
            " block_sparse_moe.experts.#.{w1,w2,w3}",
        },
    ),
    "qwen2-moe": (
        lambda: toys.decoder("Qwen2Moe", mlp_only_layers=[]),
        "embed 00 01 head",
        {
            "attn": "input_layernorm self_attn.{q_proj,k_proj,v_proj,o_proj}",
            "mlp": "post_attention_layernorm mlp.gate mlp.shared_expert_gate"
            " mlp.experts.#.{gate_proj,up_proj,down_proj}"
            " mlp.shared_expert.{gate_proj,up_proj,down_proj}",
        },
    ),
    "phi": (
        lambda: toys.decoder("Phi"),
        "embed 00 01 head",
        {
            "attn": "input_layernorm self_attn.{q_proj,k_proj,v_proj,dense}",
            "mlp": "mlp.{fc1,fc2}",
            "head": "lm_head model.final_layernorm",
        },
    ),
    "gpt-neox": (
        lambda: toys.decoder("GPTNeoX"),
        "embed 00 01 head",
        {
            "attn": "input_layernorm attention.{query_key_value,dense}",
            "mlp": "post_attention_layernorm mlp.{dense_h_to_4h,dense_4h_to_h}",
            "embed": "gpt_neox.embed_in",
            "head": "embed_out gpt_neox.final_layer_norm",
        },
    ),
    "bloom": (
        lambda: toys.decoder("Bloom"),
        "embed 00 01 head",
        {
            "attn": "input_layernorm self_attention.{query_key_value,dense}",
            "mlp": "post_attention_layernorm mlp.{dense_h_to_4h,dense_4h_to_h}",
            "embed": "transformer.{word_embeddings,word_embeddings_layernorm}",
            "head": "transformer.ln_f",
        },
    ),
    "falcon": (
        lambda: toys.decoder("Falcon", new_decoder_architecture=True),
        "embed 00 01 head",
        {
            "attn": "ln_attn self_attention.{query_key_value,dense}",
            "mlp": "ln_mlp mlp.{dense_h_to_4h,dense_4h_to_h}",
        },
    ),
    "opt": (
        lambda: toys.decoder(
            "OPT", ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False
        ),
        "embed 00 01 head",
        {
            "attn": "self_attn_layer_norm self_attn.{q_proj,k_proj,v_proj,out_proj}",
            "mlp": "final_layer_norm fc1 fc2",
            "embed": "model.decoder.{embed_tokens,embed_positions,project_in}",
            "head": "model.decoder.project_out",
        },
    ),
    "mamba": (
        lambda: toys.decoder("Mamba", state_size=4),
        "embed 00 01 head",
        {
            "mixer": "norm mixer.{in_proj,conv1d,x_proj,dt_proj,out_proj} mixer",
            "embed": "backbone.embeddings",
            "head": "backbone.norm_f",
        },
    ),
    "roberta": (
        lambda: toys.encoder("Roberta"),
        "embed 00 01 head",
        {
            "attn": "attention.self.{query,key,value} attention.output.{dense,LayerNorm}",
            "mlp": "intermediate.dense output.{dense,LayerNorm}",
            "head": "classifier.{dense,out_proj}",
        },
    ),
    "t5": (  # the second of three branches in a decoder's block is attention to the encoder
        toys.t5,
        "embed encoder.00 encoder.01 decoder.00 decoder.01 decoder.02 head",
        {
            "encoder.attn": "layer.0.SelfAttention.{q,k,v,o,relative_attention_bias}"
            " layer.0.layer_norm",
            "encoder.mlp": "layer.1.DenseReluDense.{wi,wo} layer.1.layer_norm",
            "decoder.attn": "layer.0.SelfAttention.{q,k,v,o,relative_attention_bias}"
            " layer.0.layer_norm layer.1.EncDecAttention.{q,k,v,o} layer.1.layer_norm",
            "decoder.mlp": "layer.2.DenseReluDense.{wi,wo} layer.2.layer_norm",
            "embed": "shared",
            "head": "encoder.final_layer_norm decoder.final_layer_norm",
        },
    ),
    "whisper": (
        lambda: toys.whisper(),
        "embed encoder.00 encoder.01 decoder.00 decoder.01 decoder.02 head",
        {
            "encoder.attn": "self_attn_layer_norm self_attn.{q_proj,k_proj,v_proj,out_proj}",
            "decoder.attn": "self_attn_layer_norm self_attn.{q_proj,k_proj,v_proj,out_proj}"
            " encoder_attn_layer_norm encoder_attn.{q_proj,k_proj,v_proj,out_proj}",
            "decoder.mlp": "final_layer_norm fc1 fc2",
            "embed": "model.encoder.{conv1,conv2,embed_positions}"
            " model.decoder.{embed_tokens,embed_positions}",
            "head": "model.encoder.layer_norm model.decoder.layer_norm",
        },
    ),
    "clip": (
        lambda: toys.clip(),
        "embed vision_model.00 vision_model.01 vision_model.02 text_model.00 text_model.01 head",
        {
            "vision_model.attn": "layer_norm1 self_attn.{q_proj,k_proj,v_proj,out_proj}",
            "text_model.mlp": "layer_norm2 mlp.{fc1,fc2}",
        },
    ),
    "llava": (
        toys.llava,
        "embed vision_tower.00 vision_tower.01 vision_tower.02"
        " language_model.00 language_model.01 head",
        {
            "vision_tower.attn": "layer_norm1 self_attn.{q_proj,k_proj,v_proj,out_proj}",
            "vision_tower.mlp": "layer_norm2 mlp.{fc1,fc2}",
            "language_model.attn": "input_layernorm self_attn.{q_proj,k_proj,v_proj,o_proj}",
            "language_model.mlp": "post_attention_layernorm mlp.{gate_proj,up_proj,down_proj}",
            "embed": "language_model.model.embed_tokens multi_modal_projector.{linear_1,linear_2}"
            " vision_tower.embeddings.{patch_embedding,position_embedding}"
            " vision_tower.embeddings vision_tower.pre_layrnorm",
            "head": "language_model.lm_head language_model.model.norm vision_tower.post_layernorm",
        },
    ),
}


@pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)
def test_groups_of_families(case: tuple) -> None:
    make, order, modules = case
    names = names_of(make())
    assert list(groups(names, "layer")) == order.split()
    found: dict[str, set[str]] = {}
    for label, members in groups(names, "module").items():
        kind = re.sub(r"\.?\d+/", ".", label).removeprefix(".")  # encoder.00/attn: encoder.attn
        found.setdefault(kind, set()).update(module_of(name, kind) for name in members)
    for kind, expected in modules.items():
        assert found[kind] == spelled_out(expected)
    if not any("." in kind for kind in modules):
        assert set(found) - set(modules) <= {"embed", "head"}


def module_of(name: str, kind: str) -> str:
    """The module of a tensor, in a block without its prefix; numbers of experts left out."""
    if kind not in ("embed", "head"):
        name = re.sub(r"^.*?\.\d+\.", "", name)
    return re.sub(r"experts\.\d+", "experts.#", name).rpartition(".")[0]


def spelled_out(words: str) -> set[str]:
    """``mlp.{fc1,fc2}`` is ``mlp.fc1`` and ``mlp.fc2``."""
    found = set()
    for word in words.split():
        before, _, inner = word.partition("{")
        found |= {before + part for part in inner.rstrip("}").split(",")}
    return found


def test_layers_in_runs_stay_within_their_stack() -> None:
    names = names_of(toys.t5())
    expected = ["embed", "encoder.00-01", "decoder.00-01", "decoder.02", "head"]
    assert list(groups(names, 2)) == expected


def test_stacks_that_are_no_layers() -> None:
    """Two convolutions of a feature extractor, two linear maps of a projector."""
    block = [f"encoder.layers.{i}.{n}" for i in range(2) for n in ("attention.q", "mlp.w", "norm")]
    others = [
        f"{n}.{i}.weight" for i in range(2) for n in ("feature_extractor.conv", "head.linear")
    ]
    found = groups((*block, *others), "layer")
    assert list(found) == ["embed", "00", "01", "head"]
    assert found["embed"] == ["feature_extractor.conv.0.weight", "feature_extractor.conv.1.weight"]


def test_towers_whose_blocks_have_other_names() -> None:
    """As in Qwen2-VL: the vision blocks are as many tensors as the language model's."""
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(12)]
    names += [f"visual.blocks.{i}.attn.qkv.weight" for i in range(12)]
    names += ["model.embed_tokens.weight", "visual.merger.mlp.0.weight", "lm_head.weight"]
    labels = list(groups(tuple(names), "layer"))
    towers = [f"{tower}.{i:02}" for tower in ("visual", "model") for i in range(12)]
    assert labels == ["embed", *towers, "head"]


def test_a_filter_reaches_one_expert(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, lambda: toys.decoder("Mixtral"), experts=1)
    weight = {"*.0.block_sparse_moe.experts.2.*": 1.0, "*.gate.*": 0.5, "*": 0.0}
    merged = mo.recipes.task_arithmetic(base, [ja], weight=weight)
    changed = set()
    for name, tensor in mo.engine.tensors(merged):
        if not torch.equal(tensor, base.tensor(name)):
            changed.add(name)
    experts = {f"model.layers.0.block_sparse_moe.experts.2.w{i}.weight" for i in (1, 2, 3)}
    routers = {f"model.layers.{i}.block_sparse_moe.gate.weight" for i in (0, 1)}
    assert changed == experts | routers


# -- interpolation --------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [2, 3, 5, 12])
@pytest.mark.parametrize("points", [1, 2, 3, 4, 12, 15])
def test_depth_interpolates_linearly(layers: int, points: int) -> None:
    """Layer i of L stands at i·(k − 1)/(L − 1) on the line of k points."""
    names = ("model.embed_tokens.weight", "lm_head.weight")
    names += tuple(f"model.layers.{i}.w" for i in range(layers))
    grouping = Layout(names).grouping(mo.depth(points))
    values = [0.3 + 1.7 * i**2 for i in range(points)]

    def value(name: str) -> float:
        return sum(values[i] * share for i, share in grouping.shares[name])

    assert len(grouping.labels) == points
    for i in range(layers):
        place = i * (points - 1) / (layers - 1)
        left = min(int(place), points - 1)
        right = min(left + 1, points - 1)
        expected = values[left] + (place - left) * (values[right] - values[left])
        assert value(f"model.layers.{i}.w") == pytest.approx(expected, rel=1e-12)
    assert value("model.embed_tokens.weight") == pytest.approx(values[0])
    assert value("lm_head.weight") == pytest.approx(values[-1])


def test_depth_labels_sort_by_depth() -> None:
    names = tuple(f"h.{i}.w" for i in range(12))
    labels = Layout(names).grouping(mo.depth(11)).labels
    assert labels == tuple(f"d{i:02}" for i in range(11))


# -- other architectures, by their names -----------------------------------------------------


def test_numbers_are_padded_so_that_labels_sort() -> None:
    names = tuple(f"model.layers.{i}.w" for i in (0, 10, 100, 11, 2))
    assert list(groups(names, "layer")) == ["000", "002", "010", "011", "100"]
    assert list(groups(names, 2)) == ["000-002", "010-011", "100"]


def test_encoder_and_decoder() -> None:
    names = ("decoder.block.0.layer.0.DenseReluDense.wi.weight",)
    names += ("decoder.block.1.layer.0.SelfAttention.q.weight", "decoder.final_layer_norm.weight")
    names += ("encoder.block.0.layer.0.SelfAttention.q.weight",)
    names += ("encoder.block.1.layer.0.SelfAttention.q.weight", "shared.weight", "lm_head.weight")
    assert groups(names, "layer") == {
        "embed": ["shared.weight"],
        "encoder.00": ["encoder.block.0.layer.0.SelfAttention.q.weight"],
        "encoder.01": ["encoder.block.1.layer.0.SelfAttention.q.weight"],
        "decoder.00": ["decoder.block.0.layer.0.DenseReluDense.wi.weight"],
        "decoder.01": ["decoder.block.1.layer.0.SelfAttention.q.weight"],
        "head": ["decoder.final_layer_norm.weight", "lm_head.weight"],
    }
    assert list(groups(names, "layer")) == [
        "embed",
        *("encoder.00", "encoder.01", "decoder.00", "decoder.01"),
        "head",
    ]


def test_experts_and_their_router_belong_to_the_mlp() -> None:
    names = tuple(
        f"model.layers.{i}.{name}"
        for i in range(2)
        for name in (
            "self_attn.q_proj.weight",
            "block_sparse_moe.gate.weight",
            "block_sparse_moe.experts.0.w1.weight",
            "block_sparse_moe.experts.1.w1.weight",
        )
    )
    assert list(groups(names, "layer")) == ["00", "01"]
    assert {k: len(v) for k, v in groups(names, "module").items()} == {
        "00/attn": 1,
        "00/mlp": 3,
        "01/attn": 1,
        "01/mlp": 3,
    }


def test_the_head_of_pythia_is_called_embed_out() -> None:
    names = ("embed_out.weight", "gpt_neox.embed_in.weight")
    names += tuple(f"gpt_neox.layers.{i}.mlp.dense_4h_to_h.weight" for i in range(2))
    found = groups(names, "layer")
    assert found["head"] == ["embed_out.weight"]
    assert found["embed"] == ["gpt_neox.embed_in.weight"]


# -- plain modules --------------------------------------------------------------------------


def test_sequential() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    expected = {"00": ["0.bias", "0.weight"], "02": ["2.bias", "2.weight"]}
    expected |= {"04": ["4.bias", "4.weight"]}
    assert groups(names_of(model), "layer") == expected
    assert groups(names_of(model), "module") == expected
    assert groups(names_of(model), 2) == {
        "00-02": ["0.bias", "0.weight", "2.bias", "2.weight"],
        "04": ["4.bias", "4.weight"],
    }
    assert Layout(names_of(model)).grouping(mo.depth(2)).shares["2.weight"] == (
        (0, 0.5),
        (1, 0.5),
    )


def test_named_children_are_layers_in_their_order() -> None:
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(1, 2, 3), z=nn.Linear(2, 2), a=nn.BatchNorm1d(2), out=nn.Linear(2, 2)
        )
    )
    # BatchNorm has a counter, which is no float and not merged; a layout is of what is merged
    names = tuple(name for name in names_of(model) if "num_batches" not in name)
    expected = {
        "stem": ["stem.bias", "stem.weight"],
        "z": ["z.bias", "z.weight"],
        "a": ["a.bias", "a.running_mean", "a.running_var", "a.weight"],
        "out": ["out.bias", "out.weight"],
    }
    assert groups(names, "layer") == expected
    assert list(groups(names, "layer")) == list(expected)
    assert list(groups(names, 3)) == ["stem-a", "out"]


def test_nested_modules_below_a_common_name() -> None:
    model = nn.ModuleDict({"net": nn.ModuleDict({"enc": nn.Linear(2, 2), "dec": nn.Linear(2, 2)})})
    assert groups(names_of(model), "layer") == {
        "enc": ["net.enc.bias", "net.enc.weight"],
        "dec": ["net.dec.bias", "net.dec.weight"],
    }


def test_nested_stack_of_blocks() -> None:
    block = nn.ModuleDict({"attn": nn.Linear(2, 2), "mlp": nn.Linear(2, 2)})
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(3, 2),
            "blocks": nn.ModuleList([block, nn.ModuleDict(dict(block.items()))]),
            "out": nn.Linear(2, 3),
        }
    )
    found = groups(tuple(name for name, _ in model.named_parameters(remove_duplicate=False)), 1)
    assert list(found) == ["embed", "00", "01", "head"]
    assert found["head"] == ["out.bias", "out.weight"]
    assert found["01"] == [
        f"blocks.1.{m}.{k}" for m in ("attn", "mlp") for k in ("bias", "weight")
    ]


def test_one_parameter() -> None:
    for per in ("model", "layer", 2, "module", "tensor", mo.depth(3)):
        shares = Layout(("weight",)).grouping(per).shares
        assert sum(share for _, share in shares["weight"]) == 1


# -- errors ---------------------------------------------------------------------------------


def test_whole_numbers_of_numpy() -> None:
    assert mo.depth(np.int64(4)) == mo.depth(4)
    assert str(mo.depth(np.int64(4))) == "depth(4)"
    for one, other in ((np.int64(2), 2), (mo.depth(np.uint8(3)), mo.depth(3))):
        assert mo.free(0, 1, per=one) == mo.free(0, 1, per=other)
        assert repr(mo.free(0, 1, per=one)) == repr(mo.free(0, 1, per=other))
    for wrong in (np.bool_(True), np.float64(2)):
        with pytest.raises(RecipeError, match="at least one point"):
            mo.depth(wrong)
        with pytest.raises(RecipeError, match="per must be"):
            mo.free(0, 1, per=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("per", ["layers", 0, -1, 1.5, True, None, "depth(0)", "depth(x)", [2]])
def test_unknown_granularity(per: object) -> None:
    with pytest.raises(RecipeError, match=r"'model', 'layer'.*mo\.depth\(k\)|at least one point"):
        mo.free(0, 1, per=per)  # type: ignore[arg-type]
    with pytest.raises(RecipeError):
        mo.per_group([1.0], per=per)  # type: ignore[arg-type]


def test_depth_needs_a_point() -> None:
    with pytest.raises(RecipeError, match="at least one point, not 0"):
        mo.depth(0)
