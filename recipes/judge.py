"""Have a language model say which answers are right, or talk to it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medcap.checkpoints.build_model import MODEL_KEYS, choose_device, plan_model
from medcap.configuration import Component, Section, Value, check, recipe
from medcap.errors import UserError
from medcap.evaluation.judges import JUDGES, PARSINGS, EndpointJudge, Judge, LocalJudge, ModelUnderTestJudge
from medcap.evaluation.judges.chat import chat
from medcap.evaluation.judges.inputs import read_judged
from medcap.evaluation.judges.reading.parsing import STRICT
from medcap.evaluation.judges.verdicts import VERDICTS_FILE, judge_answers
from medcap.evaluation.predictions import checkpoint_fingerprint

DEFAULT_BITS = 4
# medcap 2024's names, and the word for a file that is no CSV.
ALIASES = {"ckpt_dir": "checkpoint_dir", "bit": "bits", "predictions": "csv_path"}
# Keys without a default, which show what was meant: with another judge they are a mistake.
OWN_KEYS = {"local": ("checkpoint_dir", "bits"), "self": (), "endpoint": ("base_url", "model", "api_key", "request")}


def _optional(rule: Value | Component | Section) -> Value | Component | Section:
    if isinstance(rule, Section):
        return Section({name: _optional(inner) for name, inner in rule.keys.items()})
    if isinstance(rule, Component):
        return rule if rule.default else replace(rule, optional=True)
    return replace(rule, default=None) if rule.default is ... else rule


KEYS = {name: _optional(rule) for name, rule in MODEL_KEYS.items()} | {
    "exp": Value((str,), "eval_vqa", choices=("eval_vqa", "chat")),
    "judge": Value((str,), LocalJudge.kind, choices=tuple(JUDGES)),
    "csv_path": Value((str,), None, is_path=True),
    "predictions": Value((str,), None, is_path=True),
    "output_dir": Value((str,), None, is_path=True),
    "parsing": Value((str,), STRICT, choices=tuple(PARSINGS)),
    "limit": Value((int,), None, minimum=1),
    "overwrite": Value((bool,), False),
    "keep_old_answers": Value((bool,), False),
    "max_new_tokens": Value((int,), 200, minimum=1),
    "batch_size": Value((int,), 16, minimum=1),
    "checkpoint_dir": Value((str,), None, is_path=True),
    "ckpt_dir": Value((str,), None, is_path=True),
    "bits": Value((int,), None),
    "bit": Value((int,), None),
    "base_url": Value((str,), None),
    "model": Value((str,), None),
    # A number is taken too: the message about a wrong type would show it.
    "api_key": Value((str, int), None),
    "api_key_env": Value((str,), "OPENAI_API_KEY"),
    "timeout": Value((float,), 60.0, minimum=0.001, maximum=1_000_000),
    "retries": Value((int,), 3, minimum=0),
    "concurrency": Value((int,), 8, minimum=1),
    "request": Value((dict,), None),
}


class JudgeRecipe:
    """Judge answers with a language model.

    Features:
        - ``exp=eval_vqa``: verdicts RIGHT or WRONG for ``csv_path``, medcap 2024's raw CSV, a predictions.jsonl or
          any file of answers; verdicts, scores and, for a CSV, the judged CSV go to ``output_dir``. A run that was
          killed goes on where it stopped.
        - ``exp=chat``: a conversation with the judge's model on the terminal.
        - ``judge=local``: a Hugging Face checkpoint in 4, 8 or 16 bit; ``judge=self``: the model under test;
          ``judge=endpoint``: any server that speaks OpenAI's chat completions.

    Args:
        cfg: checked against ``KEYS``.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = _resolve_aliases(cfg)
        for judge, key in [(judge, key) for judge, keys in OWN_KEYS.items() for key in keys]:
            if judge != cfg.judge and cfg[key] is not None:
                raise UserError(
                    f"{key} goes with judge={judge}, not with judge={cfg.judge}: set judge={judge} or drop it"
                )
        if cfg.exp == "eval_vqa" and cfg.csv_path is None:
            raise UserError(
                "csv_path is missing: add csv_path=FILE (medcap 2024's raw CSV, a predictions.jsonl, answers in JSON),"
                " or exp=chat"
            )
        if cfg.exp == "chat" and cfg.csv_path is not None:
            raise UserError("csv_path goes with exp=eval_vqa, not with exp=chat: drop one of them")

    def setup(self) -> None:
        """Check the answers and the judge; weights are read at the first question.

        Raises:
            UserError: if anything that the configuration names is missing or does not fit.
        """
        cfg = self.cfg
        self.answers = [] if cfg.csv_path is None else read_judged(cfg.csv_path)[: cfg.limit]
        self.judge: Judge = {"local": self._local, "self": self._self, "endpoint": self._endpoint}[cfg.judge]()

    def run(self) -> None:
        """Judge all answers, or chat."""
        cfg = self.cfg
        if cfg.exp == "chat":
            chat(self.judge)
            return
        source = Path(cfg.csv_path)
        self.output_dir = source.parent if cfg.output_dir is None else Path(cfg.output_dir)
        metrics = judge_answers(
            self.judge,
            self.answers,
            self.output_dir,
            source=source,
            parsing=cfg.parsing,
            overwrite=cfg.overwrite,
            keep_old=cfg.keep_old_answers,
        )
        self._show(metrics)

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
            cfg.checkpoint_dir, bits, choose_device(cfg.device), cfg.dtype, cfg.max_new_tokens, cfg.batch_size
        )

    def _self(self) -> ModelUnderTestJudge:
        cfg = self.cfg
        given = OmegaConf.to_container(cfg)
        model = check(OmegaConf.create({name: given[name] for name in MODEL_KEYS}), MODEL_KEYS)
        plan = plan_model(model)
        settings = {"llm": given["llm"], "checkpoint_dir": given["checkpointer"]["checkpoint_dir"]}
        settings |= {name: given[name] for name in ("vision", "vision_checkpoint", "llm_weights")}
        if cfg.vision_checkpoint is not None:
            settings["vision_checkpoint_sha256"] = checkpoint_fingerprint(cfg.vision_checkpoint)
        return ModelUnderTestJudge(model, plan, settings, cfg.max_new_tokens, cfg.batch_size)

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
            request=None if cfg.request is None else OmegaConf.to_container(cfg.request),
        )


def _resolve_aliases(cfg: DictConfig) -> DictConfig:
    for alias, name in ALIASES.items():
        if cfg[alias] is None:
            continue
        if cfg[name] not in (None, cfg[alias]):
            raise UserError(f"{alias}={cfg[alias]} and {name}={cfg[name]} are two names of one key: give one of them")
        cfg[name], cfg[alias] = cfg[alias], None
    return cfg


@recipe(KEYS)
def recipe_main(cfg: DictConfig) -> None:
    """Entry point: ``tune run medcap/recipes/judge --config CONFIG [key=value ...]``."""
    judge = JudgeRecipe(cfg)
    judge.setup()
    try:
        judge.run()
    except KeyboardInterrupt:
        print("\nmedcap: stopped; verdicts so far are kept, the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    sys.exit(recipe_main())
