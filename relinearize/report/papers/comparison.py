"""`relinearize report --against-paper`: each run's accuracy beside the published point that it reproduces, if any.

The counterpart is a point of the same method, dataset, network and budget. Another width is another network, and
another search or fine-tuning another method, whatever the run's name. The counting convention, recipe and images may
differ: `differences` lists them. The papers' recipes and widths are those of conf/experiment/paper and conf/backbone.
"""

import functools

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from pandas import DataFrame, Series

from relinearize.conf_folder import conf_folder
from relinearize.records.run import Record
from relinearize.report.papers.published import published_for
from relinearize.report.tables.text import markdown, markdown_table

# Published counts are what the papers met (12.9K, 49.4K) after asking for round numbers (13K, 50K), or are rounded.
BUDGET_TOLERANCE = 0.02
PAPER_METHODS = {"snl": "SNL", "senet": "SENet"}  # `method.name` -> the papers' name
UNKNOWN_NUMBERS = {"senetpp": "SENet++", "rlnet": "RLNet"}
# SNL's figure does not say which of its networks a point is of.
NOT_STATED = {"SNL": ("resnet18", "wrn22_8")}
TRAINING_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "tiny_imagenet": 100_000}
# What the papers or their released code say of each stage, as far as it has such a setting.
SETTINGS = ("epochs", "batch_size", "learning_rate", "lasso", "lasso_growth", "threshold")
OF_PAPER = ["run", "paper", "paper_relus", "paper_accuracy", "what_differs", "no_counterpart", "confidence", "source"]
COLUMNS = (
    *("run", "key", "method", "dataset", "title", "backbone", "width", "convention", "seed", "relus", "accuracy"),
    *("paper", "paper_relus", "paper_accuracy", "difference", "what_differs", "no_counterpart", "confidence", "source"),
)
NO_SETTING = ("snl", "search.epochs")  # it ends when the budget is reached


@functools.cache
def paper_config(method: str, dataset: str = "cifar100") -> DictConfig:
    """The config of the paper's experiment; its recipe is that of all backbones."""
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", [f"experiment=paper/{method}_{dataset}_resnet18"])


def paper_stages(method: str) -> dict[str, str]:
    """Stage -> the class of ours that is the paper's."""
    stages = paper_config(method).method
    return {name: stages[name]["_target_"].rpartition(".")[2] for name in ("search", "finetune", "teacher")}


def paper_recipe(method: str, dataset: str) -> dict[str, float]:
    """Dotted keys below `method` and the values that the papers' points were made with."""
    keys = [f"{stage}.{name}" for stage in ("teacher", "search", "finetune") for name in SETTINGS]
    values = {key: number(paper_config(method, dataset).method, key) for key in keys if (method, key) != NO_SETTING}
    return {key: value for key, value in values.items() if value is not None}


def paper_width(backbone: str) -> int:
    return OmegaConf.load(conf_folder() / "backbone" / f"{backbone}.yaml").width


def number(config: DictConfig, key: str) -> float | None:
    """The number at a dotted key; None where the config, of an older program perhaps, has none."""
    value = OmegaConf.select(config, key)
    return float(value) if isinstance(value, int | float | str) else None  # YAML reads 1e-3 as a string


def paper_method(record: Record) -> str | None:
    """The key of PAPER_METHODS that a run is, by its method's name or, of a combination of stages, by its stages."""
    if record.method.name in PAPER_METHODS:
        return record.method.name
    alike = (name for name in PAPER_METHODS if _other_stage(record, name) in (None, "teacher"))
    return next(alike, None)


def _other_stage(record: Record, method: str) -> str | None:
    """The first stage that is not the paper's; any teacher may come from a file."""
    for stage, name in paper_stages(method).items():
        used = getattr(record.method, stage)
        if used != name and (stage, used) != ("teacher", "file"):
            return stage
    return None


def counterpart(record: Record) -> tuple[Series | None, str]:
    """The published point nearest to the run, or None and, in a few words, why there is none."""
    name, backbone, met = record.method.name, record.backbone, record.budget.met
    points = published_for(record.dataset.name, record.dataset.image_size)
    if points.empty:
        return None, f"nothing is published on {record.dataset.title} at {record.dataset.image_size} pixels"
    if name in UNKNOWN_NUMBERS:
        return None, f"no accuracies of {UNKNOWN_NUMBERS[name]} are known"
    method = paper_method(record)
    if method is None:
        return None, f"{name} is no paper's method"
    paper = PAPER_METHODS[method]
    if stage := _other_stage(record, method):
        return None, f"{stage} is {getattr(record.method, stage)}, {paper}'s is {paper_stages(method)[stage]}"
    allocation = record.config.get("allocation", {"name": "free"})["name"]
    if allocation != "free":
        return None, f"allocation is {allocation}, {paper}'s is free"
    networks = [backbone.name, *(["not stated"] if backbone.name in NOT_STATED.get(paper, ()) else [])]
    points = points[(points["method"] == paper) & points["backbone"].isin(networks)]
    if points.empty:
        return None, f"{paper} has no point with {backbone.name} on this dataset"
    if backbone.width != (width := paper_width(backbone.name)):
        return None, f"width {backbone.width}, the paper's is {width}"
    if record.replacement != "identity":
        return None, f"replacement is {record.replacement}, the paper's is identity"
    nearest = points.loc[(points["relus"] - met).abs().idxmin()]
    if abs(nearest.relus - met) > BUDGET_TOLERANCE * nearest.relus:
        return None, f"{met:,} ReLUs; the nearest published budget is {nearest.relus:,}"
    return nearest, ""


def differences(record: Record, point: Series) -> list[str]:
    """What differs, each in a few words with the paper's value in brackets; what weighs most comes first."""
    dataset, found, method = record.dataset, [], paper_method(record)
    title = paper_config(method, dataset.name).dataset.title
    if dataset.title != title:
        found.append(f"images {dataset.title} (paper: {title})")
    if dataset.train != TRAINING_IMAGES[dataset.name]:
        found.append(f"{dataset.train:,} training images (paper: {TRAINING_IMAGES[dataset.name]:,})")
    own_teacher = record.method.teacher != "file"
    if not own_teacher:
        found.append("teacher from a file")
    config = OmegaConf.create(record.config.get("method"))
    for key, value in paper_recipe(method, dataset.name).items():
        ours = number(config, key)
        if ours not in (None, value) and (own_teacher or not key.startswith("teacher.")):
            found.append(f"{key} {ours:g} (paper: {value:g})")
    if record.backbone.convention != point.convention:
        found.append(f"convention {record.backbone.convention} (paper: {point.convention})")
    if record.budget.met != point.relus:
        found.append(f"{record.budget.met:,} ReLUs (paper: {point.relus:,})")
    selection = record.accuracy.selection
    if selection != "test":
        chosen = {"best": "chosen on the hold-out", "last": "last epoch"}.get(selection, selection)
        found.append(f"{chosen} (released code: chosen on the test set)")
    if point.backbone == "not stated":
        found.append("the paper does not state the network of this point")
    if point.confidence != "high":
        found.append(f"the paper's number has {point.confidence} confidence")
    return found


def compare(runs: DataFrame) -> DataFrame:
    """A row for each of `run_table`'s: those with a counterpart first, by dataset, method, network and budget.

    accuracies in percent; `difference`: ours minus the paper's. Without a counterpart (`no_counterpart`: why) the
    paper's columns are None.
    """
    rows = []
    for record in runs["record"]:
        point, reason = counterpart(record)
        row = {"run": record.name, "no_counterpart": reason or None}
        if point is not None:
            row |= {"paper_relus": point.relus, "paper_accuracy": point.accuracy}
            row |= {name: point[name] for name in ("paper", "confidence", "source")}
            row["what_differs"] = "; ".join(differences(record, point))
        rows.append(row)
    table = runs.rename(columns={"met": "relus", "test": "accuracy"}).join(
        DataFrame(rows, runs.index, OF_PAPER, dtype=object)
    )
    table["difference"] = (table["accuracy"] - table["paper_accuracy"].astype(float)).round(4)
    order = table.assign(alone=table["paper"].isna(), falling=-table["relus"])
    names = ["alone", "dataset", "title", "method", "backbone", "falling", "seed", "run", "key"]
    return table.loc[order.sort_values(names).index, list(COLUMNS)].reset_index(drop=True)


def shown_comparisons(comparisons: DataFrame) -> tuple[DataFrame, DataFrame]:
    """For people, as texts: the runs with a counterpart, and those without one."""
    known = comparisons["paper"].notna()
    matched, alone = comparisons[known], comparisons[~known]
    columns = {
        "run": matched["run"],
        "images": matched["title"],
        "ReLUs": matched["relus"].map("{:,}".format),
        "ours": matched["accuracy"].map("{:.2f}".format, na_action="ignore").fillna("-"),
        "paper's ReLUs": matched["paper_relus"].map("{:,.0f}".format),
        "paper": matched["paper_accuracy"].map("{:.2f}".format),
        "difference": matched["difference"].map("{:+.2f}".format, na_action="ignore").fillna("-"),
        "what differs": matched["what_differs"].replace("", "nothing known"),
    }
    return DataFrame(columns), alone[["run", "title", "no_counterpart"]].set_axis(["run", "images", "why"], axis=1)


def against_paper_markdown(comparisons: DataFrame) -> str:
    """Both lists and the sources of the published numbers."""
    matched, alone = shown_comparisons(comparisons)
    known = comparisons[comparisons["paper"].notna()]
    return markdown(
        "against_paper.md",
        matched="" if matched.empty else markdown_table(matched, left=("run", "images", "what differs")),
        sources=(known["paper"] + ": " + known["source"]).unique(),
        alone="" if alone.empty else markdown_table(alone, left=tuple(alone)),
    )
