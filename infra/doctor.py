"""`kailin doctor`: looks at everything the service needs, and says what to do.

Each area is looked at by itself, so what is down hides nothing else. Nothing is changed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape

from infra import doctor_machine, doctor_services, doctor_stores
from infra.cli_context import DONE, FAILED
from infra.finding import Finding, problem
from infra.logs import secrets_of
from infra.settings import Settings
from infra.settings_redacted import redacted
from streams.log_lines import without_secrets

Look = Callable[[Settings], Awaitable[list[Finding]]]

# Seconds that one area may take.
WITHIN = 20.0

AREAS: dict[str, Look] = {
    "versions": doctor_machine.versions,
    "secrets": doctor_machine.secrets,
    "machine": doctor_machine.disk,
    "processes": doctor_machine.processes,
    "kafka": doctor_stores.kafka,
    "consumer groups": doctor_stores.consumers,
    "elasticsearch": doctor_stores.elasticsearch,
    "tables": doctor_stores.tables,
    "mesh": doctor_stores.mesh,
    "models": doctor_services.models,
    "mlflow": doctor_services.mlflow,
    "prometheus": doctor_services.prometheus,
}

STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


async def examine(settings: Settings) -> list[Finding]:
    """Everything that was found, in the order of the areas. Raises nothing."""
    found = await asyncio.gather(*(_look(name, look, settings) for name, look in AREAS.items()))
    hidden = [secret for secret in secrets_of(settings) if secret]
    return [_clean(finding, hidden) for some in found for finding in some]


def misconfigured(lines: str) -> list[Finding]:
    """What there is to say where the settings are wrong: nothing else can be looked at then."""
    remedy = "put it right; infra/kailin.example.toml explains every setting"
    return [problem("settings", line, remedy) for line in lines.splitlines()]


def show(
    found: Sequence[Finding], settings: Settings | None, console: Console, *, as_json: bool
) -> int:
    """Print what was found; the exit status: 1 where anything is a problem."""
    healthy = not any(finding.verdict == "problem" for finding in found)
    if as_json:
        console.print_json(
            data={
                "healthy": healthy,
                "findings": [asdict(finding) for finding in found],
                "settings": redacted(settings) if settings else None,
            },
            default=str,
        )
    else:
        for line in _lines(found):
            console.print(line, highlight=False, soft_wrap=True)
    return DONE if healthy else FAILED


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    area = ""
    for finding in found:
        if finding.area != area:
            area = finding.area
            yield f"[bold]{area}[/]"
        style = STYLES[finding.verdict]
        yield f"  [{style}]{finding.verdict:8}[/]{escape(finding.said)}"
        if finding.remedy:
            yield f"          [dim]→ {escape(finding.remedy)}[/]"
    counts = [
        f"{sum(finding.verdict == verdict for finding in found)} {name}"
        for verdict, name in (("ok", "ok"), ("warning", "warnings"), ("problem", "problems"))
    ]
    yield ", ".join(counts)


async def _look(name: str, look: Look, settings: Settings) -> list[Finding]:
    try:
        return await asyncio.wait_for(look(settings), WITHIN)
    except TimeoutError:
        return [problem(name, f"no answer within {WITHIN:.0f} s", "is it overloaded, or cut off?")]
    except Exception as error:
        # Whatever it is, the other areas are still worth looking at.
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return [problem(name, f"could not be looked at: {said}", "see what this error says")]


def _clean(finding: Finding, hidden: Sequence[str]) -> Finding:
    """Without a secret, whoever quoted it."""

    def clean(text: str) -> str:
        for secret in hidden:
            text = text.replace(secret, "***")
        return without_secrets(text)

    return Finding(finding.area, finding.verdict, clean(finding.said), clean(finding.remedy))
