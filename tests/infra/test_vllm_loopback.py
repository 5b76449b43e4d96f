"""What a group of one process listens on, as vLLM makes one."""

import json
import os
import subprocess
import sys

import pytest

from engines import free_port

pytestmark = pytest.mark.slow

GROUP = """
import json, sys
import psutil
from torch import distributed
from infra import vllm_loopback

if sys.argv[2] == "kept":
    vllm_loopback.keep_to_loopback()
address = f"tcp://127.0.0.1:{sys.argv[1]}"
distributed.init_process_group("gloo", init_method=address, world_size=1, rank=0)
distributed.barrier()
listening = [c for c in psutil.Process().net_connections() if c.status == "LISTEN"]
print(json.dumps(sorted({c.laddr.ip for c in listening})))
"""


def listeners(how: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", GROUP, str(free_port()), how],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_its_store_listens_on_loopback_alone():
    assert listeners("kept") == ["127.0.0.1"]
    # As it would without that; if this is ever otherwise, the module can go.
    assert listeners("as it is") != ["127.0.0.1"]
