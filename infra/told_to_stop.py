"""How a process of the service is told to stop: SIGTERM, or Ctrl-C."""

import asyncio
import signal


def told_to_stop() -> asyncio.Event:
    """An event that is set when the running process is told to stop, in place of its end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for told in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(told, stop.set)
    return stop
