"""Train three small language models to try a merge on: a base, one for Japanese, one for maths.

Usage: python examples/small_models.py

Writes models/base, models/japanese, models/math, dev.jsonl and test.jsonl into the current folder,
in half a minute on two cores and without any download. The base has learned a little of two
skills, to say a number in Japanese ("347 in Japanese?" "sanbyaku yonjuu nana") and to add
("17 + 25 =" "42"); each expert goes on with one of them and forgets the other.
"""

import json
import random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

DIGITS = ["", "ichi", "ni", "san", "yon", "go", "roku", "nana", "hachi", "kyuu"]
HUNDREDS = {1: "hyaku", 3: "sanbyaku", 6: "roppyaku", 8: "happyaku"}  # and nihyaku, yonhyaku, ...
STEPS = {"base": 300, "japanese": 200, "math": 400}


def japanese(number):
    """A number from 1 to 999 in romanised Japanese."""
    hundreds, tens, ones = number // 100, number // 10 % 10, number % 10
    words = [
        HUNDREDS.get(hundreds, DIGITS[hundreds] + "hyaku") if hundreds else "",
        (DIGITS[tens] if tens > 1 else "") + "juu" if tens else "",
        DIGITS[ones],
    ]
    return " ".join(word for word in words if word)


def questions():
    """All questions of each skill in random order, with their answers."""
    numbers = range(1, 1000)
    sums = [(a, b) for a in range(50) for b in range(50)]
    skills = {
        "japanese": [(f"{n} in Japanese?", japanese(n)) for n in numbers],
        "math": [(f"{a} + {b} =", str(a + b)) for a, b in sums],
    }
    shuffle = random.Random(0).shuffle
    for rows in skills.values():
        shuffle(rows)
    return skills


def make_tokenizer(texts):
    """Byte-level BPE in which every digit is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def make_model(tokenizer):
    """A Llama of 170,000 parameters that knows nothing."""
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    shape = {"vocab_size": len(tokenizer), "num_attention_heads": 4, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(**shape, **size, **ids))


def train(model, tokenizer, rows, steps, lr):
    """Trains on the answers to 64 random questions at a time."""
    asked = tokenizer([question for question, _ in rows])["input_ids"]
    told = tokenizer([f" {answer}</s>" for _, answer in rows], add_special_tokens=False)
    pairs = [*zip(asked, told["input_ids"], strict=True)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    draw = random.Random(0)
    model.train()
    for _ in range(steps):
        batch = draw.sample(pairs, 64)
        width = max(len(q) + len(a) for q, a in batch)
        ids = [q + a + [0] * (width - len(q + a)) for q, a in batch]
        labels = [[-100] * len(q) + a + [-100] * (width - len(q + a)) for q, a in batch]
        model(input_ids=torch.tensor(ids), labels=torch.tensor(labels)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def write_rows(path, skills, start, stop):
    """Some questions of each skill as JSON lines."""
    with open(path, "w") as file:
        for skill, rows in skills.items():
            for question, answer in rows[start:stop]:
                row = {"question": question, "answer": answer, "skill": skill}
                file.write(json.dumps(row) + "\n")


def main(steps=STEPS):
    """Writes the models and the questions that they are not trained on."""
    torch.set_num_threads(1)  # the models are tiny: more threads only get in each other's way
    skills = questions()
    write_rows("dev.jsonl", skills, 0, 200)
    write_rows("test.jsonl", skills, 200, 400)
    data = {skill: rows[400:] for skill, rows in skills.items()}
    data["base"] = [*data["japanese"], *data["math"]]
    tokenizer = make_tokenizer(f"{question} {answer}" for question, answer in data["base"])
    for name in ("base", "japanese", "math"):
        print("training", name, flush=True)
        if name == "base":
            model, lr = make_model(tokenizer), 2e-3
        else:
            model, lr = LlamaForCausalLM.from_pretrained("models/base"), 1e-3
        train(model, tokenizer, data[name], steps[name], lr)
        for part in (tokenizer, model):
            part.save_pretrained(f"models/{name}")


if __name__ == "__main__":
    main()
