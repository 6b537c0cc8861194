"""The heat map of corruptions, drawn by a browser: the record's own numbers, each in its cell, for every route."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import BROWSER, dumped
from fake_records import fake_record
from fake_robust_records import fake_robust, routed

from relinearize.report.page.page import render_page
from relinearize.report.tables.pareto import build_panels
from relinearize.report.tables.robustness import build_tables

ROUTES = ("clean", "augmix", "adversarial")
# Chooses one checkpoint after the other, as a reader would, and keeps a copy of what is drawn for each.
READER = """<script>
for (const { key } of robustTable().records) {
  const choice = $("robust-one-controls").querySelector("select");
  choice.value = key;
  choice.dispatchEvent(new Event("change"));
  const copy = $("robust-heat").cloneNode(true);
  copy.id = "copy-" + key;
  document.body.append(copy);
}
</script>"""


class Copies(HTMLParser):
    """Key of a record -> the lines of its heat map, each a list of its cells' texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines: dict[str, list[list[str]]] = {}
        self.key, self.inside = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if (name := dict(attrs).get("id") or "").startswith("copy-"):
            self.key = name.removeprefix("copy-")
            self.lines[self.key] = []
        if self.key and tag == "tr":
            self.lines[self.key].append([])
        self.inside = bool(self.key) and tag in ("td", "th")
        if self.inside:
            self.lines[self.key][-1].append("")

    def handle_data(self, data):
        if self.inside:
            self.lines[self.key][-1][-1] += data

    def handle_endtag(self, tag):
        self.inside = False


def drawn(page: str, folder: Path) -> dict[str, list[list[str]]]:
    return Copies(dumped(page, READER, folder)).lines


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_heat_map_shows_the_numbers_of_the_record(tmp_path):
    records = [*routed(fake_record("rlnet"), ROUTES), fake_record("snl")]
    panels = build_panels(records)
    robust = [fake_robust(record) for record in records]
    heats = drawn(render_page(panels, {}, robustness=build_tables(robust, panels)), tmp_path)
    assert {record.route for record in robust} == {*ROUTES, None} and len(heats) == len(robust)
    for record in robust:
        head, *lines = heats[record.key]
        assert head == ["severity", "1", "2", "3", "4", "5", "mean"]
        by_name = {name: cells for name, *cells in lines}
        assert len(by_name) == len(lines)
        standard = record.corruptions.accuracy
        assert list(by_name) == [*standard, "frost", "mean (NPA)", *record.corruptions.extra]
        assert by_name["frost"] == ["left out", "\N{EN DASH}"]
        for name, values in {**standard, **record.corruptions.extra}.items():
            assert [float(cell) for cell in by_name[name]] == pytest.approx([*values, sum(values) / 5], abs=0.0501), (
                name
            )
        means = [sum(severity) / len(standard) for severity in zip(*standard.values(), strict=True)]
        shown = [float(cell) for cell in by_name["mean (NPA)"]]
        assert shown == pytest.approx([*means, record.corruptions.npa], abs=0.0501)
    assert len({str(lines) for lines in heats.values()}) == len(robust)
