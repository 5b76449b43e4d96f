"""vLLM's server with all of its listeners on loopback: `python -m infra.vllm_loopback …`.

The arguments are vLLM's own. vLLM keeps a store for the processes of a group to find each other,
also where the group is one process: PyTorch's TCPStore, which listens on every interface, has no
setting for that, and asks nobody who he is. Given a socket, it listens on that one.
"""

import runpy
import socket
from importlib import import_module
from typing import Any

LOOPBACK = "127.0.0.1"


def keep_to_loopback() -> None:
    """Have the stores of this process that are addressed at loopback listen there and only there.

    Others listen as PyTorch has it.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    def store(host_name: str, port: int, **options: Any) -> TCPStore:
        if options.get("is_master") and host_name == LOOPBACK:
            # The store closes it.
            options["master_listen_fd"] = socket.create_server((host_name, port)).detach()
        return TCPStore(host_name, port, **options)

    # The package has a function of the same name.
    rendezvous: Any = import_module("torch.distributed.rendezvous")
    rendezvous.TCPStore = store


# The engine is a process of its own; where it is not forked, this module is its main one too.
if __name__ in ("__main__", "__mp_main__"):
    keep_to_loopback()
if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
