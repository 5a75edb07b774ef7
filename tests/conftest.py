"""What every test runs under: one thread per process, a silent transformers."""

from __future__ import annotations

import os
import tempfile

import torch
from transformers.utils import logging

# Of this run, and of the processes that tests start.
os.environ.setdefault("MERGE_OPTUNA_CACHE", tempfile.mkdtemp(prefix="merge_optuna-tests-"))
torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()
