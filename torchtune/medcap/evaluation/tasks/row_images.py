"""The images of rows that have several: named in the file, or inside it."""

from __future__ import annotations

from collections.abc import Sequence

from medcap.data.images.reference import ImageRef
from medcap.datasets.published.finding import Found, Layout
from medcap.datasets.rows.parquet_rows import ImageStore
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.official import image_finder


class RowImages:
    """Finds images by their names and writes those that are inside a file.

    Args:
        found: the files.
        layout: their names.
        options: ``image_roots`` may hold images too, ``work_folder`` receives those that are in the files.
        embedded: whether images are in the files.

    Attributes:
        roots: folders that the images lie in.

    Raises:
        UserError: if images have to be written and there is no work folder.
    """

    def __init__(self, found: Found, layout: Layout, options: LoadOptions, *, embedded: bool = False) -> None:
        self._find, self.roots = image_finder(found.folder, layout.images, options.image_roots, options.view)
        self._store: ImageStore | None = None
        if embedded:
            if options.work_folder is None:
                raise UserError(
                    f"{found.source}: its images lie inside the file and need an output_dir to be written to"
                )
            self._store = ImageStore(options.work_folder)
            self._store.folder.mkdir(parents=True, exist_ok=True)
            self.roots = [self._store.folder]

    def __call__(
        self, images: Sequence[str | bytes | None], suffixes: Sequence[str] = ("",)
    ) -> tuple[list[ImageRef], str | None]:
        """Return the images of a row.

        Args:
            images: the name or the encoded content of each; None for one that is not in the file.
            suffixes: what may have to be added to a name.

        Returns:
            Those that the file has, missing ones by their expected place, and the first problem.
        """
        references, problem = [], None if images else "the file names no image"
        for number, image in enumerate(images, start=1):
            if isinstance(image, str):
                references.append(self._find.first_of(*(image + suffix for suffix in suffixes)))
                problem = problem or self._find.problem
            elif image is not None and self._store is not None:
                references.append(ImageRef(str(self._store.write(image)), self._find.view))
            else:
                problem = problem or f"the file holds no image {number}"
        return references, problem
