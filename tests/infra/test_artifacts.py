"""Artifacts: fetched once, verified always, never half there."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra import artifacts
from infra.artifacts import ArtifactError, fetch_pypi, jars, read_lock
from infra.settings import Settings

JAR = "org.example.deep:thing:1.2"
OTHER = "org.example:other:3"
CONTENT = {JAR: b"jar bytes", OTHER: b"other bytes"}
HASHES = {
    coordinate: hashlib.sha256(content).hexdigest() for coordinate, content in CONTENT.items()
}
LOCK = {"engine": HASHES}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kailin"


class Central:
    """Stands for Maven Central behind the Fetch port."""

    def __init__(self, content: dict[str, bytes] = CONTENT) -> None:
        self.content = content
        self.asked: list[str] = []

    def __call__(self, coordinate: str, folder: Path) -> Path:
        self.asked.append(coordinate)
        folder.mkdir(parents=True)
        file = folder / "fetched.jar"
        file.write_bytes(self.content[coordinate])
        return file


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_jars_are_fetched_once_and_come_in_the_locks_order(cache: Path) -> None:
    central = Central()
    paths = jars("engine", lock=LOCK, fetch=central)
    assert [path.read_bytes() for path in paths] == [b"jar bytes", b"other bytes"]
    assert paths[0] == cache / "jars/org/example/deep/thing/1.2/thing-1.2.jar"
    assert jars("engine", lock=LOCK, fetch=central) == paths
    assert sorted(central.asked) == sorted(CONTENT)


def test_a_jar_damaged_in_the_cache_is_fetched_again() -> None:
    central = Central()
    damaged, _ = jars("engine", lock=LOCK, fetch=central)
    damaged.write_bytes(b"jar bytez")
    jars("engine", lock=LOCK, fetch=central)
    assert damaged.read_bytes() == b"jar bytes"
    assert sorted(central.asked) == sorted([JAR, JAR, OTHER])


def test_a_wrong_hash_is_one_line_and_leaves_nothing(cache: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        jars("engine", lock=LOCK, fetch=Central({**CONTENT, JAR: b"evil bytes"}))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{JAR}: SHA-256 is {hashlib.sha256(b'evil bytes').hexdigest()}")
    assert HASHES[JAR] in message
    assert {path.read_bytes() for path in files(cache)} <= {b"other bytes"}


def test_a_network_that_is_away_is_one_line_naming_the_jar() -> None:
    tries = []

    def away(coordinate: str, folder: Path) -> Path:
        tries.append(coordinate)
        raise ConnectionError("no route to host\nand more")

    with pytest.raises(ArtifactError, match=r"^org\.example.*no route to host; check the network"):
        jars("engine", lock={"engine": {JAR: HASHES[JAR]}}, fetch=away)
    assert len(tries) == artifacts.ATTEMPTS


def test_a_fetch_that_fails_once_is_tried_again() -> None:
    central, failures = Central(), [ConnectionError("reset")]

    def flaky(coordinate: str, folder: Path) -> Path:
        if failures:
            raise failures.pop()
        return central(coordinate, folder)

    (path,) = jars("engine", lock={"engine": {JAR: HASHES[JAR]}}, fetch=flaky)
    assert path.read_bytes() == b"jar bytes"


def test_an_interrupted_fetch_leaves_nothing_behind(cache: Path) -> None:
    def interrupted(coordinate: str, folder: Path) -> Path:
        folder.mkdir(parents=True)
        (folder / "half.jar").write_bytes(b"jar b")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jars("engine", lock=LOCK, fetch=interrupted)
    assert files(cache) == []


KILLED = """
import sys, time
from pathlib import Path
from infra.artifacts import jars

def half(coordinate, folder):
    folder.mkdir(parents=True)
    (folder / "thing-1.2.jar").write_bytes(b"jar b")
    print("half way", flush=True)
    time.sleep(60)

jars("engine", lock={"engine": {sys.argv[1]: sys.argv[2]}}, fetch=half)
"""


def test_a_fetch_that_was_killed_is_no_harm_to_the_next() -> None:
    command = [sys.executable, "-c", KILLED, JAR, HASHES[JAR]]
    root = Path(artifacts.__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "half way\n"
        process.send_signal(signal.SIGKILL)
    (path,) = jars("engine", lock={"engine": {JAR: HASHES[JAR]}}, fetch=Central())
    assert path.read_bytes() == b"jar bytes"


def test_two_at_once_do_not_disturb_each_other() -> None:
    central = Central()

    def slow(coordinate: str, folder: Path) -> Path:
        time.sleep(0.1)
        return central(coordinate, folder)

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(jars, "engine", lock=LOCK, fetch=slow) for _ in range(4)]
        results = {run.result() for run in runs}
    (paths,) = results
    assert [path.read_bytes() for path in paths] == [b"jar bytes", b"other bytes"]


def test_the_committed_lock_lists_exact_coordinates_and_whole_hashes() -> None:
    lock = tomllib.loads(artifacts.LOCK.read_text())
    jars = {"kafka", "elasticsearch", "elasticsearch-netty", "ecj", "jmx-exporter"}
    assert set(lock) == {*jars, "pypi"}
    for table, listed in lock.items():
        for name, sha256 in listed.items():
            assert len(bytes.fromhex(sha256)) == 32, name
            assert table == "pypi" or len(name.split(":")) == 3, name
    assert "://" not in artifacts.LOCK.read_text()


# pip itself runs in these, on packages made here; it asks no index.


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


METADATA = "Metadata-Version: 2.1\nName: grist\nVersion: {}\n"

BACKEND = """
import pathlib
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = pathlib.Path(folder, "grist-2.0.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: grist\\nVersion: 2.0\\n")
    return info.name
def build_wheel(*_, **__): raise NotImplementedError
"""


def make_wheel(index: Path) -> Path:
    wheel = index / "grist-1.0-py3-none-any.whl"
    tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("grist/data/a.txt", "a")
        archive.writestr("grist/data/more/b.txt", "b")
        archive.writestr("grist/data2/c.txt", "c")
        archive.writestr("grist-1.0.dist-info/METADATA", METADATA.format("1.0"))
        archive.writestr("grist-1.0.dist-info/WHEEL", tag)
        archive.writestr("grist-1.0.dist-info/RECORD", "")
    return wheel


def make_sdist(index: Path) -> None:
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    content = {
        "PKG-INFO": METADATA.format("2.0"),
        "pyproject.toml": build,
        "backend.py": BACKEND,
        "data/big.xml": "<big/>",
    }
    with tarfile.open(index / "grist-2.0.tar.gz", "w:gz") as archive:
        for name, text in content.items():
            member = tarfile.TarInfo(f"grist-2.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


def test_a_file_and_a_folder_come_out_of_a_wheel_and_stay(index: Path) -> None:
    wheel = make_wheel(index)
    file = fetch_pypi("pypi://grist==1.0#grist/data/a.txt")
    folder = fetch_pypi("pypi://grist==1.0#grist/data")
    assert (file.name, file.read_text()) == ("a.txt", "a")
    assert (folder / "a.txt").read_text() + (folder / "more/b.txt").read_text() == "ab"
    wheel.unlink()
    assert fetch_pypi("pypi://grist==1.0#grist/data/a.txt") == file
    assert fetch_pypi("pypi://grist==1.0#grist/data2/c.txt").read_text() == "c"


def test_a_path_that_only_the_sdist_holds_comes_from_there(index: Path) -> None:
    make_sdist(index)
    assert fetch_pypi("pypi://grist==2.0#data/big.xml").read_text() == "<big/>"


def test_a_distribution_with_another_hash_than_the_locks_is_refused(
    index: Path, cache: Path
) -> None:
    wheel = make_wheel(index)
    with pytest.raises(ArtifactError, match=rf"^{wheel.name}: SHA-256 is .* expects {'0' * 64}"):
        fetch_pypi("pypi://grist==1.0#grist/data/a.txt", lock={"pypi": {wheel.name: "0" * 64}})
    assert files(cache) == []


def test_what_is_installed_in_that_version_is_used_in_place(index: Path) -> None:
    version = artifacts.metadata.version("rich")
    assert fetch_pypi(f"pypi://rich=={version}#rich/box.py").parts[-3:-1] == (
        "site-packages",
        "rich",
    )
    with pytest.raises(ArtifactError, match="No matching distribution"):
        fetch_pypi("pypi://rich==0.0.1#rich/box.py")


@pytest.mark.parametrize(
    "source",
    [
        "pypi://grist#path",
        "pypi://grist==1.0",
        "pypi://grist==1.0#",
        "pypi://grist==1.0#../outside",
        "pypi://grist==1.0#/etc/passwd",
        "pypi://-r==1.0#path",
        "hf://org/name@main",
        "",
    ],
)
def test_a_source_of_another_form_is_refused(source: str) -> None:
    with pytest.raises(ArtifactError, match="expected pypi://name==version#path/in/package"):
        fetch_pypi(source)


def test_an_unknown_package_or_path_is_one_line_naming_the_source(index: Path) -> None:
    make_wheel(index)
    for source in ("pypi://chaff==1.0#x", "pypi://grist==1.0#grist/none.txt"):
        with pytest.raises(ArtifactError) as caught:
            fetch_pypi(source)
        assert str(caught.value).startswith(f"{source}: ")
        assert "\n" not in str(caught.value)


def test_the_default_sources_of_the_settings_are_in_the_lock() -> None:
    settings = Settings()
    sources = [settings.servers["local"].source, settings.embedder.source, settings.mesh.source]
    listed = " ".join(read_lock()["pypi"])
    for source in sources:
        name, version, _ = artifacts._parse(source)
        assert f"{name.replace('-', '_')}-{version}" in listed


def test_a_real_jar_comes_from_maven_central() -> None:
    coordinate = "org.jspecify:jspecify:1.0.0"
    listed = {coordinate: read_lock()["kafka"][coordinate]}
    try:
        (path,) = jars("one", lock={"one": listed})
    except ArtifactError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    assert zipfile.is_zipfile(path)
