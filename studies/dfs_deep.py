"""The same comparison as ``dfs_stories.py`` on decoders of twelve layers, which it trains itself.

    python studies/dfs_deep.py --data DIR --evaluations 600 [--jobs 2]

DIR has texts of four domains (see ``_passages.py``). A small Llama (12 layers, 706,112
parameters, a vocabulary of 512 tokens made from the texts) is trained on TinyStories, and from it
three experts are fine-tuned on one of the other domains each; ten minutes on one thread. Models
and finished runs are kept in ``runs/dfs_deep`` and not made again. Table, paths and their picture
go to ``studies/dfs_deep``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _data_flow import data_of, finish, parser
from _passages import BASE, TEXTS, Pool, text_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MODELS = Path("runs/dfs_deep/models")
LAYERS, WIDTH, VOCABULARY = 12, 64, 512
EXPERTS = ("shakespeare", "wizardofoz", "gsm8k")
BATCH, LENGTH = 16, 128
STEPS, TUNING, RATE = 1500, 150, 2e-3


def main() -> None:
    """Runs what the command line asks for."""
    arguments = parser(__doc__).parse_args()
    data = data_of(arguments)
    if not arguments.tables:
        train(data)
    names = (BASE, *EXPERTS)
    pool = Pool("dfs_deep", data, MODELS, tuple(zip(names, names, strict=True)))
    title = "Twelve layers: a small Llama and three fine-tunes of it"
    finish(pool, arguments, Path(__file__).with_suffix(""), title)


def train(data: Path) -> None:
    """Makes the base and the experts, unless they are there."""
    texts = {domain: text_of(data, domain, "train") for domain in TEXTS}
    tokenizer = made_tokenizer(list(texts.values()))
    tokens = {domain: torch.tensor(tokenizer(text).input_ids) for domain, text in texts.items()}
    if not (MODELS / BASE).exists():
        torch.manual_seed(0)
        save(fitted(new_model(), tokens["tinystories"], STEPS, BASE), tokenizer, BASE)
    for seed, domain in enumerate(EXPERTS):
        if not (MODELS / domain).exists():
            torch.manual_seed(1 + seed)
            model = LlamaForCausalLM.from_pretrained(MODELS / BASE)
            save(fitted(model, tokens[domain], TUNING, domain), tokenizer, domain)


def made_tokenizer(texts: Sequence[str]) -> Any:
    """Byte-pair encoding, learned from the first part of every text."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator([text[:200_000] for text in texts], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>")


def new_model() -> LlamaForCausalLM:
    """With random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def fitted(model: LlamaForCausalLM, text: torch.Tensor, steps: int, name: str) -> LlamaForCausalLM:
    """Trains on passages of a text: AdamW, the rate falls as a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    warm = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in tqdm(range(steps), f"Training {name}"):
        starts = torch.randint(len(text) - LENGTH, (BATCH,)).tolist()
        ids = torch.stack([text[first : first + LENGTH] for first in starts])
        ids[:, 0] = 0  # a passage begins with <s>
        optimizer.zero_grad()
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm.step()
    return model.eval()


def save(model: LlamaForCausalLM, tokenizer: Any, name: str) -> None:
    """Where the study finds it."""
    model.save_pretrained(MODELS / name)
    tokenizer.save_pretrained(MODELS / name)


if __name__ == "__main__":
    main()
