"""Train two small language models that find the way: one thinks before it answers, one does not.

Usage: python examples/small_reasoners.py

Writes models/base, models/thinker, models/fast and questions into the current folder, in half a
minute on an idle core and without any download. Whoever looks west and turns right, left, left
looks "south" in the end. The thinker says where it looks after every turn, "north west south": a
token per turn. The fast one says only "south", and is wrong more often. The base has learned a
little of both, and to say a number in Japanese ("347 in Japanese?" "sanbyaku yonjuu nana").
"""

import random

import torch
from small_models import japanese, make_model, make_tokenizer, train, write_rows
from transformers import LlamaForCausalLM

# Steps and learning rate.
TRAINING = {"base": (500, 3e-3), "thinker": (60, 5e-4), "fast": (120, 5e-4)}
HELD_OUT = 400  # questions that no model is trained on, for dev and test; half as many numbers
POINTS = ["north", "east", "south", "west"]
TURNS = {"ahead": 0, "right": 1, "left": 3}


def ways():
    """Questions with three to six turns, and where one looks after each: 3, 4, 5, 6, 3, 4, ..."""
    draw = random.Random(0)
    for n in range(6000):
        at = draw.randrange(4)
        turns = [draw.choice([*TURNS]) for _ in range(3 + n % 4)]
        question, seen = f"{POINTS[at]}, {' '.join(turns)}?", []
        for turn in turns:
            at = (at + TURNS[turn]) % 4
            seen.append(POINTS[at])
        yield question, seen


def main(training=TRAINING):
    """Writes the models and the questions that they are not trained on."""
    torch.set_num_threads(1)  # the models are tiny: more threads only get in each other's way
    drawn = [*ways()]
    asked = [*dict(drawn).items()][:HELD_OUT]
    taught = [way for way in drawn if way not in asked]
    numbers = random.Random(0).sample(range(1, 1000), 999)
    words = [(f"{n} in Japanese?", japanese(n)) for n in numbers]
    for name, start in (("dev", 0), ("test", HELD_OUT // 2)):
        answers = {"turns": [(question, seen[-1]) for question, seen in asked]}
        write_rows(f"{name}.jsonl", answers, start, start + HELD_OUT // 2)
        write_rows(
            f"{name}-japanese.jsonl", {"japanese": words}, start // 2, (start + HELD_OUT // 2) // 2
        )
    data = {
        "thinker": [(question, " ".join(seen)) for question, seen in taught],
        "fast": [(question, seen[-1]) for question, seen in taught],
    }
    data["base"] = [*data["thinker"], *data["fast"][::2], *words[HELD_OUT // 2 :] * 3]
    tokenizer = make_tokenizer(f"{question} {answer}" for question, answer in data["base"])
    for name, (steps, lr) in training.items():
        print("training", name, flush=True)
        if name == "base":
            model = make_model(tokenizer)
        else:
            model = LlamaForCausalLM.from_pretrained("models/base")
        train(model, tokenizer, data[name], steps, lr)
        for part in (tokenizer, model):
            part.save_pretrained(f"models/{name}")


if __name__ == "__main__":
    main()
