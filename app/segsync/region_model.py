"""Where to look: the outline that other weights find, a brain in a head. What lies outside is blanked before a network
sees it.
"""

from segsync.bundle import SPEC_FILE, Bundle, load_bundle
from segsync.engine import open_engine
from segsync.errors import WeightsError, os_errors
from segsync.geometry import Volume
from segsync.postprocess import labels_on
from segsync.preprocess import prepare
from segsync.sliding_window import Windows, predict

#: Windows of an outline overlap by this share: it is smooth, and small.
OVERLAP = 0.25


class RegionModel:
    """Weights that outline an organ in the reference image alone, loaded once."""

    def __init__(self, bundle: Bundle, device: str = "auto", *, memory_bytes: int | None = None) -> None:
        """Open the network; raises WeightsError where it needs more than one image, ResourceError without memory."""
        names = [channel.name for channel in bundle.spec.channels]
        if len(names) > 1 or bundle.spec.within is not None:
            raise WeightsError(
                f"{bundle.folder}: expected weights that outline an organ in one image, found some that read "
                f"{', '.join(names)}{f' within {bundle.spec.within}' if bundle.spec.within else ''}; give others"
            )
        self.bundle = bundle
        self._engine = open_engine(bundle, device, memory_bytes=memory_bytes)

    def __call__(self, image: Volume) -> Volume | None:
        """Where the organ is in an image (1 inside, 0 elsewhere, float32, on its grid); None where there is none.

        Raises ChannelError where the image shows nothing, MemoryError.
        """
        spec = self.bundle.spec
        prepared = prepare(lambda name: image, spec, spec.reference_channel)
        windows = Windows(spec.patch_zyx, spec.multiple_zyx, OVERLAP)
        probabilities, _ = predict(prepared.array, self._engine, len(spec.labels), windows, tissue=prepared.tissue)
        mask, _ = labels_on(probabilities, prepared.grid, image.grid, spec)
        return Volume((mask > 0).astype("float32"), image.grid) if mask.any() else None


@os_errors(WeightsError)
def region_model_for(bundle: Bundle, device: str = "auto", *, memory_bytes: int | None = None) -> RegionModel | None:
    """The outline that weights look within, from the folder beside theirs; None for weights that look everywhere.

    Raises WeightsError where they are missing.
    """
    wanted = bundle.spec.within
    if wanted is None:
        return None
    folder = bundle.folder.parent / wanted
    if not (folder / SPEC_FILE).is_file():
        raise WeightsError(
            f"{folder}: expected the weights {wanted!r}, within whose outline {bundle.spec.name!r} looks, found none; "
            "copy both folders"
        )
    return RegionModel(load_bundle(folder), device, memory_bytes=memory_bytes)
