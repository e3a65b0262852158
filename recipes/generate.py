"""Describe one picture, or run tasks over data files and score them."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medcap.checkpoints.build_model import open_model, plan_model
from medcap.checkpoints.experts import EXPERTS
from medcap.checkpoints.run import fit_of_run, read_dataset_keys, with_language_model
from medcap.compiler import check_compiler
from medcap.data.boxes.style import box_style
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.tiles import refuse_fit
from medcap.data.images.view_keys import read_view
from medcap.data.images.views import DEFAULT_VIEW
from medcap.data.row_regions import REGION_TEXT
from medcap.entry_point import recipe
from medcap.errors import UserError
from medcap.evaluation.answering import Engine
from medcap.evaluation.control_runs import check_controls, chosen_controls
from medcap.evaluation.generate_keys import GenerateConfiguration
from medcap.evaluation.predictions import checkpoint_fingerprint, dataset_fingerprint
from medcap.evaluation.prompting import check_plans
from medcap.evaluation.runner import ask_task, run_task
from medcap.evaluation.scored import RunOptions
from medcap.evaluation.shared.team import Team
from medcap.evaluation.summary import summary
from medcap.evaluation.tasks.base import BENCHMARK_KEYS, Benchmark, Task
from medcap.evaluation.tasks.registry import TASKS, requested_tasks
from medcap.evaluation.training_answers import find_training_answers
from medcap.files import write_text
from medcap.generation.decoding.captured_steps import check_capture_device
from medcap.generation.generator import Generator
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Sampling
from medcap.generation.run import plan_box_outlines
from medcap.legacy.prompt import PlainTextChat
from medcap.models.mask_decoders.sam_model import read_sam
from medcap.processes import join_processes, silent_if_reported


class GenerateRecipe:
    """Generate with a trained run.

    Features:
        - One picture: ``image=PATH``, with ``prompt=...`` or for a caption; the answer goes to standard output.
        - Tasks: ``test_<task>=True``, several at once, over ``dataset_source``; predictions, scores and a page go to
          ``output_dir/<task>/``. A run that was killed continues where it stopped.
        - ``protocols=[...]``: scoring rules, published and strict, side by side; answers are asked for once where
          rules need the same ones.
        - ``controls=true``: the same questions with the images exchanged, and without any; for boxes also the mean
          box of the training answers, and the questions exchanged. What does not fall does not come from the image.
        - Several processes (``tune run --nproc_per_node N``, also on several nodes with one ``output_dir``): each takes
          questions from a common queue; the first one writes the files, which are those of one process.

    Args:
        cfg: checked.

    Raises:
        UserError: if nothing is asked for, or keys do not fit together.
    """

    def __init__(self, cfg: GenerateConfiguration) -> None:
        self.cfg, self.model = with_language_model(cfg)
        self.tasks: list[Task] = [TASKS[name]() for name in requested_tasks(cfg.flags)]
        self.view = read_view(cfg.view or {}, prefix="view.")
        self.images = [cfg.image] if isinstance(cfg.image, str) else cfg.image or []
        if not self.tasks and not self.images:
            names = ", ".join(f"test_{name}=True" for name in TASKS)
            raise UserError(
                f"nothing to do: add image=PATH for one picture, or a task ({names}) with dataset_source=PATH"
            )
        if self.tasks and cfg.dataset_source is None:
            raise UserError(f"dataset_source is missing: test_{self.tasks[0].name} needs a data file or folder")
        if REGION_TEXT in (cfg.prompt or ""):
            raise UserError(
                f"prompt holds {REGION_TEXT}, and no key gives it a region: ask by /region in medcap chat, or a file of"
                " rows by test_region_vqa=true"
            )
        if self.tasks and not any(cfg.vqa_type in task.vqa_types for task in self.tasks):
            names = ", ".join(f"test_{task.name}" for task in self.tasks)
            if os.environ.get("RANK", "0") == "0":
                print(f"note: vqa_type={cfg.vqa_type} is not used by {names}", file=sys.stderr)
        check_controls(cfg.controls if isinstance(cfg.controls, list) else [])
        keys = cfg.model_dump()
        self.options = {task.name: task.Options.of_keys(keys) for task in self.tasks}
        protocols = [cfg.protocols] if isinstance(cfg.protocols, str) else cfg.protocols
        self.plans = {task.name: task.plan(cfg.vqa_type, protocols, self.options[task.name]) for task in self.tasks}
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
        self.processes = join_processes(cfg.device)
        several = self.processes.size > 1
        self.model = self.model.model_copy(update={"device": str(self.processes.device)})
        self.team = Team(self.processes, batch=cfg.batch_size) if several else None
        # The first process of a node writes the images of tables into files.
        self.benchmarks = {
            task.name: self.processes.main_first(partial(self._load, task), task.title) for task in self.tasks
        }
        roots = [root for benchmark in self.benchmarks.values() for root in benchmark.image_roots]
        # A picture named on the command line is the user's own choice; rows stay within the roots.
        folders = [Path(image).resolve().parent for image in self.images]
        allowed = [*(roots or [Path.cwd()]), *(Path.cwd() for _ in folders), *folders]
        self.reader = ImageReader(allowed, keys=BENCHMARK_KEYS)
        for image in self.images:
            self.reader.expand(self._named(image))
            self.reader.open(self._named(image))
        plan = plan_model(self.model)
        if cfg.router_output and not any(EXPERTS in part.config for part in plan.further):
            raise UserError("router_output=true: this model has no llm_lora.experts to choose from; leave it out")
        self.outlines = None if cfg.mask_from_boxes is None else plan_box_outlines(cfg.mask_from_boxes, [plan])
        if cfg.cuda_graphs:
            check_capture_device(self.processes.device)
        if cfg.compile:
            check_compiler(self.processes.device)
        if not self.processes.is_main:
            plan.vision.notices.clear()
        opened = open_model(self.model, plan)
        refuse_fit(self.view.fit, opened.tokenizer.tiles, "view.fit")
        dataset = self._dataset_keys()
        preprocess = replace(opened.preprocess, usual_fit=fit_of_run(dataset))
        chat = PlainTextChat(opened.tokenizer) if cfg.prompt_format == "medcap_2024" else opened.tokenizer
        self.generator = Generator(
            opened.model,
            chat,
            preprocess,
            self.reader,
            cfg.batch_size,
            cfg.dataset_max_seq_len,
            cfg.max_batch_tokens,
            cfg.compile,
            cfg.cuda_graphs,
            progress=not several,
            box_style=box_style(dataset, preprocess.frame),
            router_output=cfg.router_output,
            sam=None if self.outlines is None else read_sam(self.outlines, single=False),
        )

    def _dataset_keys(self) -> dict[str, Any]:
        """Return what the run's configuration says of its data; nothing where the checkpoint is a lone file."""
        run = self.cfg.vision_checkpoint
        return read_dataset_keys(run) if run is not None and Path(run).is_dir() else {}

    def generate(self) -> None:
        """Answer everything that was asked."""
        if self.processes.is_main:
            self._describe()
        opened: dict[str, dict[Path, int]] = {task.name: {} for task in self.tasks}
        if self.team is not None:
            for task in self.tasks:
                self._ask(task, self.team, opened[task.name])
            self.team.finish()
        if self.processes.is_main:
            for task in self.tasks:
                self._run(task, opened[task.name])

    def _describe(self) -> None:
        for image in self.images:
            named = self._named(image)
            prompt = self.cfg.prompt
            request = caption_request(named) if prompt is None else question_request(named, prompt)
            (generation,) = self.generator.generate([request], self.sampling)
            print(generation.text if len(self.images) == 1 else f"{image}\t{generation.text}")
            if generation.outputs.experts is not None:
                shares = ", ".join(f"{share:.3f}" for share in generation.outputs.experts)
                print(f"share of each expert: {shares}", file=sys.stderr)

    def _named(self, image: str) -> ImageRef:
        return ImageRef(str(self.reader.resolve(image)), self.view)

    def _load(self, task: Task) -> Benchmark:
        cfg = self.cfg
        options = self.options[task.name]
        assert cfg.dataset_source is not None, "asked for at the start"
        folder = self._folder(task) / "images"
        benchmark = task.load(cfg.dataset_source, replace(options, work_folder=folder)).first(cfg.limit)
        if benchmark.rows:
            check_plans(self.plans[task.name], benchmark.rows)
        return benchmark

    def _folder(self, task: Task) -> Path:
        return Path(self.cfg.output_dir, task.folder(self.options[task.name]))

    def _ask(self, task: Task, team: Team, opened: dict[Path, int]) -> None:
        """Take part in answering a task."""
        benchmark = self.benchmarks[task.name]
        if benchmark.rows:
            ask_task(task, benchmark, self.plans[task.name], self._engine(), self._options(task), team, opened)

    def _run(self, task: Task, opened: dict[Path, int]) -> None:
        """Answer what has no answer, and score."""
        folder = self._folder(task)
        if not self.benchmarks[task.name].rows:
            print(f"{folder.name}: this part holds no rows, there is nothing to do")
            return
        write_text(folder / "config.yaml", self.cfg.to_yaml())
        metrics = run_task(
            task,
            self.benchmarks[task.name],
            self.plans[task.name],
            self._engine(),
            self._options(task),
            self.reader,
            opened,
        )
        print(summary(metrics))
        print(f"  {folder / 'report.html'}")

    def _engine(self) -> Engine:
        return Engine(self.generator, self.sampling, self.cfg.debug)

    def _options(self, task: Task) -> RunOptions:
        cfg = self.cfg
        return RunOptions(
            output_dir=Path(cfg.output_dir),
            settings=self._settings(),
            name=Path(cfg.vision_checkpoint or str(cfg.vision)).stem,
            folder=self._folder(task).name,
            controls=chosen_controls(cfg.controls, self.benchmarks[task.name].rows, self.plans[task.name]),
            overwrite=cfg.overwrite,
            keep_old=cfg.keep_old_answers,
            prior=find_training_answers(
                cfg.prior_source, cfg.dataset_conversation_style, cfg.image_roots, cfg.vision_checkpoint
            ),
            image_lengths=self.generator.tokenizer.image_lengths,
            results_csv=None if cfg.results_csv is None else Path(cfg.results_csv),
        )

    def _settings(self) -> dict[str, Any]:
        cfg = self.cfg
        names = (
            "vision",
            "vision_checkpoint",
            "llm_weights",
            "prompt_format",
            "dataset_max_seq_len",
            "max_new_tokens",
            "temperature",
            "top_k",
            "top_p",
        )
        settings = cfg.model_dump(include={*names, "seed"})
        model = self.model
        settings |= {"llm": model.llm["_component_"], "checkpoint_dir": model.checkpointer.checkpoint_dir}
        if self.view != DEFAULT_VIEW:
            settings["view"] = str(self.view)
        if self.generator.preprocess.usual_fit is not None:
            settings["usual_fit"] = self.generator.preprocess.usual_fit
        if cfg.router_output:
            settings["router_output"] = True
        if cfg.without:
            settings["without"] = sorted(cfg.without)
        if self.outlines is not None:
            settings["mask_from_boxes_sha256"] = dataset_fingerprint(self.outlines.weights_file)
        if cfg.vision_checkpoint is not None:
            settings["vision_checkpoint_sha256"] = checkpoint_fingerprint(cfg.vision_checkpoint)
        return settings


@recipe(GenerateConfiguration, flags=("test_",))
def recipe_main(cfg: GenerateConfiguration) -> None:
    """Entry point: ``tune run [--nproc_per_node N] medcap/recipes/generate --config CONFIG [key=value ...]``."""
    generate = GenerateRecipe(cfg)
    with silent_if_reported():
        generate.setup()
        generate.generate()


if __name__ == "__main__":
    sys.exit(recipe_main())
