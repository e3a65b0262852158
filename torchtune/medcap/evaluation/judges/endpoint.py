"""A judge behind any server that speaks OpenAI's chat completions."""

from __future__ import annotations

from medcap.evaluation.judges.base import Judge
from medcap.language_models.endpoint import Endpoint


class EndpointJudge(Endpoint, Judge):
    """Asks a server for verdicts, greedily; see :class:`Endpoint` for the arguments.

    Example:
        >>> judge = EndpointJudge("Llama-3.1-70B-Instruct", "http://localhost:8000/v1", concurrency=32)
        >>> judge.judge(answers, lambda place, verdict: print(answers[place].question.id, verdict.value))
    """
