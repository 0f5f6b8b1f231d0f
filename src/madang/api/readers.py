"""Threads for what may take its time: queries and files. The event loop never waits for either.

A bound on those who wait turns a flood into 503s instead of memory.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from typing import ParamSpec, TypeVar

from madang.api.problems import busy

P = ParamSpec("P")
T = TypeVar("T")


class Readers:
    """A few threads and a bounded line before them."""

    def __init__(self, name: str, threads: int, waiting_max: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"madang-{name}")
        self._name = name
        self._bound = threads + waiting_max
        self._count = 0

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `call` returns, called in one of the threads.

        Raises:
            Problem: 503, too many wait already.
        """
        if self._count >= self._bound:
            raise busy(f"{self._count} requests wait for the {self._name} already")
        self._count += 1
        try:
            future = self._pool.submit(call, *args, **kwargs)
            future.add_done_callback(lambda _: None)
            return await asyncio.wrap_future(future)
        finally:
            self._count -= 1

    @asynccontextmanager
    async def entered(self, manager: AbstractContextManager[T]) -> AsyncIterator[T]:
        """A context manager whose beginning and good end are called in the threads."""
        value = await self.read(manager.__enter__)
        try:
            yield value
        except BaseException as error:
            # Here and now: the line may be full, and whatever was begun must not be left behind.
            manager.__exit__(type(error), error, error.__traceback__)
            raise
        await self.read(manager.__exit__, None, None, None)

    @property
    def load(self) -> float:
        """How full the line is, from 0 to 1."""
        return self._count / self._bound

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
