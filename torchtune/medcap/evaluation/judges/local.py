"""A judge on this machine."""

from __future__ import annotations

from medcap.evaluation.judges.base import Judge
from medcap.language_models.local import LocalModel


class LocalJudge(LocalModel, Judge):
    """Asks a Hugging Face checkpoint for verdicts, greedily; see :class:`LocalModel` for the arguments.

    Example:
        >>> judge = LocalJudge("./models/llama3/Meta-Llama-3.1-70B-Instruct", bits=4, device=torch.device("cuda"))
        >>> judge.judge(answers, lambda place, verdict: print(answers[place].question.id, verdict.value))
    """
