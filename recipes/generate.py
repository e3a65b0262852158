"""Describe one picture, or run tasks over data files and score them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medcap.checkpoints.assembly import MODEL_KEYS, choose_device, choose_dtype, plan_model
from medcap.checkpoints.atomic import write_text
from medcap.checkpoints.vision_files import find_vision_checkpoint
from medcap.configuration import Value, recipe
from medcap.data.images import ImageReader
from medcap.errors import UserError
from medcap.evaluation.predictions import dataset_fingerprint
from medcap.evaluation.tasks import TASKS, requested_tasks
from medcap.evaluation.tasks.base import Row, Task
from medcap.evaluation.tasks.runner import run_task
from medcap.generation.generator import Generator
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Sampling
from medcap.models.towers.tensor_files import PICKLE_SUFFIXES

VQA_TYPES = ("no_cond_desc", "no_cond_desc_no_image", "cond_desc", "cond_desc_no_image", "omit")

KEYS = MODEL_KEYS | {
    "output_dir": Value((str,)),
    "image": Value((str, list), None),
    "prompt": Value((str,), None),
    "dataset_source": Value((str,), None),
    "dataset_conversation_style": Value((str,), "auto"),
    "dataset_max_seq_len": Value((int,), 1024, minimum=1),
    "image_roots": Value((list,), None),
    "limit": Value((int,), None, minimum=1),
    "controls": Value((bool,), False),
    "max_new_tokens": Value((int,), 300, minimum=1),
    "temperature": Value((float,), 0.0, minimum=0),
    "top_k": Value((int,), None, minimum=1),
    "top_p": Value((float,), None, minimum=0),
    "seed": Value((int,), 1234),
    "batch_size": Value((int,), 16, minimum=1),
    "overwrite": Value((bool,), False),
    "debug": Value((bool,), False),
    "vqa_type": Value((str,), None, choices=VQA_TYPES),
}


class GenerateRecipe:
    """Generate with a trained run.

    Features:
        - One picture: ``image=PATH``, with ``prompt=...`` or for a caption; the answer goes to standard output.
        - Tasks: ``test_caption=True`` (also ``test_metrics=True``), ``test_vqa=True``, over ``dataset_source``;
          predictions, scores and a page go to ``output_dir/<task>/``. A run that was killed goes on where it stopped.
        - ``controls=true``: the same questions with the images exchanged; what does not fall does not come from
          the image.

    Args:
        cfg: checked against ``KEYS``.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.tasks: list[Task] = [TASKS[name]() for name in requested_tasks(cfg)]
        self.images = [cfg.image] if isinstance(cfg.image, str) else list(cfg.image or [])
        if not self.tasks and not self.images:
            names = ", ".join(f"test_{name}=True" for name in TASKS)
            raise UserError(
                f"nothing to do: add image=PATH for one picture, or a task ({names}) with dataset_source=FILE"
            )
        if self.tasks and cfg.dataset_source is None:
            raise UserError(f"dataset_source is missing: test_{self.tasks[0].name} needs a data file")
        if cfg.vqa_type is not None and self.tasks:
            print(f"note: vqa_type is not used by {', '.join(task.name for task in self.tasks)}", file=sys.stderr)
        self.sampling = Sampling(
            max_new_tokens=cfg.max_new_tokens,
            temperature=cfg.temperature,
            top_k=cfg.top_k,
            top_p=cfg.top_p,
            seed=cfg.seed,
        )

    def setup(self) -> None:
        """Check files and rows, then read the weights.

        Raises:
            UserError: if anything that the configuration names is missing or does not fit.
        """
        cfg = self.cfg
        device = choose_device(cfg.device)
        roots = None if cfg.image_roots is None else list(cfg.image_roots)
        self.rows: dict[str, list[Row]] = {
            task.name: task.load(cfg.dataset_source, cfg.dataset_conversation_style, roots)[: cfg.limit]
            for task in self.tasks
        }
        folders = [Path(image).resolve().parent for image in self.images]
        data_folder = [] if cfg.dataset_source is None else [Path(cfg.dataset_source).parent]
        # A picture named on the command line is the user's own choice; rows stay within the roots.
        self.reader = ImageReader([*(roots or [*data_folder, Path.cwd()]), *folders])
        for image in self.images:
            self.reader.open(self.reader.resolve(image))
        plan = plan_model(cfg)
        for notice in plan.vision.notices:
            print(f"note: {notice}", file=sys.stderr)
        model = plan.load(device, choose_dtype(cfg.dtype, device))
        self.generator = Generator(
            model, plan.tokenizer, plan.vision.preprocess, self.reader, cfg.batch_size, cfg.dataset_max_seq_len
        )

    def generate(self) -> None:
        """Answer everything that was asked."""
        for image in self.images:
            path = str(self.reader.resolve(image))
            prompt = self.cfg.prompt
            request = caption_request(path) if prompt is None else question_request(path, prompt)
            (generation,) = self.generator.generate([request], self.sampling)
            print(generation.text if len(self.images) == 1 else f"{image}\t{generation.text}")
        for task in self.tasks:
            self._run(task)

    def _run(self, task: Task) -> None:
        cfg = self.cfg
        write_text(Path(cfg.output_dir, task.name, "config.yaml"), OmegaConf.to_yaml(cfg))
        generate = partial(self._generate_and_show if cfg.debug else self._generate)
        metrics = run_task(
            task,
            self.rows[task.name],
            generate,
            cfg.output_dir,
            self._settings(),
            source=cfg.dataset_source,
            reader=self.reader,
            name=Path(cfg.vision_checkpoint or str(cfg.vision)).stem,
            controls=("shuffled",) if cfg.controls else (),
            overwrite=cfg.overwrite,
            num_image_tokens=self.generator.tokenizer.num_image_tokens,
        )
        print(f"{task.name}: {metrics['n']} rows, {metrics['failures']} failures ({metrics['protocol']})")
        for name, value in metrics["scores"].items():
            interval = metrics["intervals"].get(name)
            bounds = f"  [{interval['low']:.4f}, {interval['high']:.4f}]" if interval else ""
            print(f"  {name:<24} {value:.4f}{bounds}" if value is not None else f"  {name:<24} -")
        for notice in metrics["notices"]:
            print(f"  note: {notice}")
        print(f"  {Path(cfg.output_dir, task.name, 'report.html')}")

    def _settings(self) -> dict[str, Any]:
        cfg = self.cfg
        names = (
            "vision",
            "vision_checkpoint",
            "dataset_max_seq_len",
            "max_new_tokens",
            "temperature",
            "top_k",
            "top_p",
        )
        settings = {name: OmegaConf.to_container(cfg)[name] for name in (*names, "seed")}
        settings |= {"llm": cfg.llm._component_, "checkpoint_dir": cfg.checkpointer.checkpoint_dir}
        if cfg.vision_checkpoint is not None:
            path = Path(cfg.vision_checkpoint)
            weights = path if path.suffix in PICKLE_SUFFIXES else find_vision_checkpoint(path)
            settings["vision_checkpoint_sha256"] = dataset_fingerprint(weights)
        return settings

    def _generate(self, requests: list[Any], on_result: Any) -> Any:
        return self.generator.generate(requests, self.sampling, on_result)

    def _generate_and_show(self, requests: list[Any], on_result: Any) -> Any:
        def show(index: int, generation: Any) -> None:
            tokenizer = self.generator.tokenizer
            prompt = tokenizer.prompt(requests[index].messages)
            words = [token for token in prompt.tokens if token != tokenizer.image_token_id]
            print(
                f"[{requests[index].id}] {tokenizer.tokenizer.decode(words, skip_special_tokens=False)}",
                file=sys.stderr,
            )
            print(f"  -> {generation.text}", file=sys.stderr)
            on_result(index, generation)

        return self._generate(requests, show)


@recipe(KEYS, flags=("test_",))
def recipe_main(cfg: DictConfig) -> None:
    """Entry point: ``tune run medcap/recipes/generate --config CONFIG [key=value ...]``."""
    generate = GenerateRecipe(cfg)
    generate.setup()
    generate.generate()


if __name__ == "__main__":
    sys.exit(recipe_main())
