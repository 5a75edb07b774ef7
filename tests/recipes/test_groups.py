"""Layer groups of real architectures and of plain modules, each spelled out."""

from __future__ import annotations

from collections import OrderedDict

import pytest
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


@pytest.mark.parametrize("per", ["layers", 0, -1, 1.5, True, None, "depth(0)", "depth(x)", [2]])
def test_unknown_granularity(per: object) -> None:
    with pytest.raises(RecipeError, match=r"'model', 'layer'.*mo\.depth\(k\)|at least one point"):
        mo.free(0, 1, per=per)  # type: ignore[arg-type]
    with pytest.raises(RecipeError):
        mo.per_group([1.0], per=per)  # type: ignore[arg-type]


def test_depth_needs_a_point() -> None:
    with pytest.raises(RecipeError, match="at least one point, not 0"):
        mo.depth(0)
