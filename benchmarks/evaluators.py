"""Evaluators beside a bare transformers loop over the same batches, and what a trial is made of.

    python benchmarks/evaluators.py --threads 2
    python benchmarks/evaluators.py --threads 2 --encoder FOLDER --decoder FOLDER

The encoder is by default one of 22 million parameters (the shape of MiniLM), the decoder one of 5
million, both with random weights; or folders with models and tokenizers. For each evaluator: the
examples per second, and how many times as fast it is as the bare loop, which gets padded tensors
that are ready and does nothing but the forward passes and the arithmetic of the metric. Both run
in turns. Then the milliseconds of a trial of the encoder on short texts: the refill of a merge of
two experts, and of the evaluation the forward passes and what stands around them; tokenising comes
once per search. Prints medians; --json writes them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import merge_optuna as mo

E = mo.evaluators
WORDS = [f"word{i}" for i in range(2000)]
NEW_TOKENS = 16
Ids = Sequence[int]
Loop = Callable[[Any, Any, list[Ids], datasets.Dataset], Callable[[], object]]


# -- models and data --------------------------------------------------------------------------


def save_models(root: Path) -> None:
    """An encoder and a decoder with random weights and a tokenizer that knows the words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(special + WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A [SEP] $B", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]"
    )
    torch.manual_seed(0)
    encoder = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    decoder = transformers.LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        eos_token_id=None,
    )
    for name, model in (
        ("encoder", transformers.BertForSequenceClassification(encoder)),
        ("decoder", transformers.LlamaForCausalLM(decoder)),
    ):
        model.save_pretrained(root / name)
        wrapped.save_pretrained(root / name)


def made_up(n: int) -> datasets.Dataset:
    """Short texts, pairs, labels, questions, choices."""
    draw = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    rows = [
        {
            "text": text(5, 30),
            "other": text(5, 30),
            "label": draw.randint(0, 1),
            "number": draw.random(),
            "question": text(8, 30),
            "answer": text(2, 6),
            "choices": [text(2, 6) for _ in range(4)],
            "choice": draw.randint(0, 3),
        }
        for _ in range(n)
    ]
    return datasets.Dataset.from_list(rows)


# -- bare loops: what is ready beforehand, and what is timed ------------------------------------


def padded(tokenizer: Any, *texts: list[str], side: str = "right") -> dict[str, torch.Tensor]:
    batch = tokenizer(*texts, padding=True, padding_side=side, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def logits(model: Any, tokenizer: Any, batches: list[Ids], data: Any) -> Callable[[], object]:
    ready = [padded(tokenizer, data[ids]["text"]) for ids in batches]
    return lambda: [model(**batch).logits.argmax(-1).numpy() for batch in ready]


def embeddings(model: Any, tokenizer: Any, batches: list[Ids], data: Any) -> Callable[[], object]:
    ready = [
        padded(tokenizer, [*data[ids]["text"], *data[ids]["other"]], side="right")
        for ids in batches
    ]

    def one(batch: dict[str, torch.Tensor]) -> Any:
        states = model.base_model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        first, second = ((states * mask).sum(1) / mask.sum(1)).chunk(2)
        return torch.cosine_similarity(first, second).numpy()

    return lambda: [one(batch) for batch in ready]


def likelihood(
    model: Any, tokenizer: Any, asked: list[list[str]], told: list[list[str]]
) -> Callable[[], object]:
    ready = []
    for questions, answers in zip(asked, told, strict=True):
        whole = [f"{q} {a}" for q, a in zip(questions, answers, strict=True)]
        batch = padded(tokenizer, whole)
        start = torch.tensor([len(ids) for ids in tokenizer(questions)["input_ids"]])
        place = torch.arange(batch["input_ids"].shape[1])
        scored = (place >= start[:, None]) & batch["attention_mask"].bool()
        ready.append((batch, scored[:, 1:]))

    def one(batch: dict[str, torch.Tensor], scored: torch.Tensor) -> Any:
        found = model(**batch).logits[:, :-1][scored].log_softmax(-1)
        return found.gather(1, batch["input_ids"][:, 1:][scored][:, None]).numpy()

    return lambda: [one(*batch) for batch in ready]


def answers(model: Any, tokenizer: Any, batches: list[Ids], data: Any) -> Callable[[], object]:
    asked = [data[ids]["question"] for ids in batches]
    return likelihood(model, tokenizer, asked, [data[ids]["answer"] for ids in batches])


def choices(model: Any, tokenizer: Any, batches: list[Ids], data: Any) -> Callable[[], object]:
    asked = [[q for q in data[ids]["question"] for _ in range(4)] for ids in batches]
    told = [[c for some in data[ids]["choices"] for c in some] for ids in batches]
    return likelihood(model, tokenizer, asked, told)


def replies(model: Any, tokenizer: Any, batches: list[Ids], data: Any) -> Callable[[], object]:
    ready = [padded(tokenizer, data[ids]["question"], side="left") for ids in batches]

    def one(batch: dict[str, torch.Tensor]) -> Any:
        written = model.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)
        return tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :])

    return lambda: [one(batch) for batch in ready]


def evaluators(data: datasets.Dataset) -> dict[str, tuple[str, Any, Loop, datasets.Dataset]]:
    """By name: the kind of model, the evaluator, the bare loop, the data."""
    asks = {"question": "question", "answer": "answer"}
    some = data.select(range(max(8, len(data) // 8)))  # decoders take longer
    choice = E.MultipleChoice(some, question="question", answer="choice")
    written = E.Generation(some, **asks, max_new_tokens=NEW_TOKENS, batch_size=32)
    alike = E.Similarity(data, text_pair="other", label="number")
    likely = E.NegativeLogLikelihood(some, **asks, batch_size=32)
    return {
        "Classification": ("encoder", E.Classification(data), logits, data),
        "Regression": ("encoder", E.Regression(data, label="number", logit=0), logits, data),
        "Similarity": ("encoder", alike, embeddings, data),
        "NegativeLogLikelihood": ("decoder", likely, answers, some),
        "MultipleChoice, 4 choices": ("decoder", choice, choices, some),
        f"Generation, {NEW_TOKENS} tokens": ("decoder", written, replies, some),
    }


# -- clocks -----------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def throughput(
    evaluator: Any, model: Any, loop: Loop, data: datasets.Dataset, n: int
) -> dict[str, float]:
    """Of an evaluator and of the bare loop, in turns."""
    batches = [ids.tolist() for ids, _ in evaluator(model)]
    bare = loop(model, AutoTokenizer.from_pretrained(model.name_or_path), batches, data)
    bare()
    ours, theirs = [], []
    for _ in range(n):
        ours.append(seconds(lambda: list(evaluator(model))))
        theirs.append(seconds(bare))
    return {
        "examples/s": len(evaluator) / statistics.median(ours),
        "times as fast as bare": statistics.median(
            b / a for a, b in zip(ours, theirs, strict=True)
        ),
    }


def trial(folder: Path, root: Path, data: datasets.Dataset, n: int) -> dict[str, float]:
    """Milliseconds of what a trial of an encoder is made of."""
    sources = [mo.Checkpoint(folder, name="base")]
    for seed in (1, 2):
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        noise = torch.Generator().manual_seed(seed)
        for tensor in model.parameters():
            tensor.data += 0.002 * torch.randn(tensor.shape, generator=noise)
        model.save_pretrained(root / f"expert-{seed}")
        sources.append(mo.Checkpoint(root / f"expert-{seed}", name=f"expert-{seed}"))
    base, *experts = sources
    tokenizer = AutoTokenizer.from_pretrained(folder)
    evaluator, engine = E.Classification(data, tokenizer=tokenizer), mo.Engine()
    live = engine.load(base)
    first = seconds(lambda: list(evaluator(live)))
    bare = logits(live, tokenizer, [ids.tolist() for ids, _ in evaluator(live)], data)
    times: dict[str, list[float]] = {"refill": [], "evaluation": [], "forward": []}
    for i in range(n + 1):
        recipe = mo.recipes.task_arithmetic(base, experts, weight=0.1 + 0.8 * i / n)
        parts: dict[str, Callable[[], object]] = {
            "refill": lambda recipe=recipe: engine.load(recipe),  # type: ignore[misc]
            "evaluation": lambda: list(evaluator(live)),
            "forward": bare,
        }
        for name, work in parts.items():
            times[name].append(seconds(work))
    refill, whole, forward = (1000 * statistics.median(each[1:]) for each in times.values())
    return {
        "trial, ms": refill + whole,
        "of that refill, %": 100 * refill / (refill + whole),
        "of that forward passes, %": 100 * forward / (refill + whole),
        "of that scoring and all else, %": 100 * (whole - forward) / (refill + whole),
        "tokenising, once per search, ms": max(0.0, 1000 * first - whole),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=1000, help="short texts (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder", type=Path, help="a folder; by default one is made")
    parser.add_argument("--decoder", type=Path, help="a folder; by default one is made")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    data = made_up(given.texts)
    with TemporaryDirectory() as name, torch.inference_mode():
        root = Path(name)
        save_models(root)
        encoder, decoder = given.encoder or root / "encoder", given.decoder or root / "decoder"
        loaded = {
            "encoder": AutoModelForSequenceClassification.from_pretrained(encoder).eval(),
            "decoder": AutoModelForCausalLM.from_pretrained(decoder).eval(),
        }
        found = {
            what: throughput(evaluator, loaded[kind], loop, rows, given.repeats)
            for what, (kind, evaluator, loop, rows) in evaluators(data).items()
        }
        found[f"a trial on {given.texts} texts"] = trial(encoder, root, data, given.repeats)
    for what, numbers in found.items():
        print(what)
        for label, number in numbers.items():
            print(f"  {label:34}{number:10.2f}")
    if given.json:
        given.json.write_text(json.dumps({**vars(given), "found": found}, default=str, indent=1))


if __name__ == "__main__":
    main()
