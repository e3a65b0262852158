"""Report a search for leaked test images to people and to programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medcap.datasets.leakage.search import FINE_FACTOR, KINDS, ImageSet, Leak, Leakage

MOST_PRINTED = 50
NOT_FOUND = "Copies that were mirrored, inverted, turned by more than a degree, cropped or padded are not looked for."
_MOST_PROBLEMS = 5


@dataclass(frozen=True)
class Findings:
    """Everything that was found.

    Attributes:
        train: the training images.
        test: the test images.
        leakage: the pairs.
        distance: that was searched within.
    """

    train: ImageSet
    test: ImageSet
    leakage: Leakage
    distance: int

    def text(self) -> str:
        """Format the findings for a terminal: what was read, the nearest training image of each leaked one, a count."""
        train, test, leakage = self.train, self.test, self.leakage
        lines = [_side("training", train), _side("test", test)]
        for images in (train, test):
            lines += [f"  cannot be read: {reason}" for _, reason in images.problems[:_MOST_PROBLEMS]]
            if images.unreadable > _MOST_PROBLEMS:
                lines.append(f"  ... and {images.unreadable - _MOST_PROBLEMS:,} more")
        lines += [f"  flat test image: {name}" for name in test.flat_names[:_MOST_PROBLEMS]]
        if not leakage.leaks:
            rule = f"{self.distance} of 64 bits, {FINE_FACTOR * self.distance} of 256"
            lines.append(f"No test image was found in the training set (distance at most {rule}). {NOT_FOUND}")
            return "\n".join(lines)
        lines += ["", *_table(_nearest(leakage.leaks)), ""]
        kinds = [leak.kind for leak in _nearest(leakage.leaks)]
        counted = ", ".join(
            f"{kinds.count(position):,} {kind}" for position, kind in enumerate(KINDS) if position in kinds
        )
        share = 100.0 * leakage.num_test / test.images
        lines.append(
            f"{leakage.num_test:,} of {test.images:,} test images ({share:.1f} %) were found in the training set:"
            f" {counted} ({leakage.num_pairs:,} pairs in all)."
        )
        if KINDS.index("look alike") in kinds:
            lines.append("Images that look alike need not be the same: look at the pairs, or lower --distance.")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the findings for a JSON file."""
        leakage = self.leakage
        return {
            "distance": {"of_64": self.distance, "of_256": FINE_FACTOR * self.distance},
            "train": _set_as_dict(self.train),
            "test": _set_as_dict(self.test),
            "leaked_test_images": leakage.num_test,
            "pairs_found": leakage.num_pairs,
            "pairs_told_apart_by_the_fine_hash": leakage.num_coarse,
            "pairs": [
                {
                    "test": leak.test,
                    "train": leak.train,
                    "kind": KINDS[leak.kind],
                    "distance": leak.distance,
                    "fine_distance": leak.fine_distance,
                }
                for leak in leakage.leaks
            ],
        }


def _side(label: str, images: ImageSet) -> str:
    parts = [f"{images.images:,} images"]
    if images.unreadable:
        parts.append(f"{images.unreadable:,} more that cannot be read")
    if images.flat:
        parts.append(f"{images.flat:,} of one colour, not compared")
    return f"{label}: {images.source}: {', '.join(parts)}"


def _nearest(leaks: list[Leak]) -> list[Leak]:
    first: dict[str, Leak] = {}
    for leak in leaks:
        first.setdefault(leak.test, leak)
    return list(first.values())


def _table(leaks: list[Leak]) -> list[str]:
    shown = leaks[:MOST_PRINTED]
    width = max(len("test image"), *(len(leak.test) for leak in shown))
    lines = [f"{'kind':<11}  {'of 64':>5}  {'of 256':>6}  {'test image':<{width}}  nearest training image"]
    lines += [
        f"{KINDS[leak.kind]:<11}  {leak.distance:>5}  {leak.fine_distance:>6}  {leak.test:<{width}}  {leak.train}"
        for leak in shown
    ]
    if len(leaks) > len(shown):
        lines.append(f"... and {len(leaks) - len(shown):,} more test images: --json OUT lists all")
    return lines


def _set_as_dict(images: ImageSet) -> dict[str, Any]:
    return {
        "source": images.source,
        "images": images.images,
        "unreadable": images.unreadable,
        "unreadable_images": [{"image": name, "reason": reason} for name, reason in images.problems],
        "flat": images.flat,
        "flat_images": images.flat_names,
    }
