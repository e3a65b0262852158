"""Have a language model say which answers are right, rate them beside reference answers, or talk to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from medcap.checkpoints.build_model import plan_model
from medcap.checkpoints.run import with_language_model
from medcap.entry_point import recipe
from medcap.errors import UserError
from medcap.evaluation.judge_keys import JudgeConfiguration
from medcap.evaluation.judges import EndpointJudge, Judge, LocalJudge, ModelUnderTestJudge, RecordedJudge
from medcap.evaluation.judges.chat import chat
from medcap.evaluation.judges.inputs import read_chat_answers, read_judged
from medcap.evaluation.judges.ratings import rate_answers
from medcap.evaluation.judges.verdicts import VERDICTS_FILE, judge_answers
from medcap.evaluation.predictions import checkpoint_fingerprint
from medcap.evaluation.rating_report import append_ratings, rating_page, rating_summary
from medcap.evaluation.shared.team import Team
from medcap.processes import join_processes, silent_if_reported

DEFAULT_BITS = 4
# The key names of medcap 2024, and the name used for a file that is not CSV.
ALIASES = {"ckpt_dir": "checkpoint_dir", "bit": "bits", "predictions": "csv_path"}
# Keys without a default, which show what was meant: with another judge they are a mistake.
OWN_KEYS = {
    "local": ("checkpoint_dir", "bits"),
    "self": (),
    "endpoint": ("base_url", "model", "api_key", "request"),
    "recorded": ("replies",),
}
# Keys of rating answers, with their defaults.
RATING_KEYS = {"question_file": None, "orders": "published", "results_csv": None}


class JudgeRecipe:
    """Judge answers with a language model.

    Features:
        - ``exp=eval_vqa``: verdicts RIGHT or WRONG for ``csv_path``, medcap 2024's raw CSV, a predictions.jsonl or
          any file of answers; verdicts, scores and, for a CSV, the judged CSV go to ``output_dir``. A run that was
          killed continues where it stopped.
        - ``exp=eval_chat``: scores of 1 to 10 for each answer and its reference answer, as LLaVA-Med's evaluation of
          conversations has them, and relative scores by question type and domain; replies, scores and a page go to
          ``output_dir``.
        - ``exp=chat``: a conversation with the judge's model on the terminal.
        - ``judge=local``: a Hugging Face checkpoint in 4, 8 or 16 bit; ``judge=self``: the model under test;
          ``judge=endpoint``: any server that speaks OpenAI's chat completions; ``judge=recorded``: replies of a file.
        - Several processes (``tune run --nproc_per_node N``, also on several nodes with one ``output_dir``): each takes
          answers from a common queue; the first one writes the files, which are those of one process.

    Args:
        cfg: checked.
    """

    def __init__(self, cfg: JudgeConfiguration) -> None:
        self.cfg = _resolve_aliases(cfg)
        for judge, key in [(judge, key) for judge, keys in OWN_KEYS.items() for key in keys]:
            if judge != cfg.judge and getattr(cfg, key) is not None:
                raise UserError(
                    f"{key} goes with judge={judge}, not with judge={cfg.judge}: set judge={judge} or drop it"
                )
        for key, default in RATING_KEYS.items():
            if cfg.exp != "eval_chat" and getattr(cfg, key) != default:
                raise UserError(f"{key} goes with exp=eval_chat, not with exp={cfg.exp}: set exp=eval_chat or drop it")
        if cfg.exp != "chat" and cfg.csv_path is None:
            raise UserError(
                "csv_path is missing: add csv_path=FILE (medcap 2024's raw CSV, a predictions.jsonl, answers in JSON),"
                " or exp=chat"
            )
        if cfg.exp == "chat" and cfg.csv_path is not None:
            raise UserError("csv_path goes with exp=eval_vqa or eval_chat, not with exp=chat: drop one of them")
        if cfg.exp == "chat" and cfg.judge == RecordedJudge.kind:
            raise UserError("judge=recorded has replies to known prompts only: chat with judge=local, self or endpoint")

    def setup(self) -> None:
        """Check the answers and the judge; weights are read at the first question.

        Raises:
            UserError: if anything that the configuration names is missing or does not fit.
        """
        cfg = self.cfg
        self.processes = join_processes("cpu" if cfg.judge == EndpointJudge.kind else cfg.device)
        if cfg.exp != "eval_vqa" and self.processes.size > 1:
            raise UserError(f"exp={cfg.exp} is for one process: leave out --nproc_per_node")
        if cfg.csv_path is None:
            self.answers = []
        elif cfg.question_file is None:
            self.answers = read_judged(cfg.csv_path)[: cfg.limit]
        else:
            self.answers = read_chat_answers(cfg.csv_path, cfg.question_file)[: cfg.limit]
        judges = {"local": self._local, "self": self._self, "endpoint": self._endpoint, "recorded": self._recorded}
        self.judge: Judge = judges[cfg.judge]()

    def run(self) -> None:
        """Judge or rate all answers, or chat."""
        cfg = self.cfg
        if cfg.exp == "chat":
            chat(self.judge)
            return
        assert cfg.csv_path is not None, "asked for at the start"
        source = Path(cfg.csv_path)
        self.output_dir = source.parent if cfg.output_dir is None else Path(cfg.output_dir)
        if cfg.exp == "eval_chat":
            self._rate(source)
            return
        metrics = judge_answers(
            self.judge,
            self.answers,
            self.output_dir,
            source=source,
            parsing=cfg.parsing,
            overwrite=cfg.overwrite,
            keep_old=cfg.keep_old_answers,
            team=Team(self.processes, batch=cfg.batch_size) if not self._alone else None,
        )
        if metrics is not None:
            self._show(metrics)

    def _rate(self, source: Path) -> None:
        cfg = self.cfg
        metrics, rows = rate_answers(
            self.judge,
            self.answers,
            self.output_dir,
            source=source,
            orders=cfg.orders,
            overwrite=cfg.overwrite,
            keep_old=cfg.keep_old_answers,
        )
        page = rating_page(metrics, self.answers, rows, f"Judged conversations: {source.parent.name}")
        page.write(self.output_dir / "ratings.html")
        append_ratings(metrics, self.output_dir, source, None if cfg.results_csv is None else Path(cfg.results_csv))
        print(rating_summary(metrics))
        print(f"  {self.output_dir / 'ratings.html'}")

    def _show(self, metrics: dict[str, Any]) -> None:
        counts = ", ".join(f"{metrics[name]} {name}" for name in ("right", "wrong", "unparsed", "failures"))
        print(f"{metrics['judge']}: {metrics['n']} answers, {counts} ({metrics['protocol']})")
        for name, value in metrics["scores"].items():
            interval = metrics["intervals"].get(name)
            bounds = f"  [{interval['low']:.4f}, {interval['high']:.4f}]" if interval else ""
            print(f"  {name:<24} {value:.4f}{bounds}")
        for notice in metrics["notices"]:
            print(f"  note: {notice}")
        print(f"  {self.output_dir / metrics.get('csv', VERDICTS_FILE)}")

    def _local(self) -> LocalJudge:
        cfg = self.cfg
        if cfg.checkpoint_dir is None:
            raise UserError(
                "checkpoint_dir is missing: add checkpoint_dir=FOLDER of the judge's Hugging Face model, or judge=self,"
                " or judge=endpoint with base_url and model"
            )
        bits = DEFAULT_BITS if cfg.bits is None else cfg.bits
        return LocalJudge(
            cfg.checkpoint_dir, bits, self.processes.device, cfg.dtype, cfg.max_new_tokens, cfg.batch_size, self._alone
        )

    def _self(self) -> ModelUnderTestJudge:
        cfg = self.cfg
        cfg, model = with_language_model(cfg)
        plan = plan_model(model)
        settings: dict[str, Any] = {"llm": model.llm, "checkpoint_dir": model.checkpointer.checkpoint_dir}
        settings |= model.model_dump(include={"vision", "vision_checkpoint", "llm_weights"})
        if cfg.vision_checkpoint is not None:
            settings["vision_checkpoint_sha256"] = checkpoint_fingerprint(cfg.vision_checkpoint)
        model = model.model_copy(update={"device": str(self.processes.device)})
        return ModelUnderTestJudge(model, plan, settings, cfg.max_new_tokens, cfg.batch_size, self._alone)

    def _recorded(self) -> RecordedJudge:
        if self.cfg.replies is None:
            raise UserError(
                "replies is missing: add replies=FILE, JSON or JSONL with question_id and reply in each row"
            )
        return RecordedJudge(self.cfg.replies)

    def _endpoint(self) -> EndpointJudge:
        cfg = self.cfg
        if cfg.model is None:
            raise UserError("model is missing: add model=NAME as the endpoint's server names it")
        return EndpointJudge(
            cfg.model,
            cfg.base_url,
            None if cfg.api_key is None else str(cfg.api_key),
            cfg.api_key_env,
            cfg.max_new_tokens,
            cfg.timeout,
            cfg.retries,
            cfg.concurrency,
            request=cfg.request,
            progress=self._alone,
        )

    @property
    def _alone(self) -> bool:
        """Whether this process judges everything; several show how far they are together."""
        return self.processes.size == 1


def _resolve_aliases(cfg: JudgeConfiguration) -> JudgeConfiguration:
    for alias, name in ALIASES.items():
        second, first = getattr(cfg, alias), getattr(cfg, name)
        if second is None:
            continue
        if first not in (None, second):
            raise UserError(f"{alias}={second} and {name}={first} are two names of one key: give one of them")
        setattr(cfg, name, second)
        setattr(cfg, alias, None)
    return cfg


@recipe(JudgeConfiguration)
def recipe_main(cfg: JudgeConfiguration) -> None:
    """Entry point: ``tune run [--nproc_per_node N] medcap/recipes/judge --config CONFIG [key=value ...]``."""
    judge = JudgeRecipe(cfg)
    try:
        with silent_if_reported():
            judge.setup()
            judge.run()
    except KeyboardInterrupt:
        print("\nmedcap: stopped; verdicts so far are kept, the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    sys.exit(recipe_main())
