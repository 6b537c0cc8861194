"""The page's masks: the numbers read back from what is embedded, what is left out, and how large a page becomes."""

import base64
import json

import numpy as np
from fake_masks import fake_mask, write_masks
from fake_records import fake_record, fake_sweep
from test_page import Page

from relinearize.report.page import sections as mask_page
from relinearize.report.page.page import render_page
from relinearize.report.page.sections import mask_data, packed, summed
from relinearize.report.report import Report
from relinearize.report.tables.masks import SiteMap, build_groups
from relinearize.report.tables.pareto import build_panels


def built(records):
    panels = build_panels(records)
    return panels, build_groups(panels, {record.key: fake_mask(record) for record in records})


def test_sums_and_bits_read_back():
    wide = np.zeros((300, 2, 2), bool)
    wide[:299, 0, 1] = wide[7, 1, 0] = True
    odd = np.zeros((3, 1, 3), bool)
    odd[2, 0, 1] = True
    sites = [SiteMap.of("wide", wide), SiteMap.of("odd", odd)]
    sums = base64.b64decode(summed(sites))
    assert np.frombuffer(sums[:8], "<u2").tolist() == [0, 299, 1, 0]  # more channels than a byte can say
    assert list(sums[8:]) == [0, 1, 0]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed(sites)), np.uint8))
    assert np.array_equal(bits[: wide.size], wide.ravel())
    assert np.array_equal(bits[wide.size : wide.size + odd.size], odd.ravel())  # 1,200 positions end with a byte
    assert bits.size == wide.size + 16


def test_masks_stand_in_the_page_with_their_sites_in_forward_order():
    records = fake_sweep(budgets=(7_000, 35_000), seeds=(0,))
    panels, groups = built(records)
    data = json.loads(Page(render_page(panels, {}, masks=groups, without_mask=["gone"])).data)["masks"]
    (group,) = data["groups"]
    assert data["leftOut"] == ["gone"]
    assert [site["name"] for site in group["sites"]] == [site.name for site in records[0].sites]
    assert [mask["asked"] for mask in group["masks"]] == [35_000, 35_000, 7_000, 7_000]
    assert group["missing"] == 0 and group["panel"] == 0
    first = group["masks"][0]
    record = next(record for record in records if record.name == first["names"][0])
    bits = np.unpackbits(np.frombuffer(base64.b64decode(first["bits"]), np.uint8))
    assert bits.sum() == first["met"] == record.budget.met
    assert np.array_equal(bits[:16384], fake_mask(record)["relu1"].ravel())


def test_a_page_without_masks_has_no_data_of_them():
    assert json.loads(Page(render_page(build_panels([fake_record()]), {})).data)["masks"] is None


def test_rooms_are_filled_in_order_of_rank_and_the_rest_is_counted(monkeypatch):
    panels, groups = built(fake_sweep(methods=("snl",), budgets=(7_000, 35_000), seeds=(0, 1)))
    one = len(summed(groups[0].masks[0].sites))
    monkeypatch.setattr(mask_page, "ROOM_FOR_SUMS", 3 * one)
    monkeypatch.setattr(mask_page, "ROOM_FOR_BITS", len(packed(groups[0].masks[0].sites)))
    (group,) = mask_data(groups, panels)["groups"]
    assert group["missing"] == 1
    assert [(mask["asked"], mask["seeds"]) for mask in group["masks"]] == [(35_000, [0]), (7_000, [0]), (7_000, [1])]
    assert [bool(mask["bits"]) for mask in group["masks"]] == [False, True, False]


def test_a_second_network_is_not_crowded_out(monkeypatch):
    panels, groups = built([*fake_sweep(methods=("snl",), seeds=(0,)), fake_record(width=8)])
    monkeypatch.setattr(mask_page, "ROOM_FOR_SUMS", 2 * len(summed(groups[0].masks[0].sites)))
    assert [len(group["masks"]) for group in mask_data(groups, panels)["groups"]] == [1, 1]


def test_forty_wide_runs_make_a_page_of_a_few_megabytes():
    records = fake_sweep(seeds=range(4), width=64, epochs=(5, 5, 5))
    panels, groups = built(records)
    assert len(records) == 40
    text = render_page(panels, {}, masks=groups)
    assert len(text) < 3.5e6
    (group,) = json.loads(Page(text).data)["masks"]["groups"]
    assert len(group["masks"]) == 40  # the sums of all, single channels of some
    assert 10 <= sum(bool(mask["bits"]) for mask in group["masks"]) < 40


def test_the_same_masks_make_the_same_page(tmp_path):
    runs = write_masks(fake_sweep(budgets=(7_000,), seeds=(0,)), tmp_path)
    first, second = (render_page(one.panels, {}, masks=one.masks) for one in (Report([runs]), Report([runs])))
    assert first == second
    assert '"missing":0' in first
