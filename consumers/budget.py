"""A model that is asked within a budget: each request is paid for before it is sent."""

from dataclasses import dataclass

from consumers.ports import Budget, Completion, Cost, Generate, Prompted
from streams.errors import Invalid, Transient

MILLION = 1_000_000
# Tokens of the roles and marks that a server's chat template puts around a prompt, at most.
TEMPLATE = 256
NOTHING = Cost(prompt_tokens=0, completion_tokens=0, money=0.0)
# Failures after which the model may have worked, and its work be charged.
PERHAPS_CHARGED = ("model server timed out", "model answer malformed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Of a million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> Cost:
        money = prompt_tokens * self.prompt + completion_tokens * self.completion
        return Cost(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            money=money / MILLION,
        )


def within(budget: Budget, ask: Generate, prices: Prices) -> Generate:
    """`ask`, for which each request reserves the most it may cost and settles what it did cost.

    A token is a byte at least, so a reservation is only too small where a server passes over
    `max_tokens` or adds more than `TEMPLATE` tokens of its own. What may have been charged without
    an answer, a request that timed out or was abandoned, is counted in full. A server that counts
    no tokens is taken to have used the most.
    """

    async def paid(request: Prompted) -> Completion:
        most = prices.of(len(request.prompt.encode()) + TEMPLATE, request.max_tokens)
        reserved = await budget.reserve(request.model, most)
        cost = most
        try:
            completion = await ask(request)
            if completion.prompt_tokens:
                cost = prices.of(completion.prompt_tokens, completion.completion_tokens)
        except Invalid:
            cost = NOTHING
            raise
        except Transient as error:
            if error.reason not in PERHAPS_CHARGED:
                cost = NOTHING
            raise
        finally:
            budget.settle(reserved, cost)
        return completion

    return paid
