"""mergekit's YAML (version 0.1.5), read into recipes and written from them."""

from __future__ import annotations

from merge_optuna.mergekit._genome import Genome, read_genome
from merge_optuna.mergekit._read import read
from merge_optuna.mergekit._tools import is_theirs
from merge_optuna.mergekit._write import write

__all__ = ["Genome", "is_theirs", "read", "read_genome", "write"]
