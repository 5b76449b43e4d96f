"""Settings: the example, the environment, secrets, and what a wrong one is told."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from infra.settings import Settings, SettingsError
from infra.settings_file import SECRETS, load
from infra.settings_learning import Answerer

EXAMPLE = Path(__file__).parents[2] / "infra" / "kailin.example.toml"


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("KAILIN_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def wrong(tmp_path: Path, toml: str) -> str:
    path = tmp_path / "wrong.toml"
    path.write_text(toml)
    with pytest.raises(SettingsError) as error:
        load(path)
    return str(error.value)


def documented() -> dict[str, set[str]]:
    """Every setting that stands in the example, by section, those in comments included."""
    section, shown = "", {"": set()}
    for line in EXAMPLE.read_text().splitlines():
        if header := re.fullmatch(r"(?:# )?\[+([a-z0-9_]+)[a-z.]*\]+", line):
            section = header[1]
            shown.setdefault(section, set())
        elif setting := re.match(r"(?:# )?([a-z0-9_]+) = ", line):
            shown[section].add(setting[1])
    return shown


def fields(model: BaseModel) -> set[str]:
    """The names of a section's settings, those of sections within it among them."""
    names: set[str] = set()
    for name in type(model).model_fields:
        value = getattr(model, name)
        names |= fields(value) if isinstance(value, BaseModel) else {name}
    return names - set(SECRETS)


def test_the_example_equals_the_defaults() -> None:
    assert load(EXAMPLE) == Settings()


def test_the_example_has_every_setting_of_every_section() -> None:
    shown, defaults = documented(), Settings()
    sections = {
        "servers": defaults.servers["local"],
        "generators": defaults.generators[0],
        "answerers": Answerer(name="a", server="local", model="a"),
        **{
            name: value
            for name in Settings.model_fields
            if isinstance(value := getattr(defaults, name), BaseModel)
        },
    }
    like_dpo = {"cpt", "sft_answers"}
    assert {name: shown.get(name) for name in sections if name not in like_dpo} == {
        name: fields(model) for name, model in sections.items() if name not in like_dpo
    }
    assert shown[""] | set(sections) == set(Settings.model_fields)


def test_without_a_file_the_defaults_hold() -> None:
    assert load(None) == Settings()


def test_kailin_toml_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "kailin.toml").write_text("[kafka]\nport = 9092\n")
    assert load(None).kafka.port == 9092


def test_the_environment_overrides_the_file_and_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.toml"
    path.write_text('[kafka]\nport = 9092\nprefix = "x."\n')
    monkeypatch.setenv("KAILIN_KAFKA__PORT", "9093")
    monkeypatch.setenv("KAILIN_SERVERS__LOCAL__URL", "http://model:8000/v1")
    settings = load(path)
    assert (settings.kafka.port, settings.kafka.prefix) == (9093, "x.")
    assert settings.servers["local"].address == "http://model:8000/v1"


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ("kafka.port = 70000", "kafka.port = 70000: Input should be less than or equal to 65535"),
        ('kafka.port = "x"', "kafka.port = 'x': Input should be a valid integer"),
        ('retrieve.mode = "x"', "retrieve.mode = 'x': Input should be 'bm25', 'dense' or 'hybrid'"),
        ("append.seconds = 0", "append.seconds = 0: Input should be greater than 0"),
        ("[servers.b]\nprot = 1", "servers.b.prot = 1: there is no such setting"),
        ("nope = 1", "nope = 1: there is no such setting"),
        ('[[generators]]\nname = "a"', "generators.0.model: Field required"),
        ('[[generators]]\nname = "a"\nmodel = "a"\nserver = "z"', "'z' is not one of servers"),
        ('kafka.security_protocol = "SSL "', "Input should be 'PLAINTEXT', 'SSL'"),
        ("kafka.password_file = 5", "kafka: password_file must be the path of a text file"),
        ('kafka.password_file = "/no/where"', "kafka: cannot read password_file /no/where"),
        ('kafka.security_protocol = "SASL_SSL"', "needs username and password"),
        ('ncbi.email = "nobody"', "ncbi.email = 'nobody': expected an e-mail address"),
        ('ncbi.eutils = "eutils"', "ncbi.eutils = 'eutils': String should match pattern"),
        ('ncbi.tool = "my tool"', "ncbi.tool = 'my tool': String should match pattern"),
        ("ncbi.batch = 20000", "ncbi.batch = 20000: Input should be less than or equal to 10000"),
        ("ncbi.timeout = 0", "ncbi.timeout = 0: Input should be greater than 0"),
        ("kafka = [", "not valid TOML"),
    ],
)
def test_a_wrong_setting_names_key_value_and_expectation(
    tmp_path: Path, toml: str, line: str
) -> None:
    assert line in wrong(tmp_path, toml)


def test_each_wrong_setting_has_a_line(tmp_path: Path) -> None:
    assert len(wrong(tmp_path, "kafka.port = 0\nprefer.margin = 2\nnope = 1").splitlines()) == 3


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone\.toml: cannot be read: No such file"):
        load(tmp_path / "gone.toml")


@pytest.mark.parametrize("name", ["KAILIN_KAFAK__PORT", "KAILIN_DATAA"])
def test_a_misspelt_variable_is_not_passed_over(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "9092")
    with pytest.raises(SettingsError, match=f"{name}: there is no such setting"):
        load(None)


def test_a_wrong_variable_is_named_as_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAILIN_PORTS__INDEX", "many")
    with pytest.raises(SettingsError, match=r"ports\.index = 'many': Input should be a valid int"):
        load(None)


def test_a_secret_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from-a-file\n")
    path = tmp_path / "some.toml"
    path.write_text(f'elasticsearch.api_key_file = "{secret}"')
    monkeypatch.setenv("KAILIN_KAFKA__PASSWORD", "from-outside")
    settings = load(path)
    assert settings.elasticsearch.api_key.get_secret_value() == "from-a-file"
    assert settings.kafka.password.get_secret_value() == "from-outside"


def test_a_secret_in_the_file_itself_is_refused_and_not_shown(tmp_path: Path) -> None:
    line = wrong(tmp_path, '[servers.local]\napi_key = "hunter2"')
    assert "KAILIN_SERVERS__LOCAL__API_KEY or by api_key_file" in line
    assert "hunter2" not in line


def test_secrets_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAILIN_KAFKA__PASSWORD", "hunter2")
    assert "hunter2" not in repr(load(None))
    # The section as a whole is wrong here, and its input holds the secret.
    shown = wrong(tmp_path, 'kafka.security_protocol = "SASL_SSL"\nkafka.port = "x"')
    assert "hunter2" not in shown


@pytest.mark.parametrize("command", [["status"], ["up"], ["run", "index"], ["down"]])
def test_wrong_settings_end_every_command_with_2_before_anything_starts(
    tmp_path: Path, command: list[str]
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(f'data = "{tmp_path}/data"\nkafka.port = 0\n')
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "--config", str(path), *command],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "kafka.port = 0: Input should be greater than or equal to 1\n"
    assert not (tmp_path / "data").exists()
