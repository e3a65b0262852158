"""How fast images get from files to the model: decoders, resizers, and the training loader against the plain way.

    make bench-data-loading

The images are drawn. Decoders that are not installed are left out (``pip install simplejpeg opencv-python-headless``).
Written: ``results/benchmarks/data_loading.json`` and ``data_loading.md``.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from machine import describe_machine
from omegaconf import OmegaConf
from PIL import Image, features
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from helpers.tokenizers import tiny_tokenizer_file
from medcap.configs import packaged_configs
from medcap.configuration import check
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.reader import ImageReader
from medcap.models.preprocess import Preprocess
from medcap.models.tokenizers import llama3_tokenizer
from medcap.training.data import TrainingData
from medcap.training.distributed.context import single_world
from medcap.training.keys import TrainingConfiguration

BATCH_SIZE = 16
NUM_IMAGE_TOKENS = 16
PREPROCESS = Preprocess(224)
OURS, PLAIN, WHOLE = "8-bit pixels (medcap)", "float32 (plain)", "training loader: rows to batches"
# What stands in the table -> side in pixels, mode, and how Pillow writes it.
FILES: dict[str, tuple[int, str, dict[str, Any]]] = {
    "JPEG, 512": (512, "RGB", {"format": "JPEG", "quality": 90}),
    "JPEG, grey, 512": (512, "L", {"format": "JPEG", "quality": 90}),
    "JPEG, 2048": (2048, "RGB", {"format": "JPEG", "quality": 90}),
    "PNG, 512": (512, "RGB", {"format": "PNG"}),
    "PNG, grey, 512": (512, "L", {"format": "PNG"}),
    "PNG, grey, 2048": (2048, "L", {"format": "PNG"}),
}
Pixels = np.ndarray | Image.Image
Rates = dict[str, list[float]]


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats (5)")
    parser.add_argument("--small", type=int, default=256, help="images of 512 pixels (256)")
    parser.add_argument("--large", type=int, default=48, help="images of 2048 pixels (48)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = {"JPEG, 512": options.small, "JPEG, grey, 512": options.small, "JPEG, 2048": options.large}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDCAP_CACHE"] = str(Path(folder, "cache"))
        report = {
            "machine": _describe_machine(),
            "decoding": measure_decoding(options.repeats),
            "resizing": measure_resizing(options.repeats),
            "loading": {
                name: measure_loading(Path(folder, str(number)), name, count, options.repeats)
                for number, (name, count) in enumerate(counts.items())
            },
        }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "data_loading.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = "\n".join(_lines(report)) + "\n"
    (options.out / "data_loading.md").write_text(text, encoding="utf-8")
    print(text)


def draw(side: int, mode: str, seed: int) -> Image.Image:
    """Draw a picture that compresses about as a photograph does: broad shapes, texture and sensor noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    phase = generator.uniform(0, 6, 3)
    shapes = np.sin(7 * x[..., None] + phase) + np.cos(5 * y[..., None] - phase)  # [H, W, 3]
    coarse = Image.fromarray(generator.integers(0, 255, (side // 4, side // 4, 3), dtype=np.uint8))
    texture = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) * 0.25
    noise = generator.normal(0, 4, (side, side, 1))
    pixels = np.clip(40 * shapes + texture + noise + 90, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels)


def measure_decoding(repeats: int) -> dict[str, Any]:
    """Images a second of each decoder on each kind of file, in one thread, and how far its pixels are from Pillow's."""
    found = {}
    for name, (side, mode, written) in FILES.items():
        buffer = io.BytesIO()
        draw(side, mode, 0).save(buffer, **written)
        data = buffer.getvalue()
        kinds = {kind: partial(decode, data) for kind, decode in _decoders(written["format"]).items()}
        found[name] = {"bytes": len(data), **_compare(kinds, repeats, times=max(2, 40 * 512 // side // 4))}
    return found


def measure_resizing(repeats: int) -> dict[str, Any]:
    """Images a second of each antialiased resize to the tower's size, in one thread, and its distance from Pillow's."""
    size = [PREPROCESS.image_size] * 2
    found = {}
    for side in (512, 2048):
        image = draw(side, "RGB", 0)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, H, W], as a decoder leaves it in memory
        kinds: dict[str, Callable[[], Pixels]] = {
            "Pillow, bicubic (medcap)": lambda image=image: image.resize(size, Image.Resampling.BICUBIC),
            "torchvision v2, uint8, bicubic": lambda tensor=tensor: (
                v2.functional.resize(tensor, size, v2.InterpolationMode.BICUBIC, antialias=True)
                .permute(1, 2, 0)
                .numpy()
            ),
        }
        if _installed("cv2"):
            import cv2  # pyright: ignore[reportMissingImports] - measured only where it is installed

            cv2.setNumThreads(1)
            pixels = np.asarray(image)
            kinds["OpenCV, area"] = lambda pixels=pixels: cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        found[f"{side} to {size[0]}"] = _compare(kinds, repeats, times=max(4, 40 * 512 // side))
        grey = image.getchannel(0)
        coloured = grey.convert("RGB")
        kinds = {
            "Pillow, as RGB": lambda image=coloured: image.resize(size, Image.Resampling.BICUBIC),
            "Pillow, kept grey (medcap)": lambda grey=grey: grey.resize(size, Image.Resampling.BICUBIC).convert("RGB"),
        }
        found[f"{side} to {size[0]}, grey"] = _compare(kinds, repeats, times=max(4, 40 * 512 // side))
    return found


def measure_loading(folder: Path, name: str, count: int, repeats: int) -> dict[str, Any]:
    """Images a second through a data loader: images alone, ours and plain, and the training loader as a whole.

    Args:
        folder: to write images and rows into.
        name: of ``FILES``.
        count: images, a row each.
        repeats: of each, in turn.

    Returns:
        For each number of workers the rates of each way, and the bytes of a batch's images.
    """
    rows = _write_rows(folder, name, count)
    paths = sorted((folder / "images").iterdir())
    tokenizer = ChatTokenizer(llama3_tokenizer(str(tiny_tokenizer_file(folder / "tokenizer"))), NUM_IMAGE_TOKENS)
    first = {kind: next(iter(_loader(images, 0))) for kind, images in _image_sets(paths).items()}
    assert torch.equal(PREPROCESS.normalize(first[OURS]), first[PLAIN]), "the two ways give other pixels"
    found: dict[str, Any] = {"bytes_per_batch": {kind: batch.nbytes for kind, batch in first.items()}, "workers": {}}
    for workers in sorted({0, 1, len(os.sched_getaffinity(0))}):
        ways: dict[str, Callable[[], Iterable[Any]]] = {
            kind: partial(_loader, images, workers) for kind, images in _image_sets(paths).items()
        }
        config = _config(rows, workers)
        data = TrainingData(config, tokenizer, PREPROCESS.transform(), single_world(torch.device("cpu")))
        ways[WHOLE] = partial(data.steps, 0, 0)
        rates: Rates = {way: [] for way in ways}
        for _ in range(repeats):
            for way, batches in ways.items():
                rates[way].append(count / _seconds(batches))
        found["workers"][workers] = rates
    return found


class Images(Dataset[Tensor]):
    """One image a sample.

    Args:
        paths: of the images.
        load: path -> pixels.
    """

    def __init__(self, paths: Sequence[Path], load: Callable[[Path], Tensor]) -> None:
        self.paths, self.load = paths, load

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.load(self.paths[index])


def _image_sets(paths: Sequence[Path]) -> dict[str, Images]:
    reader, transform = ImageReader([paths[0].parent]), PREPROCESS.transform()
    plain = transforms.Compose(
        [
            transforms.Resize(PREPROCESS.image_size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(PREPROCESS.image_size),
            transforms.ToTensor(),
            transforms.Normalize(PREPROCESS.mean, PREPROCESS.std),
        ]
    )
    return {
        OURS: Images(paths, lambda path: transform(reader.open(reader.resolve(path), keep_grey=True))),
        PLAIN: Images(paths, lambda path: cast(Tensor, plain(Image.open(path).convert("RGB")))),
    }


def _loader(images: Images, workers: int) -> DataLoader[Tensor]:
    return DataLoader(images, BATCH_SIZE, num_workers=workers, prefetch_factor=4 if workers else None)


def _seconds(batches: Callable[[], Iterable[Any]]) -> float:
    """Of a whole pass, the start of the workers included."""
    started = time.perf_counter()
    for _ in batches():
        pass
    return time.perf_counter() - started


def _write_rows(folder: Path, name: str, count: int) -> Path:
    side, mode, written = FILES[name]
    (folder / "images").mkdir(parents=True)
    rows = []
    for index in range(count):
        path = folder / "images" / f"{index:04d}.{written['format'].lower()}"
        # A few pictures stand for all: drawing them takes longer than loading them.
        if index < 8:
            draw(side, mode, index).save(path, **written)
        else:
            path.write_bytes((folder / "images" / f"{index % 8:04d}{path.suffix}").read_bytes())
        rows.append(
            {
                "image": f"images/{path.name}",
                "conversations": [
                    {"from": "human", "value": "<image>\nIs there a circle?"},
                    {"from": "gpt", "value": f"No, image {index} shows none"},
                ],
            }
        )
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "rows.json"


def _config(rows: Path, workers: int) -> TrainingConfiguration:
    config: Any = OmegaConf.load(packaged_configs()["medcap/tiny/single_device"])
    config.dataset = {"_component_": "medcap.datasets.chat_dataset", "source": str(rows), "max_seq_len": 128}
    config.merge_with({"num_workers": workers, "batch_size": BATCH_SIZE, "check_images": 0})
    return check(config, TrainingConfiguration)


def _decoders(kind: str) -> dict[str, Callable[[bytes], Pixels]]:
    """RGB pixels ``[H, W, 3]`` from a file's bytes, by each decoder that knows the format, ready for a resize."""
    found: dict[str, Callable[[bytes], Pixels]] = {
        "Pillow (medcap)": _decode_with_pillow,
        "torchvision": lambda data: (
            decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
            .permute(1, 2, 0)
            .numpy()
        ),
    }
    if _installed("cv2"):
        import cv2  # pyright: ignore[reportMissingImports] - measured only where it is installed

        cv2.setNumThreads(1)
        found["OpenCV"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if kind == "JPEG" and _installed("simplejpeg"):
        import simplejpeg  # pyright: ignore[reportMissingImports] - measured only where it is installed

        found["simplejpeg"] = simplejpeg.decode_jpeg
        # What it would take to keep the resize, whose pixels are Pillow's alone.
        found["simplejpeg, handed to Pillow"] = lambda data: Image.fromarray(simplejpeg.decode_jpeg(data))
    return found


def _decode_with_pillow(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _compare(kinds: dict[str, Callable[[], Pixels]], repeats: int, times: int) -> dict[str, Any]:
    """Return calls a second of each, in turn, and the largest distance of a pixel's value from the first one's."""
    pixels = {kind: np.asarray(run()).astype(np.int16) for kind, run in kinds.items()}
    expected = next(iter(pixels.values()))
    rates: Rates = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, run in kinds.items():
            started = time.perf_counter()
            for _ in range(times):
                run()
            rates[kind].append(times / (time.perf_counter() - started))
    return {"rates": rates, "difference": {kind: int(np.abs(one - expected).max()) for kind, one in pixels.items()}}


def _describe_machine() -> dict[str, Any]:
    packages = ("pillow", "torchvision", "opencv-python-headless", "simplejpeg")
    modules = {"opencv-python-headless": "cv2", "pillow": "PIL"}
    versions = {name: version(name) for name in packages if _installed(modules.get(name, name))}
    return {**describe_machine(), **versions, "libjpeg_turbo of Pillow": features.version("libjpeg_turbo")}


def _lines(report: dict[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    versions = [f"{name} {machine[name]}" for name in list(machine)[list(machine).index("python") :]]
    yield "# Images on their way to the model"
    yield ""
    yield (
        f"Images a second: median (lowest to highest) of interleaved repeats, files in memory, tower of"
        f" {PREPROCESS.image_size} pixels. The ratio is within each repeat."
    )
    yield f"{machine['processor']}, {machine['cores']} cores, {', '.join(versions)}."
    yield "Made by `make bench-data-loading`."
    for title, part in (
        ("One thread decodes a file to RGB", "decoding"),
        ("One thread resizes to the tower's size", "resizing"),
    ):
        yield ""
        yield f"| {title} | | images/s | against Pillow | largest difference of a pixel, of 255 |"
        yield "|---|---|---:|---:|---:|"
        for name, found in report[part].items():
            first = next(iter(found["rates"].values()))
            for kind, rates in found["rates"].items():
                ratio = _spread(_ratios(rates, first), 2)
                yield f"| {name} | {kind} | {_spread(rates, 0)} | {ratio} | {found['difference'][kind]} |"
    yield ""
    yield "| Through the data loader | workers | | images/s | against plain | a batch's images |"
    yield "|---|---:|---|---:|---:|---:|"
    for name, found in report["loading"].items():
        for workers, rates in found["workers"].items():
            for way, values in rates.items():
                size = found["bytes_per_batch"].get(way, found["bytes_per_batch"][OURS]) / 1e6
                ratio = _spread(_ratios(values, rates[PLAIN]), 2)
                yield f"| {name} | {workers} | {way} | {_spread(values, 0)} | {ratio} | {size:.1f} MB |"
    yield ""
    yield (
        f"Batches of {BATCH_SIZE}. Plain: Pillow, then torchvision's Resize, CenterCrop, ToTensor, Normalize; the model"
        " sees the same bits. The training loader also checks paths, tokenizes and lays out the rows."
    )


def _ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, others, strict=True)]


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
