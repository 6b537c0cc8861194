"""Which presets a record and a report speak of, and what a prediction is made of."""

import pytest

from relinearize.private_inference.cost.presets import RECORDED, one_preset, predict, recorded_presets
from relinearize.private_inference.cost.workload import LinearWork, Workload


def test_records_speak_of_known_presets():
    assert tuple(preset.name for preset in recorded_presets()) == RECORDED


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ((None, None), "cheetah_wan"),
        (("semi2k", None), "semi2k_wan"),
        (("delphi_lan", None), "delphi_lan"),
        (("delphi_compute", None), "delphi_compute"),
        ((None, "lan"), "cheetah_lan"),
        (("delphi", "{rtt_ms:10,mbps:500}"), "delphi_10ms-500mbps"),
    ],
)
def test_a_report_speaks_of_one(asked, name):
    assert one_preset(*asked).name == name


def test_a_latency_is_computation_bytes_and_rounds():
    work = Workload(1000, 3, 0, LinearWork(layers=4, multiplications=10**6))
    online = predict(one_preset("delphi_wan"), work).online
    assert online.rounds_seconds == pytest.approx((2 * 3 + 2) * 0.020), "40 ms there and back"
    assert online.bytes_seconds == pytest.approx(1184 * 1000 / 12.5e6), "all of them one way, 100 Mbit/s"
    assert online.seconds == pytest.approx(online.loopback_seconds + online.bytes_seconds + online.rounds_seconds)
    alone = predict(one_preset("delphi_compute"), work).online
    assert (alone.bytes_seconds, alone.rounds_seconds) == (0, 0) and alone.seconds == alone.loopback_seconds
