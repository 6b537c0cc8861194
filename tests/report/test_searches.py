"""The way of each search: what is taken from the records, what is left out, the picture and the page."""

import io

import matplotlib.image
import numpy as np
import pytest
from fake_records import fake_record

from relinearize.report import write_report
from relinearize.report.figures.searches import MAP, MOST, NORM, chosen_ways, draw_searches
from relinearize.report.figures.style import SHARE_COLOURS
from relinearize.report.page.page import page_data
from relinearize.report.tables.pareto import build_panels
from relinearize.report.tables.search_trajectories import CHANGED, KEPT, build_ways


def walked(record, prefix=KEPT, key=None, rows=3):
    """`record` with a search whose every site goes from all positions to none, in equal steps."""
    history = []
    for epoch in range(rows):
        left = 1 - epoch / (rows - 1)
        sizes = {site.name: site.total if prefix == KEPT else 1 for site in record.sites}
        history.append({"epoch": epoch} | {prefix + name: size * left for name, size in sizes.items()})
    search = record.stages["search"]
    search = search.model_copy(update={"history": history, "key": key or search.key})
    return record.model_copy(update={"stages": record.stages | {"search": search}})


def ways_of(*records):
    return build_ways(build_panels(records, published=False))


@pytest.mark.parametrize(("prefix", "method"), [(KEPT, "snl"), (CHANGED, "senet")])
def test_values_are_shares_of_each_site(prefix, method):
    (way,) = ways_of(walked(fake_record(method), prefix))
    assert way.kept == (prefix == KEPT) and way.label == method
    assert way.values.shape == (len(way.sites), 3) and list(way.epochs) == [0, 1, 2]
    assert np.allclose(way.values, [[1.0, 0.5, 0.0]] * len(way.sites))


def test_a_row_without_a_value_is_nan():
    record = walked(fake_record("snl"))
    record.stages["search"].history[1].pop(KEPT + record.sites[0].name)
    (way,) = ways_of(record)
    assert np.isnan(way.values[0, 1]) and not np.isnan(way.values[1:]).any()


def test_records_of_earlier_programs_have_no_way():
    assert ways_of(fake_record("snl"), fake_record("random")) == []


def test_runs_that_share_a_search_share_its_way_to_the_smallest_budget():
    walk = [walked(fake_record("snl", asked), key="one search") for asked in (70_000, 14_000, 35_000)]
    other = walked(fake_record("mine", 14_000), key="one search")
    (way,) = ways_of(*walk, other)
    assert way.asked == 14_000 and sorted(way.labels) == ["mine", "snl"]


def test_first_seeds_and_small_budgets_are_drawn_first():
    records = [
        walked(fake_record("snl", 1000 * asked, seed), key=f"{asked} {seed}")
        for asked in range(10, 20)
        for seed in (0, 1)
    ]
    chosen = chosen_ways(ways_of(*records))
    assert len(chosen) == MOST
    assert sorted(way.asked for way in chosen if way.seed == 0) == [1000 * asked for asked in range(10, 20)]
    assert sorted(way.asked for way in chosen if way.seed == 1) == [10_000, 11_000]


def test_the_picture_holds_the_shares_colours():
    way = ways_of(walked(fake_record("snl")))
    image = matplotlib.image.imread(io.BytesIO(draw_searches(way)))[..., :3]
    for share in (1.0, 0.5):  # white paper has the colour of no share
        near = np.isclose(image, MAP(NORM(share))[:3], atol=0.006).all(axis=-1)
        assert near.sum() > 5000, share


def test_report_writes_searches_only_where_there_are_ways(tmp_path):
    for name, record in (("with", walked(fake_record("snl"))), ("without", fake_record("snl"))):
        record.write(tmp_path / name / "run" / "record.json")
    assert write_report([tmp_path / "with"]).searches == (tmp_path / "with" / "searches.png",)
    assert write_report([tmp_path / "without"]).searches == ()
    assert not (tmp_path / "without" / "searches.png").exists()


def test_the_page_has_each_sites_columns_and_the_colours():
    record = walked(fake_record("snl"))
    data = page_data(build_panels([record], published=False), {})
    history = data["histories"][
        next(stage for stage in data["runs"][0]["stages"] if stage["name"] == "search")["history"]
    ]
    assert {KEPT + site["name"] for site in data["runs"][0]["sites"]} <= set(history)
    assert data["shareColours"] == SHARE_COLOURS
