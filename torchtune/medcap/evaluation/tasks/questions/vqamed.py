"""VQA-Med: the ImageCLEF test sets of 2019 (four categories) and 2021 (abnormality)."""

from __future__ import annotations

from pathlib import Path

from medcap.datasets.published import vqamed
from medcap.datasets.published.finding import Layout, find_files
from medcap.datasets.published.reading import Strict
from medcap.errors import UserError
from medcap.evaluation.tasks.base import DEFAULTS, Benchmark, LoadOptions, Task, make_benchmark
from medcap.evaluation.tasks.official import DERIVED_TYPES, find_benchmark, row_maker

PUBLISHED = {"rows": 500}


class VqaMedTask(Task):
    """The official text files of one year, with every answer that they accept. The two years are two benchmarks."""

    name = "vqamed"
    title = "VQA-Med"
    protocols = ("exact", "llava_med", "llava_med_strict")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the 500 test questions of a year; see :meth:`Task.load`."""
        layouts = [vqamed.layout(year, "test") for year in ("2019", "2021")]
        found = find_benchmark(
            source,
            self.title,
            Layout(layouts[0].folders + layouts[1].folders, layouts[0].kinds | layouts[1].kinds),
            "VQA-Med-2019/VQAMed2019Test/VQAMed2019_Test_Questions_w_Ref_Answers.txt and VQAMed2019_Test_Images beside"
            " it (abachaa/VQA-Med-2019 on GitHub), or VQA-Med-2021/Task1-VQA-2021-TestSet-w-GroundTruth/"
            "Task1-VQA-2021-TestSet-Questions.txt with its answers and images (abachaa/VQA-Med-2021)",
        )
        files, (layout,) = list(found.files), [layout for layout in layouts if found.kind in layout.kinds]
        if found.kind == vqamed.TEST_2021:
            files.append(vqamed.answers_file(found))
        elif Path(source).is_dir() and (other := find_files(Path(source), layouts[1].folders, layouts[1].kinds)):
            raise UserError(
                f"{source} holds VQA-Med of 2019 and of 2021, which are two benchmarks: run them one after the other"
                f" with dataset_source={found.folder} and dataset_source={other.folder}"
            )
        make_row, roots = row_maker(found, layout, options, derive=True)
        return make_benchmark(
            [make_row(question) for question in vqamed.questions(found, Strict(self.title))],
            found.folder,
            files,
            found.folder,
            roots=roots,
            expected=PUBLISHED,
            notices=[DERIVED_TYPES],
        )
