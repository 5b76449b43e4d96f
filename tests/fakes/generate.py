"""A scripted Generate port: answers from a list or a function, without HTTP."""

from collections.abc import Callable, Iterable

from consumers.ports import Completion, Prompted
from fakes.model_server import question

Answer = str | Completion | Exception


def made_up(request: Prompted) -> str:
    """A question that passes the filters, the same for the same request."""
    return question(request.prompt, request.seed, request.model)


class FakeGenerate:
    """Each answer is a text, a whole completion, or an exception to raise.

    A list is given in order and must suffice; a function is called with each request. `requests`
    holds what was asked. A text of more words than `max_tokens` is cut there, as a model's is.
    """

    def __init__(self, answers: Iterable[Answer] | Callable[[Prompted], Answer] = made_up) -> None:
        listed = None if callable(answers) else iter(answers)
        self._answer = answers if callable(answers) else lambda _: next(listed)
        self.requests: list[Prompted] = []

    async def __call__(self, request: Prompted) -> Completion:
        self.requests.append(request)
        answer = self._answer(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Completion):
            return answer
        words = answer.split()
        kept = words[: request.max_tokens]
        return Completion(
            text=answer if kept == words else " ".join(kept),
            finished=kept == words,
            prompt_tokens=len(request.prompt.split()),
            completion_tokens=len(kept),
        )
