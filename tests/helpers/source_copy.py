"""A copy of the package's source that can be changed and used, and what runs programs with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from helpers.warm_start import WarmStart

REPOSITORY = Path(__file__).parents[2]
_FILE = re.compile(r'^```python title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_PATCH = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(page: Path) -> dict[str, str]:
    """Return a page's second-level sections: heading -> text."""
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


class SourceCopy:
    """A copy of the source in a folder of its own.

    Args:
        folder: where it is made.
        server: that starts programs.
    """

    def __init__(self, folder: Path, server: WarmStart) -> None:
        self.folder, self._server, self._number = folder, server, 0
        # Compiled files come along: their times are those of the source, so they stay valid.
        for name in ("torchtune", "recipes", "configs"):
            shutil.copytree(REPOSITORY / name, folder / name)
        for name in ("recipes", "configs"):
            (folder / "torchtune" / "medcap" / name).symlink_to(folder / name)

    def apply(self, section: str) -> None:
        """Write the new files of a section and apply its patches.

        Raises:
            AssertionError: if there is none of either, a new file exists already, or a patch does not fit.
        """
        files, patches = _FILE.findall(section), _PATCH.findall(section)
        assert files and patches
        for name, content in files:
            path = self.folder / name
            assert not path.exists(), f"{name} is not new"
            path.write_text(content, encoding="utf-8")
        for patch in patches:
            environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
            done = subprocess.run(
                ["git", "apply", "-"],
                input=patch,
                cwd=self.folder,
                env=environment | {"GIT_CEILING_DIRECTORIES": str(self.folder.parent)},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr

    def run(self, program: str, *arguments: str) -> str:
        """Run Python text with this copy in place of the installed package.

        Args:
            program: Python text; ``medcap`` is the copy in it.
            arguments: what it finds in ``sys.argv``.

        Returns:
            What it printed on both streams.

        Raises:
            AssertionError: if it fails.
        """
        locations = [str(self.folder / "torchtune"), str(REPOSITORY / "tests")]
        # The warm server has imported the libraries, and the other medcap with what tests have of it.
        start = (
            f"import sys; sys.path[:0] = {locations}\n"
            "for name in list(sys.modules):\n"
            "    if name.partition('.')[0] in ('medcap', 'helpers') or 'test_' in name or 'conftest' in name:\n"
            "        del sys.modules[name]\n"
            f"import medcap; assert medcap.__file__.startswith({str(self.folder)!r}), medcap.__file__\n"
        )
        self._number += 1
        done = self._server.program(
            self.folder.parent / f"printed_{self._number}",
            start + program,
            *arguments,
            folder=self.folder,
            environment={"PYTHONPATH": os.pathsep.join(locations)},
        )
        status, printed = done.wait(), done.errors.read_text() + done.printed()
        assert status == [0], printed
        return printed
