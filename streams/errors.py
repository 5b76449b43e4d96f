"""The ways in which work on a record can fail; anything else is a fault of this program."""


class Transient(Exception):
    """The record is fine, a component is not (away, overloaded, timed out): try again later.

    `reason` is a short fixed phrase that becomes a metric label; `detail` is for the log.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Invalid(Exception):
    """The record can never succeed as it is: it goes to the dead letters.

    `reason` is a short fixed phrase that becomes a metric label; `detail` names the field and
    what was expected of it.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Misconfigured(Exception):
    """A setting is wrong: no record can succeed until it is put right, and waiting does not help.

    The message is one line a setting: key, value, what was expected.
    """
