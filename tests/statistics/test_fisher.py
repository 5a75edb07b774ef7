"""Fisher information against loops over examples, tokens and labels, and a closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

import merge_optuna as mo
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import batches
from tests import toys
from tests.trained import TOPICS, Task, read_rows, write_rows

Example = dict[str, Tensor]


def by_loop(
    model: nn.Module, examples: list[Example], log_ps: Callable[[nn.Module, Example], list]
) -> dict[str, np.ndarray]:
    """Mean over examples of Σ p·(gradient)², one backward pass each, summed in float64."""
    model.requires_grad_(True)
    total = {name: np.zeros(p.shape) for name, p in model.named_parameters()}
    for example in examples:
        for i in range(len(log_ps(model, example))):
            model.zero_grad()
            log_p, weight = log_ps(model, example)[i]
            log_p.backward()
            for name, p in model.named_parameters():
                if p.grad is not None:
                    total[name] += weight * p.grad.double().numpy() ** 2
    return {name: t / len(examples) for name, t in total.items()}


def hard(model: nn.Module, example: Example) -> list[tuple[Tensor, float]]:
    log_p = model(**example).logits[0].log_softmax(0)
    return [(log_p[int(log_p.argmax())], 1.0)]


def soft(model: nn.Module, example: Example) -> list[tuple[Tensor, float]]:
    log_p = model(**example).logits[0].log_softmax(0)
    return [(one, float(one.detach().exp())) for one in log_p]


def tokens(model: nn.Module, example: Example) -> list[tuple[Tensor, float]]:
    """A sentence without its padding: the sum over its places."""
    length = int(example["attention_mask"].sum())
    logits = model(input_ids=example["input_ids"][:, :length]).logits[0]
    return [(sum(row.log_softmax(0)[int(row.argmax())] for row in logits), 1.0)]


def assert_fisher(found: mo.Checkpoint, expected: dict[str, np.ndarray]) -> None:
    assert set(found.names()) == set(expected)
    for name, wanted in expected.items():
        tensor = found.tensor(name)
        assert tensor.dtype == torch.float32
        scale = wanted.max()
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=1e-4, atol=1e-5 * scale)


def sentences(lengths: list[int], seed: int = 0) -> Example:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 64, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    return {"input_ids": ids, "attention_mask": mask}


def rows(batch: Example) -> list[Example]:
    count = len(next(iter(batch.values())))
    return [{k: t[i : i + 1] for k, t in batch.items()} for i in range(count)]


@pytest.mark.parametrize(("labels", "reference"), [("hard", hard), ("soft", soft)])
def test_a_classifier(
    labels: str, reference: Callable[[nn.Module, Example], list[tuple[Tensor, float]]]
) -> None:
    model = toys.bert(labels=("a", "b", "c"))
    batch = sentences([7, 4, 9, 1, 5])
    checkpoint = mo.Checkpoint.from_module(model, name="m")
    found = mo.statistics.fisher(checkpoint, [batch], labels=labels)
    assert_fisher(found, by_loop(model, rows(batch), reference))


@pytest.mark.parametrize("make", [toys.llama, toys.gpt2], ids=["llama", "gpt2"])
def test_a_language_model(make: Callable[[], nn.Module]) -> None:
    """Labels are its own next tokens; padding does not count; a tied head counts twice."""
    model = make()
    data = [sentences([5, 2], seed=0), sentences([3, 6, 4], seed=1)]
    found = mo.statistics.fisher(mo.Checkpoint.from_module(model, name="m"), data)
    assert_fisher(found, by_loop(model, [r for batch in data for r in rows(batch)], tokens))


def test_names_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """transformers renames a ViT's tensors while it loads them."""
    model = toys.vit()
    checkpoint = mo.Checkpoint(toys.save(model, tmp_path / "vit"), name="m")
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = mo.statistics.fisher(checkpoint, pixels)
    assert set(found.names()) == set(checkpoint.names())
    live = by_loop(model, rows({"pixel_values": pixels}), hard)
    assert sorted(float(found.tensor(n).sum()) for n in found.names()) == pytest.approx(
        sorted(t.sum() for t in live.values()), rel=1e-4
    )


def test_experts_that_transformers_stacks(tmp_path: Path) -> None:
    """A mixture's experts are one parameter in the model and many tensors in the checkpoint."""
    model = toys.decoder("Mixtral")
    checkpoint = mo.Checkpoint(toys.save(model, tmp_path / "mixtral"), name="m")
    batch = sentences([6, 6])
    found = mo.statistics.fisher(checkpoint, [batch])
    assert set(found.names()) == set(checkpoint.names())
    live = by_loop(model, rows(batch), tokens)
    stacked = {name: t for name, t in live.items() if t.ndim == 3}
    assert stacked
    total = sum(float(found.tensor(n).sum()) for n in found.names() if ".experts." in n)
    assert total == pytest.approx(sum(t.sum() for t in stacked.values()), rel=1e-4)


class Logistic(nn.Module):
    """Logistic regression; its running mean is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("mean", torch.full((4,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - self.mean)


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_logistic_regression_has_a_closed_form(labels: str) -> None:
    """∇_W log p(y|x) = (e_y − p)xᵀ, whose squares are (e_y − p)²(x²)ᵀ."""
    model = Logistic()
    with torch.no_grad():
        model.linear.weight.copy_(torch.arange(12.0).sin().reshape(3, 4))
        model.linear.bias.copy_(torch.tensor([0.1, -0.3, 0.2]))
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    found = mo.statistics.fisher(mo.Checkpoint.from_module(model, name="m"), x, labels=labels)

    z = x.double().numpy() - 0.5
    weight, bias = (p.detach().double().numpy() for p in model.linear.parameters())
    logits = z @ weight.T + bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # (examples, y, class): the squared derivative by a logit for each label y
    squares = (np.eye(3) - p[:, None, :]) ** 2
    chance = np.eye(3)[p.argmax(1)] if labels == "hard" else p
    by_logit = (chance[:, :, None] * squares).sum(1)
    assert_fisher(
        found,
        {"linear.weight": by_logit.T @ z**2 / 50, "linear.bias": by_logit.mean(0)},
    )


def test_data_in_every_form_is_the_same(task: Task, tmp_path: Path) -> None:
    """A file, a data set, an evaluator, texts without labels: equal statistics."""
    checkpoint = mo.Checkpoint(task.root / "a", name="a")
    texts = datasets.Dataset.from_list(read_rows(task.dev))
    forms = [
        task.dev,
        str(task.dev),
        texts,
        texts.remove_columns("label"),
        mo.evaluators.Classification(texts.rename_column("text", "sentence"), text="sentence"),
    ]
    found = [
        mo.statistics.fisher(checkpoint, form, n=5, folder=tmp_path / str(i))
        for i, form in enumerate(forms)
    ]
    assert len({f.digest for f in found}) == 1
    other = mo.statistics.fisher(checkpoint, task.dev, n=6, folder=tmp_path / "other")
    assert other.digest != found[0].digest


def test_the_first_n_of_the_batches_are_taken() -> None:
    checkpoint = mo.Checkpoint.from_module(toys.bert(), name="m")
    data = [sentences([5, 5], seed=i) for i in range(4)]
    asked = []

    def stream() -> Iterator[Example]:
        for batch in data:
            asked.append(batch)
            yield batch

    found = mo.statistics.fisher(checkpoint, stream(), n=3)
    assert len(asked) == 2, "an endless stream would be read no further"
    first = [data[0], {k: t[:1] for k, t in data[1].items()}]
    assert found.digest == mo.statistics.fisher(checkpoint, first, n=None).digest


def test_examples_are_of_all_classes(task: Task, tmp_path: Path) -> None:
    """Data sets are often sorted by class."""
    rows = sorted(read_rows(task.dev), key=lambda row: row["label"])
    path = write_rows(tmp_path / "sorted.jsonl", rows)
    checkpoint = mo.Checkpoint(task.root / "a", name="a")
    tokenizer = AutoTokenizer.from_pretrained(task.root / "a")
    classes = {tuple(tokenizer(row["text"])["input_ids"]): row["label"] for row in rows}
    taken = batches(checkpoint, path, n=24, size=1)
    assert len(taken) == 24
    found = {classes[tuple(batch.kwargs["input_ids"][0].tolist())] for batch in taken}
    assert found == set(TOPICS)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ("missing.jsonl", {}, "No file 'missing.jsonl'"),
        ([], {}, "The data is empty"),
        ([{"input_ids": "words"}], {}, "Batch 0 of the data is dict, not a mapping"),
        ([{"input_ids": torch.ones(1, 3, dtype=torch.long)}], {"n": 0}, "n must be at least 1"),
        (3, {}, "data must be"),
        ([{"pixels": torch.ones(1, 3)}], {}, r"LlamaForCausalLM cannot be run on pixels \(1, 3\)"),
        ([], {"labels": "own"}, "labels must be 'hard' or 'soft', not 'own'"),
    ],
)
def test_what_is_refused(data: object, arguments: dict[str, object], message: str) -> None:
    checkpoint = mo.Checkpoint.from_module(toys.llama(), name="m")
    with pytest.raises(EvaluationError, match=message):
        mo.statistics.fisher(checkpoint, data, **arguments)


def test_soft_labels_of_a_language_model_are_refused() -> None:
    checkpoint = mo.Checkpoint.from_module(toys.llama(), name="m")
    with pytest.raises(EvaluationError, match="64 possible tokens at each of 3 places"):
        mo.statistics.fisher(checkpoint, [sentences([3])], labels="soft")


def test_nan_is_refused_and_nothing_kept(cache: Path) -> None:
    model = toys.bert()
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(EvaluationError, match="not finite"):
        mo.statistics.fisher(mo.Checkpoint.from_module(model, name="m"), [sentences([3])])
    assert not list(cache.rglob("*.safetensors"))
