"""``python -m medcap.demo.tune run RECIPE ...``: torchtune's ``tune``, without the line that torchao prints first."""

from __future__ import annotations

# medcap, whose package is imported before this line, hides it.
from torchtune._cli.tune import main

if __name__ == "__main__":
    main()
