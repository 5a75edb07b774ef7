"""Work on several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


def for_each(work: Callable[[T], None], items: Sequence[T], threads: int) -> None:
    """Does ``work`` for every item, in order where there is one thread.

    The first exception, also a ctrl-C, ends it: what has not begun is left out.
    """
    if threads <= 1 or len(items) <= 1:
        for item in items:
            work(item)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        futures = [pool.submit(work, item) for item in items]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    finally:
        _end(pool)


def _end(pool: ThreadPoolExecutor) -> None:
    """Waits for the threads, however often that is interrupted.

    They write into memory that is used again: one left behind would write into the next model.
    """
    interrupted: BaseException | None = None
    while True:
        try:
            pool.shutdown(wait=True, cancel_futures=True)
            break
        except BaseException as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
