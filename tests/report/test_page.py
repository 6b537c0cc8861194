"""The page: self-contained, safe whatever the records say, and complete."""

import json
import re
from html.parser import HTMLParser

import pytest
from fake_records import fake_record, fake_sweep

from relinearize.report.page.page import MOST_EPOCHS, environment, page_data, render_page
from relinearize.report.tables.pareto import build_panels

NASTY = "</script><b>&{{ data }}{% raw %} \u2028 <!--"


class Page(HTMLParser):
    """Collects tags with their attributes and the data block."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.data = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or tag

    def handle_data(self, data):
        if self.inside == "data":
            self.data += data

    def handle_endtag(self, tag):
        self.inside = ""


def render(records):
    return render_page(build_panels(records), {})


def test_nothing_is_loaded_from_anywhere():
    text = render(fake_sweep())
    page = Page(text)
    assert not [attributes for _, attributes in page.tags if "src" in attributes]
    assert {attributes["href"] for _, attributes in page.tags if "href" in attributes} <= {"data:,"}
    assert "@import" not in text and "url(" not in text and "fetch(" not in text
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\"'`\s<]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_nasty_names_stay_text():
    records = [fake_record(name=NASTY), fake_record("snl<img src=x>", title=NASTY)]
    text = render(records)
    plain = render([fake_record()])
    assert [tag for tag, _ in Page(text).tags] == [tag for tag, _ in Page(plain).tags]
    data = json.loads(Page(text).data)
    assert NASTY in {run["name"] for run in data["runs"]}
    assert NASTY in {panel["title"] for panel in data["panels"]}


def test_scripts_never_write_markup():
    script = render([fake_record()])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", script)


def test_embedded_json_reads_back():
    value = {"a": NASTY, "b": [1, None, 2.5]}
    text = environment().from_string("{{ value|tojson }}").render(value=value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


def test_every_run_is_there_once_with_its_details():
    records = fake_sweep()
    data = json.loads(Page(render(records)).data)
    assert {run["key"] for run in data["runs"]} == {record.key for record in records}
    (panel,) = data["panels"]
    assert sorted(panel["runs"]) == list(range(len(records)))
    run = next(run for run in data["runs"] if run["key"] == records[0].key)
    assert sum(site["kept"] for site in run["sites"]) == records[0].budget.met
    assert "temperature: 4.0" in run["config"]
    search = next(stage for stage in run["stages"] if stage["name"] == "search")
    assert {"epoch", "relu/count", "lasso", "val/accuracy"} <= set(data["histories"][search["history"]])
    assert panel["published"] and all(point["dataset"] == "cifar10" for point in panel["published"])
    assert [level["total"] for level in panel["levels"]] == [139_264]


def test_shared_histories_are_stored_once_and_long_ones_thinned():
    records = fake_sweep(methods=("snl",), seeds=(0,), epochs=(2_000, 3, 3))
    data = page_data(build_panels(records), {})
    teachers = {run["stages"][0]["history"] for run in data["runs"]}
    assert len(teachers) == 1
    epochs = data["histories"][teachers.pop()]["epoch"]
    assert len(epochs) == MOST_EPOCHS
    assert (epochs[0], epochs[-1]) == (0, 1_999)


@pytest.mark.parametrize(
    "records",
    [
        [fake_record(holdout=False, teacher=False)],
        fake_sweep(methods=("random",), seeds=(0,)),
        fake_sweep(seeds=range(20), epochs=(5, 5, 5)),
    ],
    ids=["one run without hold-out", "one method", "200 runs"],
)
def test_page_in_other_sizes(records):
    text = render(records)
    assert len(json.loads(Page(text).data)["runs"]) == len(records)
    assert len(text) < 4e6
