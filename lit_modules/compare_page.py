"""The page of `llm-prune compare`, in gradio: a prompt, its settings, and a column for each model."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio

from lit_modules.comparing import INSTRUCTION, PLAIN, Compared, Request, in_turn, kept_line, speed_line
from pruner.evaluation.streaming import Spoken

log = logging.getLogger(__name__)

NEAR = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine's own users reach."""

FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]
"""Fonts of the reader's own machine: the page asks nothing of the network."""


def serve(models: Sequence[Compared], host: str, port: int, *, wait: bool = True) -> Any:
    """Serve the page until it is interrupted; or, without `wait`, until the result is closed."""
    if host not in NEAR:
        log.warning("anybody who reaches port %d of this machine may use the page", port)
    log.info("http://%s:%d   (Ctrl-C ends it)", "127.0.0.1" if host == "0.0.0.0" else host, port)
    blocks = page(models)
    blocks.launch(
        server_name=host,
        server_port=port,
        theme=gradio.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),
        share=False,
        ssr_mode=False,
        footer_links=[],
        quiet=True,
        prevent_thread_lock=not wait,
    )
    return blocks


def page(models: Sequence[Compared]) -> Any:
    """The page, not yet served: a prompt, its settings, and a column for each model."""
    first = models[0]
    with gradio.Blocks(title="llm-prune compare", analytics_enabled=False) as blocks:
        gradio.Markdown("## " + " · ".join(compared.label for compared in models))
        prompt = gradio.Textbox(label="prompt", lines=3, placeholder="Once upon a time", elem_id="prompt")
        with gradio.Row():
            mode = gradio.Radio([PLAIN, INSTRUCTION], value=PLAIN, label="the prompt is a")
            length = gradio.Slider(1, 512, value=64, step=1, label="tokens at most")
            temperature = gradio.Slider(0, 2, value=0, step=0.1, label="temperature (0: greedy)")
            seed = gradio.Number(0, precision=0, label="seed")
        with gradio.Row():
            go = gradio.Button("Generate", variant="primary", elem_id="generate")
            stop = gradio.Button("Stop")
        shown: list[Any] = []
        with gradio.Row():
            for compared in models:
                with gradio.Column(min_width=280):
                    gradio.Markdown(f"### {compared.label}\n{kept_line(compared.size, first.size)}")
                    shown.append(gradio.Textbox(label="text", lines=10, elem_id=f"text-{len(shown) // 2}"))
                    shown.append(gradio.Markdown(elem_id=f"speed-{len(shown) // 2}"))
        asked = [prompt, mode, length, temperature, seed]
        running = gradio.on([go.click, prompt.submit], responder(models), asked, shown, api_name="compare")
        stop.click(None, cancels=running)
    return blocks


def responder(models: Sequence[Compared]) -> Callable[..., Iterator[list[str]]]:
    """What a click does: fill the columns, or say on the page what is wrong with the request."""

    def respond(
        prompt: str, mode: str, length: float, temperature: float, seed: float
    ) -> Iterator[list[str]]:
        request = Request(prompt, mode, int(length), float(temperature), int(seed))
        try:
            for written in in_turn(models, request):
                yield [text for compared in models for text in column(compared.label, written)]
        except ValueError as error:
            raise gradio.Error(str(error)) from error

    def column(label: str, written: Mapping[str, Spoken]) -> tuple[str, str]:
        text = written[label].text if label in written else ""
        return text, speed_line(label, written, models[0].label)

    return respond
