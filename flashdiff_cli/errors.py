"""The one exception that a user is meant to read."""

from unicodedata import category

MOST = 2000
"""Characters of a message; what files put into it may be longer."""
NOT_WRITTEN = ("Cc", "Cf", "Zl", "Zp")
"""Unicode categories of characters that act on a console instead of being shown."""


def one_line(text: str) -> str:
    """A text without line ends, control characters and marks that turn the direction of writing: each as its escape."""
    text = "".join(c.encode("unicode_escape").decode("ascii") if category(c) in NOT_WRITTEN else c for c in text)
    return text if len(text) <= MOST else text[: MOST - 3] + "..."


class FlashdiffError(Exception):
    """Something a person can mend: the message names the file or option, the cause and the remedy.

    Commands print it as one line on stderr and leave with exit code 1; as a library error it
    can be caught without knowing which part raised it. Names and values from files are part of messages, so that
    whatever does not print is escaped here, for all of them.
    """

    def __init__(self, message: str = ""):
        super().__init__(one_line(str(message)))


class UsageError(FlashdiffError):
    """An option or argument that makes no sense; commands leave with exit code 2."""
