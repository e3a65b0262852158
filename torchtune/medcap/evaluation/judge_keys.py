"""The keys of a judge."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from medcap.checkpoints.keys import RunModelConfiguration
from medcap.configuration import Number, OneOf, PathText
from medcap.evaluation.judges import JUDGES, PARSINGS, LocalJudge
from medcap.evaluation.judges.reading.parsing import STRICT


class JudgeConfiguration(RunModelConfiguration):
    """Keys of a judge; those of the model are for judge=self."""

    exp: Literal["eval_vqa", "eval_chat", "chat"] = Field(
        "eval_vqa",
        description="Judge answers, rate them beside reference answers, or chat with the judge on the terminal.",
    )
    judge: Annotated[str, OneOf(tuple(JUDGES))] = Field(
        LocalJudge.kind,
        description="Who judges: a model on this machine, the model under test, a server, or recorded replies.",
    )
    csv_path: PathText | None = Field(
        None, description="Answers to judge: medcap 2024's raw CSV, a predictions.jsonl, or rows of JSON."
    )
    predictions: PathText | None = Field(None, description="Another name of csv_path.")
    output_dir: PathText | None = Field(None, description="Folder of the verdicts; null is that of the answers.")
    question_file: PathText | None = Field(
        None, description="LLaVA-Med's question file, where the answers to rate come without questions and references."
    )
    orders: Literal["published", "both"] = Field(
        "published",
        description="Order of two answers that are rated: the reference first, or also the other way round.",
    )
    results_csv: PathText | None = Field(
        None,
        description="Table that gets a line of the relative scores; null is the results.csv above the answers' folder.",
    )
    parsing: Annotated[str, OneOf(tuple(PARSINGS))] = Field(
        STRICT, description="How a verdict is read from a reply; medcap accepts any reply with right in it."
    )
    limit: int | None = Field(None, ge=1, description="Judge only this many rows, the first ones; null judges all.")
    overwrite: bool = Field(False, description="Ask for all verdicts again rather than go on.")
    keep_old_answers: bool = Field(False, description="Keep verdicts of another judge.")
    max_new_tokens: int = Field(200, ge=1, description="Longest reply of the judge, in tokens.")
    batch_size: int = Field(16, ge=1, description="Replies that are decoded together; not for judge=endpoint.")
    checkpoint_dir: PathText | None = Field(
        None, description="Hugging Face folder of the judge's model, for judge=local."
    )
    ckpt_dir: PathText | None = Field(None, description="Another name of checkpoint_dir.")
    bits: int | None = Field(None, description="Bits of a weight of the local judge: 4, 8 or 16; null is 4.")
    bit: int | None = Field(None, description="Another name of bits.")
    replies: PathText | None = Field(
        None, description="Recorded replies by question_id, in JSON or JSONL, for judge=recorded."
    )
    base_url: str | None = Field(
        None,
        description="Address of the server, for judge=endpoint; null takes that of OPENAI_BASE_URL.",
    )
    model: str | None = Field(None, description="Name of the model at the server, for judge=endpoint.")
    # A number is taken too: the message about a wrong type would show it.
    api_key: str | int | None = Field(None, description="Key of the server; it is written nowhere.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key of the server.")
    timeout: Number = Field(60.0, ge=0.001, le=1_000_000, description="Seconds to wait for a reply of the server.")
    retries: int = Field(3, ge=0, description="How often a prompt that failed is sent to the server again.")
    concurrency: int = Field(8, ge=1, description="Prompts that are sent to the server at a time.")
    request: dict[str, Any] | None = Field(None, description="Further fields of each request to the server.")
