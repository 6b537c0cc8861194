"""inference.md and inference.csv: the private inferences that `relinearize infer` measured of the runs."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pandas import DataFrame, Series

from relinearize.private_inference.cost.network import Network
from relinearize.private_inference.cost.presets import PhaseCost, Preset, predict, protocols
from relinearize.private_inference.cost.workload import mask_workload
from relinearize.records.inference import InferenceRecord
from relinearize.records.run import Record
from relinearize.report.tables.cost import record_workload
from relinearize.report.tables.pareto import variants_of
from relinearize.report.tables.text import markdown, markdown_table, network_name

OPTIONS = ("kn2row", "local_truncation")  # of the engine; the presets' constants are of none
OF_FIDELITY = ("max_error", "relative_error", "agreement", "private_accuracy", "plaintext_accuracy", "images")
MEASURED = ["steady_mb", "steady_s", "predicted_mb", "predicted_s"]
ORDER = ["title", "neural", "method", "protocol", "rtt_ms", "network", "relus", "run"]


def build_inferences(records: Iterable[InferenceRecord], runs: DataFrame) -> DataFrame:
    """One row per record, with the run that its network is of, by dataset, network, method, setting and falling ReLUs.

    `runs`: rows of `run_table`.
    Numbers as measured, None where unknown; megabytes (10^6 bytes, both directions) and seconds are per image, medians:
    of a batch its share. Messages are of an inference, whatever its batch.
    Columns up to `created` are those of inference.csv. Then `neural`: the neural network; `family`: the method under
    whatever allocation, with its variant; `setting`: protocol with its options, and network; these make a curve;
    `asked`: its budget; `point`: equal for what differs by nothing but the seed; `link`: the network between the
    parties, for people; `run_key`: None for networks of no run below the folders; `recipe`, `record`.
    """
    by_key = {run.key: run for run in runs.itertuples()}
    rows = [_row(record, by_key.get(record.bundle["key"])) for record in records]
    rows.sort(key=lambda row: [-row[name] if name == "relus" else row[name] for name in ORDER])
    inferences = DataFrame(rows, dtype=object)
    if rows:
        known = inferences.dropna(subset="recipe")
        alike = known.groupby(["title", "family", "neural"])["recipe"]
        variants = alike.transform(lambda recipes: variants_of(list(recipes)))
        inferences.loc[known.index, "family"] += variants.map(lambda words: f" [{words}]" if words else "")
    return inferences


def _row(record: InferenceRecord, of_run: Any) -> dict[str, Any]:
    run: Record | None = of_run and of_run.record
    bundle, model, steady = record.bundle, record.model, record.steady
    name, link = bundle["name"] or Path(bundle["path"]).name, Network(**record.network)
    network = [bundle[part] for part in ("backbone", "width", "convention")]
    options = [option for option in OPTIONS if record.settings.get(option)]
    options += [f"batch{record.batch}"] if record.batch > 1 else []
    options += [f"threads{threads}"] if (threads := record.machine.get("threads", "1")) != "1" else []
    per_image = 1 / record.batch
    protocol = "+".join([record.protocol, *options])
    predicted = None if options else _predicted(record, run, link)
    seconds = {kind: per_image * cost.seconds for kind, cost in steady.kinds.items()}
    # Each kind is of the party that took longer for it, so that together they can be a little more than the latency.
    seconds["outside"] = max(0.0, steady.seconds_per_image - sum(seconds.values()))
    return {
        "run": name,
        "key": bundle["key"],
        "title": of_run.title if run else bundle["title"] or "dataset not stated",
        "method": run.method.name if run else "",
        "backbone": bundle["backbone"],
        "width": bundle["width"],
        "relus": sum(record.relus.values()),
        "relus_total": sum(record.positions.values()),
        "live_sites": record.live_sites,
        "sites": len(record.relus),
        "protocol": protocol,
        "network": link.name,
        "rtt_ms": link.rtt_ms,
        "mbps": link.mbps,
        "first_mb": per_image * record.first.bytes / 1e6,
        "steady_mb": per_image * steady.bytes / 1e6,
        **{f"{kind}_mb": per_image * cost.bytes / 1e6 for kind, cost in steady.kinds.items()},
        "predicted_mb": predicted and predicted.bytes / 1e6,
        "messages": steady.messages,
        "sequential_messages": model.sequential_messages,
        "first_s": record.first.seconds_per_image,
        "steady_s": steady.seconds_per_image,
        "steady_n": len(steady.seconds),
        **{f"{kind}_s": value for kind, value in seconds.items()},
        "loopback_s": per_image * model.loopback_seconds,
        "model_s": per_image * model.predicted_seconds,
        "predicted_s": predicted and predicted.seconds,
        **{name: getattr(record.fidelity, name) for name in OF_FIDELITY},
        "test_accuracy": run.accuracy.test if run else bundle["test_accuracy"],
        **{name: record.machine[name] for name in ("load_before", "cores")},
        "created": record.created,
        "seed": run and run.seed,
        "neural": of_run.network if run else network_name(*network) if bundle["backbone"] else name,
        "family": run.method.name.replace(f"+{(run.config.get('allocation') or {}).get('name')}", "") if run else "",
        "setting": f"{protocol} {link.name}",
        "asked": of_run.asked if run else sum(record.relus.values()),
        "point": (of_run.curve, of_run.asked) if run else (bundle["key"], bundle["graph_sha256"]),
        "link": link.text,
        "run_key": run and run.key,
        "recipe": run and {name: value for name, value in of_run.recipe.items() if name != "allocation"},
        "record": record,
    }


def _predicted(record: InferenceRecord, run: Record | None, link: Network) -> PhaseCost | None:
    """What the counts and the protocol's constants say, without the engine; None where either is not known."""
    protocol = protocols().get(record.protocol)
    if protocol is None:
        return None
    sites = [(kept, record.positions[name]) for name, kept in record.relus.items()]
    linear = record_workload(run).linear if run else None
    workload = replace(mask_workload(sites, record.replacement), linear=linear)
    found = predict(Preset(record.protocol, protocol, link), workload)
    return found.online if found.complete else None


def curves(inferences: DataFrame) -> dict[tuple[str, str], DataFrame]:
    """(setting, method and network as far as there are several) -> points by growing ReLUs, then live sites.

    A point is the mean over what differs by nothing but the seed; `rows`: the index of each. Several numbers of live
    sites at each budget: a curve each. Rows of unknown accuracy are in none.
    """
    known = inferences.dropna(subset="test_accuracy")
    several = known[[name for name in ("family", "neural") if known[name].nunique() > 1]]
    kinds = Series([", ".join(filter(None, names)) for names in several.to_numpy()], known.index, dtype=object)
    numbers = ["asked", "relus", "live_sites", "test_accuracy", *MEASURED]
    known = known.assign(kind=kinds, rows=known.index).astype(dict.fromkeys(numbers, float))
    means = {name: (name, lambda values: values.mean(skipna=False)) for name in numbers}
    points = known.groupby(["title", "setting", "kind", "point"], sort=False).agg(rows=("rows", list), **means)
    points = points.reset_index().sort_values(["relus", "live_sites"], kind="stable", ignore_index=True)
    kinds = points["kind"]
    by_sites = points.groupby(["title", "setting", "kind", "asked"])["live_sites"].transform("nunique") > 1
    if points.loc[by_sites, "asked"].nunique() > 1:
        kinds = kinds.mask(by_sites, (kinds + points["asked"].map(", {:,.0f} ReLUs".format)).str.removeprefix(", "))
    return dict(list(points.groupby(["setting", kinds])))


def inference_markdown(inferences: DataFrame) -> str:
    """The table for people, one per dataset."""
    texts = inference_texts(inferences)
    own = {title: texts[inferences["title"] == title] for title in inferences["title"].unique()}
    tables = {title: markdown_table(rows, left=("run", "protocol", "network")) for title, rows in own.items()}
    return markdown("inference.md", tables=tables)


def inference_texts(inferences: DataFrame) -> DataFrame:
    """The columns for people; "-" where nothing is known."""
    return DataFrame([_texts(row) for row in inferences.itertuples()], index=inferences.index)


def _texts(row: Any) -> dict[str, str]:
    private = "-"
    if row.private_accuracy is not None:
        private = f"{row.private_accuracy:.1f} % of {row.images}"
        if row.private_accuracy != row.plaintext_accuracy:
            private += f" (plaintext {row.plaintext_accuracy:.1f} %)"
    return {
        "run": row.run,
        "ReLUs kept": f"{row.relus:,}",
        "live sites": f"{row.live_sites} of {row.sites}",
        "protocol": row.protocol,
        "network": row.link,
        "MB first / steady": f"{row.first_mb:.2f} / {row.steady_mb:.2f}",
        "MB of ReLUs": f"{row.relu_mb:.3f}" + (f", max-pools {row.pool_mb:.3f}" if row.pool_mb else ""),
        "MB predicted": "-" if row.predicted_mb is None else f"{row.predicted_mb:.2f}",
        "messages": f"{row.messages:,}",
        "seconds first / steady": f"{row.first_s:.2f} / {row.steady_s:.2f}",
        # Without a delay the model says what was measured.
        "seconds by the model": "-" if row.record.loopback is None else f"{row.model_s:.2f}",
        "seconds predicted": "-" if row.predicted_s is None else f"{row.predicted_s:.2f}",
        "largest error": f"{row.relative_error:.1e}",
        "same class": f"{row.agreement:.1f} % of {row.images}",
        "private accuracy": private,
        "load before": f"{row.load_before:.1f} on {row.cores} cores",
    }
