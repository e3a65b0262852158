"""The model under test as its own judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from medcap.checkpoints.build_model import ModelPlan, choose_device, choose_dtype, open_model
from medcap.checkpoints.keys import ModelConfiguration
from medcap.data.images.reader import ImageReader
from medcap.data.row_layouts import PLACEHOLDER
from medcap.errors import UserError
from medcap.evaluation.judges.base import Judge
from medcap.generation.generator import Generator
from medcap.generation.prompt import question_request
from medcap.generation.request import Generation, Request, Sampling
from medcap.language_models.base import OnReply, Reply


class ModelUnderTestJudge(Judge):
    """Asks the language model of the run under evaluation, with text only and without adapters.

    Args:
        cfg: names the model.
        plan: plan of this configuration; its weights are read at the first question.
        settings: what decides its replies: weights and template, as the recipe names them.
        max_new_tokens: most tokens of a reply.
        batch_size: prompts that are decoded together.
        progress: show the progress on stderr.
    """

    kind: ClassVar[str] = "self"

    def __init__(
        self,
        cfg: ModelConfiguration,
        plan: ModelPlan,
        settings: Mapping[str, Any],
        max_new_tokens: int = 200,
        batch_size: int = 16,
        progress: bool = True,
    ) -> None:
        self._cfg = cfg
        self._dtype = choose_dtype(cfg.dtype, choose_device(cfg.device))
        self._plan = plan
        self._settings = dict(settings)
        self._sampling = Sampling(max_new_tokens=max_new_tokens)
        self._batch_size = batch_size
        self._progress = progress

    @property
    def name(self) -> str:
        return self.kind

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._settings, "dtype": str(self._dtype), "max_new_tokens": self._sampling.max_new_tokens}

    def ask(self, prompts: Sequence[str], on_reply: OnReply) -> None:
        generator = self._generator
        numbers: list[int] = []
        lengths: list[int] = []
        requests: list[Request] = []
        for number, prompt in enumerate(prompts):
            # medcap 2024's own data writes the placeholder like this.
            request = question_request(None, prompt.replace(PLACEHOLDER, "(1)"), str(number))
            try:
                num_tokens = len(generator.tokenizer.prompt(request.messages).tokens)
            except UserError as error:
                on_reply(number, Reply("", "error", error=str(error)))
                continue
            if num_tokens >= generator.max_seq_len:
                error = f"the prompt has {num_tokens} tokens; the judge reads and writes at most"
                on_reply(number, Reply("", "error", error=f"{error} {generator.max_seq_len}"))
                continue
            numbers.append(number)
            lengths.append(num_tokens)
            requests.append(request)

        def on_result(index: int, generation: Generation) -> None:
            text, count = generation.text, len(generation.tokens)
            on_reply(numbers[index], Reply(text, generation.finish, count, generation.error, lengths[index]))

        generator.generate(requests, self._sampling, on_result)

    @cached_property
    def _generator(self) -> Generator:
        # The language model that everyone has, as the docstring says: adapters are of the run under test.
        opened = open_model(self._cfg, self._plan.base())
        reader = ImageReader([Path.cwd()])
        return Generator(
            opened.model, opened.tokenizer, opened.preprocess, reader, self._batch_size, progress=self._progress
        )
