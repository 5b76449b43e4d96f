"""What the table of access says of each process, against the code and the table of topics."""

import ast
import itertools
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.access import ACCESS, Access, rights
from infra.acls import as_json, bindings, commands
from infra.cli import app
from infra.kafka import group_name, topic_name
from infra.settings import Ports, Settings
from infra.sink_table import LEADS_TO
from infra.stages import STAGES
from streams import topics
from streams.topics import CONTROL, DEAD_LETTERS, TOPICS, Topic

SETTINGS = Settings(kafka={"prefix": "study."})


def test_every_process_that_runs_has_a_row():
    assert ACCESS.keys() >= {*STAGES, *Ports().stages, "ingest", "trainer", "deployer"}


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_topic_is_made_written_and_read_by_somebody(topic: Topic):
    assert topic in ACCESS["supervisor"].makes
    assert any(topic in access.writes for access in ACCESS.values())
    assert any(topic in access.reads for access in ACCESS.values())


def test_stages_read_and_write_what_they_are_put_together_with():
    """`Stage(name=…, source=…, sink=…)`, as infra/stages.py has each of them."""
    tree = ast.parse(Path(STAGES["index"].__wrapped__.__code__.co_filename).read_text())  # type: ignore[attr-defined]
    found = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id == "Stage":
            given = {word.arg: word.value for word in call.keywords}
            name = ast.literal_eval(given["name"])
            found[name] = [
                getattr(topics, given[end].id) if isinstance(given[end], ast.Name) else None
                for end in ("source", "sink")
            ]
    assert found.keys() == STAGES.keys()
    for name, (source, sink) in found.items():
        access = ACCESS[name]
        assert source in access.reads
        assert sink is None or sink in access.writes
        assert access.joins == (name,)
    assert set(LEADS_TO) < set(ACCESS["append"].reads)


@pytest.mark.parametrize("stage", [*STAGES, "append"])
def test_every_stage_sets_messages_aside_and_follows_its_operator(stage: str):
    assert DEAD_LETTERS in ACCESS[stage].writes
    assert CONTROL in ACCESS[stage].reads
    # What it makes for others it does not read, nor the other way around.
    assert DEAD_LETTERS not in ACCESS[stage].reads
    assert CONTROL not in ACCESS[stage].writes


def test_only_the_ingest_writes_what_is_known_of_records():
    # An operator puts an article back that was set aside.
    assert _writers(topics.ARTICLES) == {"ingest", "operator"}
    assert _writers(topics.RETRACTIONS) == {"ingest"}
    assert _writers(topics.SERVING) == {"deployer"}
    assert _writers(topics.VERDICTS) == {"trainer"}


def _writers(topic: Topic) -> set[str]:
    """Who writes it while the service runs."""
    return {name for name in ACCESS if topic in ACCESS[name].writes} - {"restore"}


@pytest.mark.parametrize(("name", "access"), ACCESS.items())
def test_rights_carry_the_prefix_and_nothing_twice(name: str, access: Access):
    given = rights(SETTINGS, name)
    assert len(set(given)) == len(given)
    for right in given:
        assert right.name.startswith("study.")
    read = {topic_name(SETTINGS, topic) for topic in access.reads}
    assert read == {r.name for r in given if (r.resource, r.operation) == ("topic", "read")}
    groups = {group_name(SETTINGS, group) for group in (*access.joins, *access.watches)}
    assert groups == {r.name for r in given if r.resource == "group"}


def test_commands_can_be_pasted_and_give_each_right_once():
    wanted = bindings(SETTINGS, "User:CN={process}, O=Our Lab", ["score"])
    lines = [shlex.split(line) for line in commands(SETTINGS, wanted)]
    given = set()
    for words in lines:
        assert words[:3] == ["kafka-acls.sh", "--bootstrap-server", SETTINGS.kafka.servers]
        assert words[words.index("--allow-principal") + 1] == "User:CN=score, O=Our Lab"
        resource = next(w for w in words if w in ("--topic", "--group", "--transactional-id"))
        name = words[words.index(resource) + 1]
        flags = itertools.pairwise(words)
        given |= {(resource[2:], name, to.lower()) for flag, to in flags if flag == "--operation"}
    assert given == {(r.resource, r.name, r.operation) for r in rights(SETTINGS, "score")}
    assert len(given) == len(wanted)


def test_one_user_for_all_has_the_rights_of_all():
    wanted = bindings(SETTINGS, "User:kailin")
    assert {binding.principal for binding in wanted} == {"User:kailin"}
    assert {b.right for b in wanted} == {r for name in ACCESS for r in rights(SETTINGS, name)}
    assert as_json(wanted[0])["permission"] == "allow"


def test_the_command_shows_commands_or_json():
    shown = CliRunner().invoke(app, ["acls", "score", "--principal", "User:{process}"])
    assert shown.exit_code == 0
    assert len(shown.stdout.splitlines()) == 5
    assert "--topic contexts --operation Read" in shown.stdout
    listed = CliRunner().invoke(app, ["acls", "--json"])
    assert listed.stdout.count('"permission": "allow"') > 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch"], "nosuch: expected one of index, generate"),
        (["--principal", "kailin"], "--principal kailin: expected TYPE:NAME"),
    ],
)
def test_a_wrong_word_is_named(arguments: list[str], said: str):
    refused = CliRunner().invoke(app, ["acls", *arguments])
    assert refused.exit_code == 2
    assert said in refused.stderr
