"""Layer paths: their text, and written models against literal scales in a plain forward pass."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import merge_optuna as mo
from merge_optuna.engine import tensors
from merge_optuna.errors import CheckpointMismatch, RecipeError
from merge_optuna.recipes import Hop, LayerPath
from tests import toys

path = mo.recipes.path

LLAMA = "model.layers", "mlp", "model.embed_tokens", AutoModelForCausalLM
# A small ε, since the folded form differs from the literal one by it.
FAMILIES: dict[str, tuple[Callable[..., nn.Module], dict[str, object], tuple[str, str, str, type]]]
FAMILIES = {
    "llama": (toys.llama, {"rms_norm_eps": 1e-12}, LLAMA),
    "llama, tied, biases": (
        toys.llama,
        {"rms_norm_eps": 1e-12, "tied": True, "attention_bias": True, "mlp_bias": True},
        LLAMA,
    ),
    "gpt2": (
        toys.gpt2,
        {"layer_norm_epsilon": 1e-12},
        ("transformer.h", "mlp", "transformer.drop", AutoModelForCausalLM),
    ),
    "bert": (
        toys.bert,
        {"layer_norm_eps": 1e-12},
        (
            "bert.encoder.layer",
            "output.dense",
            "bert.embeddings",
            AutoModelForSequenceClassification,
        ),
    ),
}


class Pair:
    """Two models, of three and four layers, and the literal network of a path."""

    def __init__(self, family: str, root: Path) -> None:
        make, options, names = FAMILIES[family]
        self.layers, self.feed_forward, self.embedding, self.loader = names
        self.modules = [  # with noise, so that biases are not zero
            toys.noised(make(seed, layers=seed + 2, **options), seed).eval() for seed in (1, 2)
        ]
        self.checkpoints = [
            mo.Checkpoint(toys.save(module, root / name), name=name)
            for module, name in zip(self.modules, ("one", "two"), strict=True)
        ]

    def literal(self, way: LayerPath) -> nn.Module:
        """The first model with the layers of the path, whose scales are hooks."""
        made = copy.deepcopy(self.modules[0])
        stack = nn.ModuleList(
            copy.deepcopy(self.modules[hop.model].get_submodule(self.layers)[hop.layer])
            for hop in way.hops
        )
        parent, _, name = self.layers.rpartition(".")
        setattr(made.get_submodule(parent), name, stack)
        made.config.num_hidden_layers = len(stack)
        made.config.use_cache = False
        for i, hop in enumerate(way.hops):
            if way.scale_target == "stream":
                stack[i].register_forward_pre_hook(scaled_input(hop.scale))
                continue
            before = stack[i - 1].get_submodule(self.feed_forward) if i else None
            module = made.get_submodule(self.embedding) if before is None else before
            module.register_forward_hook(scaled_output(hop.scale))
        return made.eval()


def scaled_input(scale: float) -> Callable[..., object]:
    return lambda module, inputs: (inputs[0] * scale, *inputs[1:])


def scaled_output(scale: float) -> Callable[..., object]:
    return lambda module, inputs, output: output * scale


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, tmp_path_factory.mktemp("pair"))


def random_path(seed: int, target: str) -> LayerPath:
    """Eight hops at most, with repeats and skips, scales in [0.4, 1.5]."""
    rng = random.Random(seed)
    places = [(0, i) for i in range(3)] + [(1, i) for i in range(4)]
    hops = [Hop(*rng.choice(places), rng.uniform(0.4, 1.5)) for _ in range(rng.randint(1, 8))]
    return LayerPath(tuple(hops), target)  # type: ignore[arg-type]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**toys.inputs(model)).logits.double()


@pytest.mark.parametrize("target", ["branch", "stream"])
@pytest.mark.parametrize("seed", range(12))
def test_written_model_is_the_literal_network(
    pair: Pair, tmp_path: Path, seed: int, target: str
) -> None:
    way = random_path(seed, target)
    folder = mo.write(path(way, pair.checkpoints), tmp_path / "out")
    written = pair.loader.from_pretrained(folder)
    wanted = logits(pair.literal(way))
    scale = float(wanted.max() - wanted.min())
    assert written.config.num_hidden_layers == len(way.hops)
    assert float((logits(written) - wanted).abs().max()) <= 1e-4 * scale
    other = logits(pair.literal(random_path(seed + 100, target)))
    assert float((other - wanted).abs().max()) > 1e-2 * scale


def test_all_layers_of_one_model_are_that_model(pair: Pair) -> None:
    model = mo.Engine().load(path("A[0:3]", pair.checkpoints))
    assert torch.equal(logits(model), logits(pair.modules[0]))


def test_ends_are_of_the_models_that_are_named(pair: Pair) -> None:
    recipe = path("B0-B2", pair.checkpoints, embeddings_from=0, head_from=0)
    merged = dict(tensors(recipe))
    outside = {n: t for n, t in pair.modules[0].state_dict().items() if pair.layers not in n}
    for name in merged.keys() & outside.keys():
        assert torch.equal(merged[name], outside[name]), name
    swapped = dict(tensors(path("B0-B2", pair.checkpoints, embeddings_from=1, head_from=1)))
    theirs = pair.modules[1].state_dict()
    for name in swapped.keys() & outside.keys():
        assert torch.equal(swapped[name], theirs[name]), name


def test_round_trips(pair: Pair) -> None:
    way = random_path(3, "stream")
    assert LayerPath.parse(str(way), "stream") == way
    recipe = path(way, pair.checkpoints)
    again = mo.Recipe.from_yaml(recipe.to_yaml())
    assert again.digest == recipe.digest
    for (name, a), (_, b) in zip(tensors(recipe), tensors(again), strict=True):
        assert torch.equal(a, b), name


def test_prints_as_a_path(pair: Pair) -> None:
    recipe = path("A0 B1*0.8", pair.checkpoints, embeddings_from=1, scale_target="stream")
    assert str(recipe) == "A0-B1×0.8"
    assert recipe.to_data()["path"] == {
        "hops": "A0-B1*0.8",
        "scale_target": "stream",
        "embeddings_from": 1,
    }
    with pytest.raises(RecipeError, match="'path' takes a path, and no other does"):
        mo.Recipe(method="path", models=tuple(pair.checkpoints))
    with pytest.raises(RecipeError, match=r"Not a layer path: .* Expected hops, scale_target"):
        mo.Recipe(method="path", models=tuple(pair.checkpoints), path={"hop": "A0"})


@pytest.mark.parametrize("seed", range(4))
def test_mergekit(pair: Pair, seed: int) -> None:
    way = random_path(seed, "branch" if seed % 2 else "stream")
    way = replace(way, embeddings_from=way.hops[0].model, head_from=way.hops[-1].model)
    recipe = path(way, pair.checkpoints)
    text = recipe.to_mergekit()
    assert mo.Recipe.from_mergekit(text).digest == recipe.digest
    theirs = yaml.safe_load(text)
    del theirs["merge_optuna"]["recipe"]
    read = mo.Recipe.from_mergekit(yaml.safe_dump(theirs))
    assert read.method == "passthrough"
    for (name, a), (_, b) in zip(tensors(recipe), tensors(read), strict=True):
        assert torch.equal(a, b), name


def test_text() -> None:
    way = LayerPath.parse("A0-A1 B1×0.8 -  A[1:3] C12*1.25")
    assert str(way) == "A0-A1-B1×0.8-A1-A2-C12×1.25"
    assert way.hops[2] == Hop(1, 1, 0.8)
    assert str(LayerPath((Hop(0, 0, 1e-7), Hop(25, 3)))) == "A0×0.0000001-Z3"
    assert LayerPath.parse("A0×1e-05-A1×2.5E+1 B2").hops == (
        Hop(0, 0, 1e-5),
        Hop(0, 1, 25),
        Hop(1, 2),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The path is empty"),
        ("A0-a1", r"'a1' in the path 'A0-a1' is no layer \(A0, B7×0.8\) and no range"),
        ("A0×much", "'much' in 'A0×much' is no number"),
        ("A[3:3]", r"The range 'A\[3:3\]' of the path is empty"),
        ("A0×-1-A1", "The scale of layer A0×-1 must be a number above 0, not -1.0"),
        ("A[0:2]×0.9", r"no range of layers \(A\[0:16\], without a scale\)"),
        ("A0×0", "The scale of layer A0×0 must be a number above 0, not 0.0"),
        ("A0×nan", "must be a number above 0, not nan"),
        ("C0", r"The path wants model 2; there are 0 \(A\), 1 \(B\)\."),
        ("A0-A3", "path A0-A3 wants layer 3 of 'one', which has 3, 0 to 2"),
    ],
)
def test_errors(pair: Pair, text: str, message: str) -> None:
    with pytest.raises(mo.errors.MergeOptunaError, match=message):
        path(text, pair.checkpoints)


def test_what_does_not_fit(tmp_path: Path) -> None:
    wide = toys.llama(0, intermediate_size=40)
    a, b = (
        mo.Checkpoint(toys.save(m, tmp_path / n)) for m, n in ((toys.llama(), "a"), (wide, "b"))
    )
    with pytest.raises(CheckpointMismatch, match=r"their shapes differ in .*down_proj"):
        _ = path("A0-B1", [a, b]).frame
    with pytest.raises(RecipeError, match=r"takes a list of models"):
        path("A0", a)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="takes the embedding from the model of the first layer"):
        path("B0", [a, a.layers(0, 1)]).to_mergekit()
    with pytest.raises(RecipeError, match=r"takes layers from checkpoints, not from other"):
        path("A0", [mo.recipes.linear([a])]).to_mergekit()
    for options, what in (
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_theta is"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_parameters.factor is",
        ),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps is 0.001 and"),
    ):
        other = mo.Checkpoint(toys.save(toys.llama(0, **options), tmp_path / what), name="o")
        with pytest.raises(CheckpointMismatch, match=what):
            path("A0-B1", [a, other])
    old = toys.save(toys.llama(0), tmp_path / "old")  # as versions before 5 wrote it
    config = json.loads((old / "config.json").read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    for value, fits in ((theta, True), (5e5, False)):
        (old / "config.json").write_text(json.dumps({**config, "rope_theta": value}))
        models = [a, mo.Checkpoint(old, name="old")]
        if fits:
            path("A0-B1", models)
        else:
            with pytest.raises(CheckpointMismatch, match=r"rope_theta is 500000.0 and 10000.0"):
                path("A0-B1", models)
    large = mo.Checkpoint(toys.save(toys.llama(0, vocab_size=80), tmp_path / "large"), name="l")
    assert path("A0-B1", [a, large]).frame.config["vocab_size"] == 64
    for ends in ({"head_from": 1}, {"embeddings_from": 1}):
        with pytest.raises(
            CheckpointMismatch, match=r"vocab_size are .*embeddings_from= and head"
        ):
            path("A0-B1", [a, large], **ends)
    vit = mo.Checkpoint(toys.save(toys.vit(), tmp_path / "vit"))
    assert path("A0-A0", [vit]).frame.config["num_hidden_layers"] == 2
    with pytest.raises(RecipeError, match=r"a vit, cannot have scales; those of llama, .*bert"):
        path("A0×0.5", [vit])


def test_whole_numbers_of_numpy() -> None:
    zero, one = np.arange(2)
    way = LayerPath((Hop(one, zero), Hop(zero, one, 0.5)), embeddings_from=one, head_from=one)
    plain = LayerPath((Hop(1, 0), Hop(0, 1, 0.5)), embeddings_from=1, head_from=1)
    assert way == plain
    assert repr(way) == repr(plain)
    assert json.dumps(way.to_data()) == json.dumps(plain.to_data())
    way.check("AB", (2, 2))
    for wrong in (np.bool_(True), np.float64(1)):
        with pytest.raises(RecipeError, match="is no layer of a path"):
            LayerPath((Hop(0, wrong),))
    with pytest.raises(RecipeError, match="wants model True; there are 0"):
        LayerPath((Hop(0, 0),), head_from=True).check("AB", (2, 2))
