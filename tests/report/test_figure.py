"""The Pareto figure: it is drawn in every case; ticks, colours and names by hand."""

import numpy as np
import pytest
from fake_records import fake_record, fake_sweep
from matplotlib.axes import Axes

from relinearize.report.figures.canvas import log_axis, log_ticks, new_figure
from relinearize.report.figures.pareto import draw_pareto
from relinearize.report.figures.published import place_names
from relinearize.report.figures.style import method_colours
from relinearize.report.tables.pareto import build_panels
from relinearize.report.tables.text import compact_count


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "records",
    [
        fake_sweep(),
        [fake_record(holdout=False, teacher=False)],
        [fake_record(), fake_record(finetune_lr=0.01), fake_record(dataset="digits", title="digits", image_size=8)],
    ],
    ids=["sweep", "one run", "two datasets"],
)
def test_figure_is_a_png(records):
    figure = draw_pareto(build_panels(records))
    assert figure.startswith(b"\x89PNG")
    assert len(figure) > 10_000


def lines_of(monkeypatch, records):
    """The lines of the figure: those of published points, and those of the legend."""
    hair, legends = [], []
    plot = Axes.plot

    def recorded(axes, x, y, *words, **look):
        if look.get("color") == "#dde0e5":
            hair.append(list(zip(x, y, strict=True)))
        return plot(axes, x, y, *words, **look)

    monkeypatch.setattr(Axes, "plot", recorded)
    monkeypatch.setattr(Axes, "legend", lambda axes, handles, **look: legends.extend(handles))
    panels = build_panels(records)
    draw_pareto(panels)
    return panels, hair, legends


def test_hair_lines_join_points_of_one_paper_method_and_network(monkeypatch):
    (panel,), hair, _ = lines_of(monkeypatch, [fake_record(dataset="cifar100", title="CIFAR-100")])
    of = {(point.relus, point.accuracy, point.method): point for point in panel.published.itertuples()}
    assert len(hair) == len(panel.published.drop_duplicates(["paper", "method", "backbone", "replacement"]))
    for line in hair:
        joined = [[point for (relus, accuracy, _), point in of.items() if (relus, accuracy) == place] for place in line]
        assert set.intersection(*({(one.paper, one.method, one.backbone) for one in points} for points in joined))


def test_every_curve_has_a_look_of_its_own(monkeypatch):
    """Sixteen methods have twelve colours, and one of them six variants."""
    records = [fake_record(f"method {place:02}") for place in range(16)]
    records += [fake_record("snl", finetune_lr=rate) for rate in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    _, _, legend = lines_of(monkeypatch, records)
    looks = [(one.get_color(), one.get_linestyle(), one._dash_pattern, one.get_marker()) for one in legend[:22]]
    assert len(set(map(str, looks))) == 22 and len({colour for colour, *_ in looks}) == 12


@pytest.mark.parametrize(
    ("count", "text"),
    [(12_900, "12.9K"), (50_000, "50K"), (491_520, "492K"), (1_359_872, "1.36M"), (999_999, "1M"), (37, "37")],
)
def test_compact_count(count, text):
    assert compact_count(count) == text


def test_log_ticks_are_round_and_few():
    assert log_ticks(8_000, 120_000) == [10_000, 15_000, 20_000, 30_000, 50_000, 70_000, 100_000]
    assert log_ticks(900, 1_100_000) == [1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6]
    assert len(log_ticks(10, 1e9)) <= 9
    assert log_ticks(21_500, 28_700) == [22_000, 24_000, 26_000, 28_000], "a narrow range has ticks, too"


@pytest.mark.parametrize(
    ("counts", "least", "ticks"),
    [
        ([1_000, 9_000], 1, [1_000, 2_000, 5_000]),
        ([0, 1_000, 9_000], 0, [0, 1_000, 2_000]),
        ([0], 0, [0]),
    ],
)
def test_a_network_without_relus_stands_left_of_the_others(counts, least, ticks):
    axes = new_figure(4, 3).subplots()
    axes.plot(counts, counts)
    log_axis(axes)
    at = axes.transData.transform([(count, 0) for count in counts])[:, 0]
    assert np.isfinite(at).all() and (np.diff(at) > 20).all()
    assert set(ticks) <= set(axes.get_xticks()) and min(axes.get_xticks()) >= least


def test_method_colours_are_distinct_and_known_ones_fixed():
    colours = method_colours(["snl", "random", "mine", "another", "snl"])
    assert len(set(colours.values())) == 4
    assert colours["snl"] == method_colours(["snl"])["snl"]
    assert len(method_colours([f"method {index}" for index in range(30)])) == 30


def test_names_avoid_each_other_points_and_the_frame():
    frame = (0.0, 0.0, 200.0, 100.0)
    anchors = [np.array([[100.0, 50.0]]), np.array([[100.0, 50.0]]), np.array([[199.0, 99.0]])]
    heavy = np.array([[110.0 + step, 50.0] for step in range(0, 60, 5)])
    boxes = place_names([(40.0, 8.0)] * 3, anchors, np.empty((0, 2)), heavy, frame)
    for box in boxes:
        assert frame[0] <= box[0] and box[2] <= frame[2] and frame[1] <= box[1] and box[3] <= frame[3]
        assert not any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in heavy)
    first, second = boxes[:2]
    assert first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
