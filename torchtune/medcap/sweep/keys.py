"""The keys of a sweep's YAML file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from medcap.configuration import ComponentRule, Configuration, PathText, Seed


class SweepObjective(Configuration):
    """The number that a trial is judged by."""

    metric: str = Field("validation_loss", description="Key of log/metrics.jsonl, or TASK.PATH into TASK/metrics.json.")
    take: Literal["last", "min", "max"] = Field("last", description="Which of the values in the log counts.")
    direction: Literal["minimize", "maximize"] = Field(description="Whether a low or a high value is good.")


class SweepTest(Configuration):
    """What each trial runs after its training."""

    recipe: str = Field("medcap/recipes/generate", description="Recipe that each trial runs after its training.")
    config: PathText | None = Field(None, description="Configuration of that recipe; null runs nothing.")
    overrides: dict[str, Any] = Field({}, description="Keys of that configuration that all trials override.")


class SweepConfiguration(Configuration):
    """Keys of a sweep."""

    output_dir: PathText = Field(description="Folder of the sweep: its trials, results.csv and report.html.")
    name: str | None = Field(None, description="Name of the study; null is that of output_dir.")
    storage: str | None = Field(
        None, description="Database that machines share, as Optuna takes it; null is a journal in output_dir."
    )
    recipe: str = Field("medcap/recipes/full_finetune_single_device", description="Recipe that each trial runs.")
    config: PathText = Field(description="Configuration of the recipe.")
    overrides: dict[str, Any] = Field({}, description="Keys of the configuration that all trials override.")
    processes_per_trial: int = Field(1, ge=1, description="Processes, and so GPUs, of one training.")
    grid: dict[str, Any] | None = Field(None, description="Key -> list of values to try; each combination is a trial.")
    search: dict[str, Any] | None = Field(
        None, description="Key -> list of values, or low, high, log and step of a range; trials draw from them."
    )
    trials: int | None = Field(None, ge=1, description="Trials of a search.")
    seed: Seed = Field(0, description="Seed of the sampler.")
    sampler: Annotated[dict[str, Any] | None, ComponentRule(optional=True, given=("seed",))] = Field(
        None, description="Sampler of a search, any of optuna.samplers; null is Optuna's TPE."
    )
    pruner: Annotated[dict[str, Any] | None, ComponentRule(optional=True)] = Field(
        None, description="Pruner that stops poor trials early, any of optuna.pruners; null stops none."
    )
    objective: SweepObjective = Field(description="The number that a trial is judged by.")
    test: SweepTest = Field(description="What each trial runs after its training.")
    workers: int | None = Field(None, ge=1, description="Trials side by side; null is one for each GPU.")
    retries: int = Field(1, ge=0, description="How often a trial that was killed is started again.")
