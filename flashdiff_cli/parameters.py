"""The options of all operators and solvers, declared once; needs no torch, so that the command line is made from it at once."""

from __future__ import annotations

from flashdiff_cli.registry import Option

START_MODES = ("stochastic", "inversion")
"""How an estimated latent is taken to the start step: with drawn noise, or with the noise that the network predicts."""
STARTS = (*START_MODES, "noise", "come-closer")
"""All starts; the last two need no severity encoder."""

OPERATOR_OPTIONS: dict[str, tuple[Option, ...]] = {
    "gaussian-blur": (
        Option("blur_std", float, "standard deviation of the blur in pixels", None, 0.05, 10.0),
        Option(
            "adjoint_rule",
            str,
            "`exact`, or `reference` to repeat the paper's code, which is one pixel off at the borders (psld only)",
            "exact",
            choices=("exact", "reference"),
        ),
    ),
    "motion-blur": (
        Option("kernel_file", str, "picture or .npy file of the kernel, instead of a random path", ""),
        Option("blur_length", float, "length of the random path in pixels", 15.0, 0.0, 300.0),
        Option("blur_shake", float, "how much the random path bends and its speed varies: 0 a straight line, 1 very shaky", 0.5, 0.0, 1.0),
    ),
    "nonlinear-blur": (
        Option("weights", str, "folder or Hub id (owner/name@revision) of the network, as `flashdiff convert nonlinear-blur` makes it"),
        Option("kernel_scale", float, "standard deviation of the random kernel code: how strong the blur is", 1.2, 0.0, 10.0),
    ),
    "jpeg": (
        Option("jpeg_quality", float, "quality of the JPEG encoder", None, 1, 100),
        Option("chroma", str, "colour at half resolution (420) or whole (444)", "420", choices=("420", "444")),
    ),
    "downsampling": (
        Option("factor", int, "how many times fewer pixels along each side", None, 2, 16),
        Option("filter", str, "low-pass filter", "bicubic", choices=("bicubic", "box")),
    ),
    "enlargement": (Option("enlarged", float, "how many times the picture was enlarged along each side", None, 1.0, 16.0),),
    "random-inpainting": (Option("kept_fraction", float, "share of the pixels that are kept", None, 0.0, 1.0),),
    "box-inpainting": (Option("box_fraction", float, "side of the square, as a share of the shorter side of the image", None, 0.0, 1.0),),
    "random-box-inpainting": (Option("box_area", float, "share of the image's area that is dropped", None, 0.0, 1.0),),
    "gaussian-inpainting": (
        Option("mask_std", float, "standard deviation of the hole in pixels", None, 0.0, 10000.0),
        Option("mask_power", float, "power that widens the hole", 4.0, 0.01, 100.0),
    ),
    "mask-inpainting": (
        Option("mask_file", str, "picture of the image's size, white where pixels are kept and black where they are missing"),
        Option("invert_mask", bool, "whether the mask is white where pixels are missing", False),
    ),
    "identity": (),
}
"""By operator."""

DC_STEP = Option("dc_step", float, "step of the data-consistency gradient (eta in the paper)", 1.0, 0.0, 1e6)
AE_WEIGHT = Option("ae_weight", float, "weight of the autoencoder-consistency gradient (gamma in the paper)", 0.1, 0.0, 1e6)
MODEL_STD = Option("model_std", float, "bayes, proximal: error of the first stage, on intensities, that no latent can mend", 0.0, 0.0, 1.0)
GUIDANCE_RULE = Option(
    "guidance",
    str,
    "length of the gradient's step: `norm`, the paper's, or `bayes`, weighed by the noise levels",
    "norm",
    choices=("norm", "bayes"),
)
WITH_AUTOENCODER = (DC_STEP, AE_WEIGHT, GUIDANCE_RULE, MODEL_STD)

SOLVER_OPTIONS: dict[str, tuple[Option, ...]] = {
    "ldps": (DC_STEP, GUIDANCE_RULE, MODEL_STD),
    "gml-dps": WITH_AUTOENCODER,
    "psld": WITH_AUTOENCODER,
    "resample": (
        Option("gamma", float, "how far resampling trusts the solved latent over the sampled one", 400.0, 0.0, 1e6),
        Option("every", int, "correct at every n-th step, counted from the last one", 10, 1, 1000),
        Option("pixels_below", int, "no correction at training timesteps above this", 750, 0, 100000),
        Option("latent_below", int, "corrections in the latent, not in pixels, up to this training timestep", 300, -1, 100000),
        Option("inner_steps", int, "optimiser steps of one correction at most", 100, 1, 100000),
        Option("inner_lr", float, "learning rate of the correction's optimiser (Adam)", 0.1, 1e-6, 10.0),
        Option("inner_stop", float, "stop where the residual is this many times the measurement noise", 1.0, 0.0, 100.0),
        Option("proximal", float, "weight of the pull towards the predicted latent; 1: Bayes' rule for a standard normal prior", 1.0, 0.0, 1e6),
        Option(
            "resampling",
            str,
            "`exact`, or `reference` to repeat the noise levels of the paper's code",
            "exact",
            choices=("exact", "reference"),
        ),
    ),
    "proximal": (
        Option("error_weight", float, "variance in decoded pixels of what a level leaves open of a latent: trust in the data", 1.0, 0.0, 1e6),
        MODEL_STD,
    ),
    "unguided": (),
}
"""By solver; those that other packages add declare their own."""
