"""robustness.png: which attack and curves it shows, where a line ends, and what tells two of them apart."""

import io
from operator import lt

import pytest
from fake_records import fake_record
from fake_robust_records import ATTACKS, fake_robust, fake_robust_runs, routed
from matplotlib.axes import Axes
from rich.console import Console
from test_robustness import met_by, table_of

from relinearize.report.figures.robustness import attacked_column, draw_robustness, shade
from relinearize.report.tables.pareto import build_panels
from relinearize.report.tables.robustness import build_tables
from relinearize.report.tables.terminal import print_robustness


def test_picture_is_drawn_with_the_attack_that_most_rows_have():
    tables = [table_of(fake_robust_runs(budgets=(34_816,), routes=("clean", "augmix", "adversarial")))]
    assert attacked_column(tables[0]).key == "autoattack"
    assert draw_robustness(tables).startswith(b"\x89PNG")
    records = [fake_record("snl", 7_000), fake_record("senet", 7_000)]
    robust = [fake_robust(records[0]), fake_robust(records[1], attacks=("fgsm",), corruptions=False)]
    tables = build_tables(robust, build_panels(records))
    assert attacked_column(tables[0]).key == "fgsm"
    bare = [table_of([records[0]], attacks=(), corruptions=False)]
    assert attacked_column(bare[0]) is None
    assert draw_robustness(bare).startswith(b"\x89PNG")


def test_seeds_that_met_other_numbers_are_one_point_of_the_picture(monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "errorbar", lambda axes, x, y, **look: drawn.append((x, look["yerr"])))
    records = [met_by(fake_record("snl", 60_000, seed), met) for seed, met in enumerate((59_177, 60_279, 59_380))]
    draw_robustness([table_of(records)])
    assert [x for x, _ in drawn] == [[59_612]] * 3 and drawn[0][1][0] > 0


def test_a_line_of_the_picture_ends_where_values_were_measured_otherwise(monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, "errorbar", lambda axes, x, y, **look: drawn.append(x))
    budgets = {7_000: {}, 14_000: {}, 35_000: {"attack_seed": 1}}
    records = [fake_record("snl", asked) for asked in budgets]
    robust = [fake_robust(record, **given) for record, given in zip(records, budgets.values(), strict=True)]
    draw_robustness(build_tables(robust, build_panels(records)))
    clean, corrupted, *attacked = drawn
    assert sorted(clean) == sorted(corrupted) == list(budgets)
    assert sorted(map(sorted, attacked)) == [[7_000, 14_000], [35_000]]


def test_picture_and_terminal_say_what_numbers_stand_on(monkeypatch):
    legends = []
    monkeypatch.setattr(Axes, "legend", lambda axes, handles, **look: legends.append([h.get_label() for h in handles]))
    tables = [table_of([fake_record("snl", 7_000), fake_record("senet", 7_000)])]
    draw_robustness([table_of([fake_record("snl", 7_000)], attacks=("autoattack",))])
    assert legends[0][1:] == [
        "clean (CA), n 10,000",
        "corrupted (NPA), 14 of 15, no frost, n 10,000",
        "AutoAttack (AdvA), ε 8/255, n 1,000",
    ]
    print_robustness(tables, Console(file=(file := io.StringIO()), width=80))
    head = file.getvalue().split("senet")[0]
    assert head.count("ε 8/255") == len(ATTACKS) and head.count("14 of 15") == head.count("no frost") == 2
    both = build_tables([fake_robust(fake_record("snl")), fake_robust(fake_record("senet"), epsilon=4.0, n=500)])
    fgsm = next(column for column in both[0].columns if column.title == "FGSM, ε 4/255")
    assert (fgsm.untold, both[0].basis(both[0].columns[0])) == ([], "n 500 or 10,000"), "radius is in the title"


def test_networks_and_methods_of_one_colour_differ_in_the_picture(monkeypatch):
    looks = set()
    monkeypatch.setattr(Axes, "errorbar", lambda axes, x, y, **look: looks.add(look["color"]))
    records = [fake_record("rlnet", width=width) for width in (16, 32)]
    records += [fake_record(f"method {place:02}") for place in range(15)]
    draw_robustness([table_of(records)])
    assert len(looks) == len(records)


def test_variants_of_a_method_stand_together_and_differ_in_the_picture():
    rates = (0.001, 0.01)
    runs = [fake_record("rlnet", seed=seed, finetune_lr=rate) for rate in rates for seed in (0, 1)]
    table = table_of([record for run in runs for record in routed(run, ("clean", "adversarial"))])
    shown = [(row.label, row.route) for row in table.rows]
    labels = [f"rlnet [finetune.lr={rate}]" for rate in rates]
    assert shown == [(label, route) for label in labels for route in ("clean", "adversarial")]
    first, second = (shade({"rlnet": "#804020"}, table.rows[place], table) for place in (0, 2))
    assert first == pytest.approx((128 / 255, 64 / 255, 32 / 255)) and all(map(lt, first, second))
