"""The region model: weights that segment a region in the reference image, as the brain in a head.

Voxels outside the region are set to 0 before the lesion network sees the image.
"""

from segsync.bundle import SPEC_FILE, Bundle, load_bundle
from segsync.engine import open_engines
from segsync.errors import WeightsError, os_errors
from segsync.geometry import Volume
from segsync.pipeline import Options, Pipeline

#: Overlap of a region model's windows: its masks are smooth and its grid is coarse.
OVERLAP = 0.25


class RegionModel:
    """Weights that segment a region in the reference image alone, loaded once."""

    def __init__(self, bundle: Bundle, device: str = "auto", *, memory_bytes: int | None = None) -> None:
        """Open the network.

        Args:
            bundle: Its verified weights.
            device: As `segsync.engine.choose_device` takes it.
            memory_bytes: What a GPU's arena may hold; None for all there is.

        Raises:
            WeightsError: It needs more than one image.
            ResourceError: The device is missing, or memory has ended.
        """
        names = [channel.name for channel in bundle.spec.channels]
        nested = bundle.spec.region_model
        if len(names) > 1 or nested is not None:
            raise WeightsError(
                f"{bundle.folder}: expected a region model, weights that read a single image, found weights that read "
                f"{', '.join(names)}{f' and need the region model {nested}' if nested else ''}; give others"
            )
        self.bundle, self.name, self.organ = bundle, bundle.folder.name, bundle.spec.organ
        self._pipeline = Pipeline(bundle.spec, open_engines(bundle, device, memory_bytes=memory_bytes))

    def __call__(self, image: Volume) -> Volume | None:
        """Segment the region in an image.

        Args:
            image: The reference image.

        Returns:
            The mask on the image's grid (float32, 1 inside, 0 outside), or None if nothing was segmented.

        Raises:
            ChannelError: The image shows nothing.
            MemoryError: Even the smallest window does not fit.
        """
        prepared, _ = self._pipeline.prepare(lambda name: image)
        probabilities, _ = self._pipeline.predict(prepared.array, prepared.tissue, Options(overlap=OVERLAP))
        mask, _ = self._pipeline.labels(probabilities, prepared.grid, image.grid, image=image)
        return Volume((mask > 0).astype("float32"), image.grid) if mask.any() else None


@os_errors(WeightsError)
def region_model_for(bundle: Bundle, device: str = "auto", *, memory_bytes: int | None = None) -> RegionModel | None:
    """Load the region model that weights name, from the folder beside theirs.

    Args:
        bundle: The weights that may name a region model.
        device: As `segsync.engine.choose_device` takes it.
        memory_bytes: Limit for the engine; None: no limit.

    Returns:
        The region model, or None for weights that need none.

    Raises:
        WeightsError: The region model's folder is missing or damaged.
    """
    wanted = bundle.spec.region_model
    if wanted is None:
        return None
    folder = bundle.folder.parent / wanted
    if not (folder / SPEC_FILE).is_file():
        raise WeightsError(
            f"{folder}: expected the region model {wanted!r} of the weights {bundle.spec.name!r}, found no folder; "
            "copy both folders"
        )
    return RegionModel(load_bundle(folder), device, memory_bytes=memory_bytes)
