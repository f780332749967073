from pruner.evaluation.markup import Markup, join, tag


def test_text_is_escaped_and_markup_is_not():
    assert tag("p", "a < b & c", tag("b", "d")) == "<p>a &lt; b &amp; c<b>d</b></p>"
    assert join("<i>", Markup("<i>")) == "&lt;i&gt;<i>"


def test_no_attribute_can_end_its_own_quotes():
    assert tag("i", title='" onload="x') == '<i title="&quot; onload=&quot;x"></i>'


def test_attributes_may_be_named_like_keywords_of_python():
    assert tag("i", class_="m0", viewBox="0 0 1 1") == '<i class="m0" viewBox="0 0 1 1"></i>'
