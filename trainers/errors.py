"""What a job says about data that it cannot use, and about what stops it."""


class DataError(Exception):
    """A table or file of training data is not as expected, or holds too little.

    The message is one line: the file or table, what was expected of it, what to do.
    """


class JobError(Exception):
    """A job cannot go on, for a reason outside this program; the message is one line."""
