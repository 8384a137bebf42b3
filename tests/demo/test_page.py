"""The page is valid: correct nesting, no external resources, escaped text, embedded images with descriptions."""

from html.parser import HTMLParser

import pytest
from PIL import Image

from upscore.demo import page as charts
from upscore.demo.page import Chapter, figure, join, page, picture, row, summary, terminal, text, tile

VOID = {"meta", "link", "img", "br", "path", "circle"}
IN_FLOW = {"p", "h1", "h2", "h3", "figure", "ul", "ol", "dl", "table", "pre", "div", "section"}


class Reader(HTMLParser):
    """Parses a document, and fails an assertion if it is invalid."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.text, self.images = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert not (tag in IN_FLOW and "p" in self.open), f"<{tag}> within a paragraph"
        assert tag != "script"
        assert not any(name.startswith("on") for name in values)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.links += [values[name] for name in ("src", "href", "srcset", "action") if name in values]
        if tag == "img":
            self.images.append(values)

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID, f"<{tag}/> closes itself"
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(document: str) -> Reader:
    """Parse a document and check it."""
    reader = Reader()
    reader.feed(document)
    reader.close()
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    for link in reader.links:
        assert link.startswith("data:") or (link.startswith("#") and link[1:] in reader.ids), link
    assert "url(" not in document
    assert "@import" not in document
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in reader.images)
    return reader


def chapter(*parts):
    return Chapter(anchor="one", title="A < B", body=join(*parts))


def render(*parts):
    return page("Title & more", "lead", [("5 %", "of <all>")], [chapter(*parts)], "end")


def test_the_reader_rejects_invalid_documents():
    for broken in (
        "<p><b></p></b>",
        "<p>",
        "<p><ul></ul></p>",
        '<img src="http://a/b.png" alt="x">',
        '<a href="#no">x</a>',
        "<style>a { background: url(x) }</style>",
        "<script></script>",
        '<img src="data:image/png;base64,AA" alt="">',
    ):
        with pytest.raises(AssertionError):
            read(broken)


def test_all_elements_are_nested_correctly():
    image = picture(Image.new("RGB", (8, 6), "red"), 'a "red" <field>')
    colors = {"a": "c32", "b": "c8"}
    lines = {"a": [(0.0, 0.0), (10.0, 1.0)], "b": [(10.0, 0.5)]}
    reader = read(
        render(
            text("plain", "with `code` and *stress*"),
            summary("so it is"),
            figure(row([tile(image, "x < y"), tile(image, "z")], "pair"), "a caption"),
            charts.ranking([("cat & dog", 0.7)]),
            charts.score_table(["mean IoU"], {"a": [0.1], "b": [0.2]}),
            charts.grouped_bars({"bar": {"a": 0.5, "b": None}}, colors),
            charts.line_chart(lines, colors, x_title="x", title="y", top=1, percent=True, dots=True),
            charts.confusion_table([[3, 1], [0, 0]], ["a", "b"]),
            terminal(["# why?", "upscore predict a b"]),
        )
    )
    assert len(reader.images) == 2
    assert {"cat & dog", "x < y"} <= set(map(str.strip, reader.text))


def test_text_is_escaped_everywhere():
    markup = '<b id="x">&'
    document = render(
        text(markup, f"`{markup}`"),
        figure(tile(picture(Image.new("RGB", (2, 2)), markup), markup), markup),
        charts.ranking([(markup, 0.5)]),
        charts.score_table([markup], {markup: [0.5]}),
        charts.confusion_table([[1]], [markup]),
        terminal([markup, f"# {markup}"]),
    )
    assert "<b " not in document
    assert "".join(read(document).text).count(markup) == 11


def test_the_highest_value_of_each_column_is_emphasised():
    table = charts.score_table(["x", "y"], {"a": [0.1, 0.4], "b": [0.2, 0.3]})
    assert '<td class="">10.0</td><td class="best">40.0</td>' in table
    assert '<td class="best">20.0</td><td class="">30.0</td>' in table


def test_confusion_table_has_fractions_of_the_true_class():
    table = charts.confusion_table([[3, 1], [0, 8]], ["a", "b"])
    assert '<td class="deep" style="--share:75.0%">75</td><td class="" style="--share:25.0%">25</td>' in table
    assert '<td class="" style="--share:0.0%"></td><td class="deep" style="--share:100.0%">100</td>' in table
