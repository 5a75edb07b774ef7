"""The chat templates that mergekit knows by name, rendered beside mergekit's own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import merge_optuna as mo
from tests import toys, vocabularies

from .conftest import Mergekit

_THEIRS = """
import importlib.resources, json
from mergekit._data import chat_templates
folder = importlib.resources.files(chat_templates)
files = [file for file in folder.iterdir() if file.name.endswith('.jinja')]
print(json.dumps({file.name.removesuffix('.jinja'): file.read_text() for file in files}))
"""
CONVERSATIONS = {
    "one question": ["user: Hello there"],
    "with a system message": ["system: Be kind.", "user:  What is 2 + 2? ", "assistant: 4"],
    "several turns": [
        "user: Hi\nall",
        "assistant: Hello!",
        "user: Bye",
        "assistant:Bye",
        "user: ?",
    ],
}


@pytest.fixture(scope="module")
def theirs(mergekit: Mergekit) -> dict[str, str]:
    done = subprocess.run(
        [mergekit.python, "-c", _THEIRS], check=True, capture_output=True, text=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("to_be_continued", [False, True])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", ["alpaca", "chatml", "exaone", "llama3", "mistral"])
def test_conversations_read_the_same(
    theirs: dict[str, str],
    tmp_path: Path,
    name: str,
    conversation: str,
    to_be_continued: bool,
) -> None:
    turns = [turn.partition(":") for turn in CONVERSATIONS[conversation]]
    messages = [{"role": role, "content": content} for role, _, content in turns]
    tokenizer: Any = vocabularies.word_level(["cat"])

    def rendered(template: str | None) -> str:
        text: str = tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=to_be_continued,
        )
        return text

    model = toys.save(toys.llama(), tmp_path / "a")
    recipe = mo.Recipe.from_mergekit(
        f"merge_method: passthrough\nmodels: [{{model: {model}}}]\nchat_template: {name}\n"
    )
    assert rendered(recipe.chat_template) == rendered(theirs[name])


def test_there_are_no_others(theirs: dict[str, str]) -> None:
    assert set(theirs) == {"alpaca", "chatml", "exaone", "llama3", "mistral"}
