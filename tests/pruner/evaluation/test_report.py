import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pruner.evaluation.removal import Width, hidden_width, scores, widths
from pruner.evaluation.report import write_report
from pruner.plan import GroupPlan, PruningPlan

VOID = {"meta"}


def plan(layers):
    groups = {}
    for layer in range(layers):
        groups[f"layers.{layer}.mlp"] = GroupPlan("mlp", layer, 4, (0, 1, 3), (0.5, 0.25, 0.01, 2.0))
    groups["layers.0.self_attn"] = GroupPlan("attention", 0, 2, (1,), (0.0, 1.0))
    groups["hidden"] = GroupPlan("hidden", None, 64, tuple(range(48)))
    return PruningPlan(
        {"architecture": "LlamaForCausalLM", "fingerprint": "0", "decoder_parameters": 90, "parameters": 100},
        groups,
        "taylor_first",
        {"ratio": 0.2, "reached_ratio": 0.2},
    )


def metrics():
    def row(value, text):
        return {
            "dtype": "float32",
            "perplexity": {"seq_len": 128, "values": {"demo.txt": {"value": value}}},
            "samples": {"repetition": 0.1, "values": [{"prompt": "<script>alert(1)</script>", "text": text}]},
        }

    return {"format": 1, "models": {"dense": row(20.0, "fine"), "pruned": row(50.0, "</p><img src=x>")}}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a <b> & c"
    (folder / "logs" / "version_0").mkdir(parents=True)
    (folder / "logs" / "version_0" / "metrics.csv").write_text("step,loss\n1,3.5\n2,2.5\n")
    (folder / "metrics.json").write_text(json.dumps(metrics()))
    (folder / "config.yaml").write_text("note: </pre><script>alert(2)</script>\n")
    return folder


class Checker(HTMLParser):
    """Collects tags and text, and fails where an element is not closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text, self.links = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(run):
    write_report(run)
    checked = Checker((run / "report.html").read_text())
    return checked, "\n".join(checked.text)


@pytest.mark.parametrize("layers", [1, 5, 126])
def test_the_page_is_whole_at_any_depth(run, layers):
    plan(layers).save(run / "plan.json")
    _, text = read(run)
    for section in ("Quality and cost", "What was removed", "Scores", "Recovery", "Samples", "Configuration"):
        assert section in text
    assert text.count(f"layer {layers - 1}: 3 of 4") == 2
    assert "48 of 64 channels" in text


def test_nothing_is_fetched_and_no_text_becomes_code(run):
    plan(2).save(run / "plan.json")
    page, text = read(run)
    assert page.links == []
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert "<script>alert(1)</script>" in text
    assert "</p><img src=x>" in text
    assert "</pre><script>alert(2)</script>" in text
    assert "a <b> & c" in text
    assert "http" not in (run / "report.html").read_text()


def test_models_are_compared_without_a_plan_and_a_plan_shown_without_models(tmp_path, run):
    _, text = read(run)
    assert "× 2.50" in text
    assert "What was removed" not in text
    plan(3).save(tmp_path / "plan.json")
    _, text = read(tmp_path)
    assert "What was removed" in text
    assert "Quality and cost" not in text


def test_the_share_of_the_decoder_and_of_the_whole_model_are_both_said(run):
    plan(2).save(run / "plan.json")
    _, text = read(run)
    assert "20.0 % of its decoder's parameters, 18.0 % of all" in text


def test_a_plan_of_something_else_is_refused_and_no_page_is_written(run):
    (run / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="not a pruning plan"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_layers_that_a_plan_leaves_out_are_drawn_too(run):
    made = plan(3)
    replace(made, model={**made.model, "num_layers": 5}).save(run / "plan.json")
    _, text = read(run)
    assert "layer 4: 4 of 4" in text


def test_widths_are_those_of_the_plan_and_unknown_where_it_is_silent():
    made = plan(3)
    assert made.num_layers == 3
    table = widths(made)
    assert table["MLP channels"] == [Width(3, 4)] * 3
    assert table["attention"] == [Width(1, 2), None, None]
    assert hidden_width(made) == Width(48, 64)
    assert Width(3, 4).removed == 0.25


def test_scores_are_logarithms_where_all_are_positive():
    found = scores(plan(2))
    assert found["MLP channels"].logarithmic
    assert sorted(found["MLP channels"].removed) == [-2.0, -2.0]
    assert not found["attention"].logarithmic
    assert found["attention"].removed == (0.0,)
    assert "hidden" not in found


def without_layer_1():
    """A plan of three layers whose second goes whole."""
    made = plan(3)
    groups = {name: share for name, share in made.groups.items() if share.layer != 1}
    groups["layers"] = GroupPlan("layer", None, 3, (0, 2), (3.0, 0.1, 2.0))
    return replace(made, groups=groups)


def test_a_removed_layer_keeps_nothing_of_any_kind(run):
    without_layer_1().save(run / "plan.json")
    assert widths(without_layer_1())["MLP channels"] == [Width(3, 4), Width(0, 4), Width(3, 4)]
    _, text = read(run)
    assert text.count("layer 1: 0 of 4, layer removed") == 2
    assert text.count("layer 1: 0 of 2, layer removed") == 2
    page = (run / "report.html").read_text()
    assert 'title="layer 1, MLP channels: layer removed"' in page
    assert 'title="layer 1, attention: layer removed"' in page


def test_the_scores_of_whole_layers_are_said_to_be_rises_of_the_loss(run):
    without_layer_1().save(run / "plan.json")
    _, text = read(run)
    assert "whole layers, number of layers" in text
    assert "rise of the loss without the layer, nats, decimal logarithm" in text
    assert "Whole layers are scored by how much the loss rises" in text
    plan(3).save(run / "plan.json")
    assert "rise of the loss" not in read(run)[1]


def test_layers_alone_are_not_scored_by_the_criterion(run):
    alone = GroupPlan("layer", None, 3, (0, 2), (3.0, 0.1, 2.0))
    replace(plan(3), groups={"layers": alone}).save(run / "plan.json")
    assert "Importance by" not in read(run)[1]


def test_removed_layers_have_a_row_of_their_own():
    made = PruningPlan({}, {"layers": GroupPlan("layer", None, 4, (0, 1, 3))}, "angular")
    assert [width.removed for width in widths(made)["whole layer"]] == [0, 0, 1, 0]
