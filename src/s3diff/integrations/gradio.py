"""Build a small Gradio demo around a model."""

from __future__ import annotations

from typing import Any

from s3diff.errors import S3DiffError
from s3diff.images.picture import Picture
from s3diff.messages import needing
from s3diff.options import RestoreOptions
from s3diff.restoration.restorer import Restorer

#: A demo answers in seconds; the command and the service take larger ones.
MAX_OUTPUT_PIXELS = 16_000_000


def demo(restorer: Restorer) -> Any:
    """Build the demo around a model.

    Returns:
        A ``gradio.Interface``, to be launched.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    with needing("demo", "the demo needs gradio"):
        import gradio as gr
    plain = RestoreOptions()

    def restored(
        pixels: Any, scale: float, blur: float, noise: float, strength: float, guidance: float
    ) -> tuple[Any, str]:
        if pixels is None:
            raise gr.Error("Give a picture first.")
        try:
            options = RestoreOptions(
                scale=scale,
                blur=f"{blur:+g}",
                noise=f"{noise:+g}",
                strength=strength,
                guidance=guidance,
                max_output_pixels=MAX_OUTPUT_PIXELS,
            )
            result = restorer.restore(Picture(pixels), options)
        except S3DiffError as error:
            raise gr.Error(str(error)) from error
        found = [f"{name} {degree:.2f}" for name, degree in zip(("blur", "noise"), result.estimated, strict=True)]
        return result.picture.pixels, f"Estimated: {', '.join(found)}. {result.seconds['total']:.1f} s."

    return gr.Interface(
        restored,
        inputs=[
            gr.Image(label="Photograph", type="numpy", image_mode="RGB"),
            gr.Slider(1, 4, plain.scale, step=0.5, label="Scale"),
            gr.Slider(-1, 1, 0, step=0.05, label="Blur: more sharpens more", info="added to the estimate"),
            gr.Slider(-1, 1, 0, step=0.05, label="Noise: more smooths more", info="added to the estimate"),
            gr.Slider(0, 1, plain.strength, step=0.05, label="Strength"),
            gr.Slider(1, 4, restorer.model.guidance, step=0.01, label="Guidance"),
        ],
        outputs=[gr.Image(label="Restored", format="png"), gr.Text(label="Degrees")],
        title="s3diff",
        description="Photographs restored and enlarged in one diffusion step.",
        flagging_mode="never",
        analytics_enabled=False,
        api_name="restore",
    )
