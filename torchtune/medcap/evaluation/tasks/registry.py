"""The tasks that ``test_<name>=true`` runs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from medcap.errors import UserError
from medcap.evaluation.tasks.base import Task
from medcap.evaluation.tasks.captions.caption import CaptionTask
from medcap.evaluation.tasks.captions.iu_xray import IuXrayTask
from medcap.evaluation.tasks.captions.rocov2 import Rocov2Task
from medcap.evaluation.tasks.choices.gmai_mmbench import GmaiMmBenchTask
from medcap.evaluation.tasks.choices.medframeqa import MedFrameQaTask
from medcap.evaluation.tasks.choices.medxpertqa import MedXpertQaTask
from medcap.evaluation.tasks.choices.mmmu_med import MmmuMedTask
from medcap.evaluation.tasks.choices.omnimedvqa import OmniMedVqaTask
from medcap.evaluation.tasks.choices.pmcvqa import PmcVqaTask
from medcap.evaluation.tasks.questions.chat import ChatTask
from medcap.evaluation.tasks.questions.pathvqa import PathVqaTask
from medcap.evaluation.tasks.questions.radrestruct import RadReStructTask
from medcap.evaluation.tasks.questions.slake import SlakeTask
from medcap.evaluation.tasks.questions.vqa import VqaTask
from medcap.evaluation.tasks.questions.vqamed import VqaMedTask
from medcap.evaluation.tasks.questions.vqarad import VqaRadTask
from medcap.evaluation.tasks.regions.coloninst import ColonInstTask
from medcap.evaluation.tasks.regions.grounding import GroundingTask
from medcap.evaluation.tasks.regions.mecovqa import MecovqaTask
from medcap.evaluation.tasks.regions.medgrit import MedGritTask
from medcap.evaluation.tasks.regions.medsg import MedSgTask
from medcap.evaluation.tasks.regions.pixel_grounding import PixelGroundingTask
from medcap.evaluation.tasks.regions.region_vqa import RegionVqaTask
from medcap.evaluation.tasks.regions.slake_boxes import SlakeBoxesTask

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        CaptionTask,
        OmniMedVqaTask,
        VqaRadTask,
        SlakeTask,
        PathVqaTask,
        PmcVqaTask,
        VqaMedTask,
        VqaTask,
        ColonInstTask,
        MedGritTask,
        SlakeBoxesTask,
        GroundingTask,
        MedSgTask,
        PixelGroundingTask,
        MecovqaTask,
        RegionVqaTask,
        MedXpertQaTask,
        MedFrameQaTask,
        MmmuMedTask,
        GmaiMmBenchTask,
        RadReStructTask,
        IuXrayTask,
        Rocov2Task,
        ChatTask,
    )
}
ALIASES = {"metrics": "caption"}
_PREFIX = "test_"
_NOT_TASKS = ("test_chunk", "test_chunk_idx")


def requested_tasks(config: Mapping[str, Any]) -> list[str]:
    """Return which tasks a configuration asks for.

    Args:
        config: its keys; ``test_<task>: true`` asks for a task, ``test_metrics`` for ``caption``.

    Returns:
        The names in the order of ``TASKS``, each once.

    Raises:
        UserError: if a key asks for a task that does not exist, or its value is not true or false.
    """
    wanted = set()
    for key, value in config.items():
        if not str(key).startswith(_PREFIX) or key in _NOT_TASKS or value is None or value is False:
            continue
        if value is not True:
            raise UserError(f"{key}={value!r} must be true or false")
        name = key.removeprefix(_PREFIX)
        name = ALIASES.get(name, name)
        if name not in TASKS:
            known = [_PREFIX + task for task in (*TASKS, *ALIASES)]
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"{key}: there is no task of that name; {hint}")
        wanted.add(name)
    return [name for name in TASKS if name in wanted]
