"""The page as a browser draws it: lines of papers, looks of curves, the tile of fewest ReLUs, seeds measured unlike."""

import json
import re

import pytest
from browser import BROWSER, dumped
from fake_records import fake_record
from fake_robust_records import fake_robust

from relinearize.report.page.page import render_page
from relinearize.report.tables.pareto import build_panels
from relinearize.report.tables.robustness import build_tables

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


def read(page, folder, expression):
    """What `expression` gives in the drawn page."""
    reader = f"""<script>
const read = document.createElement("output");
read.id = "read";
read.textContent = JSON.stringify({expression});
document.body.append(read);
</script>"""
    (text,) = re.findall(r'<output id="read">(.*?)</output>', dumped(page, reader, folder))
    return json.loads(text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


def test_hair_lines_join_points_of_one_paper_method_and_network(tmp_path):
    (panel,) = build_panels([fake_record(dataset="cifar100", title="CIFAR-100")])
    lines = read(
        render_page([panel], {}),
        tmp_path,
        """[...document.querySelectorAll("polyline.paper")].map(
        (line) => line.getAttribute("points").split(" ").length)""",
    )
    groups = panel.published.groupby(["paper", "method", "backbone", "replacement"]).size()
    assert sorted(lines) == sorted(groups) and len(lines) > panel.published["method"].nunique()


def test_every_curve_has_a_look_of_its_own(tmp_path):
    """Sixteen methods have twelve colours, and one of them six variants."""
    records = [fake_record(f"method {place:02}") for place in range(16)]
    records += [fake_record("snl", finetune_lr=rate) for rate in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    page = render_page(build_panels(records), {})
    looks = read(
        page,
        tmp_path,
        """[...document.querySelectorAll("#legend button svg")].map((key) => {
        const [line, marker] = ["line", "path"].map((name) => key.querySelector(name));
        return [line.getAttribute("stroke"), line.getAttribute("stroke-dasharray"), marker.getAttribute("d")];
    })""",
    )
    assert len(looks) == 22 == len({str(look) for look in looks}) and len({colour for colour, *_ in looks}) == 12


def test_the_fewest_relus_are_those_of_a_mean(tmp_path):
    """One lucky seed of three is no point within 1 point of all ReLUs."""
    drops = {35_000: (0.5, 0.8, 0.9), 7_000: (0.6, 4.0, 5.0)}
    records = []
    for asked, by_seed in drops.items():
        for seed, drop in enumerate(by_seed):
            record = fake_record(asked=asked, seed=seed)
            found = record.accuracy.model_copy(update={"test": record.accuracy.teacher_test - drop})
            records.append(record.model_copy(update={"accuracy": found}))
    tiles = read(render_page(build_panels(records), {}), tmp_path, '$("tiles").textContent')
    assert "Fewest ReLUs within 1 point35K" in tiles


def test_seeds_measured_unlike_and_missing_ones_are_said(tmp_path):
    records = [fake_record("snl", 7_000, seed) for seed in range(3)]
    attacks = (("fgsm", "pgd20"), ("fgsm",), ("fgsm", "pgd20"))
    robust = [fake_robust(record, attacks=names) for record, names in zip(records, attacks, strict=True)]
    clean = [500, 1_000, 1_000]
    robust = [
        one.model_copy(update={"clean": one.clean.model_copy(update={"n": n})})
        for one, n in zip(robust, clean, strict=True)
    ]
    panels = build_panels(records)
    page = render_page(panels, {}, robustness=build_tables(robust, panels))
    cells = read(
        page,
        tmp_path,
        """[...document.querySelectorAll("#robust-table tbody tr:first-child td")].map(
        (cell) => [cell.textContent, cell.title])""",
    )
    shown = dict(cells)
    assert shown["\N{EN DASH}n differs"] == "no mean of what was measured differently"
    assert sum("2 of 3 seeds" in text for text, _ in cells) == 1 and shown["\N{EN DASH}"] == "not measured"
