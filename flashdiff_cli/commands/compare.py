"""flashdiff compare"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from flashdiff_cli.commands.extras import require


def compare(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Picture file.", show_default=False)],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Picture file.", show_default=False)],
    truth: Annotated[Path | None, typer.Option("--truth", help="Clean picture: shown third, and PSNR and SSIM to it.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write (default: AFTER-compared.png).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that stands in the way.")] = False,
) -> None:
    """Put two pictures side by side into one PNG.

    Example:

    flashdiff compare photo.png photo-restored.png
    """
    from flashdiff_cli.errors import UsageError, one_line
    from flashdiff_cli.pictures.files import from_pil, read_picture, write_picture
    from flashdiff_cli.pictures.formats import check_output
    from flashdiff_cli.pictures.side import side_by_side
    from flashdiff_cli.runs.content import same_file
    from flashdiff_cli.runs.journal import Journal, Origin

    target = output or after.with_name(f"{after.stem}-compared.png")
    check_output(target)
    paths = [before, after] + ([] if truth is None else [truth])
    if any(same_file(target, path) for path in paths):
        raise UsageError(f"{target}: the output would overwrite an input; choose another --output")
    journal, origin = Journal(), Origin.of(*paths)
    journal.check(target, origin, overwrite=overwrite)
    pictures = [read_picture(path) for path in paths]
    captions = [path.name for path in paths]
    if truth is not None:
        require("bench", "--truth needs")
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        clean = (pictures[2].image + 1) / 2
        for index, picture in enumerate(pictures[:2]):
            if picture.size != pictures[2].size:
                raise UsageError(f"--truth {truth} is of another size than {paths[index]}")
            image = (picture.image + 1) / 2
            psnr = float(peak_signal_noise_ratio(image, clean, data_range=1.0))
            ssim = float(cast(Any, structural_similarity_index_measure(image, clean, data_range=1.0)))  # one number, for no map is asked for
            captions[index] += f": {psnr:.2f} dB, SSIM {ssim:.3f}"
            print(one_line(f"{paths[index]}: PSNR {psnr:.2f} dB, SSIM {ssim:.4f}"))
    sheet = side_by_side([picture.to_rgb() for picture in pictures], captions)
    write_picture(from_pil(sheet), target, into=lambda path: journal.file(path, origin, overwrite=overwrite))
    print(one_line(str(target)))
