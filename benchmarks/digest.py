"""Time to open a checkpoint of 1 GB, whose digest reads every byte, beside a plain copy of it.

``python benchmarks/digest.py [FOLDER] [--gigabytes 1]``; the folder should be on the disk in
question. "cold" begins without the file in the page cache (``POSIX_FADV_DONTNEED``; some file
systems keep it all the same), "warm" with it, "known" with the hashes in the user's cache. Prints
one line of JSON: seconds, GB/s and the ratio to the copy of the same temperature; and the
milliseconds to open a small checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

import merge_optuna as mo

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=None)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        root = Path(name)
        os.environ["MERGE_OPTUNA_CACHE"] = str(root / "cache")
        print(json.dumps(measured(root, args.gigabytes)))


def measured(root: Path, gigabytes: float) -> dict[str, float]:
    model = root / "model"
    model.mkdir()
    file = model / "model.safetensors"
    save_file(large(int(gigabytes * 1e9)), file)
    size = file.stat().st_size / 1e9
    time.sleep(2.5)  # hashes of a file just written are not kept

    def opened(*, known: bool) -> Callable[[], object]:
        def run() -> object:
            if not known:
                shutil.rmtree(root / "cache", ignore_errors=True)
            return mo.Checkpoint(model, name="m")

        return run

    def copied() -> object:
        return shutil.copyfile(file, root / "copy")

    def read() -> None:
        with open(file, "rb", buffering=0) as source:
            while source.readinto(buffer):
                pass

    buffer = bytearray(1 << 20)
    found: dict[str, float] = {"gigabytes": round(size, 3), "cores": os.cpu_count() or 0}
    for temperature, prepare in (("cold", lambda: drop(file)), ("warm", lambda: None)):
        copy = best(copied, prepare)
        digest = best(opened(known=False), prepare)
        found |= {
            f"{temperature} copy s": copy,
            f"{temperature} read s": best(read, prepare),
            f"{temperature} digest s": digest,
            f"{temperature} digest GB/s": round(size / digest, 2),
            f"{temperature} digest / copy": round(digest / copy, 3),
        }
    found["known digest s"] = best(opened(known=True), lambda: None)
    small = root / "small"
    small.mkdir()
    save_file({str(i): torch.ones(32, 32) for i in range(21)}, small / "model.safetensors")
    found["small checkpoint ms"] = round(
        1000 * min(timed(lambda: mo.Checkpoint(small, name="m")) for _ in range(50)), 3
    )
    return found


def large(nbytes: int) -> dict[str, torch.Tensor]:
    """Tensors as a model of 1 GB in bfloat16 has them: an embedding and many of 8 MB."""
    embedding = nbytes // 4
    each = 1 << 23
    tensors = {"embed": torch.randint(0, 255, (embedding,), dtype=torch.uint8)}
    for i in range((nbytes - embedding) // each):
        tensors[f"layer{i}"] = torch.randint(0, 255, (each,), dtype=torch.uint8)
    return {n: t[: t.numel() // 2 * 2].view(torch.bfloat16) for n, t in tensors.items()}


def drop(file: Path) -> None:
    """Takes a file out of the page cache, as far as it goes."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def best(work: Callable[[], object], prepare: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        prepare()
        times.append(timed(work))
    return round(min(times), 3)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
