"""The registry of trained models over MLflow: versions, and which of them is champion or candidate.

`champion` and `candidate` are MLflow aliases, all else that is decided about a version is tags of
it. An alias is set last, and only on a version whose files are all there.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from infra import model_manifest
from infra.mlflow_environment import environment
from infra.model_manifest import MANIFEST, Files, lacking
from infra.settings import Settings
from streams.errors import Transient
from streams.learning import Target

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CANDIDATE = "champion", "candidate"

# The artifact of a run that is its model's directory; the manifest lies beside it.
MODEL = "model"

# What MLflow says of a request that is wrong, and stays so.
LASTING = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}

# MLflow takes no longer values of tags.
LONGEST = 4000


class RegistryError(Exception):
    """A version is not there, not whole, or refused; the message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A version of a model, and what was decided about it.

    `version` counts from "1"; `job` and `run` are what made it. `base` is the model that an
    adapter lies on, as a [servers.NAME] source. `verdict` is the gate's, None until there is one.
    `by`, `reason` and `at` say who made it champion last, why and when, and `before` which version
    was champion until then. `left` says who went back from it, and why.
    """

    target: Target
    version: str
    job: str
    run: str
    base: str
    adapter: bool
    made: datetime
    verdict: Literal["passed", "blocked"] | None = None
    verdict_reason: str | None = None
    by: str | None = None
    reason: str | None = None
    at: datetime | None = None
    before: str | None = None
    left: str | None = None

    @property
    def name(self) -> str:
        """What it is served under, as no other version ever is."""
        return f"{self.target}-v{self.version}"

    @property
    def place(self) -> str:
        """The name of its directory: another MLflow gives the same version to another model."""
        made_of = hashlib.sha256((self.run or self.base).encode()).hexdigest()
        return f"{self.name}-{made_of[:8]}"


class ModelRegistry:
    """The models of one deployment. Every method blocks, most for less than a second.

    They raise `Transient` while MLflow is away, and `RegistryError`.
    """

    def __init__(self, settings: Settings) -> None:
        self._uri = settings.mlflow_uri
        # MLflow takes no more in a model's name, or in a search for one.
        self._prefix = re.sub(r"[^\w.-]", "-", settings.mlflow.experiment)
        self._environment = environment(settings)

    def register(
        self, target: Target, *, job: str, run: str, directory: Path, base: str, adapter: bool
    ) -> Registered:
        """The version that a job's model is, made candidate where the gate has not judged it yet.

        `directory` holds the model; its files that the run lacks are logged first. Called again
        for the same job, it finds the version and mends what is not whole.
        """
        with self._asking():
            self._log(run, directory)
            found = self._of_job(target, job) or self._create(
                target, job=job, run=run, base=base, adapter=adapter
            )
            if found.verdict is None:
                self._set_alias(found, CANDIDATE)
            return found

    def champion(self, target: Target) -> Registered | None:
        """The version that serves, or is about to."""
        with self._asking():
            return self._by_alias(target, CHAMPION)

    def candidate(self, target: Target) -> Registered | None:
        """The version that is being judged, or that was blocked last."""
        with self._asking():
            return self._by_alias(target, CANDIDATE)

    def versions(self, target: Target) -> list[Registered]:
        """All versions, the newest first."""
        with self._asking():
            return sorted(self._search(target), key=lambda one: int(one.version), reverse=True)

    def version(self, target: Target, version: str) -> Registered:
        """One version by its number."""
        with self._asking():
            for one in self._search(target):
                if one.version == version:
                    return one
        known = ", ".join(one.version for one in self.versions(target)) or "none yet"
        raise RegistryError(f"{target} has no version {version}: expected one of {known}")

    def promote(self, registered: Registered, *, by: str, reason: str) -> None:
        """Make a version champion, in place of the one that is."""
        with self._asking():
            champion = self._by_alias(registered.target, CHAMPION)
            if champion is None or champion.version != registered.version:
                self._put(registered, by=by, reason=reason, before=champion)
            if self._aliases(registered.target).get(CANDIDATE) == registered.version:
                self._client.delete_registered_model_alias(
                    self._model(registered.target), CANDIDATE
                )

    def rollback(self, target: Target, *, by: str, reason: str) -> tuple[Registered, Registered]:
        """Make the version champion that was it before; returns the one that was, and is."""
        with self._asking():
            champion = self._by_alias(target, CHAMPION)
            if champion is None:
                raise RegistryError(f"{target} has no champion yet, so none to go back from")
            if champion.before is None:
                raise RegistryError(
                    f"{champion.name} took no other's place, so there is none to go back to; "
                    "`kailin models promote` makes another champion"
                )
        last = self.version(target, champion.before)
        with self._asking():
            self._tag(champion, left=f"{by}: {reason}")
            self._put(last, by=by, reason=reason, before=None)
        return champion, self.version(target, last.version)

    def decide(
        self, registered: Registered, verdict: Literal["passed", "blocked"], reason: str
    ) -> None:
        """Write the gate's verdict on a version."""
        with self._asking():
            # In this order: who finds the verdict finds its reason.
            self._tag(registered, verdict_reason=reason)
            self._tag(registered, verdict=verdict)

    def log(self, registered: Registered, figures: Mapping[str, float], verdict: bytes) -> None:
        """Log the gate's figures to the run of a version, and its verdict (JSON) beside them."""
        with self._asking(), tempfile.TemporaryDirectory() as scratch:
            for name, value in figures.items():
                self._client.log_metric(registered.run, f"gate_{name}", value)
            file = Path(scratch) / "verdict.json"
            file.write_bytes(verdict)
            self._client.log_artifact(registered.run, str(file), "gate")

    def download(self, registered: Registered, into: Path) -> Path:
        """The model's files as the directory `into`, which is there whole or not at all."""
        if into.is_dir():
            return into
        into.parent.mkdir(parents=True, exist_ok=True)
        with self._asking():
            manifest = self._manifest(registered.run)
            with tempfile.TemporaryDirectory(prefix=f".{into.name}.", dir=into.parent) as scratch:
                got = self._fetch(registered.run, MODEL, scratch)
                if manifest is None or model_manifest.of(got) != manifest:
                    raise RegistryError(_not_whole(registered.run, "other files than were logged"))
                shutil.move(got, into)
        return into

    @cached_property
    def _client(self) -> "MlflowClient":
        """Made when it is first needed: the import takes seconds, and a database would be made."""
        os.environ.update(self._environment)
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def _create(
        self, target: Target, *, job: str, run: str, base: str, adapter: bool
    ) -> Registered:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self._model(target))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        self._client.create_model_version(
            self._model(target),
            source=f"{self._client.get_run(run).info.artifact_uri}/{MODEL}",
            run_id=run,
            tags={"job": job, "base": base, "adapter": str(adapter).lower()},
        )
        made = self._of_job(target, job)
        if made is None:
            raise RegistryError(f"{target}: MLflow keeps no version for job {job}")
        return made

    def _put(
        self, registered: Registered, *, by: str, reason: str, before: Registered | None
    ) -> None:
        at = datetime.now(UTC).isoformat()
        self._tag(registered, by=by, reason=reason, at=at)
        if before is not None:
            self._tag(registered, before=before.version)
        self._set_alias(registered, CHAMPION)

    def _set_alias(self, registered: Registered, alias: str) -> None:
        """Raises `RegistryError` where the version's files are not all there."""
        manifest = self._manifest(registered.run)
        if manifest is None:
            raise RegistryError(_not_whole(registered.run, f"no {MANIFEST}"))
        if absent := lacking(manifest, dict(self._sizes(registered.run, MODEL))):
            raise RegistryError(_not_whole(registered.run, f"without {', '.join(absent)}"))
        if self._aliases(registered.target).get(alias) != registered.version:
            self._client.set_registered_model_alias(
                self._model(registered.target), alias, registered.version
            )

    def _log(self, run: str, directory: Path) -> None:
        """Log a model's files that the run lacks, and then the list of them."""
        files = model_manifest.of(directory)
        if not files:
            raise RegistryError(f"{directory}: holds no files; expected a model's directory")
        if self._manifest(run) == files and not lacking(files, dict(self._sizes(run, MODEL))):
            return
        if lacking(files, dict(self._sizes(run, MODEL))):
            self._client.log_artifacts(run, str(directory), MODEL)
        with tempfile.TemporaryDirectory() as scratch:
            written = model_manifest.write(files, Path(scratch))
            self._client.log_artifact(run, str(written))

    def _manifest(self, run: str) -> Files | None:
        """The list of a model's files, None where there is none, or only part of one."""
        if not self._has(run, MANIFEST):
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return model_manifest.read(self._fetch(run, MANIFEST, scratch))

    def _has(self, run: str, path: str) -> bool:
        return any(file.path == path for file in self._client.list_artifacts(run))

    def _fetch(self, run: str, path: str, into: str) -> Path:
        """Download a run's artifact. Raises `OSError` where it is there and does not come."""
        from mlflow.exceptions import MlflowException

        try:
            return Path(self._client.download_artifacts(run, path, into))
        except MlflowException as error:
            # MLflow says so of all that went wrong, a server that is away included.
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" and self._has(run, path):
                raise OSError(str(error)) from error
            raise

    def _sizes(self, run: str, path: str) -> Iterator[tuple[str, int]]:
        for file in self._client.list_artifacts(run, path):
            if file.is_dir:
                yield from self._sizes(run, file.path)
            else:
                yield file.path.removeprefix(f"{MODEL}/"), file.file_size or 0

    def _model(self, target: Target) -> str:
        return f"{self._prefix}-{target}"

    def _registered_model(self, target: Target) -> "RegisteredModel | None":
        path = Path(self._uri.removeprefix("sqlite:///"))
        if self._uri.startswith("sqlite:///") and not path.exists():
            return None
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(self._model(target))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _aliases(self, target: Target) -> dict[str, str]:
        model = self._registered_model(target)
        return {alias: str(version) for alias, version in model.aliases.items()} if model else {}

    def _by_alias(self, target: Target, alias: str) -> Registered | None:
        version = self._aliases(target).get(alias)
        if version is None:
            return None
        found = self._client.get_model_version(self._model(target), version)
        if "job" not in found.tags:
            raise RegistryError(
                f"{self._model(target)}: version {version} is {alias} in MLflow but no job's "
                "model; remove the alias there, then `kailin models promote` one of `kailin models "
                "list`"
            )
        return _registered(target, found)

    def _of_job(self, target: Target, job: str) -> Registered | None:
        """The first: MLflow's client repeats a request that it got no answer to."""
        found = (one for one in self._search(target) if one.job == job)
        return min(found, key=lambda one: int(one.version), default=None)

    def _search(self, target: Target) -> Iterator[Registered]:
        if self._registered_model(target) is None:
            return
        token = None
        while True:
            page = self._client.search_model_versions(
                f"name = '{self._model(target)}'", max_results=1000, page_token=token
            )
            # Versions that others put there are not ours to judge.
            yield from (_registered(target, one) for one in page if "job" in one.tags)
            token = page.token
            if not token:
                return

    def _tag(self, registered: Registered, **tags: str) -> None:
        for key, value in tags.items():
            self._client.set_model_version_tag(
                self._model(registered.target), registered.version, key, value[:LONGEST]
            )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Not before: who asks a registry that is not there yet has no need of MLflow.
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import SQLAlchemyError

            if isinstance(error, MlflowException) and error.error_code in LASTING:
                raise RegistryError(f"MLflow at {_open(self._uri)}: {_one_line(error)}") from error
            # Those of the client's own HTTP are OSErrors.
            if isinstance(error, MlflowException | OSError | SQLAlchemyError):
                raise Transient("MLflow away", f"{_open(self._uri)}: {_one_line(error)}") from error
            raise


def _registered(target: Target, version: "ModelVersion") -> Registered:
    tags = version.tags
    at = tags.get("at")
    return Registered(
        target=target,
        version=str(version.version),
        job=tags["job"],
        run=version.run_id or "",
        base=tags.get("base", ""),
        adapter=tags.get("adapter") == "true",
        made=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        verdict=cast("Literal['passed', 'blocked'] | None", tags.get("verdict")),
        verdict_reason=tags.get("verdict_reason"),
        by=tags.get("by"),
        reason=tags.get("reason"),
        at=datetime.fromisoformat(at) if at else None,
        before=tags.get("before"),
        left=tags.get("left"),
    )


def _not_whole(run: str, how: str) -> str:
    return f"the model of MLflow run {run} is not whole ({how}): its job logs it, train again"


def _one_line(error: Exception) -> str:
    return _open(" ".join(str(error).split()))[:300]


def _open(text: str) -> str:
    """Without a user and password in an address."""
    return re.sub(r"//[^/@\s]+@", "//", text)
