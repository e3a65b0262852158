"""Data sets that ``medcap download`` does not fetch: why, and where to get them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Elsewhere:
    """A data set that our converters or tasks read and that is fetched by other means.

    Attributes:
        what: what it is.
        why: why it is not downloaded here.
        where: where to get it.
        then: what reads it.
    """

    what: str
    why: str
    where: str
    then: str

    def line(self, name: str) -> str:
        """Return all of it in one line, for who asks for it by its name."""
        return (
            f"{name} is not downloaded, because {self.why}; get it from {self.where}, put it where"
            f" docs/datasets.md says, then {self.then}"
        )


_ON_REQUEST = "its authors give it on request"
_AFTER_TRAINING = "PhysioNet gives it to people who have passed its training and signed its terms"

ELSEWHERE: dict[str, Elsewhere] = {
    "mecovqa": Elsewhere(
        "MeCoVQA: questions about images, regions and masks",
        "the names of its files on the hub are not known to us, and its images are those of SA-Med2D-20M",
        "BlueZeros/MedPLIB on the hub, and SA-Med2D-20M for images and masks",
        "medcap prepare mecovqa",
    ),
    "vqamed": Elsewhere(
        "VQA-Med: ImageCLEF's questions of 2019, 2020 and 2021",
        "its archives lie in several places, partly behind a login",
        "github.com/abachaa/VQA-Med-2019, VQA-Med-2020 and VQA-Med-2021, which name them",
        "medcap prepare vqamed --year 2019",
    ),
    "medicat": Elsewhere("MedICaT: captions", _ON_REQUEST, "github.com/allenai/medicat", "medcap prepare medicat"),
    "medgrit": Elsewhere(
        "Med-GRIT-270k: referring and grounding", _ON_REQUEST, "github.com/ShawnHuang497/BiRD", "medcap prepare medgrit"
    ),
    "padchest-gr": Elsewhere(
        "PadChest-GR: sentences of reports with boxes", _ON_REQUEST, "bimcv.cipf.es", "medcap prepare padchest-gr"
    ),
    "ms-cxr": Elsewhere(
        "MS-CXR: phrases with boxes", _AFTER_TRAINING, "physionet.org/content/ms-cxr", "medcap prepare ms-cxr"
    ),
    "vindr-cxr": Elsewhere(
        "VinDr-CXR: findings with boxes", _AFTER_TRAINING, "physionet.org/content/vindr-cxr", "medcap prepare vindr-cxr"
    ),
}
