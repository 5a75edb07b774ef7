"""Live paths against the checkpoints that are written of them, and against their sources."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

import merge_optuna as mo
from merge_optuna.engine import LivePath
from merge_optuna.errors import CheckpointMismatch, RecipeError
from merge_optuna.recipes import Hop, LayerPath
from tests import toys

CAUSAL, CLASSES = AutoModelForCausalLM, AutoModelForSequenceClassification
FAMILIES: dict[str, tuple[Callable[[int, int], nn.Module], type]] = {
    "llama": (lambda seed, n: toys.llama(seed, layers=n), CAUSAL),
    "llama, tied": (lambda seed, n: toys.llama(seed, layers=n, tied=True), CAUSAL),
    "mistral": (lambda seed, n: toys.decoder("Mistral", seed, layers=n), CAUSAL),
    "qwen2": (lambda seed, n: toys.decoder("Qwen2", seed, layers=n), CAUSAL),
    "qwen3": (lambda seed, n: toys.decoder("Qwen3", seed, layers=n), CAUSAL),
    "qwen3, sliding": (
        lambda seed, n: toys.decoder(
            "Qwen3",
            seed,
            layers=n,
            use_sliding_window=True,
            sliding_window=3,
            max_window_layers=1,
        ),
        CAUSAL,
    ),
    "gpt2": (lambda seed, n: toys.gpt2(seed, layers=n), CAUSAL),
    "bert": (lambda seed, n: toys.bert(seed, layers=n), CLASSES),
    "roberta": (lambda seed, n: toys.encoder("Roberta", seed, num_hidden_layers=n), CLASSES),
    "bert, masked": (
        lambda seed, n: toys.encoder("Bert", seed, head="MaskedLM", num_hidden_layers=n),
        AutoModelForMaskedLM,
    ),
}


class Pair:
    """Two models, of three and four layers."""

    def __init__(self, family: str, root: Path) -> None:
        make, self.loader = FAMILIES[family]
        self.modules = [toys.noised(make(seed, seed + 2), seed).eval() for seed in (1, 2)]
        self.checkpoints = [
            mo.Checkpoint(toys.save(module, root / name), name=name)
            for module, name in zip(self.modules, ("one", "two"), strict=True)
        ]
        self.generates = self.loader is CAUSAL


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, tmp_path_factory.mktemp("pair"))


def random_path(seed: int) -> LayerPath:
    """One to eight hops with repeats and skips, scales in [0.4, 1.5]."""
    rng = random.Random(seed)
    places = [(0, i) for i in range(3)] + [(1, i) for i in range(4)]
    hops = [Hop(*rng.choice(places), rng.uniform(0.4, 1.5)) for _ in range(rng.randint(1, 8))]
    return LayerPath(tuple(hops), "branch" if seed % 2 else "stream")


def batch(model: nn.Module, *, padded: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 60, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :4] = mask[1, :1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def logits(model: nn.Module, *, padded: bool = True) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**batch(model, padded=padded)).logits
    return found


@pytest.mark.parametrize("ends", [(0, 0), (1, 0), (0, 1)])
def test_live_is_written(pair: Pair, tmp_path: Path, ends: tuple[int, int]) -> None:
    embeddings, head = ends
    live = LivePath(pair.checkpoints)
    seen: list[Tensor] = []
    for seed in range(8):
        way = replace(random_path(seed), embeddings_from=embeddings, head_from=head)
        folder = tmp_path / str(seed)
        mo.write(mo.recipes.path(way, pair.checkpoints), folder)
        written = pair.loader.from_pretrained(folder).eval()
        model = live.load(way)
        for padded in (False, True):
            wanted, found = logits(written, padded=padded), logits(model, padded=padded)
            reach = float(wanted.max() - wanted.min())
            assert float((wanted - found).abs().max()) <= 1e-4 * reach, str(way)
        assert not any(torch.allclose(wanted, other, atol=1e-3 * reach) for other in seen)
        seen.append(wanted)


def test_generates_with_and_without_a_cache(pair: Pair, tmp_path: Path) -> None:
    if not pair.generates:
        pytest.skip("an encoder does not generate")
    live = LivePath(pair.checkpoints)
    for seed in range(4):
        way = random_path(seed)
        mo.write(mo.recipes.path(way, pair.checkpoints), tmp_path / str(seed))
        written = pair.loader.from_pretrained(tmp_path / str(seed)).eval()
        model = live.load(way)
        options = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
        asked = batch(model, padded=True)
        cached = model.generate(**asked, **options, use_cache=True)  # type: ignore[operator]
        plain = model.generate(**asked, **options, use_cache=False)  # type: ignore[operator]
        assert torch.equal(cached, plain), str(way)
        assert torch.equal(cached, written.generate(**asked, **options)), str(way)


def test_own_layers_of_a_model_are_that_model(pair: Pair) -> None:
    for target in ("branch", "stream"):
        way = LayerPath.parse("A[0:3]", target)  # type: ignore[arg-type]
        assert torch.equal(logits(LivePath(pair.checkpoints).load(way)), logits(pair.modules[0]))
    way = LayerPath.parse("B[0:4]", embeddings_from=1, head_from=1)
    assert torch.equal(logits(LivePath(pair.checkpoints).load(way)), logits(pair.modules[1]))


def test_hops_are_executed_in_order_and_sources_stay(pair: Pair) -> None:
    live = LivePath(pair.checkpoints)
    parts = [layer for source in live._models for layer in source.layers]
    before = [{n: t.clone() for n, t in layer.state_dict().items()} for layer in parts]
    attributes = [list(layer.named_modules()) for layer in parts]
    way = random_path(5)
    model = live.load(way)
    assert model is live.load(way)
    executed: list[int] = []
    hops = model.get_submodule(live._models[0].stack)
    for place, hop in enumerate(hops):  # type: ignore[arg-type]
        hop.register_forward_hook(lambda *_, place=place: executed.append(place))
    logits(model)
    assert executed == list(range(len(way.hops)))
    for hop, layer in zip(hops, way.hops, strict=True):  # type: ignore[arg-type]
        source = live._models[layer.model].layers[layer.layer]
        shared = {t.data_ptr() for t in source.parameters()}
        assert {t.data_ptr() for t in hop.parameters()} == shared
    for layer, tensors, modules in zip(parts, before, attributes, strict=True):
        assert list(layer.named_modules()) == modules
        assert not any(module._forward_hooks for _, module in modules)
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, tensors[name])


def test_a_recipe_is_a_model(pair: Pair, tmp_path: Path) -> None:
    tuned = mo.Checkpoint(toys.save(toys.noised(pair.modules[0], 9), tmp_path), name="tuned")
    merged = mo.recipes.linear([pair.checkpoints[0], tuned])
    models = [merged, pair.checkpoints[1]]
    live = LivePath(models)
    found = logits(live.load(LayerPath.parse("A[0:3]")))
    assert torch.equal(found, logits(mo.Engine().load(merged)))
    assert not torch.equal(found, logits(pair.modules[0]))
    for seed in range(4):
        way = replace(random_path(seed), embeddings_from=seed % 2)
        folder = mo.write(mo.recipes.path(way, models), tmp_path / f"{seed}")
        written = pair.loader.from_pretrained(folder).eval()
        wanted = logits(written)
        reach = float(wanted.max() - wanted.min())
        assert float((wanted - logits(live.load(way))).abs().max()) <= 1e-4 * reach, str(way)
        again = mo.Recipe.from_yaml(folder / "recipe.yaml")
        assert again.path == way
        assert again.digest == mo.recipes.path(way, models).digest


def test_an_engine_loads_paths_and_other_recipes(pair: Pair) -> None:
    engine = mo.Engine()
    plain = logits(engine.load(pair.checkpoints[1]))
    seen = []
    for seed in range(3):
        recipe = mo.recipes.path(random_path(seed), pair.checkpoints)
        model = engine.load(recipe)
        seen.append(model)
        assert torch.equal(logits(model), logits(LivePath(pair.checkpoints).load(recipe.path)))
    assert seen[0] is seen[1] is seen[2]
    assert torch.equal(logits(engine.load(pair.checkpoints[1])), plain)


def test_data_type(pair: Pair) -> None:
    model = mo.Engine(dtype="bfloat16").load(mo.recipes.path("A0-B1*0.8", pair.checkpoints))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.isfinite(logits(model)).all()


def test_models_of_several_data_types_make_one(pair: Pair, tmp_path: Path) -> None:
    half = mo.write(pair.checkpoints[1], tmp_path / "half", dtype="bfloat16")
    models = [pair.checkpoints[0], mo.Checkpoint(half, name="half")]
    for turned in (False, True):
        ordered = models[::-1] if turned else models
        recipe = mo.recipes.path("A0*0.7-B1-B0*1.3", ordered)
        folder = mo.write(recipe, tmp_path / f"{turned}")
        wanted = torch.bfloat16 if turned else torch.float32
        stored = mo.Checkpoint(folder)
        floats = {stored.dtype(n) for n in stored.names() if stored.dtype(n).is_floating_point}
        assert floats == {wanted}
        found, written = mo.Engine().load(recipe), pair.loader.from_pretrained(folder).eval()
        assert {p.dtype for p in found.parameters()} == {wanted} == {written.dtype}
        if not turned:
            reach = float(logits(written).max() - logits(written).min())
            assert float((logits(written) - logits(found)).abs().max()) <= 1e-4 * reach


def test_errors(tmp_path: Path) -> None:
    a = mo.Checkpoint(toys.save(toys.llama(), tmp_path / "a"), name="a")
    g = mo.Checkpoint(toys.save(toys.gpt2(), tmp_path / "g"), name="g")
    with pytest.raises(CheckpointMismatch, match="model_type is 'gpt2' and 'llama'"):
        LivePath([a, g])
    vit = mo.Checkpoint(toys.save(toys.vit(), tmp_path / "vit"), name="vit")
    with pytest.raises(RecipeError, match=r"'vit', a vit; it can through those of llama, mistral"):
        LivePath([vit])
    scaled = toys.gpt2(scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(RecipeError, match="scale_attn_by_inverse_layer_idx"):
        LivePath([mo.Checkpoint(toys.save(scaled, tmp_path / "s"), name="s")])
    wide = toys.llama(0, intermediate_size=40)
    w = mo.Checkpoint(toys.save(wide, tmp_path / "w"), name="w")
    with pytest.raises(CheckpointMismatch, match=r"of 'w' and 'a' cannot be .* differ in .*down"):
        LivePath([a, w])
    heads = toys.llama(0, num_attention_heads=2, num_key_value_heads=2)
    h = mo.Checkpoint(toys.save(heads, tmp_path / "h"), name="h")
    for use in (LivePath, lambda models: mo.recipes.path("A0-B0", models)):
        with pytest.raises(CheckpointMismatch, match="num_attention_heads is 2 and 4"):
            use([a, h])
    with pytest.raises(RecipeError, match=r"path A0-A7 wants layer 7 of 'a', which has 2, 0 to 1"):
        LivePath([a]).load(LayerPath.parse("A0-A7"))
    with pytest.raises(RecipeError, match="wants model 1; there are 0 \\(A\\)"):
        LivePath([a]).load(LayerPath.parse("B0"))
