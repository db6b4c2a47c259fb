"""3D-SegSync at work: stroke and brain-lesion segmentation of one patient's images.

>>> import segsync
>>> model = segsync.load("isles22")  # doctest: +SKIP
>>> result = model.predict({"dwi": "dwi.nii.gz", "adc": "adc.nii.gz", "flair": "flair.nii.gz"})  # doctest: +SKIP
>>> result.volume_ml, result.mask.shape  # doctest: +SKIP
"""

from segsync.errors import SegsyncError
from segsync.geometry import Grid, Volume
from segsync.pipeline import Case
from segsync.predict import Model, Result, Settings, load

__all__ = ["Case", "Grid", "Model", "Result", "SegsyncError", "Settings", "Volume", "load"]
__version__ = "0.2.0"
