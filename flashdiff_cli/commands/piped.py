"""One picture through a pipe: from standard input, to standard output, or both."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashdiff_cli.errors import FlashdiffError, UsageError

if TYPE_CHECKING:
    from flashdiff_cli.pictures.picture import Picture
    from flashdiff_cli.runs.inputs import Job
    from flashdiff_cli.runs.record import Record
    from flashdiff_cli.runs.restorer import Restorer
    from flashdiff_cli.runs.settings import Settings

STANDARD = Path("-")


def check_piped(inputs: Sequence[Path], content: bytes | list[bytes], output: Path | None, as_json: bool, refused: Mapping[str, Any]) -> None:
    """Raise an error for what makes no sense with one picture through a pipe, before a model is loaded.

    Args:
        inputs: as given.
        content: of standard input, see `read_standard_input`; an empty list if it was not asked for.
        output: as given; None and "-": standard output.
        as_json: whether standard output is wanted for records.
        refused: options that need files, by name, and whether each was given.

    Raises:
        UsageError: it makes no sense.
        FlashdiffError: the output is there already; see `--overwrite` in `refused`.
    """
    if len(inputs) > 1 or inputs[0].is_dir() or (content and isinstance(content, list)):
        raise UsageError("through a pipe goes one picture: give no other input, no folder, and no list of names")
    given = [name for name, value in refused.items() if value]
    if given:
        raise UsageError(f"{given[0]} needs files; with a picture through a pipe leave it out")
    if output in (None, STANDARD):
        if as_json:
            raise UsageError("--json and the picture both want standard output; give --output FILE")
        if sys.stdout.isatty():
            raise UsageError("the picture would go to the terminal; redirect standard output, or give --output FILE")
    elif output.is_dir() or not output.suffix:
        raise UsageError(f"--output {output}: a folder for a picture that has no name; give a file")


def check_free(output: Path | None, overwrite: bool) -> None:
    """Raise an error if a file stands where the picture is to go, or none can be written there."""
    from flashdiff_cli.pictures.formats import check_output

    if output not in (None, STANDARD):
        check_output(output)
        if (os.path.lexists(output) if isinstance(output, Path) else output.exists()) and not overwrite:
            raise FlashdiffError(f"{output}: exists already; choose another --output, or pass --overwrite")


def restore_piped(
    job: Job,
    load: Callable[[], Restorer],
    settings: Settings,
    output: Path | None,
    ending: str | None,
    quality: int | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Restore one picture from or to a pipe, and show what was done where standard output is free for it; arguments as for `write_piped`."""
    from flashdiff_cli.commands.show import meter, say_json
    from flashdiff_cli.commands.table import report

    with meter(1, quiet) as shown:
        restorer = load()
        restorer.check(settings)
        shown.begin(str(job.source))
        restored, record = restorer.restore(job.read(), settings, str(job.source), shown.step, phase=shown.phase)
        write_piped(job, restored, record, output, ending, quality, overwrite)
    if output not in (None, STANDARD):
        report([record], as_json)
    if as_json:
        say_json(record.to_json())


def write_piped(
    job: Job,
    restored: Picture,
    record: Record,
    output: Path | None,
    ending: str | None,
    quality: int | None,
    overwrite: bool = False,
) -> None:
    """Write the result, and what became of it into its record.

    Args:
        job: its source.
        restored, record: of it.
        output: a file; None and "-": standard output.
        ending: of the format to write; None: the output's, else as the source's.
        quality: see `write_picture`.
        overwrite: replace a file that is there, though it was not when the run began.

    Raises:
        FlashdiffError: it cannot be written.
    """
    from flashdiff_cli.pictures.atomic import whole
    from flashdiff_cli.pictures.files import encoded, write_picture
    from flashdiff_cli.pictures.formats import FORMATS
    from flashdiff_cli.runs.piped import ending_of

    if output not in (None, STANDARD):
        like = (job.source,) if job.data is None and isinstance(job.source, Path) else ()
        write_picture(restored, output, quality, lambda path: whole(path, overwrite, like), record.notes)
        record.output = str(output)
        return
    own = job.source.suffix.lower() if job.data is None else ending_of(job.data)
    content, notes = encoded(restored, ending or (own if own in FORMATS else ".png"), quality)
    record.notes += notes
    record.output = str(STANDARD)
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
