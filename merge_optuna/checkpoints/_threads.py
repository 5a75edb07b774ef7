"""Work on several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
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
    futures: list[Future[None]] = []
    try:
        for item in items:
            futures.append(pool.submit(work, item))
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    finally:
        _end(pool, futures)


def _end(pool: ThreadPoolExecutor, futures: Sequence[Future[None]]) -> None:
    """Waits for the work that has begun, however often that is interrupted.

    It writes into memory that is used again: a thread left behind would write into the next model.
    (To join threads is no way: an interrupted join takes a running thread for one that has ended.)
    """
    interrupted: BaseException | None = None
    while True:
        try:
            pool.shutdown(wait=False, cancel_futures=True)
            wait([future for future in futures if not future.cancel()])
            break
        except BaseException as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
