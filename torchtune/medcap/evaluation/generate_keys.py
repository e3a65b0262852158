"""The keys of a generation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from medcap.checkpoints.keys import RunModelConfiguration
from medcap.configuration import HOME_EXPANDED, Number, OneOf, PathText, Seed
from medcap.datasets.view_keys import ViewRule
from medcap.evaluation.prompting import VQA_TYPES
from medcap.legacy.prompt import PROMPT_FORMATS


class GenerateConfiguration(RunModelConfiguration):
    """Keys of a generation; ``test_TASK: true`` also runs a task."""

    output_dir: PathText = Field(description="Folder of the results; each task has a folder in it.")
    image: Annotated[str | list[str] | None, HOME_EXPANDED] = Field(
        None, description="Image file, or several, to describe or to ask about."
    )
    prompt: str | None = Field(None, description="Question about the image; null asks for a caption.")
    dataset_source: PathText | None = Field(
        None, description="Data file of the tasks, or the folder that holds the benchmarks' own folders."
    )
    dataset_conversation_style: str = Field("auto", description="Layout of chat rows; auto finds it.")
    dataset_max_seq_len: int = Field(1024, ge=1, description="Longest prompt and answer together, in tokens.")
    view: Annotated[dict[str, Any] | None, ViewRule()] = Field(
        None, description="How images are looked at where a row does not say it."
    )
    image_roots: Annotated[list[str] | None, HOME_EXPANDED] = Field(
        None, description="Folders that images may lie in, beside those of the benchmark."
    )
    limit: int | None = Field(None, ge=1, description="Ask only this many rows, the first ones; null asks all.")
    controls: bool | list[str] = Field(
        False, description="Controls such as other images or no image; true is all that fit, one or several by name."
    )
    prior_source: PathText | None = Field(
        None,
        description="Training answers of the controls prior_box and prior_mask; null is what the run was trained on.",
    )
    mask_from_boxes: PathText | None = Field(
        None, description="Folder of a SAM that gives the masks of the boxes in answers; null gives none."
    )
    max_new_tokens: int = Field(300, ge=1, description="Longest answer, in tokens.")
    temperature: Number = Field(0.0, ge=0, description="Divisor of the logits in sampling; 0 is greedy.")
    top_k: int | None = Field(None, ge=1, description="Sample from this many of the likeliest tokens; null from all.")
    top_p: Number | None = Field(
        None, gt=0, le=1, description="Sample from the likeliest tokens that have this probability together."
    )
    seed: Seed = Field(1234, description="Seed of the sampling.")
    batch_size: int = Field(16, ge=1, description="Answers that are decoded together.")
    max_batch_tokens: int | None = Field(
        None, ge=1, description="Most tokens of a batch, where lengths differ much; null sets no limit."
    )
    compile: bool | None = Field(
        None,
        description="Compile the decoding step; null does on CUDA. On a CPU: for batch_size=1, with a C++ compiler.",
    )
    cuda_graphs: bool = Field(
        False, description="Capture decoding steps as CUDA graphs, which saves launches; not yet measured on a card."
    )
    overwrite: bool = Field(False, description="Start a task again rather than go on from its answers.")
    keep_old_answers: bool = Field(False, description="Keep answers that were made under other settings.")
    router_output: bool = Field(
        False, description="Write each expert's share of an answer into its row, of a run with llm_lora.experts."
    )
    debug: bool = Field(False, description="Print each prompt and answer to standard error.")
    protocols: str | list[str] | None = Field(
        None, description="Scoring rules, one or several, such as medevalkit@564d279; null takes the task's own."
    )
    vqa_type: Annotated[str, OneOf(VQA_TYPES)] = Field("direct", description="How a free answer is asked for.")
    prompt_format: Annotated[str, OneOf(PROMPT_FORMATS)] = Field(
        "chat", description="Template of the prompts; medcap_2024 writes its markers as plain text."
    )
    modalities: str | list[str] | None = Field(
        None, description="Modalities of OmniMedVQA: all, one or several; null is medcap 2024's eight."
    )
    test_chunk: int | None = Field(None, description="Number of parts that OmniMedVQA is cut into; null or -1 is one.")
    test_chunk_idx: int | None = Field(None, description="Part of OmniMedVQA to run, counted from 0.")
    split: Annotated[str, OneOf(("validation", "test"))] = Field(
        "test", description="Part of a benchmark of boxes: validation or test, as far as it has both."
    )
    subtasks: str | list[str] | None = Field(
        None, description="Kinds of questions of a benchmark of boxes, such as REC; null asks all."
    )
    absent: int = Field(
        0, ge=0, description="Questions an image about objects that it does not show, of a benchmark of boxes."
    )
    results_csv: PathText | None = Field(
        None, description="Table that gets a line for each task of each run; null is results.csv in output_dir."
    )
