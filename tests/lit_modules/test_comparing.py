"""Several models continue the same prompt side by side: as values, and as a page in a real browser."""

import shutil
import socket

import pytest
import torch

import cli
from lit_modules.comparing import INSTRUCTION, Request, check_port, in_turn, labelled, opened, speed_line
from lit_modules.templates import Example, load_template
from pruner.evaluation.generate import generate_text

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def models(pruned_run):
    torch.set_num_threads(1)
    return [opened(label, place, "cpu", False) for label, place in labelled([str(pruned_run.root)]).items()]


def test_a_run_stands_for_its_dense_model_and_what_it_made_of_it(pruned_run, stories):
    run = pruned_run
    assert labelled([str(run.root)]) == {"dense": stories, "pruned": str(run.pruned)}
    assert labelled([stories, f"small={run.pruned}"]) == {"stories260K": stories, "small": str(run.pruned)}
    with pytest.raises(ValueError, match="two models are called 'pruned'; name one of them"):
        labelled([str(run.root), str(run.pruned)])


def test_every_model_writes_what_it_writes_alone(models, pruned_run, stories):
    *_, written = in_turn(models, Request(PROMPT, max_new_tokens=12))
    for label, place in (("dense", stories), ("pruned", pruned_run.pruned)):
        assert written[label].text == generate_text(place, PROMPT, max_new_tokens=12)
    assert "× " in speed_line("pruned", written, "dense")
    assert "× " not in speed_line("dense", written, "dense")


def test_an_instruction_is_put_into_the_words_of_recovery(models, stories):
    *_, written = in_turn(models[:1], Request("Tell a story.", INSTRUCTION, max_new_tokens=12))
    words, _ = load_template("alpaca", models[0].tokenizer)(Example("Tell a story.", "", ""))
    assert written["dense"].text == generate_text(stories, words, max_new_tokens=12)


def test_the_page_is_refused_before_anything_is_loaded(stories, tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["compare", stories, "--port", str(port)]) == 2
        assert f"port {port} of 127.0.0.1 is in use; give another with --port" in capsys.readouterr().err
    assert cli.main(["compare", str(tmp_path)]) == 2
    assert "is not a model folder: it has no config.json" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"cannot serve at nowhere\.invalid"):
        check_port("nowhere.invalid", 7860)


@pytest.fixture
def browser():
    """A real Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_a_browser_shows_what_each_model_writes_and_asks_nothing_of_the_network(
    models, browser, pruned_run, stories
):
    compare_page = pytest.importorskip("lit_modules.compare_page", reason="gradio is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = compare_page.serve(models, "127.0.0.1", port, wait=False)
    try:
        page = browser.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{port}")
        page.fill("#prompt textarea", PROMPT)
        page.click("#generate")
        page.wait_for_function("document.querySelector('#speed-1')?.innerText.includes('64 tokens')")
        for column, place in enumerate((stories, pruned_run.pruned)):
            shown = page.input_value(f"#text-{column} textarea")
            assert shown == generate_text(place, PROMPT, max_new_tokens=64)
        page.fill("#prompt textarea", "word " * 600)
        page.click("#generate")
        page.wait_for_selector("text=shorten the prompt or lower max_new_tokens")
        strange = [url for url in asked if not url.startswith((f"http://127.0.0.1:{port}", "data:", "blob:"))]
        assert not strange
    finally:
        served.close()
