"""What is done in all processes of the service at once: looked at, or changed.

Here there is one process. With several, :class:`service.processes.worker.Siblings` reaches the others.
"""

from collections.abc import Awaitable, Callable
from typing import Any

Act = Callable[..., Awaitable[object]]


class Everywhere:
    """What every process can do when it is asked by one of them, by name."""

    def __init__(self) -> None:
        self._acts: dict[str, Act] = {}

    @property
    def serves_at_once(self) -> bool:
        """Whether there is nothing to wait for before requests are taken."""
        return True

    async def serving(self) -> None:
        """Wait until this process serves what the others do."""

    def add(self, name: str, act: Act) -> None:
        """Let the processes ask each other for something; what is passed and returned can be pickled."""
        self._acts[name] = act

    async def ask(self, name: str, *args: object) -> list[Any]:
        """What each process answers.

        Raises:
            Exception: what the first of them raised that did.

        """
        return [await self._acts[name](*args)]

    async def change(self, name: str, *args: object) -> None:
        """Change all processes alike.

        Raises:
            Exception: what they raised; then nothing has changed.

        """
        await self._acts[name](*args)
