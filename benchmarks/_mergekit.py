"""mergekit in a Python of its own, asked to merge one configuration after another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# Runs there; knows nothing of merge_optuna.
_SERVER = """
import json, shutil, sys, time
import torch
torch.set_num_threads(int(sys.argv[1]))
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
replies, sys.stdout = sys.stdout, sys.stderr
options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False)
for line in sys.stdin:
    request = json.loads(line)
    shutil.rmtree(request["out"], ignore_errors=True)
    wall, cpu = time.perf_counter(), time.process_time()
    run_merge(MergeConfiguration.model_validate(request["config"]), request["out"], options)
    reply = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    status = dict(l.split(":", 1) for l in open("/proc/self/status"))
    reply["peak_rss_mb"] = int(status["VmHWM"].split()[0]) / 1024
    print(json.dumps(reply), file=replies, flush=True)
"""


class Mergekit:
    """mergekit's in-process API, so that its imports are not counted."""

    def __init__(self, python: str, threads: int) -> None:
        self._process = subprocess.Popen(
            [python, "-c", _SERVER, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def merge(self, config: dict[str, Any], out: Path) -> dict[str, float]:
        """Wall and CPU seconds of one merge to disk, and the process's peak RSS so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"config": config, "out": str(out)}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit("mergekit has ended; run its configuration by hand to see why.")
        reply: dict[str, float] = json.loads(line)
        return reply

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
