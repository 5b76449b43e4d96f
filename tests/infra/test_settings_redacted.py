"""No secret of the settings can be read in what shows, prints or refuses them."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from infra import logs
from infra.settings import Server, Settings, SettingsError
from infra.settings_file import load
from infra.settings_redacted import redacted
from streams.log_lines import without_secrets

OTHERS = {"servers": {"local": {}, "teacher": {"url": "https://teacher.test/v1"}}}
# What the checks of a section ask for beside its secrets.
NEEDED = {"kafka": {"security_protocol": "SASL_SSL", "username": "kailin"}}


def secret_fields(section: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every secret that the settings have a place for."""
    for name, value in section:
        if isinstance(value, SecretStr):
            yield (*path, name)
        elif isinstance(value, BaseModel):
            yield from secret_fields(value, (*path, name))
        elif isinstance(value, dict):
            for key, part in value.items():
                yield from secret_fields(part, (*path, name, key))


FIELDS = list(secret_fields(Settings(**OTHERS)))
# headers are pairs, which they are checked to be
SECRETS = {path: f"authorization=s3cr3t-{n}-xyzzy" for n, path in enumerate(FIELDS)}


@pytest.fixture
def settings() -> Settings:
    values: dict[str, Any] = json.loads(json.dumps({**OTHERS, **NEEDED}))
    for path, secret in SECRETS.items():
        at = values
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at[path[-1]] = secret
    return Settings(**values)


def test_every_kind_of_secret_is_looked_at():
    assert {path[-1] for path in FIELDS} >= {"password", "api_key", "token", "webhook", "headers"}
    assert ("servers", "teacher", "api_key") in FIELDS


def test_redacted_settings_say_which_secrets_are_set(settings: Settings):
    shown = redacted(settings)
    for path in FIELDS:
        at: Any = shown
        for key in path:
            at = at[key]
        assert at == "***", path
    assert redacted(Settings())["kafka"]["password"] == ""
    assert shown["kafka"]["username"] == "kailin"
    # It is for programs as well.
    assert "s3cr3t" not in json.dumps(shown)


def test_no_secret_is_in_what_python_prints(settings: Settings):
    for text in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.servers}"):
        assert "s3cr3t" not in text


def test_no_secret_is_in_a_log(settings: Settings, capsys: pytest.CaptureFixture[str]):
    logs.configure(settings, "score")
    log = logging.getLogger("infra.test")
    for secret in SECRETS.values():
        log.warning("refused: %s", secret)
        try:
            raise OSError(f"https://host/?{secret}")
        except OSError:
            log.exception("it said so")
    said = capsys.readouterr().err
    assert said.count("refused") == len(SECRETS)
    assert "s3cr3t" not in said


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_wrong_setting_beside_a_secret_does_not_show_it(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The section's own checks fail, for a setting that there is not."""
    section = "KAILIN_" + "__".join(path[:-1]).upper()
    monkeypatch.setenv(f"{section}__{path[-1].upper()}", "s3cr3t-xyzzy")
    monkeypatch.setenv(f"{section}__NO_SUCH_SETTING", "1")
    (config := tmp_path / "kailin.toml").write_text("")
    with pytest.raises(SettingsError) as refused:
        load(config)
    assert "no_such_setting" in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_secret_in_the_settings_file_is_refused_and_not_repeated(
    path: tuple[str, ...], tmp_path: Path
):
    (config := tmp_path / "kailin.toml").write_text(
        f'[{".".join(path[:-1])}]\n{path[-1]} = "s3cr3t-xyzzy"\n'
    )
    with pytest.raises(SettingsError) as refused:
        load(config)
    variable = "KAILIN_" + "__".join(path).upper()
    assert f"give a secret as {variable} or by {path[-1]}_file" in str(refused.value)
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_secret_comes_from_a_file(path: tuple[str, ...], tmp_path: Path):
    (secret := tmp_path / "secret").write_text("authorization=from-a-file\n")
    values: Any = {path[-1] + "_file": str(secret)}
    for key in reversed(path[:-1]):
        values = {key: values}
    for name, needed in (NEEDED | OTHERS).items():
        if name in values:
            values[name] = {**needed, **values[name]}
    at: Any = Settings(**values)
    for key in path:
        at = at[key] if isinstance(at, dict) else getattr(at, key)
    assert at.get_secret_value() == "authorization=from-a-file"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://elastic:pass@search:9200/x", "https://***@search:9200/x"),
        ("postgresql://mlflow:p%40ss@db/mlflow", "postgresql://***@db/mlflow"),
        ("https://host/a?api_key=abc&x=1#y", "https://host/a?api_key=***&x=1#y"),
        (
            "s3://bucket/path?aws_secret_access_key=abc",
            "s3://bucket/path?aws_secret_access_key=***",
        ),
        ("https://search:9200", "https://search:9200"),
        ("two tokens = 3 or a@b.example", "two tokens = 3 or a@b.example"),
    ],
)
def test_addresses_lose_their_passwords_and_keys(text: str, shown: str):
    assert without_secrets(text) == shown
    assert redacted(Server(url=text))["url"] == shown
