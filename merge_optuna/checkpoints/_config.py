"""The config object of a transformers class."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_config(architecture: Any, content: Mapping[str, Any]) -> Any:
    """The config object that a transformers class reads from the content of a ``config.json``.

    It is read from a file, as transformers has forms of its own for what JSON lacks, e.g. the
    infinite limit of a Mamba 2.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(content), encoding="utf-8")
        return architecture.config_class.from_pretrained(folder, local_files_only=True)
