"""From the `dataset` group to images: the source, and the batches made from it."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from relinearize.data.datamodule import ImageData, channel_statistics


def open_source(config: DictConfig) -> Any:
    """The source of `config.dataset`, its files looked at. UserError where something is missing."""
    source = instantiate(config.dataset.source)
    source.check()
    fill_statistics(config, source)
    return source


def fill_statistics(config: DictConfig, source: Any) -> None:
    """Where `dataset.mean` and `dataset.std` are null, put those of the training images into the config."""
    if config.dataset.mean is None or config.dataset.std is None:
        config.dataset.mean, config.dataset.std = channel_statistics(source)


def open_images(config: DictConfig, source: Any, device: str, *, holdout: float | None = None) -> ImageData:
    """The images of `source` as `config.dataset` wants them, on `device`; `holdout` replaces its share if given."""
    dataset = OmegaConf.to_container(config.dataset, resolve=True)
    optional = {key: dataset[key] for key in ("resident", "resident_limit_gb", "workers") if key in dataset}
    return ImageData(
        source,
        mean=dataset["mean"],
        std=dataset["std"],
        augment=dataset["augment"],
        holdout=dataset["holdout"] if holdout is None else holdout,
        subset=dataset["subset"],
        seed=config.seed,
        device=device,
        **optional,
    )
