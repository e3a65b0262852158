"""Lets ``import medcap`` find the package from the folder that holds this clone.

Python looks beside a script and in the working directory before it looks at an editable installation. A clone named
``medcap`` that lies there would be imported as an empty package. This file loads the real package instead; it is not
installed with it.
"""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

if __name__ == "medcap":
    _root = Path(__file__).absolute().parent
    # A package that is installed as files comes first, as it would without this folder.
    _others = [entry for entry in sys.path if Path(entry or ".").resolve() != _root.parent.resolve()]
    _found = PathFinder.find_spec("medcap", _others)
    if _found is not None and _found.origin is not None:
        __file__, __path__ = _found.origin, list(_found.submodule_search_locations or [])
    else:
        # The clone's root has medcap.recipes and medcap.configs.
        __file__, __path__ = str(_root / "torchtune/medcap/__init__.py"), [str(_root / "torchtune/medcap"), str(_root)]
    if __spec__ is not None:
        __spec__.submodule_search_locations = __path__
    exec(compile(Path(__file__).read_text(encoding="utf-8"), __file__, "exec"))
