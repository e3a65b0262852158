"""A region of one image on another image of another size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medcap.data.boxes.box import Size
from medcap.data.regions.region import BoxShape, MaskFile, PointShape, PolygonShape, Region, RunLength
from medcap.data.regions.run_length import decode, encode


def scale_region(region: Region, old: Size, new: Size) -> Region:
    """Return a region that covers the same share of an image of another size.

    Args:
        region: a mask of a file stays as it is.
        old: width and height of its image in pixels.
        new: width and height of the other image.
    """
    if old == new:
        return region
    across, down = new[0] / old[0], new[1] / old[1]
    match region.shape:
        case BoxShape(edges=(left, top, right, bottom)):
            shape = BoxShape((left * across, top * down, right * across, bottom * down))
        case PointShape(x=x, y=y, radius=radius):
            shape = PointShape(x * across, y * down, radius * (across * down) ** 0.5)
        case PolygonShape(points=points):
            shape = PolygonShape(tuple((x * across, y * down) for x, y in points))
        case RunLength(size=size, counts=counts):
            mask = decode({"size": list(size), "counts": counts})
            rows = (np.arange(new[1]) + 0.5) * mask.shape[0] / new[1]
            columns = (np.arange(new[0]) + 0.5) * mask.shape[1] / new[0]
            resized = encode(mask[np.ix_(rows.astype(np.int64), columns.astype(np.int64))])
            shape = RunLength((new[1], new[0]), resized["counts"])
        case MaskFile():
            return region
    return replace(region, shape=shape)
