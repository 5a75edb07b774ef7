"""Models that write, and prompts for them: what the benchmarks of generation have in common."""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

import merge_optuna as mo

SYSTEM = "Answer briefly."


@dataclass(frozen=True)
class Setting:
    """A base, experts, and what they are asked.

    Attributes:
        sources: The base and its experts, folders of whole models.
        tokenizer: Of all of them.
        rows: Rows with a question and an answer.
        asking: How a row becomes a prompt, for ``mo.evaluators.Generation``.
    """

    sources: list[mo.Checkpoint]
    tokenizer: Any
    rows: datasets.Dataset
    asking: Mapping[str, Any] = field(default_factory=dict)

    def evaluator(self, **options: Any) -> mo.evaluators.Generation:
        """One that shows what is written."""
        return mo.evaluators.Generation(
            self.rows, tokenizer=self.tokenizer, **self.asking, **options
        )

    def prompts(self) -> list[list[int]]:
        """Token ids, as transformers makes them."""
        texts = self.rows["question"]
        if not self.asking:
            return [self.tokenizer(text)["input_ids"] for text in texts]
        turns = [
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
            for text in texts
        ]
        encoded = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True)
        return [[*ids] for ids in encoded["input_ids"]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the real models and texts are."""
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("MERGE_OPTUNA_DATA"),
        help="folder with checkpoints/stories260K*, lm_tinystories and math_svamp",
    )
    parser.add_argument("--lm", type=Path, help="folder of a small chat model, e.g. SmolLM2-135M")
    parser.add_argument("--adapters", type=Path, nargs="+", default=[], help="adapters of --lm")
    parser.add_argument("--folder", type=Path, default=Path("runs/replies"))
    parser.add_argument("--dtype", default="float32")


def setting(name: str, options: argparse.Namespace, prompts: int) -> Setting:
    """One of ``SETTINGS``."""
    return SETTINGS[name](options, prompts)


def _stories(options: argparse.Namespace, prompts: int) -> Setting:
    """A Llama of 260 thousand parameters that tells stories, and two that were trained on."""
    folder = _data(options) / "checkpoints"
    names = ("stories260K", "stories260K-shakespeare", "stories260K-wizardofoz")
    text = (_data(options) / "lm_tinystories/tinystories_sample.txt").read_text("utf-8")
    stories = [story.split() for story in text.split("<|endoftext|>") if len(story.split()) > 20]
    # of different lengths
    beginnings = [" ".join(story[: 4 + i % 13]) for i, story in enumerate(stories[:prompts])]
    sources = [mo.Checkpoint(folder / name, name=name) for name in names]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / names[0])
    return Setting(sources, tokenizer, _rows(beginnings))


def _chat(options: argparse.Namespace, prompts: int) -> Setting:
    """A chat model and its adapters, asked word problems; without end tokens.

    So every reply has as many tokens as are asked for. (Those of these adapters are very short.)
    """
    if options.lm is None or not options.adapters:
        raise SystemExit("--lm and --adapters are needed for this model; or leave it out.")
    base = mo.Checkpoint(options.lm, name="base")
    adapters = [mo.Checkpoint(a, name=a.name, base=base) for a in options.adapters]
    whole = [_endless(one, options.folder / "chat" / str(one.name)) for one in (base, *adapters)]
    with gzip.open(_data(options) / "math_svamp/train.jsonl.gz", "rt", encoding="utf-8") as file:
        problems = [json.loads(line)["question"] for line in itertools.islice(file, prompts)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.lm)
    tokenizer.eos_token = None
    asking = {"chat": True, "system": SYSTEM}
    return Setting(whole, tokenizer, _rows(problems), asking)


def _endless(source: mo.Checkpoint, folder: Path) -> mo.Checkpoint:
    """A copy of a model that no token ends."""
    if not (folder / "generation_config.json").is_file():
        mo.write(source, folder)
        (folder / "generation_config.json").write_text('{"pad_token_id": 2}', encoding="utf-8")
    return mo.Checkpoint(folder, name=source.name)


def _made(
    options: argparse.Namespace, prompts: int, family: str, settings: dict[str, Any]
) -> Setting:
    """Models with random weights, and words as tokens."""
    root, words = options.folder / family, [f"w{i}" for i in range(250)]
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<unk>", "</s>", *words])}
    splitting = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    splitting.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=splitting, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=len(vocabulary),
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.2,
        **settings,
    )
    for number, name in enumerate(("base", "one", "two")):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        torch.manual_seed(number)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(root / name)
    texts = [
        " ".join(words[(7 * i + 3 * j) % 250] for j in range(1 + i % 9)) for i in range(prompts)
    ]
    sources = [mo.Checkpoint(root / name, name=name) for name in ("base", "one", "two")]
    return Setting(sources, tokenizer, _rows(texts))


def _qwen2(options: argparse.Namespace, prompts: int) -> Setting:
    """With biases, and a head of its own. Heads have 32 numbers, the fewest of vLLM on a CPU."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
    sizes = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 512}
    return _made(options, prompts, "qwen2", {**heads, **sizes, "tie_word_embeddings": False})


def _gpt2(options: argparse.Namespace, prompts: int) -> Setting:
    """With learned positions and a head that is tied to the embedding."""
    return _made(
        options, prompts, "gpt2", {"n_embd": 64, "n_head": 2, "n_layer": 3, "n_positions": 512}
    )


SETTINGS = {"stories": _stories, "chat": _chat, "qwen2": _qwen2, "gpt2": _gpt2}


def _data(options: argparse.Namespace) -> Path:
    if options.data is None:
        raise SystemExit("--data (or MERGE_OPTUNA_DATA) is needed for this model.")
    return Path(options.data)


def _rows(questions: list[str]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"question": questions, "answer": ["-"] * len(questions)})
