"""Make kinds.jpg: five pictures that suffer from different things, and what flashdiff makes of them with nothing said."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from flashdiff_cli.operators import Enlargement, Identity, Jpeg, MotionBlur
from flashdiff_cli.operators.motion_blur import straight_kernel
from flashdiff_cli.pictures.files import Picture, from_pil, read_picture
from flashdiff_cli.runs.restorer import Restorer

HERE = Path(__file__).parent
PICTURES = {
    "camera shake": ("blurry", MotionBlur(straight_kernel(10.0, 0.4)[None]), 0.01),
    "noise": ("light", Identity(), 0.1),
    "JPEG": ("heavy", Jpeg(12.0), 0.0),
    "enlarged": ("light", Enlargement(3.0), 0.0),
    "nothing": ("heavy", Identity(), 0.0),
}
# what it suffers from: (picture, operator, noise on intensities)
GAP, LINE = 6, 20


def main() -> None:
    restorer = Restorer()
    columns = []
    for what, (name, operator, noise_std) in PICTURES.items():
        clean = read_picture(HERE / f"{name}-clean.png").image
        measured = operator.measure(clean, noise_std, [torch.Generator().manual_seed(0)])
        # As a file of 8 bits has it.
        before = from_pil(Picture(measured).to_rgb())
        after, record = restorer.restore(before)
        seen = record.degradation
        columns.append((before.to_rgb(), what, after.to_rgb(), f"{seen['kind']} {seen['confidence']:.0%}, {record.steps} steps"))
    width, height = columns[0][0].size
    sheet = Image.new("RGB", (len(columns) * (width + GAP) - GAP, 2 * (height + LINE)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, (before, above, after, below) in enumerate(columns):
        left = index * (width + GAP)
        for row, (picture, caption) in enumerate(((before, above), (after, below))):
            sheet.paste(picture, (left, row * (height + LINE)))
            draw.text((left + 2, row * (height + LINE) + height + 2), caption, fill="black", font=font)
    sheet.save(HERE / "kinds.jpg", quality=92, subsampling=0)


if __name__ == "__main__":
    main()
