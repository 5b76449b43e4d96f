"""A command as a child on a leash: it ends, with all it started, when this process does."""

import asyncio
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from infra import leash

# The leash itself needs a moment longer than what it holds is given.
MARGIN = 10.0


class Leashed:
    """A command that runs; `status` is its exit status once it has ended, 128 + n by signal n."""

    def __init__(self, process: asyncio.subprocess.Process, grace: float) -> None:
        self._process = process
        self._grace = grace

    @property
    def pid(self) -> int:
        """Of the leash."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        code = self._process.returncode
        return code if code is None or code >= 0 else 128 - code

    async def wait(self) -> int:
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def stop(self) -> int:
        """SIGTERM, SIGKILL after the grace period; returns the exit status."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            return await asyncio.wait_for(self.wait(), self._grace + MARGIN)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            return await self.wait()


async def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    grace: float,
    without: Collection[str] = (),
) -> Leashed:
    """Start a command, its output appended to `log`; it has `grace` seconds to follow SIGTERM.

    Its environment is that of this process, but for the variables in `without`, and `env`.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in without}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", leash.__file__, "--grace", str(grace), "--"),
            *command,
            env={**inherited, **env},
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    return Leashed(process, grace)
