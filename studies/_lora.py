"""Fine-tunes a chat model by LoRA on questions and short answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

STEPS, BATCH, RATE = 100, 8, 1e-3
WARM_UP = 10  # steps
LONGEST = 96  # tokens of an example, question and answer

Row = dict[str, Any]  # question, answer
Encoded = tuple[list[int], int]  # token ids, and how many of them, at the end, are the answer's


def train(base: str, rows: list[Row], system: str, folder: Path, seed: int) -> None:
    """Trains factors of all linear layers, of rank 16, and saves them with the tokenizer."""
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, lora).train()
    optimizer = torch.optim.AdamW(
        [one for one in adapted.parameters() if one.requires_grad], weight_decay=0
    )
    encoded = (encode(tokenizer, system, row) for row in rows)
    short = [one for one in encoded if len(one[0]) <= LONGEST]
    for step, batch in enumerate(islice(batches(short), STEPS), 1):
        optimizer.param_groups[0]["lr"] = RATE * min(1, step / WARM_UP) * (1 - 0.9 * step / STEPS)
        answer_loss(adapted, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def batches(examples: list[Encoded]) -> Iterator[list[Encoded]]:
    """Without end: each example once, then again in another order."""
    order: list[int] = []
    while True:
        while len(order) < BATCH:
            order += torch.randperm(len(examples)).tolist()
        yield [examples[i] for i in order[:BATCH]]
        del order[:BATCH]


def encode(tokenizer: Any, system: str, row: Row) -> Encoded:
    """A conversation; the answer ends with the token that ends a turn."""
    turns = [{"role": "system", "content": system}, {"role": "user", "content": row["question"]}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    before, after = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, row["answer"])
    )
    return [*before, *after, tokenizer.eos_token_id], len(after) + 1


def answer_loss(model: nn.Module, examples: Sequence[Encoded]) -> Tensor:
    """Mean over the tokens of the answers, which all end at the right."""
    ids = [torch.tensor(ids) for ids, _ in examples]
    answers = [row[-n:] for row, (_, n) in zip(ids, examples, strict=True)]
    labels = pad_sequence(answers, batch_first=True, padding_value=-100, padding_side="left")
    logits = model(
        input_ids=pad_sequence(ids, batch_first=True, padding_side="left"),
        attention_mask=pad_sequence(
            [torch.ones_like(row) for row in ids], batch_first=True, padding_side="left"
        ),
        logits_to_keep=labels.shape[1] + 1,
    ).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten())
