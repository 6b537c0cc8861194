"""Made-up records of private inferences, for the made-up runs. Invented numbers: never results."""

from pathlib import Path

from relinearize.private_inference.cost.network import NETWORKS
from relinearize.records.inference import SHARED, Fidelity, InferenceRecord, KindCost, LayerCost, Model, Phase
from relinearize.records.run import Record


def fake_phase(relus: int, seconds: float, extra_bytes: int = 0) -> Phase:
    """144 bytes a ReLU and 10 MB of linear layers; a tenth of the time in no operation."""
    kinds = {
        "relu": KindCost(0.3 * seconds, 144 * relus, 136, 34),
        "pool": KindCost(0.0, 0, 0, 0),
        "linear": KindCost(0.5 * seconds, 10_000_000, 40, 21),
        "gather": KindCost(0.1 * seconds, 0, 0, 34),
        "other": KindCost(0.0, extra_bytes, 2, 200),
    }
    sent = 144 * relus + 10_000_000 + extra_bytes
    times = (0.9 * seconds, seconds, 1.2 * seconds)
    return Phase(times, seconds, seconds, 0.4 * seconds, 0.3 * seconds, sent // 2, sent - sent // 2, 178, kinds)


def fake_inference(
    run: Record, protocol: str = "semi2k", network: str = "wan", *, load: float = 0.5, private: float | None = 90.0,
    **options: bool,
) -> InferenceRecord:  # fmt: skip
    """One of `run`; everything is a function of the arguments."""
    link, met = NETWORKS[network], run.budget.met
    loopback = 1.0 + met / 100_000
    seconds = loopback + 178 * link.one_way_seconds
    steady = fake_phase(met, seconds)
    return InferenceRecord(
        created="2025-04-01T10:00:00+00:00",
        bundle={
            "name": run.name, "key": run.key, "backbone": run.backbone.name, "width": run.backbone.width,
            "convention": run.backbone.convention, "dataset": run.dataset.name, "title": run.dataset.title,
            "route": run.route, "test_accuracy": run.accuracy.test, "path": "bundle", "graph_sha256": "0" * 64,
        },
        relus={site.name: site.kept for site in run.sites},
        positions={site.name: site.total for site in run.sites},
        engine="spu",
        protocol=protocol,
        security="none: made up",
        settings={"field_bits": 64, "fraction_bits": 18, "kn2row": False, "local_truncation": False, **options},
        network={"name": link.name, "rtt_ms": link.rtt_ms, "mbps": link.mbps},
        compile_seconds=1.0,
        setup_seconds=2.0,
        first=fake_phase(met, 2 * seconds, 20_000_000),
        steady=steady,
        loopback=fake_phase(met, loopback) if link.emulated else None,
        model=Model(loopback, 178, steady.client_bytes, 0.95 * seconds, seconds),
        fidelity=Fidelity(20, 0.002, 10.0, 95.0, private, None if private is None else 91.0),
        logits=((0.0, 1.0),),
        versions={"spu": "0.9.5"},
        machine={"cpu": "made up", "cores": 2, "load_before": load},
        layers=(
            *(
                LayerCost(site.name, "masked_relu", site.kept, site.total, 0, 0.0, 144 * site.kept, 8)
                for site in run.sites
            ),
            LayerCost("rest", "", 0, 0, 0, seconds, 10_000_000, 178 - 8 * len(run.sites)),
        ),
        layers_are=SHARED,
    )  # fmt: skip


def write_inference(record: InferenceRecord, folder: Path) -> Path:
    """Where `relinearize infer` puts it below a run's `folder`; the path of its folder."""
    place = folder / "bundle-infer" / f"{record.protocol}-{record.network['name']}"
    place.mkdir(parents=True)
    record.write(place)
    return place
