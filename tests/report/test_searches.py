"""The trajectory of each search: what is taken from the records, what is left out, the picture and the page."""

import io

import matplotlib.image
import numpy as np
import pytest
from fake_records import fake_record, fake_sweep

from relinearize.report.figures.canvas import MAP, NORM
from relinearize.report.figures.searches import (
    CHANGED,
    KEPT,
    MOST,
    build_trajectories,
    chosen_trajectories,
    draw_searches,
)  # fmt: skip
from relinearize.report.figures.style import SHARE_COLOURS
from relinearize.report.page.page import page_data
from relinearize.report.report import Report, write_report
from relinearize.report.tables.pareto import build_panels


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


def trajectories_of(*records):
    return build_trajectories(build_panels(records, published=False))


def rows_of(*records):
    return trajectories_of(*records).itertuples()


@pytest.mark.parametrize(("prefix", "method"), [(KEPT, "snl"), (CHANGED, "senet")])
def test_values_are_shares_of_each_site(prefix, method):
    (trajectory,) = rows_of(walked(fake_record(method), prefix))
    assert trajectory.kept == (prefix == KEPT) and trajectory.label == method
    assert trajectory.values.shape == (len(trajectory.sites), 3) and list(trajectory.epochs) == [0, 1, 2]
    assert np.allclose(trajectory.values, [[1.0, 0.5, 0.0]] * len(trajectory.sites))


def test_a_row_without_a_value_is_nan():
    record = walked(fake_record("snl"))
    record.stages["search"].history[1].pop(KEPT + record.sites[0].name)
    (trajectory,) = rows_of(record)
    assert np.isnan(trajectory.values[0, 1]) and not np.isnan(trajectory.values[1:]).any()


def test_records_of_earlier_programs_have_no_trajectory():
    assert trajectories_of(fake_record("snl"), fake_record("random")).empty


def test_runs_that_share_a_search_share_its_way_to_the_smallest_budget():
    walk = [walked(fake_record("snl", asked), key="one search") for asked in (70_000, 14_000, 35_000)]
    other = walked(fake_record("mine", 14_000), key="one search")
    (trajectory,) = rows_of(*walk, other)
    assert trajectory.asked == 14_000 and sorted(trajectory.labels) == ["mine", "snl"]


def test_a_run_that_recorded_no_sites_does_not_hide_its_search():
    older = fake_record("mine", 7_000)
    search = older.stages["search"].model_copy(update={"key": "one search"})
    older = older.model_copy(update={"stages": older.stages | {"search": search}})
    (trajectory,) = rows_of(walked(fake_record("snl", 14_000), key="one search"), older)
    assert trajectory.asked == 14_000 and trajectory.label == "snl"


def test_first_seeds_and_small_budgets_are_drawn_first():
    asked = [1000 * thousands for thousands in range(10, 20)]
    records = [walked(one, key=one.key) for one in fake_sweep(methods=("snl",), budgets=asked)]
    chosen = chosen_trajectories(trajectories_of(*records))
    assert len(chosen) == MOST
    assert list(chosen["asked"][chosen["seed"] == 0]) == asked[::-1]
    assert list(chosen["asked"][chosen["seed"] == 1]) == [11_000, 10_000]


def test_the_picture_holds_the_shares_colours():
    trajectory = trajectories_of(walked(fake_record("snl")))
    image = matplotlib.image.imread(io.BytesIO(draw_searches(trajectory)))[..., :3]
    for share in (1.0, 0.5):  # white paper has the colour of no share
        near = np.isclose(image, MAP(NORM(share))[:3], atol=0.006).all(axis=-1)
        assert near.sum() > 5000, share


@pytest.mark.usefixtures("undrawn")
def test_report_writes_searches_only_where_there_are_ways(tmp_path):
    for name, record in (("with", walked(fake_record("snl"))), ("without", fake_record("snl"))):
        record.write(tmp_path / name / "run" / "record.json")
    assert "searches.png" in write_report(Report([tmp_path / "with"]))
    assert (tmp_path / "with" / "searches.png").exists()
    assert Report([tmp_path / "without"]).trajectories.empty


def test_the_page_has_each_sites_columns_and_the_colours():
    record = walked(fake_record("snl"))
    data = page_data(build_panels([record], published=False), {})
    (place,) = (stage["history"] for stage in data["runs"][0]["stages"] if stage["name"] == "search")
    history = data["histories"][place]
    assert {KEPT + site["name"] for site in data["runs"][0]["sites"]} <= set(history)
    assert data["shareColours"] == SHARE_COLOURS
