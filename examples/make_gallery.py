"""Make enlarged.jpg, failures.jpg and moving.webp: what the gallery of the documentation shows besides."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from flashdiff_cli.operators import GaussianBlur, Identity, Jpeg, MotionBlur, Operator
from flashdiff_cli.operators.inpainting import MaskInpainting
from flashdiff_cli.operators.motion_blur import path_kernels
from flashdiff_cli.pictures.files import Picture, from_pil, read_picture
from flashdiff_cli.runs.restorer import Restorer, Settings

HERE = Path(__file__).parent
GAP, LINE = 6, 20
FRAMES, PAUSE = 24, 70
"""Of the moving picture, there and back, and milliseconds of each."""


def sheet(columns: list[list[tuple[Image.Image, str]]], path: Path) -> None:
    """Pictures of one size in columns, each with a line under it."""
    width, height = columns[0][0][0].size
    page = Image.new("RGB", (len(columns) * (width + GAP) - GAP, len(columns[0]) * (height + LINE)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for across, column in enumerate(columns):
        for down, (picture, caption) in enumerate(column):
            left, top = across * (width + GAP), down * (height + LINE)
            page.paste(picture, (left, top))
            draw.text((left + 2, top + height + 2), caption, fill="black", font=font)
    page.save(path, quality=90, subsampling=0)


def degraded(clean: Picture, operator: Operator, noise_std: float) -> Picture:
    """As a file of 8 bits has it."""
    measured = operator.measure(clean.image, noise_std, [torch.Generator().manual_seed(0)])
    return from_pil(Picture(measured).to_rgb())


def enlarged(restorer: Restorer) -> None:
    columns = []
    for name in ("blurry", "light", "heavy"):
        truth = read_picture(HERE / f"{name}-clean.png").to_rgb()
        small = truth.resize((truth.width // 4, truth.height // 4), Image.Resampling.BICUBIC)
        after, _ = restorer.restore(from_pil(small), Settings(scale=4))
        bicubic = small.resize(truth.size, Image.Resampling.BICUBIC)
        said = f"{small.width} x {small.height}, bicubic"
        columns.append([(bicubic, said), (after.to_rgb(), "--scale 4"), (truth, "the truth")])
    sheet(columns, HERE / "enlarged.jpg")


def failures(restorer: Restorer) -> None:
    generator = torch.Generator().manual_seed(3)
    hole = torch.ones(256, 256)
    hole[70:190, 60:200] = 0
    cases = {
        "blur of 6 pixels": ("blurry", GaussianBlur(6.0), 0.02, {}),
        "bent shake, 25 pixels": ("light", MotionBlur(path_kernels(torch.tensor([25.0]), torch.tensor([0.8]), generator)), 0.01, {}),
        "halved, noise, JPEG, enlarged": ("blurry", None, 0.0, {}),
        "JPEG of quality 4": ("heavy", Jpeg(4.0), 0.0, {}),
        "a large hole": ("light", MaskInpainting(hole), 0.0, {"mask": hole}),
    }
    columns = []
    for what, (name, operator, noise_std, more) in cases.items():
        clean = read_picture(HERE / f"{name}-clean.png")
        before = mixed(clean) if operator is None else degraded(clean, operator, noise_std)
        settings = Settings()
        if more:
            Image.fromarray((hole * 255).byte().numpy()).save(HERE / "hole.png")
            settings = Settings(mask=HERE / "hole.png")
        after, record = restorer.restore(before, settings)
        seen = record.degradation
        below = f"{seen['kind']} {seen['confidence']:.0%}, {record.steps} steps" if seen else f"{record.steps} steps"
        columns.append([(clean.to_rgb(), "the truth"), (before.to_rgb(), what), (after.to_rgb(), below)])
    (HERE / "hole.png").unlink()
    sheet(columns, HERE / "failures.jpg")


def mixed(clean: Picture) -> Picture:
    """Halved, made noisy, compressed, and enlarged again."""
    truth = clean.to_rgb()
    small = degraded(from_pil(truth.resize((128, 128), Image.Resampling.BICUBIC)), Identity(), 0.05)
    small = degraded(small, Jpeg(30.0), 0.0)
    return from_pil(small.to_rgb().resize(truth.size, Image.Resampling.BICUBIC))


def moving(restorer: Restorer) -> None:
    """The divider goes over the picture and back."""
    before = read_picture(HERE / "blurry.png")
    after, _ = restorer.restore(before)
    left, right = before.to_rgb(), after.to_rgb()
    frames = []
    for number in range(FRAMES):
        share = number / (FRAMES // 2) if number <= FRAMES // 2 else 2 - number / (FRAMES // 2)
        at = round((0.04 + 0.92 * share) * left.width)
        frame = right.copy()
        frame.paste(left.crop((0, 0, at, left.height)), (0, 0))
        ImageDraw.Draw(frame).line([(at, 0), (at, left.height)], fill="white", width=2)
        frames.append(frame.resize((2 * left.width, 2 * left.height), Image.Resampling.LANCZOS))
    frames[0].save(HERE / "moving.webp", save_all=True, append_images=frames[1:], duration=PAUSE, loop=0, quality=70, method=6)


def main() -> None:
    restorer = Restorer()
    enlarged(restorer)
    failures(restorer)
    moving(restorer)


if __name__ == "__main__":
    main()
