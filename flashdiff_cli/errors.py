"""The one exception that a user is meant to read."""

from collections.abc import Iterable
from unicodedata import category

MOST = 2000
"""Characters of a message; what files put into it may be longer."""
LONGEST_NAME = 100
"""Characters of a name for which others like it are looked for."""
NOT_WRITTEN = ("Cc", "Cf", "Zl", "Zp")
"""Unicode categories of characters that act on a console instead of being shown."""


def one_line(text: str) -> str:
    """Return a text without line ends, control characters and marks that turn the direction of writing: each as its escape."""
    text = "".join(c.encode("unicode_escape").decode("ascii") if category(c) in NOT_WRITTEN else c for c in text)
    return text if len(text) <= MOST else text[: MOST - 3] + "..."


def choose_from(given: object, known: Iterable[str]) -> str:
    """Return the remedy for a value that is none of the known ones: "did you mean this? choose from these"."""
    known = list(known)
    meant = ()
    if isinstance(given, str) and len(given) <= LONGEST_NAME:
        from difflib import get_close_matches

        lower = {name.lower(): name for name in known}
        meant = get_close_matches(given.lower().replace("_", "-"), lower, 1, 0.6)
    return (f"did you mean {lower[meant[0]]}? " if meant else "") + f"choose from {', '.join(known)}"


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


class NotApplicable(FlashdiffError):
    """A method that does not go with an operator or a model: a bench records it as skipped."""
