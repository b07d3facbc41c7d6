"""Make the example pictures: public-domain photographs, degraded by the project's own operators.

Run from the repository root: python examples/make_examples.py (needs scikit-image, which carries the originals).
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from flashdiff_cli.operators import GaussianBlur
from flashdiff_cli.training.data import to_tensor
from flashdiff_cli.training.sample_grid import to_picture

HERE = Path(__file__).parent
SIZE = 256
# name: (original, left, top, side of the square that becomes 256 x 256, blur in pixels, seed)
PICTURES = {
    "blurry": (data.astronaut, 60, 0, 384, 2.0, 1),
    "light": (data.chelsea, 80, 0, 300, 0.6, 2),
    "heavy": (data.coffee, 130, 40, 330, 3.0, 3),
}
NOISE_STD = 0.05


def main() -> None:
    for name, (original, left, top, side, blur_std, seed) in PICTURES.items():
        picture = Image.fromarray(np.ascontiguousarray(original())).crop((left, top, left + side, top + side))
        clean = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        clean.save(HERE / f"{name}-clean.png", optimize=True)
        image = to_tensor(clean)[None]
        measured = GaussianBlur(blur_std).measure(image, NOISE_STD, [torch.Generator().manual_seed(seed)])
        to_picture(measured).save(HERE / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
