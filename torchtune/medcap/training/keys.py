"""The keys of the training recipes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from medcap.checkpoints.keys import ModelConfiguration
from medcap.configuration import (
    HOME_EXPANDED,
    ComponentRule,
    Configuration,
    NamedSections,
    Number,
    OneOf,
    PathText,
    SectionList,
    Seed,
)
from medcap.data.images.reader import MAX_PIXELS
from medcap.datasets.source_keys import (
    BoxAnswer,
    BoxFrame,
    BoxNotation,
    ExampleMode,
    SourceArguments,
    check_sources,
)
from medcap.datasets.view_keys import ViewRule
from medcap.errors import UserError

CHAT_DATASET = "medcap.datasets.chat_dataset"


class DatasetArguments(Configuration):
    """What the dataset's arguments may be, whatever the component says of them."""

    max_seq_len: int = Field(1024, ge=1, description="Longest sample, and the length of a packed row, in tokens.")
    max_image_pixels: int = Field(MAX_PIXELS, ge=1, description="Largest image that is opened, in pixels.")
    view: Annotated[dict[str, Any] | None, ViewRule()] = Field(
        None, description="How images are looked at where a row does not say it."
    )
    examples: ExampleMode = Field(
        None, description="Rows of example images: overlay (null) draws masks over them, separate shows them alone."
    )
    box_format: BoxNotation = Field(
        None, description="Notation of the boxes in the rows' texts; null tells them apart by marks and numbers."
    )
    box_write: BoxNotation = Field(
        None, description="Notation that boxes are written in; null leaves texts as they are."
    )
    box_answer: BoxAnswer = Field(
        None, description="What the assistant's boxes are: text, or the word `<BOX>` and targets of the box head."
    )
    box_frame: BoxFrame = Field(
        None, description="Image that coordinates are on: the original, or the square that the tower is shown of it."
    )
    sources: Annotated[list[dict[str, Any]] | None, SectionList(SourceArguments)] = Field(
        None, description="Several sources instead of dataset.source, mixed by their weights."
    )
    epoch_samples: int | None = Field(
        None, ge=1, description="Samples of an epoch of dataset.sources; null is the usable rows of all of them."
    )


def _check_sources(dataset: dict[str, Any]) -> dict[str, Any]:
    """See that the rows of our own data set come from somewhere."""
    if dataset["_component_"] == CHAT_DATASET:
        try:
            check_sources(dataset.get("source"), dataset.get("sources"), dataset.get("epoch_samples"))
        except UserError as error:
            raise PydanticCustomError("component", "{words}", {"words": str(error)}) from error
    return dataset


class OptimizerArguments(Configuration):
    """What the optimizer's arguments may be, whatever the component says of them."""

    lr: Number | None = Field(None, ge=0, description="Learning rate.")


class SchedulerArguments(Configuration):
    """What the scheduler's arguments may be, whatever the component says of them."""

    num_warmup_steps: int | None = Field(None, ge=0, description="Optimizer steps until the full learning rate.")


class TrainedComponent(Configuration):
    """What is different for the parameters of one component."""

    lr: Number | None = Field(None, ge=0, description="Its learning rate; null is optimizer.lr.")
    weight_decay: Number | None = Field(None, ge=0, description="Its weight decay; null is optimizer.weight_decay.")


class ErrorSampling(Configuration):
    """How the shares of ``dataset.sources`` follow the errors of the model."""

    every_n_steps: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps after which the sources get new shares, and length of an epoch; null keeps them.",
    )
    samples: int = Field(64, ge=1, description="Samples of each source on which the loss is measured.")
    strength: Number = Field(
        1.0, gt=0, description="Exponent of a source's loss, relative to the mean over the sources, in its new weight."
    )


class TrainingConfiguration(ModelConfiguration):
    """Keys of a training run in one process."""

    output_dir: PathText = Field(description="Folder of the run: configuration, log, checkpoints.")
    init_from: PathText | None = Field(
        None, description="Earlier run, or a step of it, whose weights the components that both have start from."
    )
    trainable: Annotated[list[str] | dict[str, Any], NamedSections(TrainedComponent)] = Field(
        ["vision", "projector"],
        description="Names of the components that are trained, or a mapping from name to lr and weight_decay.",
    )
    weight_decay_of: Literal["all", "matrices"] = Field(
        "all", description="What the optimizer's weight decay shrinks: all weights, or no biases and norms."
    )
    dataset: Annotated[
        dict[str, Any],
        ComponentRule(passed=1, default=CHAT_DATASET, arguments=DatasetArguments, given=("preprocess",)),
        AfterValidator(_check_sources),
    ] = Field(default_factory=dict, description="Training data: its source files, and how their rows become samples.")
    sample_by_error: ErrorSampling = Field(description="Draw the sources with the larger loss more often.")
    validation_source: PathText | None = Field(
        None, description="Data file of held-out rows, read as dataset says; null validates nothing."
    )
    seed: Seed = Field(0, description="Seed of the weights that start fresh and of the order of the samples.")
    shuffle: bool = Field(True, description="Draw a new order of the samples for each epoch.")
    batch_size: int = Field(4, ge=1, description="Samples in a batch of one process; rows if dataset.packed is true.")
    epochs: int = Field(1, ge=1, description="Passes over the training data.")
    max_steps_per_epoch: int | None = Field(
        None, ge=1, description="Most optimizer steps of an epoch; null takes all samples."
    )
    gradient_accumulation_steps: int = Field(1, ge=1, description="Batches whose gradients make one optimizer step.")
    optimizer: Annotated[dict[str, Any], ComponentRule(passed=1, arguments=OptimizerArguments)] = Field(
        description="Optimizer of the trained components, such as torch.optim.AdamW."
    )
    lr_scheduler: Annotated[
        dict[str, Any] | None,
        ComponentRule(passed=1, optional=True, given=("num_training_steps",), arguments=SchedulerArguments),
    ] = Field(None, description="Schedule of the learning rate over the optimizer steps; null keeps it constant.")
    losses: dict[str, Any] | None = Field(
        None,
        description="Weight of each loss term by name; without one, text 1, box_l1 5, box_giou 2, box_seen 1,"
        " box_look 2, mask_bce 2, mask_dice 1, mask_focal 0, mask_iou 0.1, mask_seen 1, mask_look 2, router_balance 0.",
    )
    clip_grad_norm: Number | None = Field(
        None, gt=0, description="Largest norm of the gradient; a larger one is scaled down to it."
    )
    loss_chunk_size: int | None = Field(
        None,
        ge=1,
        description="Label tokens whose logits are computed at a time; null takes 256 on a CPU and 512 on a GPU.",
    )
    compile: bool | None = Field(
        False, description="Compile the layers of the language model; null does on CUDA if dataset.packed is true."
    )
    enable_activation_checkpointing: bool = Field(
        False, description="Keep no layer's activations and compute them again: an activation_memory_budget of 0."
    )
    activation_memory_budget: Number = Field(
        1.0, ge=0, le=1, description="Share of the layers whose activations are kept; the others compute them again."
    )
    num_workers: int = Field(4, ge=0, description="Processes that load data for each training process.")
    check_images: int = Field(1000, ge=0, description="Images that are decoded before training to find damaged ones.")
    max_bad_fraction: Number = Field(
        0.0, ge=0, le=1, description="Share of rows that may be unusable and are skipped before the run ends."
    )
    max_bad_steps: int = Field(
        10, ge=1, description="Optimizer steps in a row without a finite gradient that end the run."
    )
    metric_logger: Annotated[
        dict[str, Any] | None,
        ComponentRule(optional=True, default="torchtune.training.metric_logging.DiskLogger"),
    ] = Field(None, description="Further logger of the training metrics beside log/metrics.jsonl.")
    log_every_n_steps: int = Field(1, ge=1, description="Optimizer steps between two lines of the log.")
    eval_every_n_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between two validations, beside the one after each epoch."
    )
    save_every_n_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between two checkpoints, beside the one after each epoch."
    )
    save_every_minutes: Number | None = Field(
        None, gt=0, description="Minutes between two checkpoints, beside the one after each epoch."
    )
    save_meta_model: Annotated[bool | str, OneOf((True, False, "auto"))] = Field(
        False,
        description="Write medcap 2024's meta_model_*.pt after each epoch; auto does where it fits.",
    )
    keep_last: int | None = Field(None, ge=1, description="Newest checkpoints that are kept; null keeps all.")
    resume_from_checkpoint: Annotated[bool | str | None, HOME_EXPANDED] = Field(
        None, description="Go on from a checkpoint: true or latest for the run's newest, or a step folder."
    )
    verify_frozen: bool = Field(
        True, description="Hash the frozen weights before and after the run and compare the hashes."
    )


class DistributedConfiguration(TrainingConfiguration):
    """Keys of a training run in several processes."""

    parallelism: Literal["auto", "replicate", "shard"] = Field(
        "auto", description="Whole language model on each GPU, or its layers divided; auto decides by memory."
    )
    cpu_offload: bool = Field(False, description="Keep divided layers in the memory of the host until they are used.")
    timeout_minutes: Number = Field(
        10.0, ge=0.1, le=525_600, description="Minutes without an answer of another process that end the run."
    )
