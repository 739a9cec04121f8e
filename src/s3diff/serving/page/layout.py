"""The page's components: Gradio's controls in a panel, and the page's own piece of HTML beside it.

Nothing here runs Python when a control is turned: every event is a function in the browser (``static/page.js``), which
speaks to the same HTTP interface as any other client.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from s3diff.formats import FORMATS, PICTURE_EXTENSIONS
from s3diff.images.codecs import can_be_written
from s3diff.serving.page.controls import SIZE_FIELDS, Control, Group, page_controls

STATIC = Path(__file__).with_name("static")
#: The page's script is asked for by this address, below the page's own.
STATIC_ROUTE = "page/static"

_START = f"""
import(new URL("{STATIC_ROUTE}/VERSION/page.js", document.baseURI)).then((page) => page.start(element, trigger));
"""


def theme() -> Any:
    """Gradio's plain theme in the page's colours and the system's own fonts: nothing is fetched from elsewhere."""
    sans = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Consolas", "Liberation Mono", "monospace")
    return gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=sans, font_mono=mono).set(
        body_background_fill="#f7f8f8",
        body_background_fill_dark="#14181c",
        body_text_color="#1d2329",
        body_text_color_dark="#e8ebee",
        block_label_text_color="#1d2329",
        block_info_text_color="#59636e",
        block_info_text_color_dark="#a2acb6",
        input_background_fill="#ffffff",
        input_background_fill_dark="#262c33",
        input_border_width="1px",
        input_border_color="#8b949e",
        input_border_color_dark="#6b7580",
        input_radius="8px",
        button_large_radius="8px",
        button_primary_background_fill="#0b62c4",
        button_primary_background_fill_hover="#0a57ae",
        button_primary_background_fill_dark="#6fb1ff",
        button_primary_background_fill_hover_dark="#8cc1ff",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#0d1c2e",
        slider_color="#0b62c4",
        slider_color_dark="#6fb1ff",
        checkbox_label_background_fill="#ffffff",
        checkbox_label_background_fill_dark="#262c33",
        checkbox_label_border_width="1px",
        checkbox_label_border_color="#d9dde1",
        checkbox_label_border_color_dark="#363d45",
        checkbox_background_color_selected="#0b62c4",
        checkbox_background_color_selected_dark="#2f7fd6",
    )


def build_page(
    *,
    models: list[str],
    model: str,
    examples: Sequence[dict[str, str]],
    has_login: bool,
    facts: dict[str, Any],
    version: str,
) -> gr.Blocks:
    """The page.

    Args:
        models: names that the service can restore with.
        model: the one that is chosen first.
        examples: ``name`` (of the file) and ``label`` of the pictures that come with the page.
        has_login: whether there is something to sign out of.
        facts: the service's limits and what else the script has to know, as JSON values.
        version: changes the script's address, so that no browser keeps an old one.
    """
    controls = page_controls(models, model)
    told = {
        **facts,
        "controls": [
            {"field": each.field, "kind": each.kind, "start": each.start, "label": each.label} for each in controls
        ],
        "sizeFields": list(SIZE_FIELDS),
        "examples": list(examples),
        "shownTypes": [form.media_type for form in FORMATS if form.is_shown_by_browsers],
    }
    with gr.Blocks(title="s3diff", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(_head(has_login), elem_id="header", elem_classes="s3", apply_default_css=False, js_on_load=None)
        with gr.Row(elem_id="columns", equal_height=False):
            with gr.Column(scale=8, min_width=280, elem_id="work-column"):
                work = gr.HTML(
                    html_template=_work(told),
                    elem_id="work",
                    elem_classes="s3",
                    apply_default_css=False,
                    js_on_load=_START.replace("VERSION", version),
                )
            with gr.Column(scale=4, min_width=280, elem_id="panel"):
                components = _panel(controls)
        _connect(work, components, controls)
    return blocks


def _panel(controls: list[Control]) -> dict[str, Component | gr.Button]:
    made: dict[str, Component | gr.Button] = {}

    def place(*groups: Group) -> None:
        for control in controls:
            if control.group in groups:
                made[control.field] = _component(control)

    with gr.Column(elem_classes="part", elem_id="part-size"):
        place("size")
    with gr.Column(elem_classes="part", elem_id="part-dial"):
        place("dial")
        gr.HTML(_FOUND, elem_id="found", elem_classes="s3", apply_default_css=False, js_on_load=None)
        place("look")
    with gr.Column(elem_id="run-bar"):
        made["run"] = gr.Button("Restore", variant="primary", elem_id="run")
    with gr.Accordion("Model, method and tiles", open=False, elem_classes="part"):
        place("model", "method")
    with gr.Accordion("Colour and transparency", open=False, elem_classes="part"):
        place("colour")
    with gr.Accordion("Format of the result", open=False, elem_classes="part"):
        place("file")
    made["defaults"] = gr.Button("All settings back to their defaults", size="sm", elem_id="defaults")
    return made


def _component(control: Control) -> Component:
    shared: dict[str, Any] = {
        "label": control.label,
        "value": control.start,
        "elem_id": f"control-{control.field}",
        "interactive": True,
    }
    if control.info:
        shared["info"] = control.info
    if control.kind == "slider":
        return gr.Slider(control.low, control.high, step=control.step, buttons=[], **shared)
    if control.kind == "number":
        return gr.Number(step=control.step, placeholder=control.placeholder or None, buttons=[], **shared)
    if control.kind == "choice":
        return gr.Radio(list(control.choices), **shared)
    if control.kind == "menu":
        return gr.Dropdown(list(control.choices), filterable=False, **shared)
    if control.kind == "switch":
        return gr.Checkbox(**shared)
    return gr.Textbox(placeholder=control.placeholder or None, max_lines=1, buttons=[], **shared)


def _connect(work: gr.HTML, made: dict[str, Any], order: list[Control]) -> None:
    """Events, all of them in the browser: its script gets the controls' values and may give others back."""
    buttons = {name: made[name] for name in ("run", "defaults")}
    controls = [made[each.field] for each in order]
    dial = [made["blur"], made["noise"]]
    in_browser: dict[str, Any] = {"fn": None, "queue": False, "api_visibility": "private", "show_progress": "hidden"}
    changed = "(...values) => { window.s3diff?.changed(values); }"
    for name, component in made.items():
        if name in buttons:
            continue
        component.change(inputs=controls, js=changed, **in_browser)
        if name in ("blur", "noise"):
            turned = f"(value) => {{ window.s3diff?.turned({name!r}, value); }}"
            component.input(inputs=[component], js=turned, **in_browser)
        if isinstance(component, gr.Textbox | gr.Number):
            component.submit(inputs=controls, js="(...values) => { window.s3diff?.run(values); }", **in_browser)
    buttons["run"].click(inputs=controls, js="(...values) => { window.s3diff?.run(values); }", **in_browser)
    buttons["defaults"].click(
        outputs=controls, js="(...values) => window.s3diff ? window.s3diff.defaults() : values", **in_browser
    )
    # The script moves the dial to what the estimator found.
    work.submit(outputs=dial, js="(...values) => window.s3diff ? window.s3diff.dial() : values", **in_browser)


def _head(has_login: bool) -> str:
    text = (STATIC / "head.html").read_text(encoding="utf-8")
    return text.replace("SIGN_OUT", _SIGN_OUT if has_login else "")


def _work(told: dict[str, Any]) -> str:
    text = (STATIC / "work.html").read_text(encoding="utf-8")
    titles = [form.title for form in FORMATS if can_be_written(form.extensions[0])]
    text = text.replace("FORMATS", ", ".join(titles)).replace("ENDINGS", ",".join(PICTURE_EXTENSIONS))
    return text.replace("<section ", f'<section data-told="{html.escape(json.dumps(told))}" ', 1)


_FOUND = (
    '<div class="found"><p role="status">The dial follows the estimate of each picture.</p>'
    '<button type="button" class="follow" disabled aria-label="Reset blur and noise to the estimate">Reset</button>'
    "</div>"
)
_SIGN_OUT = '<form method="post" action="logout"><button type="submit">Sign out</button></form>'
