"""The judges that ``judge=<kind>`` names."""

from __future__ import annotations

from medcap.evaluation.judges.base import Judge, Reply, Verdict
from medcap.evaluation.judges.endpoint import EndpointJudge
from medcap.evaluation.judges.local import LocalJudge
from medcap.evaluation.judges.model_under_test import ModelUnderTestJudge
from medcap.evaluation.judges.reading.parsing import PARSINGS
from medcap.evaluation.judges.recorded import RecordedJudge

JUDGES: dict[str, type[Judge]] = {
    judge.kind: judge for judge in (LocalJudge, ModelUnderTestJudge, EndpointJudge, RecordedJudge)
}

__all__ = [
    "JUDGES",
    "PARSINGS",
    "EndpointJudge",
    "Judge",
    "LocalJudge",
    "ModelUnderTestJudge",
    "RecordedJudge",
    "Reply",
    "Verdict",
]
