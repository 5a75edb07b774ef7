from __future__ import annotations

from tests.trained import task  # noqa: F401
