"""Restore the example pictures blind and set them beside what they were: examples/before-after.png.

Run from the repository root: python examples/make_before_after.py
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import flashdiff_cli as flashdiff

HERE = Path(__file__).parent
NAMES, SIDE, GAP, CAPTION = ("light", "blurry", "heavy"), 256, 8, 22


def main() -> None:
    width, height = 3 * SIDE + 2 * GAP, len(NAMES) * (SIDE + CAPTION + GAP) - GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, name in enumerate(NAMES):
        top = row * (SIDE + CAPTION + GAP)
        restored, record = flashdiff.restore(HERE / f"{name}.png")
        with Image.open(HERE / f"{name}.png") as degraded, Image.open(HERE / f"{name}-clean.png") as clean:
            pictures = (degraded.convert("RGB"), restored, clean.convert("RGB"))
        captions = (
            f"{name}.png: severity {record.severity:.2f}",
            f"restored, {record.steps} of {record.schedule_steps} steps",
            "before it was degraded",
        )
        for column, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            left = column * (SIDE + GAP)
            draw.text((left, top), caption, fill="black", font=font)
            sheet.paste(picture, (left, top + CAPTION))
        print(f"{name}: severity {record.severity:.3f}, start step {record.start_step}, {record.operator}, {record.seconds['total']:.1f} s")
    sheet.save(HERE / "before-after.png", optimize=True)


if __name__ == "__main__":
    main()
