"""`kailin eval`: how good a served model is."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from infra.cli_context import WRONG, Config, give_up, settings_of

eval_app = typer.Typer(no_args_is_help=True, help="How good a served model is.")


@eval_app.callback()
def evaluate() -> None:
    """How good a served model is."""


@eval_app.command("pubmedqa")
def pubmedqa(
    context: typer.Context,
    model: Annotated[str, typer.Option(metavar="NAME", help="The name that it is served under.")],
    config: Config = None,
    setting: Annotated[
        Literal["reasoning-required", "question-only"],
        typer.Option(help="With the question's abstract as context, or without."),
    ] = "reasoning-required",
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="ori_pqal.json, plain or gzip; else gate.pubmedqa."),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="test_ground_truth.json; else gate.pubmedqa_test."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the servers in the settings.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The model's address, where it is not the server's own.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Another model's answers, or {PMID: decision}."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For the answers; else a file in <data>/pubmedqa."),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also {PMID: decision}, for PubMedQA's evaluation.py."),
    ] = None,
    prompt: Annotated[
        str, typer.Option(metavar="NAME", help="answer/1 (KAILIN, Figure 3) or answer-long/1.")
    ] = "answer/1",
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="The longest answer; else 16, or 512 for answer-long."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only a sample of so many test questions.")
    ] = None,
) -> None:
    """Answer PubMedQA's 500 test questions, scored as PubMedQA's own evaluation scores them.

    At temperature 0, with the prompt of KAILIN's Figure 3. An answer that is not plainly yes, no or
    maybe is wrong: for macro-F1 it counts as maybe, or as no where maybe is right. Intervals are
    95 % bootstrap intervals; two models are compared by McNemar's exact test.

    Answers are saved with all that was asked for. The same command again asks only what is missing.

    Examples: [bold]kailin eval pubmedqa --model answers --data ori_pqal.json
    --test test_ground_truth.json[/],
    [bold]kailin eval pubmedqa --model b --compare .data/pubmedqa/a-reasoning-required.json[/]

    Exit codes: 0 all are answered, 1 the server stayed away, 2 wrong usage, files or settings.
    """
    settings, _ = settings_of(context, config)
    from rich.console import Console

    from infra import eval_pubmedqa
    from infra.predictions import Asking
    from streams.prompts import ANSWER_PROMPTS

    if prompt not in ANSWER_PROMPTS:
        give_up(f"--prompt {prompt}: expected one of {', '.join(ANSWER_PROMPTS)}", WRONG)
    if max_tokens is None:
        max_tokens = 512 if prompt.startswith("answer-long/") else 16
    options = eval_pubmedqa.Options(
        asking=Asking(model=model, setting=setting, prompt=prompt, max_tokens=max_tokens),
        server=server,
        url=url,
        data=data,
        test=test,
        compare=compare,
        out=out,
        decisions=decisions,
        limit=limit,
    )
    raise typer.Exit(eval_pubmedqa.run(settings, options, Console()))
