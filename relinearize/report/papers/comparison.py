"""`relinearize report --against-paper`: each run's accuracy beside the published point that it reproduces, if any.

The counterpart is a point of the same method, dataset, network and budget. Another width is another network, and
another search or fine-tuning another method, whatever the run's name. Images, budget and every setting of a stage may
differ: `differences` and `recipes.settings` list them. The papers' stages and widths are those of conf/experiment/paper
and conf/backbone, their recipes those of recipes.yaml.
"""

from collections import Counter

import pandas as pd
from omegaconf import OmegaConf
from pandas import DataFrame, Series

from relinearize.conf_folder import conf_folder
from relinearize.records.run import Record
from relinearize.report.papers.published import published_for
from relinearize.report.papers.recipes import SOURCES, STAGES, Setting, composed, settings, short_key
from relinearize.report.tables.text import markdown, markdown_table

# Published counts are what the papers met (12.9K, 49.4K) after asking for round numbers (13K, 50K), or are rounded.
BUDGET_TOLERANCE = 0.02
PAPER_METHODS = {"snl": "SNL", "senet": "SENet"}  # `method.name` -> the papers' name
UNKNOWN_NUMBERS = {"senetpp": "SENet++", "rlnet": "RLNet"}
RERUN = " (independent rerun)"  # after the method of points that others measured with its released code
# SNL's figure does not say which of its networks a point is of.
NOT_STATED = {"SNL": ("resnet18", "wrn22_8")}
ALL_RELUS = "all-relu"  # the name of the run without search and fine-tuning, whose convention says whose teacher it is
TRAINING_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "tiny_imagenet": 100_000}
VERDICTS = {
    "differs": "settings_differ", "unverified": "settings_unverified", "not known": "settings_not_known"
}  # fmt: skip
COLUMNS = (
    *("run", "key", "method", "dataset", "title", "backbone", "width", "convention", "seed", "relus", "accuracy"),
    *("paper", "paper_relus", "paper_accuracy", "difference", "what_differs", "no_counterpart", "confidence", "source"),
    *VERDICTS.values(),
)


def paper_stages(method: str) -> dict[str, str]:
    """Stage -> the class of ours that is the paper's."""
    config = composed(f"experiment=paper/{method}_cifar100_resnet18").method
    return {name: config[name]["_target_"].rpartition(".")[2] for name in ("search", "finetune", "teacher")}


def paper_width(backbone: str) -> int:
    return OmegaConf.load(conf_folder() / "backbone" / f"{backbone}.yaml").width


def paper_method(record: Record) -> str | None:
    """The method of a paper that a run is, by its method's name or, of a combination of stages, by its stages."""
    name, known = record.method.name, PAPER_METHODS | UNKNOWN_NUMBERS
    if name == ALL_RELUS:
        name, known = record.backbone.convention, PAPER_METHODS
    elif name not in known:
        name = next((one for one in known if _other_stage(record, one) in (None, "teacher")), None)
    return name if name in known else None


def recipe_settings(record: Record) -> list[Setting]:
    """The settings of a run whose stages are all a paper's, beside the paper's recipe; else none."""
    method = paper_method(record)
    stages = ("teacher",) if record.method.name == ALL_RELUS else STAGES
    if method is None or (stages is STAGES and _other_stage(record, method)):
        return []
    return settings(record, method, stages if record.method.teacher != "file" else stages[1:])


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
    if method not in PAPER_METHODS:
        return None, f"{name} is no paper's method"
    paper = PAPER_METHODS[method]
    if name == ALL_RELUS:
        paper = f"{paper} (all ReLUs)"
    elif stage := _other_stage(record, method):
        return None, f"{stage} is {getattr(record.method, stage)}, {paper}'s is {paper_stages(method)[stage]}"
    allocation = record.config.get("allocation", {"name": "free"})["name"]
    if allocation != "free":
        return None, f"allocation is {allocation}, {paper}'s is free"
    networks = [backbone.name, *(["not stated"] if backbone.name in NOT_STATED.get(paper, ()) else [])]
    points = points[points["method"].isin((paper, paper + RERUN)) & points["backbone"].isin(networks)]
    if points.empty:
        return None, f"{paper} has no point with {backbone.name} on this dataset"
    if backbone.width != (width := paper_width(backbone.name)):
        return None, f"width {backbone.width}, the paper's is {width}"
    if record.replacement != "identity":
        return None, f"replacement is {record.replacement}, the paper's is identity"
    published = points["met"].fillna(points["relus"])
    nearest = published.sub(met).abs().idxmin()
    near = abs(published[nearest] - met) <= BUDGET_TOLERANCE * published[nearest]
    if not near and (record.narrower or points["asked"][nearest] != record.budget.asked):
        return None, f"{met:,} ReLUs; the nearest published budget is {published[nearest]:,.0f}"
    return points.loc[nearest], ""


def differences(record: Record, point: Series) -> list[str]:
    """What differs beside the settings, each in a few words with the paper's value in brackets."""
    dataset, found = record.dataset, []
    title = OmegaConf.load(conf_folder() / "dataset" / f"{dataset.name}.yaml").title
    if dataset.title != title:
        found.append(f"images {dataset.title} (paper: {title})")
    if dataset.train != TRAINING_IMAGES[dataset.name]:
        found.append(f"{dataset.train:,} training images (paper: {TRAINING_IMAGES[dataset.name]:,})")
    if record.method.teacher == "file":
        found.append("teacher from a file")
    met = point.relus if pd.isna(point.met) else point.met
    if record.budget.met != met:
        found.append(f"{record.budget.met:,} ReLUs (paper: {met:,.0f})")
    if point.backbone == "not stated":
        found.append("the paper does not state the network of this point")
    if point.method.endswith(RERUN):
        found.append("an independent rerun of the released code, not the paper's number")
    if point.confidence != "high":
        found.append(f"the paper's number has {point.confidence} confidence ({point.tag})")
    return found


def compare(runs: DataFrame) -> DataFrame:
    """A row for each of `run_table`'s: those with a counterpart first, by dataset, method, network and budget.

    accuracies in percent; `difference`: ours minus the paper's. Without a counterpart (`no_counterpart`: why) the
    paper's columns are None. `settings`: recipe_settings; the columns before it are their texts by verdict.
    """
    rows = []
    for run in runs.to_dict("records"):
        record = run["record"]
        point, reason = counterpart(record)
        found = recipe_settings(record)
        row = run | {"run": record.name, "relus": run["met"], "accuracy": run["test"], "settings": found}
        row["no_counterpart"] = reason or None
        for verdict, column in VERDICTS.items():
            row[column] = "; ".join(str(setting) for setting in found if setting.verdict == verdict)
        if point is not None:
            row |= {"paper_relus": point.relus, "paper_accuracy": point.accuracy}
            row |= {name: point[name] for name in ("paper", "confidence", "source")}
            row["difference"] = round(run["test"] - point.accuracy, 4)
            row["what_differs"] = "; ".join(differences(record, point))
        rows.append(row)
    table = DataFrame(rows, columns=[*COLUMNS, "settings"], dtype=object)
    order = table.assign(alone=table["paper"].isna(), falling=-table["relus"])
    names = ["alone", "dataset", "title", "method", "backbone", "falling", "seed", "run", "key"]
    return table.loc[order.sort_values(names).index].reset_index(drop=True)


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
        "what differs": [
            "; ".join(filter(None, (remarks, *settings_in_words(found)))) or "nothing"
            for remarks, found in zip(matched["what_differs"], matched["settings"], strict=True)
        ],
    }
    return DataFrame(columns), alone[["run", "title", "no_counterpart"]].set_axis(["run", "images", "why"], axis=1)


def settings_in_words(found: list[Setting]) -> list[str]:
    """The names of the settings that differ, and how many could."""
    differ = [short_key(setting.key) for setting in found if setting.verdict == "differs"]
    words = [f"settings: {', '.join(differ)}"] if differ else []
    counts = Counter(setting.verdict for setting in found)
    return words + [f"{counts[one]} settings {one}" for one in ("unverified", "not known") if counts[one]]


def shown_settings(comparisons: DataFrame) -> DataFrame:
    """As texts, a row per setting that is not known to be the paper's and value of ours, and the runs that have it."""
    runs: dict[tuple[str, ...], list[str]] = {}
    compared = [(run, found) for run, found in zip(comparisons["run"], comparisons["settings"], strict=True) if found]
    for run, found in compared:
        for setting in found:
            if setting.verdict != "equal":
                runs.setdefault((setting.verdict, *setting.texts().values()), []).append(run)
    rows = [(*texts, "all" if len(of) == len(compared) else ", ".join(dict.fromkeys(of))) for texts, of in runs.items()]
    rows.sort(key=lambda row: list(VERDICTS).index(row[0]))
    return DataFrame(rows, columns=["verdict", "setting", "ours", *SOURCES, "runs"])


def against_paper_markdown(comparisons: DataFrame) -> str:
    """Both lists, the sources of the published numbers, and the settings."""
    matched, alone = shown_comparisons(comparisons)
    found = shown_settings(comparisons)
    known = comparisons[comparisons["paper"].notna()]
    return markdown(
        "against_paper.md",
        matched="" if matched.empty else markdown_table(matched, left=("run", "images", "what differs")),
        sources=(known["paper"] + ": " + known["source"]).unique(),
        settings="" if found.empty else markdown_table(found, left=tuple(found)),
        alone="" if alone.empty else markdown_table(alone, left=tuple(alone)),
    )
