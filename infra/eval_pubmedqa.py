"""`kailin eval pubmedqa`: a served model answers PubMedQA's questions, and is scored on them."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from consumers.ports import Completion, Generate, Prompted
from consumers.together import together
from infra import logs, predictions
from infra.cli_context import say
from infra.openai_generate import OpenAIGenerate
from infra.predictions import Asking, Prediction, PredictionsError
from infra.progress_bar import bar
from infra.settings import Server, Settings, SettingsError
from streams.errors import Invalid, Transient
from streams.metrics import Metrics
from streams.prompts import answer_prompt
from streams.records import Decision
from trainers.errors import DataError
from trainers.pubmedqa import (
    DECISIONS,
    Item,
    Result,
    counted,
    judge,
    outcomes,
    read_test,
)
from trainers.statistics import mcnemar

DONE, FAILED, WRONG = 0, 1, 2

# How often a request is made that fails for what may pass; the first pause (seconds) doubles.
ATTEMPTS, PAUSE = 6, 0.5
# What does not pass: a wrong key or model name, as `infra.openai_generate.verdict` calls it.
LASTING = "model server: "
# In seconds; a line is said where there is no terminal to keep a bar on.
SAVE_EVERY, TELL_EVERY = 5.0, 15.0
CONFIDENCE, RESAMPLES = 0.95, 10_000
GO_ON = "what was answered is saved, the same command goes on from there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says. `data` and `test` are PubMedQA's files; None: as in [gate].

    `server` is one of [servers.NAME]; `url` is the model's address where it is another one.
    """

    asking: Asking
    server: str | None = None
    url: str | None = None
    data: Path | None = None
    test: Path | None = None
    compare: Path | None = None
    out: Path | None = None
    decisions: Path | None = None
    limit: int | None = None


async def predict(
    items: Sequence[Item],
    generate: Generate,
    asking: Asking,
    *,
    known: Mapping[int, Prediction] | None = None,
    told: Callable[[int, Prediction], None] = lambda pmid, answer: None,
) -> dict[int, Prediction]:
    """One answer to each item, by PMID and in their order; `told` hears of each as it is there.

    Of the `known` answers, those to the same prompt are kept. What the server refuses is an answer
    that cannot be read, and is asked again another time. Raises `Transient` where the server stays
    away.
    """
    before = known or {}

    async def answered(item: Item) -> Prediction:
        context = item.context if asking.setting == "reasoning-required" else ""
        prompt = answer_prompt(asking.prompt, question=item.question, context=context)
        asked = hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest()
        answer = before.get(item.pmid)
        if answer is None or answer.asked != asked or answer.rejected == predictions.REFUSED:
            answer = await _answer(prompt, asked, generate, asking)
        told(item.pmid, answer)
        return answer

    # The first alone, so that a wrong name or key shows once and not for each item.
    first = [await answered(item) for item in items[:1]]
    others = await together(answered(item) for item in items[1:])
    return dict(zip((item.pmid for item in items), (*first, *others), strict=True))


async def _answer(prompt: str, asked: str, generate: Generate, asking: Asking) -> Prediction:
    request = Prompted(
        model=asking.model,
        prompt=prompt,
        temperature=asking.temperature,
        top_p=asking.top_p,
        max_tokens=asking.max_tokens,
        seed=asking.seed,
    )
    try:
        completion = await _patiently(generate, request)
    except Invalid as error:
        return predictions.refused(asked, error.detail)
    return predictions.prediction(asked, completion, asking.prompt)


async def _patiently(generate: Generate, request: Prompted) -> Completion:
    for attempt in range(1, ATTEMPTS):
        try:
            return await generate(request)
        except Transient as error:
            if error.reason.startswith(LASTING):
                raise
        await asyncio.sleep(PAUSE * 2 ** (attempt - 1))
    return await generate(request)


def run(settings: Settings, options: Options, console: Console) -> int:
    """Ask, save, score and print; the exit status: 0 done, 1 not all answered, 2 wrong usage."""
    logs.configure(settings, "eval")
    asking = options.asking
    out = options.out or settings.data / "pubmedqa" / _file_name(asking)
    try:
        server = _server(settings, options)
        address = options.url or server.address
        items, truth = _questions(settings, options)
        known = predictions.load(out, asking)
        other = predictions.decisions_in(options.compare, truth) if options.compare else None
        generate = OpenAIGenerate(server, Metrics(CollectorRegistry()), address)
        answers = asyncio.run(_ask(items, generate, asking, known, out, console))
        decided = {pmid: answer.decision for pmid, answer in answers.items()}
        if options.decisions:
            predictions.save_decisions(
                options.decisions, {pmid: counted(decided[pmid], truth[pmid]) for pmid in truth}
            )
    except (DataError, PredictionsError, SettingsError) as error:
        say(console, str(error))
        return WRONG
    except Transient as error:
        say(console, f"{asking.model} at {address}: {error}; {GO_ON}")
        return FAILED
    except KeyboardInterrupt:
        say(console, f"stopped; {GO_ON}")
        return FAILED
    result = judge(truth, decided, confidence=CONFIDENCE, resamples=RESAMPLES)
    _show(result, answers, options.limit, console)
    if other is not None:
        _compare(truth, decided, other, f"{options.compare}", console)
    say(console, f"answers: {out}")
    return DONE


def _file_name(asking: Asking) -> str:
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in asking.model)
    return f"{plain}-{asking.setting}.json"


def _server(settings: Settings, options: Options) -> Server:
    """The server that was named, or the only one there is."""
    names = ", ".join(settings.servers)
    name = options.server or (names if len(settings.servers) == 1 else "")
    if name not in settings.servers:
        raise SettingsError(f"--server {name or 'is not given'}: expected one of {names}")
    return settings.servers[name]


def _questions(settings: Settings, options: Options) -> tuple[list[Item], dict[int, Decision]]:
    """The test questions and their decisions, in the order of the test file."""
    data, test = options.data or settings.gate.pubmedqa, options.test or settings.gate.pubmedqa_test
    if data is None:
        raise SettingsError("--data: expected PubMedQA's ori_pqal.json (or set gate.pubmedqa)")
    if test is None:
        raise SettingsError(
            "--test: expected PubMedQA's test_ground_truth.json (or set gate.pubmedqa_test)"
        )
    return read_test(data, test, options.limit)


async def _ask(
    items: Sequence[Item],
    generate: OpenAIGenerate,
    asking: Asking,
    known: Mapping[int, Prediction],
    out: Path,
    console: Console,
) -> dict[int, Prediction]:
    """All answers, saved now and then and whatever happens; `generate` is closed."""
    answers = dict(known)
    done, saved, said = 0, time.monotonic(), time.monotonic()
    shown = bar(console)
    task = shown.add_task(f"{asking.model}, {asking.setting}", total=len(items))

    def told(pmid: int, answer: Prediction) -> None:
        nonlocal done, saved, said
        answers[pmid] = answer
        done += 1
        shown.advance(task)
        now = time.monotonic()
        if now - saved >= SAVE_EVERY:
            predictions.save(out, asking, answers)
            saved = now
        if not console.is_terminal and now - said >= TELL_EVERY:
            say(console, f"{asking.model}, {asking.setting}: {done:,} of {len(items):,}")
            said = now

    try:
        with shown:
            return await predict(items, generate, asking, known=known, told=told)
    finally:
        if answers:
            predictions.save(out, asking, answers)
        await generate.close()


def _show(
    result: Result, answers: Mapping[int, Prediction], limit: int | None, console: Console
) -> None:
    table = Table(box=None, show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column()
    for name, value, (low, high) in (
        ("accuracy", result.accuracy, result.accuracy_interval),
        ("macro-F1", result.macro_f1, result.macro_f1_interval),
    ):
        table.add_row(name, f"{value:.2%}, {CONFIDENCE:.0%} interval {low:.2%} to {high:.2%}")
    accuracy, macro_f1 = result.majority
    table.add_row("majority alone", f"{accuracy:.2%}, macro-F1 {macro_f1:.2%}")
    sample = ", a sample of the test" if limit else ""
    table.add_row("questions", f"{result.items:,}{sample}")
    for decision in DECISIONS:
        table.add_row(
            decision,
            f"{result.predicted[decision]:,} answered, {result.truth[decision]:,} expected",
        )
    reasons = Counter(answer.rejected for answer in answers.values() if answer.rejected)
    listed = "".join(f"; {reason}: {count:,}" for reason, count in reasons.most_common())
    table.add_row("not to be read", f"{result.unparsable:,}, counted as wrong{listed}")
    console.print(table)


def _compare(
    truth: Mapping[int, Decision],
    ours: Mapping[int, Decision | None],
    theirs: Mapping[int, Decision | None],
    name: str,
    console: Console,
) -> None:
    right, right_there = outcomes(truth, ours), outcomes(truth, theirs)
    pairs = [(right[pmid], right_there[pmid]) for pmid in truth]
    p = mcnemar([one for one, _ in pairs], [other for _, other in pairs])
    say(console, f"compared with {name}, which has {sum(right_there.values()) / len(truth):.2%}")
    say(
        console,
        f"right in one alone: {sum(one and not other for one, other in pairs):,} here, "
        f"{sum(other and not one for one, other in pairs):,} there; McNemar p = {p:.3g}",
    )
