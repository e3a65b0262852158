"""The keys of a pipeline's YAML file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from medcap.configuration import Configuration, NamedSections, PathText


class StageKeys(Configuration):
    """One stage: a recipe with its configuration, or another command of medcap."""

    recipe: str = Field("medcap/recipes/full_finetune_single_device", description="Recipe that the stage runs.")
    config: PathText | None = Field(None, description="Configuration of the recipe.")
    output_dir: PathText | None = Field(None, description="Folder of the stage; null is its name in output_dir.")
    processes: int = Field(1, ge=1, description="Processes, and so GPUs, of the recipe.")
    overrides: dict[str, Any] = Field({}, description="Keys of the configuration that the stage overrides.")
    command: list[str] | None = Field(None, description="Words of a medcap command that is run in place of a recipe.")


class PipelineConfiguration(Configuration):
    """Keys of a pipeline."""

    output_dir: PathText = Field(description="Folder of the pipeline: its stages and what is known of them.")
    stages: Annotated[dict[str, Any], NamedSections(StageKeys)] = Field(
        description="Stages in their order: name -> config and overrides; ${stages.NAME.output_dir} is its folder."
    )
