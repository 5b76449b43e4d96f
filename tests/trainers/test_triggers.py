"""When a job is due: tables of cases, and what holds whatever happens."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.learning import Job, Target, job_id
from trainers.triggers import OPEN, Data, Policy, decide, last

NOW = datetime(2026, 3, 7, 9, 30, tzinfo=UTC)
POLICY = Policy(
    rows=10_000,
    least_rows=1000,
    age=timedelta(days=30),
    attempts=3,
    retry_first=timedelta(minutes=5),
    retry_longest=timedelta(hours=6),
)


def data(new: int, *, version: int = 12, rows: int = 20_000) -> Data:
    return Data(version=version, rows=rows, new=new, newest=NOW if rows else None)


def job(state: str = "passed", **changes: Any) -> Job:
    made = Job(
        id=job_id("theta3", "dpo", "preferences", 5),
        target="theta3",
        kind="dpo",
        table="preferences",
        data_version=5,
        rows=10_000,
        newest=NOW - timedelta(days=1),
        state="training",
        attempt=1,
        reason="10,000 new rows",
        by="trainer",
        began=NOW,
        at=NOW,
    )
    return replace(made, state=state, **changes)


def look(found: Data, jobs: Sequence[Job] = (), now: datetime = NOW, policy: Policy = POLICY):
    return decide("theta3", found, jobs, policy, now)


@pytest.mark.parametrize(
    ("found", "jobs", "state", "why"),
    [
        (data(0, rows=0), [], "waiting", "0 of 10,000 new rows"),
        (data(4210), [], "waiting", "4,210 of 10,000 new rows"),
        (data(10_000), [], "due", "10,000 new rows"),
        (data(9_999), [job()], "waiting", "9,999 of 10,000 new rows"),
        (data(10_000), [job()], "due", "10,000 new rows"),
        (data(10_000), [job("blocked")], "due", "10,000 new rows"),
        (
            data(1000),
            [job(at=NOW - timedelta(days=30))],
            "due",
            "1,000 new rows, 30 days after the last job",
        ),
        (data(999), [job(at=NOW - timedelta(days=90))], "waiting", "999 of 10,000 new rows"),
        (
            data(50_000),
            [job("training")],
            "running",
            "training since 2026-03-07 09:30 UTC: 10,000 new rows",
        ),
        (
            data(50_000),
            [job("trained", attempt=2, reason="tried again after: boom")],
            "running",
            "trained, being judged since 2026-03-07 09:30 UTC, attempt 2 of 3: "
            "tried again after: boom",
        ),
        (
            data(50_000),
            [job("failed", attempt=2, reason="boom")],
            "waiting",
            "waits 10 min after failure 2 of 3: boom",
        ),
        (
            data(12),
            [job("failed", attempt=3, reason="boom")],
            "stopped",
            "stopped after 3 failures: boom; 12 of 10,000 new rows",
        ),
        (data(10_000), [job("failed", attempt=3, reason="boom")], "due", "10,000 new rows"),
    ],
)
def test_what_is_due_and_why(found: Data, jobs: list[Job], state: str, why: str):
    decision = look(found, jobs)
    assert (decision.state, decision.why) == (state, why)


def test_a_new_job_names_its_data():
    (made,) = [look(data(10_000), [job()]).job]
    assert made
    assert made.id == job_id("theta3", "dpo", "preferences", 12)
    assert (made.state, made.attempt, made.data_version) == ("training", 1, 12)
    assert (made.newest, made.rows, made.reason) == (NOW, 20_000, "10,000 new rows")


def test_answers_are_trained_for_from_ideal_records_by_both_steps_at_once():
    made = decide("answers", data(10_000), [job("training")], POLICY, NOW).job
    assert made
    assert (made.target, made.table, made.kind) == ("answers", "ideal", "sft-answers")


def test_a_failed_job_is_tried_again_under_its_id_after_a_pause():
    failed = job("failed", attempt=2, reason="boom")
    early = look(data(0), [failed], NOW + timedelta(minutes=9))
    assert early.state == "waiting"
    assert early.at == NOW + timedelta(minutes=10)
    again = look(data(0), [failed], NOW + timedelta(minutes=10))
    assert again.state == "due"
    assert again.job
    assert (again.job.id, again.job.attempt, again.job.state) == (failed.id, 3, "training")
    assert again.job.reason == "tried again after: boom"


def test_what_is_to_be_tried_again_by_hand_is_due_at_once():
    again = look(data(0), [job("failed", attempt=0, reason="boom")])
    assert (again.state, again.job.attempt if again.job else None) == ("due", 1)


def test_a_table_that_begins_anew_is_not_trained_on_under_an_old_version():
    old = job(newest=NOW - timedelta(days=2))
    decision = look(data(10_000, version=5), [old])
    assert decision.state == "waiting"
    assert "was trained on" in decision.why
    assert look(data(10_000, version=6), [old]).state == "due"


# What holds whatever happens.

MOMENTS = st.timedeltas(timedelta(days=-400), timedelta(days=400)).map(lambda span: NOW + span)


@st.composite
def jobs_there_were(draw: st.DrawFn) -> list[Job]:
    """Jobs of both targets, each version once, at most one of each target open."""
    made = []
    for target, kind, table in (
        ("theta3", "dpo", "preferences"),
        ("answers", "sft-answers", "ideal"),
    ):
        versions = draw(st.lists(st.integers(0, 12), unique=True, max_size=4))
        for place, version in enumerate(sorted(versions)):
            states = ["passed", "blocked", "failed"]
            if place == len(versions) - 1:
                states += OPEN
            made.append(
                job(
                    draw(st.sampled_from(states)),
                    id=job_id(target, kind, table, version),
                    target=target,
                    kind=kind,
                    table=table,
                    data_version=version,
                    newest=NOW - timedelta(days=20 - version),
                    attempt=draw(st.integers(0, 4)),
                    at=draw(MOMENTS),
                )
            )
    return draw(st.permutations(made))


POLICIES = st.builds(
    Policy,
    rows=st.integers(1, 100),
    least_rows=st.integers(1, 100),
    age=st.timedeltas(timedelta(hours=1), timedelta(days=60)),
    attempts=st.integers(1, 4),
    retry_first=st.timedeltas(timedelta(seconds=1), timedelta(hours=1)),
    retry_longest=st.timedeltas(timedelta(seconds=1), timedelta(days=1)),
)
FOUND = st.builds(
    data, new=st.integers(0, 200), version=st.integers(0, 14), rows=st.integers(1, 500)
)
TARGETS: list[Target] = ["theta3", "answers"]


@given(FOUND, jobs_there_were(), POLICIES, MOMENTS, st.sampled_from(TARGETS))
def test_never_two_at_once_and_nothing_twice(found, jobs, policy, now, target):
    decision = decide(target, found, jobs, policy, now)
    ours = {job.id: job for job in jobs if job.target == target}
    unfinished = [job for job in ours.values() if job.state in OPEN]
    if unfinished:
        assert decision.state == "running"
        assert decision.job in unfinished
    if decision.state == "due":
        assert decision.job
        assert decision.job.state == "training"
        before = ours.get(decision.job.id)
        if before:
            # Only what failed is tried again, and no more often than set.
            assert before.state == "failed"
            assert decision.job.attempt == before.attempt + 1 <= policy.attempts
        else:
            assert found.new >= min(policy.rows, policy.least_rows)
    assert decision.why
    assert "\n" not in decision.why


@given(FOUND, jobs_there_were(), POLICIES, MOMENTS, st.integers(0, 100))
def test_more_rows_never_make_a_job_less_due(found, jobs, policy, now, more):
    if decide("theta3", found, jobs, policy, now).state == "due":
        grown = replace(found, new=found.new + more)
        assert decide("theta3", grown, jobs, policy, now).state == "due"


@given(jobs_there_were(), POLICIES, MOMENTS)
def test_the_order_in_which_jobs_are_known_does_not_matter(jobs, policy, now):
    found = data(50)
    assert decide("theta3", found, jobs, policy, now) == decide(
        "theta3", found, list(reversed(jobs)), policy, now
    )


@given(POLICIES, st.integers(1, 10_000))
def test_pauses_double_up_to_a_bound(policy, failures):
    assert policy.pause(1) == min(policy.retry_first, policy.retry_longest)
    assert policy.pause(failures + 1) == min(2 * policy.pause(failures), policy.retry_longest)


@given(POLICIES, st.integers(1, 3), MOMENTS)
def test_a_clock_that_is_put_back_makes_nothing_wait_longer_than_two_pauses(policy, attempt, now):
    failed = job("failed", attempt=attempt, at=NOW)
    policy = replace(policy, attempts=attempt + 1)
    later = now + 2 * policy.pause(attempt)
    assert "due" in {
        decide("theta3", data(0), [failed], policy, moment).state for moment in (now, later)
    }


@given(st.lists(st.integers(0, 40), max_size=60), st.sampled_from(["passed", "blocked", "failed"]))
def test_over_time_each_version_is_decided_on_once(arriving, end):
    """A trainer at work: rows come in, each job ends, and the next look is at what is new."""
    policy = replace(POLICY, rows=50, attempts=2, retry_first=timedelta(seconds=1))
    jobs: dict[str, Job] = {}
    begun: Counter[str] = Counter()
    rows, version, now = 0, 0, NOW
    newest = {0: NOW}
    for count in arriving:
        now += timedelta(minutes=1)
        rows, version = rows + count, version + 1
        newest[version] = now
        before = last(jobs.values(), "theta3")
        new = rows - (before.rows if before else 0)
        found = Data(version=version, rows=rows, new=new, newest=now)
        decision = decide("theta3", found, jobs.values(), policy, now)
        if decision.state == "due":
            assert decision.job
            begun[decision.job.id] += 1
            jobs[decision.job.id] = replace(decision.job, state=end, at=now)
    most = policy.attempts if end == "failed" else 1
    assert all(count <= most for count in begun.values())
    if end != "failed":
        assert len(jobs) <= rows // policy.rows
