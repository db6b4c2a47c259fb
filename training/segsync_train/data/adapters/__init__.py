"""Public data sets, one file each: every module here has `SETS`, and a new one is found by being there."""

import pkgutil
from importlib import import_module

from segsync_train.data.layout import DataSet


def _declared() -> list[DataSet]:
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return [dataset for module in modules for dataset in module.SETS]


#: Every data set by its name, which is also the name of its layout in the settings (`data.layout`).
DATASETS: dict[str, DataSet] = {dataset.name: dataset for dataset in _declared()}
