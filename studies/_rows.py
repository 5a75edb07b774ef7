"""Results as JSON that people can read and compare: one line a row."""

import json
from dataclasses import asdict
from typing import Any


def by_rows(data: Any) -> str:
    """JSON in which a list or an object of plain values takes one line, and no more."""
    return _lines(json.loads(json.dumps(data, default=asdict)), "") + "\n"


def _lines(data: Any, indent: str) -> str:
    parts = [*(data.values() if isinstance(data, dict) else data)] if _holds(data) else []
    if not any(map(_holds, parts)):
        return json.dumps(data, ensure_ascii=False)
    named = isinstance(data, dict)
    names = [f"{json.dumps(n, ensure_ascii=False)}: " if named else "" for n in data]
    lines = [f"{indent} {n}{_lines(p, indent + ' ')}" for n, p in zip(names, parts, strict=True)]
    start, end = "{}" if named else "[]"
    return "\n".join([start, ",\n".join(lines), indent + end])


def _holds(data: Any) -> bool:
    return isinstance(data, dict | list)
