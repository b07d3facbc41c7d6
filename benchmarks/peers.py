"""Set restorations beside what a user could install instead, on the same files: PSNR, HaarPSI, GMSD and seconds, with intervals.

    pip install "flashdiff[peers]"
    python benchmarks/peers.py faces=FOLDER photographs=FOLDER [--rows blur-1.5 ...] [--limit 30] [--side 192] [--pictures FOLDER] [--json FILE]

Each clean picture is cropped to a square of at most SIDE pixels, degraded with its own seed and stored with 8 bits (JPEG where the row says
so); everything restores this file. "told" is given the operator and the noise (of a JPEG its quality), and so is every peer; "blind" is given
nothing. Peers: FFDNet, BM3D and non-local means for noise and compression; half-quadratic splitting around FFDNet (DPIR's recipe), total
variation, Wiener and Richardson-Lucy deconvolution for blurs; splitting, OpenCV's and biharmonic filling for missing pixels; for the mixture
Real-ESRGAN too, with --esrgan, for it takes long. Where nothing is known, denoisers are given scikit-image's estimate of the noise. Of every
measure the mean over the pictures stands with its 95 % bootstrap interval; the last column is the paired difference in PSNR to the best peer
of the row. Seconds are processor time.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from kinds import Draws, arguments, as_jpeg, half_size, load_sets, to_pil

from flashdiff_cli.bench import classical, metrics
from flashdiff_cli.errors import NotApplicable
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.pictures.files import from_pil
from flashdiff_cli.runs.restorer import Restorer
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.stats import mean_interval

NOISE, BLUR, HOLES = (
    {"ffdnet": ("denoise", {}), "bm3d": ("denoise", {"denoiser_name": "bm3d"}), "nlm": ("denoise", {"denoiser_name": "nlm"})},
    {name: (name, {}) for name in ("splitting", "tv", "wiener", "richardson-lucy")},
    {name: (name, {}) for name in ("splitting", "opencv-inpaint", "biharmonic")},
)
BEST = {"psnr": max, "haarpsi": max, "gmsd": min}
MEASURES = {"psnr": metrics.psnr, "haarpsi": metrics.haarpsi, "gmsd": metrics.gmsd}


def operated(name, noise, peers, blind=True, **options):
    """Return a row: a registered operator and noise; what restores it is told both, or nothing."""

    def degrade(x, d, number):
        operator = OPERATORS[name].from_options(tuple(x.shape[2:]), number, **options)
        y = d.noisy(operator.on_signed(x), noise)
        file = as_jpeg(to_pil(x, False), options["jpeg_quality"]) if name == "jpeg" else to_pil(y, False)
        return file, operator, Settings(operator=name, operator_options=options, noise_std=noise, seed=number)

    return degrade, peers, blind


def second_hand(x, d, number):
    """Degrade by a mixture of which nobody is told anything."""
    return half_size(x, d), None, None


ROWS = {
    "blur-1.5": operated("gaussian-blur", 0.02, BLUR, blur_std=1.5),
    "blur-2.5": operated("gaussian-blur", 0.05, BLUR, blur_std=2.5),
    "shake": operated("motion-blur", 0.01, BLUR, blur_length=9.0, blur_shake=0.3),
    "noise-0.05": operated("identity", 0.05, NOISE),
    "noise-0.10": operated("identity", 0.10, NOISE),
    "missing-70%": operated("random-inpainting", 0.0, HOLES, blind=False, kept_fraction=0.3),
    "jpeg-20": operated("jpeg", 0.0, NOISE, jpeg_quality=20.0),
    "mixture": (second_hand, NOISE, True),
}


def peer(name, settings, y, operator, told):
    """Return what a peer makes of a measurement (1, 3, H, W) in [-1, 1]; where nothing is told, it gets an estimate of the noise."""
    if told is not None:
        return classical.restore(name, y, operator, told.noise_std or 0.0, settings)
    from skimage.restoration import estimate_sigma

    noise = estimate_sigma(((y[0] + 1) / 2).permute(1, 2, 0).numpy(), channel_axis=2, average_sigmas=True)
    return classical.restore(name, y, OPERATORS["identity"].from_options(tuple(y.shape[2:]), 0), float(noise), settings)


def results(restorer, x, row, number):
    """Return image (1, 3, H, W) in [-1, 1] and processor seconds of every method, by name; "input" is the file."""
    degrade, peers, blind = ROWS[row]
    file, operator, told = degrade(x, Draws(number, False), number)
    picture = from_pil(file)
    picture.digest = bytes([number % 256]) * 32
    found, own = {"input": (picture.image, 0.0)}, {}
    own |= {"told": told} if told else {}
    own |= {"told, --fast": replace(told, start_step=0)} if told else {}
    own |= {"blind": Settings()} if blind else {}
    for name, settings in own.items():
        begin = time.process_time()
        image = restorer.restore(picture, settings)[0].image
        found[f"flashdiff {name}"] = image, time.process_time() - begin
    for name, (method, settings) in peers.items():
        begin = time.process_time()
        try:
            found[name] = peer(method, settings, picture.image, operator, told), time.process_time() - begin
        except NotApplicable:
            continue
    return found


def scores(image, seconds, truth):
    image, truth = ((v.clamp(-1, 1) + 1) / 2 for v in (image, truth))
    image = (255 * image).round() / 255
    return {name: function(image, truth).item() for name, function in MEASURES.items()} | {"seconds": seconds}


def lines(row, group, rows):
    """Print and return the table of one row of the comparison."""
    methods = list(rows[0])
    means = {name: {m: mean_interval([r[name][m] for r in rows]) for m in (*MEASURES, "seconds")} for name in methods}
    peers = [name for name in methods if name != "input" and not name.startswith("flashdiff")]
    best = {m: pick(peers, key=lambda name, m=m: means[name][m]["mean"]) for m, pick in BEST.items()}
    print(f"\n{row}, {group}, {len(rows)} pictures; best peers: {', '.join(f'{m} {name}' for m, name in best.items())}")
    for name in methods:
        figures = "  ".join(f"{m} {v['mean']:.4g} [{v['low'] or 0:.4g}, {v['high'] or 0:.4g}]" for m, v in means[name].items() if m != "seconds")
        ahead = mean_interval([r[name]["psnr"] - r[best["psnr"]]["psnr"] for r in rows])
        difference = f"{ahead['mean']:+.2f} [{ahead['low'] or 0:+.2f}, {ahead['high'] or 0:+.2f}] dB"
        print(f"  {name:22}{figures}  {means[name]['seconds']['mean']:.1f} s  {difference}", flush=True)
    return {"row": row, "set": group, "means": means, "best": best, "pictures": rows}


def markdown(table):
    """Return the table of all rows: PSNR in dB with the paired difference to the best peer, and what else tells them apart."""
    text = ["| row | pictures | method | PSNR, dB | to the best peer, dB | HaarPSI | GMSD | s |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for part in table:
        name, rows, means = part["best"]["psnr"], part["pictures"], part["means"]
        for method, own in means.items():
            ahead = mean_interval([r[method]["psnr"] - r[name]["psnr"] for r in rows])
            difference = "-" if method in ("input", name) else f"{ahead['mean']:+.2f} [{ahead['low'] or 0:+.2f}, {ahead['high'] or 0:+.2f}]"
            figures = (
                f"{own['psnr']['mean']:.2f} | {difference} | {own['haarpsi']['mean']:.4f} | {own['gmsd']['mean']:.4f} | {own['seconds']['mean']:.1f}"
            )
            text.append(f"| {part['row']} | {len(rows)} {part['set']} | {method} | {figures} |")
    return "\n".join(text) + "\n"


def main():
    parser = arguments(__doc__, "--rows", ROWS)
    parser.add_argument("--esrgan", action="store_true", help="Real-ESRGAN too, where noise, compression or a mixture is to be undone")
    parser.add_argument("--table", type=Path, help="file that gets a table in Markdown")
    args = parser.parse_args()
    restorer, table, sets = Restorer(args.model), [], load_sets(args)
    if args.esrgan:
        NOISE["real-esrgan"] = ("real-esrgan", {})
    for row in args.rows:
        for group, pictures in sets.items():
            rows = []
            for number, x in enumerate(pictures):
                found = results(restorer, x, row, number)
                rows.append({name: scores(image, seconds, x) for name, (image, seconds) in found.items()})
                if args.pictures:
                    args.pictures.mkdir(parents=True, exist_ok=True)
                    strip = torch.cat([x, *(image for image, _ in found.values())], 3)
                    to_pil(strip, False).save(args.pictures / f"{row}-{group}-{number}.png")
            table.append(lines(row, group, rows))
            if args.json:
                args.json.write_text(json.dumps(table, indent=1) + "\n")
            if args.table:
                args.table.write_text(markdown(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
