"""What the user may say before a caption."""

from __future__ import annotations

import random
from collections.abc import Sequence

KINDS = ("none", "random", "fixed")
DESCRIBE = (
    "Describe this image.",
    "What does this image show?",
    "Write a caption for this medical image.",
    "Tell me what can be seen here.",
    "Summarise the findings in this image.",
    "Go through this image and report what matters.",
    "Which structures and abnormalities are visible?",
    "Put what you see into a few precise sentences.",
    "Explain this picture to a colleague.",
    "Give the modality, the body part and the findings.",
    "What would you note about this image in a report?",
    "Write down everything of medical interest in this image.",
    "How would you describe this figure to someone who cannot see it?",
    "Please report on this image.",
    "Look at the image and state the main observation.",
    "Characterise the visible abnormality, if there is one.",
    "Provide the legend that belongs under this figure.",
    "State what kind of image this is and what it demonstrates.",
    "Read this image.",
    "Describe the appearance of the tissue or organ shown.",
)
CASE_REPORT = (
    "Tell the case that this image belongs to.",
    "Write the history of the patient whose image this is.",
    "Report the case behind this image, from presentation to outcome.",
    "Which patient and which course does this image belong to?",
    "Summarise the clinical case that goes with this image.",
)


class Instructions:
    """Chooses what comes before a caption; the same choices on every run.

    Args:
        kind: ``none`` says nothing, ``random`` takes any of the list, ``fixed`` always its first.
        seed: seed of the random choice.
    """

    def __init__(self, kind: str = "none", seed: int = 0) -> None:
        if kind not in KINDS:
            raise ValueError(f"instruction {kind!r} is unknown")
        self._kind = kind
        self._random = random.Random(seed)

    def choose(self, prompts: Sequence[str]) -> str:
        """One of ``prompts``, whole, or nothing."""
        if self._kind == "none":
            return ""
        return prompts[0] if self._kind == "fixed" else self._random.choice(prompts)
