import pytest

from medcap.evaluation.tasks.registry import TASKS


@pytest.mark.parametrize(
    ("task", "harnesses"),
    [
        ("medxpertqa", {"vlmevalkit": "", "medevalkit": "medxpertqa"}),
        ("medframeqa", {"medevalkit": "medframeqa"}),
        ("gmai_mmbench", {"vlmevalkit": ""}),
        ("mmmu_med", {"vlmevalkit": ""}),
    ],
)
def test_the_harnesses_that_define_a_benchmark_score_it_by_default(task, harnesses):
    plans = {plan.protocol.name: plan.protocol for plan in TASKS[task]().plan("direct")}
    found = {name: getattr(protocol, "_dataset", "") for name, protocol in plans.items() if name.endswith("evalkit")}
    assert found == harnesses
