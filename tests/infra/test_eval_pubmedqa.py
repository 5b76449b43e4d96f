"""`kailin eval pubmedqa` as a user runs it, against a scripted server over HTTP."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from consumers.ports import Completion
from fakes.generate import FakeGenerate
from fakes.model_server import ModelServer, Reply, prompt_of
from infra import eval_pubmedqa, logs
from infra.cli import app
from infra.eval_pubmedqa import predict
from infra.predictions import Asking
from streams.errors import Invalid, Transient
from trainers.pubmedqa import Item

TRUTH = {
    pmid: ("yes", "no", "yes", "maybe", "yes", "no")[at] for at, pmid in enumerate(range(11, 17))
}
ASKING = Asking(model="theta", setting="reasoning-required")


def item(pmid: int) -> Item:
    return Item(
        pmid=pmid,
        question=f"Does {pmid} matter?",
        contexts=(f"Background of {pmid}.", f"Results of {pmid}."),
        labels=("BACKGROUND", "RESULTS"),
        meshes=(),
        year=None,
        decision=TRUTH.get(pmid, "yes"),
        long_answer="",
    )


ITEMS = [item(pmid) for pmid in TRUTH]


def pmid_in(prompt: str) -> int:
    return int(prompt.split(" matter?")[0].split()[-1])


def truthful(prompt: str) -> str:
    return TRUTH[pmid_in(prompt)].title() + "."


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_pubmedqa, "PAUSE", 0.001)
    # It would hold on to the standard error of one test for all that follow.
    monkeypatch.setattr(logs, "configure", lambda *_: None)


# Asking.


async def test_each_item_is_asked_once_with_the_papers_prompt_at_temperature_0():
    generate = FakeGenerate(lambda request: truthful(request.prompt))
    answers = await predict(ITEMS, generate, ASKING)
    assert {pmid: answer.decision for pmid, answer in answers.items()} == TRUTH
    assert list(answers) == list(TRUTH)
    assert len(generate.requests) == len(TRUTH)
    first = generate.requests[0]
    assert (first.model, first.temperature, first.max_tokens) == ("theta", 0.0, 16)
    assert "Does 11 matter?, Background of 11.\nResults of 11.." in first.prompt
    assert "select one option from Yes / No / Maybe" in first.prompt


async def test_question_only_asks_without_the_abstract():
    generate = FakeGenerate(lambda request: truthful(request.prompt))
    await predict(ITEMS, generate, Asking(model="theta", setting="question-only"))
    assert all("Background" not in request.prompt for request in generate.requests)
    assert "Does 11 matter?." in generate.requests[0].prompt


async def test_what_is_known_is_kept_unless_it_was_asked_otherwise():
    known = await predict(ITEMS[:4], FakeGenerate(lambda request: "Yes"), ASKING)
    generate = FakeGenerate(lambda request: "No")
    told: list[int] = []
    answers = await predict(
        ITEMS, generate, ASKING, known=known, told=lambda pmid, answer: told.append(pmid)
    )
    assert [answer.decision for answer in answers.values()] == ["yes"] * 4 + ["no"] * 2
    assert sorted(told) == list(TRUTH)
    again = FakeGenerate(lambda request: "No")
    without = Asking(model="theta", setting="question-only")
    await predict(ITEMS, again, without, known=known)
    assert len(again.requests) == len(ITEMS)


async def test_what_passes_is_waited_for_and_what_is_refused_cannot_be_read():
    generate = FakeGenerate(
        [Transient("model server away")] * 3 + ["Yes", Invalid("model refused")]
    )
    answers = await predict(ITEMS[:2], generate, ASKING)
    assert answers[11].decision == "yes"
    assert (answers[12].decision, answers[12].rejected) == (None, "model refused")


async def test_a_wrong_model_name_is_found_out_with_one_request():
    generate = FakeGenerate(lambda request: Transient("model server: model not served"))
    with pytest.raises(Transient, match="not served"):
        await predict(ITEMS, generate, ASKING)
    assert len(generate.requests) == 1


async def test_an_answer_that_is_cut_or_vague_is_kept_raw():
    cut = Completion(text="It depends on", finished=False, prompt_tokens=9, completion_tokens=3)
    (answer,) = (await predict(ITEMS[:1], FakeGenerate([cut]), ASKING)).values()
    assert (answer.text, answer.finished, answer.decision) == ("It depends on", False, None)
    assert answer.rejected


# The command.


@contextmanager
def serving(script: Callable[[dict[str, Any]], Reply]) -> Iterator[ModelServer]:
    """A server on a thread of its own, since the command runs a loop itself."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = ModelServer(script)
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def replying(answer: Callable[[str], str]) -> Callable[[dict[str, Any]], Reply]:
    return lambda request: Reply(text=answer(prompt_of(request)))


class Shell:
    """A folder with PubMedQA's two files, and `kailin eval pubmedqa` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        published = {
            str(pmid): {
                "QUESTION": item(pmid).question,
                "CONTEXTS": list(item(pmid).contexts),
                "final_decision": item(pmid).decision,
            }
            for pmid in (*TRUTH, 99)
        }
        (folder / "ori_pqal.json").write_text(json.dumps(published))
        (folder / "truth.json").write_text(json.dumps(TRUTH))

    def command(self, server: ModelServer | None, *arguments: str) -> list[str]:
        config = self.folder / "kailin.toml"
        url = server.url if server else "http://127.0.0.1:9/v1"
        config.write_text(
            f'data = "{self.folder}/data"\n[servers.local]\nurl = "{url}"\n'
            f'[gate]\npubmedqa = "{self.folder}/ori_pqal.json"\n'
            f'pubmedqa_test = "{self.folder}/truth.json"\n'
        )
        return ["eval", "pubmedqa", "--config", str(config), "--model", "theta", *arguments]

    def __call__(self, server: ModelServer | None, *arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, self.command(server, *arguments))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, " ".join(done.output.split())

    def saved(self) -> dict[str, Any]:
        path = self.folder / "data" / "pubmedqa" / "theta-reasoning-required.json"
        return json.loads(path.read_text())

    def path(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_model_that_knows_everything(shell):
    with serving(replying(truthful)) as server:
        code, shown = shell(server)
    assert code == 0
    assert "accuracy 100.00%, 95% interval 100.00% to 100.00%" in shown
    assert "macro-F1 100.00%" in shown
    assert "majority alone 50.00%, macro-F1 22.22%" in shown
    assert "yes 3 answered, 3 expected" in shown
    assert len(server.requests) == len(TRUTH), "the seventh question is not of the test"
    saved = shell.saved()
    assert saved["asking"]["model"] == "theta"
    assert saved["asking"]["prompt"] == "answer/1"
    assert saved["answers"]["14"]["text"] == "Maybe."
    assert saved["answers"]["14"]["decision"] == "maybe"


@pytest.mark.parametrize(
    ("options", "longest"),
    [((), 16), (("--prompt", "answer-long/1"), 512), (("--max-tokens", "7"), 7)],
)
def test_the_longest_answer_follows_from_the_prompt(shell, options: tuple[str, ...], longest: int):
    with serving(replying(truthful)) as server:
        shell(server, *options)
    assert {request["max_tokens"] for request in server.requests} == {longest}


def test_what_cannot_be_read_is_wrong_and_counted_by_reason(shell):
    def vague(prompt: str) -> str:
        return "It is hard to say." if pmid_in(prompt) in (11, 14) else truthful(prompt)

    with serving(replying(vague)) as server:
        code, shown = shell(server, "--decisions", shell.path("plain.json"))
    assert code == 0
    assert "accuracy 66.67%" in shown
    assert "not to be read 2, counted as wrong; " in shown
    plain = json.loads(Path(shell.path("plain.json")).read_text())
    assert plain == {str(pmid): decision for pmid, decision in TRUTH.items()} | {
        "11": "maybe",
        "14": "no",
    }


def test_a_run_that_was_cut_off_goes_on_and_says_so(shell):
    def failing(request: dict[str, Any]) -> Reply:
        if pmid_in(prompt_of(request)) == 16:
            return Reply(status=503)
        return Reply(text=truthful(prompt_of(request)))

    with serving(failing) as server:
        code, shown = shell(server)
        assert code == 1
        assert f"theta at {server.url}: model server failed" in shown
        assert "the same command goes on from there" in shown
    answered = json.loads(
        (shell.folder / "data/pubmedqa/theta-reasoning-required.json").read_text()
    )
    assert "16" not in answered["answers"]
    with serving(replying(truthful)) as server:
        code, shown = shell(server)
        assert code == 0
        asked = {pmid_in(prompt_of(request)) for request in server.requests}
        assert asked == TRUTH.keys() - {int(pmid) for pmid in answered["answers"]}
        assert 16 in asked
        assert 11 not in asked
    assert "accuracy 100.00%" in shown


def test_ctrl_c_keeps_what_was_answered(shell):
    def slow_after_three(request: dict[str, Any]) -> Reply:
        late = pmid_in(prompt_of(request)) > 13
        return Reply(text=truthful(prompt_of(request)), delay=60.0 if late else 0.0)

    with serving(slow_after_three) as server:
        command = [sys.executable, "-m", "infra.cli", *shell.command(server)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 60
            while len(server.requests) < len(TRUTH):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            shown, _ = process.communicate(timeout=30)
    assert process.returncode == 1, shown
    assert "stopped; what was answered is saved" in shown
    assert set(shell.saved()["answers"]) == {"11", "12", "13"}


def test_another_models_answers_are_not_taken_for_this_ones(shell):
    with serving(replying(truthful)) as server:
        assert shell(server, "--out", shell.path("p.json"))[0] == 0
        code, shown = shell(server, "--out", shell.path("p.json"), "--setting", "question-only")
    assert code == 2
    assert "p.json: holds another run's answers (setting 'reasoning-required'" in shown
    assert "--out" in shown


def test_two_models_are_compared_by_mcnemar(shell):
    with serving(replying(truthful)) as server:
        assert shell(server, "--out", shell.path("good.json"))[0] == 0
    with serving(replying(lambda prompt: "No")) as server:
        code, shown = shell(server, "--compare", shell.path("good.json"))
        assert code == 0
        assert "good.json, which has 100.00%" in shown
        # Four against none: twice a half to the fourth.
        assert "right in one alone: 0 here, 4 there; McNemar p = 0.125" in shown
        code, shown = shell(server, "--compare", shell.path("truth.json"))
    assert "McNemar p = 0.125" in shown


def test_a_sample_alone_is_asked_and_is_part_of_the_whole(shell):
    with serving(replying(truthful)) as server:
        _, shown = shell(server, "--limit", "2")
        assert len(server.requests) == 2
        assert "questions 2, a sample of the test" in shown
        assert shell(server)[0] == 0
        assert len(server.requests) == len(TRUTH), "the two are known"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--server", "remote"], "--server remote: expected one of local"),
        (["--data", "absent.json"], "absent.json: cannot be read: No such file"),
        (["--test", "{}/kailin.toml"], "kailin.toml: expected JSON, plain or gzip"),
        (["--test", "{}/more.json"], "ori_pqal.json: lacks 1 of the 2 questions of"),
        (["--compare", "{}/few.json"], "few.json: lacks 5 of the questions, PMID 12 for one"),
        (["--compare", "{}/ori_pqal.json"], "ori_pqal.json: PMID 11: expected yes, no or maybe"),
        (["--out", "{}/truth.json"], "truth.json: expected predictions as saved by kailin eval"),
        (["--prompt", "answer/9"], "--prompt answer/9: expected one of answer/1"),
        (["--setting", "open-book"], "reasoning-required"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(shell, arguments, line):
    (shell.folder / "more.json").write_text('{"11": "yes", "55": "no"}')
    (shell.folder / "few.json").write_text('{"11": "yes"}')
    code, shown = shell(None, *(part.format(shell.folder) for part in arguments))
    assert code == 2, shown
    assert line in shown
    assert "Traceback" not in shown
