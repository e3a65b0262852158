"""The keys of the training recipes."""

from __future__ import annotations

from medcap.checkpoints.build_model import MODEL_KEYS
from medcap.configuration import SEED, Component, Value

TRAINING_KEYS = MODEL_KEYS | {
    "output_dir": Value((str,), is_path=True),
    "trainable": Value((list,), ["vision", "projector"]),
    "dataset": Component(
        passed=1,
        default="medcap.datasets.chat_dataset",
        ranges={"max_seq_len": Value((int,), minimum=1), "max_image_pixels": Value((int,), minimum=1)},
    ),
    "validation_source": Value((str,), None, is_path=True),
    "seed": SEED,
    "shuffle": Value((bool,), True),
    "batch_size": Value((int,), 4, minimum=1),
    "epochs": Value((int,), 1, minimum=1),
    "max_steps_per_epoch": Value((int,), None, minimum=1),
    "gradient_accumulation_steps": Value((int,), 1, minimum=1),
    "optimizer": Component(passed=1, ranges={"lr": Value((float,), None, minimum=0)}),
    "lr_scheduler": Component(
        passed=1,
        optional=True,
        given=("num_training_steps",),
        ranges={"num_warmup_steps": Value((int,), None, minimum=0)},
    ),
    "losses": Value((dict,), None),
    "clip_grad_norm": Value((float,), None, above=0),
    "loss_chunk_size": Value((int,), 256, minimum=1),
    "compile": Value((bool,), False),
    "enable_activation_checkpointing": Value((bool,), False),
    "activation_memory_budget": Value((float,), 1.0, minimum=0, maximum=1),
    "num_workers": Value((int,), 4, minimum=0),
    "check_images": Value((int,), 1000, minimum=0),
    "max_bad_fraction": Value((float,), 0.0, minimum=0, maximum=1),
    "max_bad_steps": Value((int,), 10, minimum=1),
    "metric_logger": Component(optional=True, default="torchtune.training.metric_logging.DiskLogger"),
    "log_every_n_steps": Value((int,), 1, minimum=1),
    "eval_every_n_steps": Value((int,), None, minimum=1),
    "save_every_n_steps": Value((int,), None, minimum=1),
    "save_every_minutes": Value((float,), None, above=0),
    "save_meta_model": Value((bool, str), False, choices=(True, False, "auto")),
    "keep_last": Value((int,), None, minimum=1),
    "resume_from_checkpoint": Value((bool, str), None, is_path=True),
    "verify_frozen": Value((bool,), True),
}

DISTRIBUTED_KEYS = TRAINING_KEYS | {
    "parallelism": Value((str,), "auto", choices=("auto", "replicate", "shard")),
    "cpu_offload": Value((bool,), False),
    "timeout_minutes": Value((float,), 10.0, minimum=0.1, maximum=525_600),
}
