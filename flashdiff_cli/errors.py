"""The one exception that a user is meant to read."""


class FlashdiffError(Exception):
    """Something a person can mend: the message names the file or option, the cause and the remedy.

    Commands print it as one line on stderr and leave with exit code 1; as a library error it
    can be caught without knowing which part raised it.
    """


class UsageError(FlashdiffError):
    """An option or argument that makes no sense; commands leave with exit code 2."""
