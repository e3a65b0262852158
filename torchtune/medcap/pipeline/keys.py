"""The keys of a pipeline's YAML file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from medcap.configuration import Configuration, NamedSections, PathText


class StageKeys(Configuration):
    """One stage: a recipe with its configuration, or another command of medcap."""

    recipe: str = Field("medcap/recipes/full_finetune_single_device", description="Recipe that the stage runs.")
    config: PathText | None = Field(None, description="Configuration of the recipe.")
    output_dir: PathText | None = Field(
        None, description="Folder of the stage; null: the stage's name within output_dir."
    )
    processes: int = Field(1, ge=1, description="Number of processes, one for each GPU.")
    overrides: dict[str, Any] = Field({}, description="Keys of the configuration that the stage overrides.")
    command: list[str] | None = Field(None, description="Words of a medcap command to run instead of a recipe.")


class PipelineConfiguration(Configuration):
    """Keys of a pipeline."""

    output_dir: PathText = Field(
        description="Folder of the pipeline: its stages' folders and the record of which are done."
    )
    stages: Annotated[dict[str, Any], NamedSections(StageKeys)] = Field(
        description="Stages in running order: name -> config and overrides; ${stages.NAME.output_dir} is its folder."
    )
