"""Run a stage of a pipeline and measure what it took."""

from __future__ import annotations

import resource
import shutil
import time

from medcap.pipeline.definition import Stage
from medcap.pipeline.run import run_words


def run_timed(stage: Stage) -> dict[str, float]:
    """Run a stage from its start and measure its time.

    Args:
        stage: stage of a pipeline; what an earlier run left in its folder is removed.

    Returns:
        ``seconds`` of wall time and ``processor_seconds``, the processor time of all cores together.

    Raises:
        UserError: if the stage fails.
    """
    words = [*stage.words, *(["overwrite=true"] if stage.overwrites else [])]
    if stage.resumes:
        shutil.rmtree(stage.folder, ignore_errors=True)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run_words(words, f"stage {stage.name}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.monotonic() - started, 1), "processor_seconds": round(computed, 1)}
