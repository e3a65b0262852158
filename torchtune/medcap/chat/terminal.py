"""The chat in a terminal, or over a pipe: a line is a turn, a line that begins with / is a command."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from medcap.chat.boxes import ChatBoxes
from medcap.chat.masks import OVERLAY, ChatMasks
from medcap.chat.regions import ChatRegions
from medcap.data.boxes.style import BoxStyle
from medcap.data.images.expansion import expand_named_images
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.roots import LimitKeys
from medcap.data.images.row_entry import VIEW_KEYS
from medcap.data.images.tiles import refuse_fit
from medcap.data.images.view_keys import split_words
from medcap.data.json_text import parse_json
from medcap.data.regions.region import Region
from medcap.errors import UserError
from medcap.files import write_json, write_text
from medcap.generation.conversation import Conversation
from medcap.generation.generator import Generator
from medcap.generation.request import Request, Sampling
from medcap.generation.run import ANYWHERE
from medcap.generation.text_stream import TextStream
from medcap.generation.typed_boxes import place_boxes
from medcap.generation.typed_placeholders import find_placeholders
from medcap.generation.typed_regions import place_regions

_DROP = ("none", "clear")  # what /box and /region take to forget what waits
HELP = """\
  /image FILE      show an image with your next words (PNG, JPEG, DICOM, ...); words may be none: a caption
                   a volume: /image ct.nii.gz frames=8even axis=coronal window=40,400 fit=pad
                   window=-100,2250/40,350/40,80 makes three channels; frames=3,5,9 takes these slices
  /box X1 Y1 X2 Y2 ask about this part of the image (pixels) with your next words: where they say {box}, or after them
                   /box lists these boxes, /box none drops them
  /region box X1 Y1 X2 Y2, point X Y RADIUS, polygon X1 Y1 X2 Y2 X3 Y3 ..., or mask FILE [value=3]
                   ask about this region of the image (pixels) with your next words: where they say {region}, or after
                   them; for runs with a region_encoder. picture=4 at the end: on the fourth slice that is shown
                   /region lists these regions, /region none drops them
  /system [TEXT]   set the system text before all turns; no TEXT removes it
  /alone on|off    on: each question alone, about the images that were shown last; for models that were trained so
  /retry           answer the last question again, with the next seed; a question that failed is asked again
  /set KEY=VALUE   temperature, top_k, top_p, seed or max_new_tokens
  /save FILE       the conversation: .json can be trained on, .md can be read; .png: the image with the boxes of the
                   last question and its answer
  /save masks FOLDER  the masks of the last answer as PNG at the size of the image, and the image with them
  /reset           forget everything that was said
  /quit            end; so does the end of the input"""


class Chat:
    """A conversation with one model.

    Args:
        sampling: how answers are chosen; ``/set`` changes it.
        system: system text before everything.
        alone: leave out the turns before a question, see ``Conversation.request``.

    Raises:
        UserError: if the system text names an image.
    """

    def __init__(self, sampling: Sampling, system: str = "", alone: bool = False) -> None:
        self.sampling = sampling
        self.alone = alone
        self.conversation = Conversation(_checked_system(system))
        self._reader = ImageReader(ANYWHERE, keys=LimitKeys(None, None))
        self._images: list[ImageRef] = []
        self._boxes = ChatBoxes()
        self._masks = ChatMasks()
        self._regions = ChatRegions()
        self._failed: tuple[str, tuple[Region, ...]] | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self.show,
            "/box": self._add_box,
            "/region": self._add_region,
            "/system": self._set_system,
            "/alone": self._set_alone,
            "/retry": self._retry,
            "/set": self._set,
            "/save": self._save,
            "/reset": self._reset,
            "/help": lambda _: _note(HELP),
        }
        self._generator: Generator | None = None

    def show(self, words: str) -> None:
        """Show an image with the next words.

        Args:
            words: its path, relative to the working directory, or absolute; then how to look at it, see
                :func:`medcap.data.images.view_keys.split_words`.

        Raises:
            UserError: if it cannot be read.
        """
        path, view = split_words(words)
        named = Path(path.strip("'\"")).expanduser()
        if not named.exists():
            keys = f"; the keys after a file are {', '.join(VIEW_KEYS)}" if "=" in words else ""
            raise UserError(f"{named}: there is no such file{keys}")
        if self._generator is not None:
            refuse_fit(view.fit, self._generator.preprocess.tiles)  # asking would fail, again and again
        image = ImageRef(str(self._reader.resolve(named)), view)
        singles = self._reader.expand(image)
        sizes = [self._reader.open(single).size for single in singles]
        self._boxes.show(singles[0], sizes[0])
        self._masks.show(singles[-1])
        self._regions.show(singles, sizes)
        self._images.append(image)
        several = f"{len(sizes)} images of " if len(sizes) > 1 else ""
        _note(f"{Path(image.path).name}: {several}{sizes[0][0]} x {sizes[0][1]}, shown with your next words")

    def talk(self, generator: Generator) -> None:
        """Read turns and commands until the input ends, and stream the answers to standard output.

        Args:
            generator: answers.
        """
        self._generator = generator
        if sys.stdin.isatty():
            _note("Ask, or /help. Ctrl-C stops an answer, Ctrl-D ends.")
        for line in _lines(lambda: _waiting(len(self._regions.waiting))):
            line = line.strip()
            name, _, rest = line.partition(" ")
            if name in ("/quit", "/exit"):
                return
            try:
                if name in self._commands:
                    self._commands[name](rest.strip())
                elif name.startswith("/"):
                    raise UserError(f"there is no command {name}: /help lists them")
                elif line or self._images or self._boxes.waiting or self._regions.waiting:
                    self._ask(*self._with_boxes_and_regions(line))
            except UserError as error:
                _note(str(error))

    def _ask(self, text: str, regions: tuple[Region, ...]) -> None:
        self.conversation.ask(text, self._images, regions, self._regions.before)
        try:
            self._answer()
        except UserError:
            # The turn did not take place; its images stay for the next try.
            self.conversation.exchanges.pop()
            self._failed = text, regions
            raise
        self._images = []
        self._failed = None
        self._boxes.end()
        self._regions.end()

    def _with_boxes_and_regions(self, text: str) -> tuple[str, tuple[Region, ...]]:
        """Return the words of a question, and the regions that they name."""
        assert self._generator is not None
        boxes = self._boxes.written(self._style)
        reads = self._generator.tokenizer.region_token_id is not None
        text, regions = place_regions(place_boxes(text, boxes), self._regions.waiting, reads)
        if boxes or regions:
            _note(f"asked: {text}")
        return text, regions

    def _add_region(self, words: str) -> None:
        assert self._generator is not None
        if words in _DROP:
            self._regions.clear()
        elif words:
            self._regions.add(words, self._generator, self._reader)
        for number, told in enumerate(self._regions.told, start=1):
            _note(f"{{region {number}}} is {told}")
        if not self._regions.told:
            _note("no region waits for your next words")

    def _add_box(self, words: str) -> None:
        if words in _DROP:
            self._boxes.waiting.clear()
        elif words:
            self._boxes.add(words, self._style)
        boxes = self._boxes.written(self._style)
        for number, box in enumerate(boxes, start=1):
            _note(f"{{box {number}}} is {box}")
        if not boxes:
            _note("no box waits for your next words")

    @property
    def _style(self) -> BoxStyle:
        assert self._generator is not None
        return self._generator.box_style

    def _answer(self) -> None:
        assert self._generator is not None
        stream = TextStream(self._generator.tokenizer)
        pieces: list[str] = []
        masks: tuple[Region | None, ...] = ()

        def give(piece: str) -> None:
            pieces.append(piece)
            print(piece, end="", flush=True)

        try:
            self._boxes.begin()
            self._masks.begin()
            request = self.conversation.request(self.alone)
            self._check_length(request)
            (result,) = self._generator.generate(
                [request],
                self.sampling,
                on_token=lambda _, token: give(stream.push(token)),
            )
        except KeyboardInterrupt:
            print()
            _note("stopped")
        else:
            if result.error:
                if any(pieces):
                    print()
                raise UserError(result.error)
            give(stream.finish())
            print()
            if result.finish == "length":
                _note(f"cut after {len(result.tokens)} tokens: /set max_new_tokens=... allows more")
            for box in self._boxes.find(result, self._style):
                _note(f"box in pixels: {box}")
            for mask in self._masks.find(result, self._reader):
                _note(mask)
            # A question alone counts images from those that were shown last, a row from the first.
            before = self._regions.before if self.alone else 0
            masks = tuple(
                None if region is None else replace(region, image=region.image + before)
                for region in result.outputs.masks or ()
            )
        self.conversation.answer("".join(pieces), masks)

    def _check_length(self, request: Request) -> None:
        assert self._generator is not None
        messages = expand_named_images(request.messages, self._generator.reader)
        taken, most = len(self._generator.tokenizer.prompt(messages).tokens), self._generator.max_seq_len
        if taken >= most:
            raise UserError(
                f"the conversation has {taken} tokens, which leaves no room for an answer within the model's {most}:"
                " ask with fewer words, /alone on leaves out the turns before, /reset starts over"
            )

    def _retry(self, _: str) -> None:
        if self._failed is not None:
            self._ask(*self._failed)
            return
        if not self.conversation.exchanges:
            raise UserError("nothing was asked yet")
        self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
        if self.sampling.temperature == 0:
            _note("the same words again: /set temperature=0.7 lets answers differ")
        self._answer()

    def _reset(self, _: str) -> None:
        self.conversation = Conversation(self.conversation.system)
        self._images = []
        self._boxes = ChatBoxes()
        self._masks = ChatMasks()
        self._regions = ChatRegions()
        self._failed = None
        _note("forgotten")

    def _set_system(self, text: str) -> None:
        self.conversation.system = _checked_system(text)
        _note(f"system: {text}" if text else "no system text")

    def _set_alone(self, text: str) -> None:
        if text not in ("on", "off"):
            raise UserError("write /alone on or /alone off")
        self.alone = text == "on"
        _note("each question alone" if self.alone else "with all earlier turns")

    def _set(self, text: str) -> None:
        key, separator, value = text.partition("=")
        known = ("temperature", "top_k", "top_p", "seed", "max_new_tokens")
        if key.strip() not in known or not separator:
            raise UserError(f"write /set KEY=VALUE with a key of {', '.join(known)}")
        try:
            number = parse_json(value)
        except ValueError:
            number = value
        whole = key.strip() not in ("temperature", "top_p")
        optional = key.strip() in ("top_k", "top_p")
        if not (number is None and optional) and type(number) not in ((int,) if whole else (int, float)):
            kind = "a whole number" if whole else "a number"
            raise UserError(f"{key.strip()}={value.strip()}: it must be {kind}" + (", or null" if optional else ""))
        self.sampling = replace(self.sampling, **{key.strip(): number})

    def _save(self, name: str) -> None:
        kind, _, folder = name.partition(" ")
        if kind == "masks":
            self._save_masks(folder.strip())
            return
        path = Path(name).expanduser()
        if path.suffix == ".png":
            self._save_picture(path)
            return
        if path.suffix not in (".json", ".md"):
            raise UserError(
                "write /save FILE.json for a row that can be trained on, /save FILE.md to read it, /save FILE.png to"
                " see its boxes, or /save masks FOLDER"
            )
        row = self.conversation.to_row()
        is_row = path.suffix == ".json"
        count = sum(turn["from"] == "gpt" for turn in row["conversations"])
        count = count if is_row else len(self.conversation.exchanges)
        if not count:
            raise UserError("nothing was said yet")
        try:
            if is_row:
                write_json(path, [row])
            else:
                write_text(path, self.conversation.to_markdown())
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        _note(f"saved {count} exchange{'s' if count > 1 else ''} in {path}")

    def _save_masks(self, name: str) -> None:
        if not name:
            raise UserError("write /save masks FOLDER")
        folder = Path(name).expanduser()
        try:
            count = self._masks.save(folder, self._reader)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}") from error
        _note(f"saved {count} mask{'s' if count > 1 else ''} and {OVERLAY} in {folder}")

    def _save_picture(self, path: Path) -> None:
        picture = self._boxes.picture(self._reader)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        _note(f"saved the image with {len(self._boxes.asked)} + {len(self._boxes.answered)} boxes in {path}")


def _waiting(num_regions: int) -> str:
    """Return what stands before the next words that are typed."""
    return f"({num_regions} region{'' if num_regions == 1 else 's'}) > " if num_regions else "> "


def _lines(prompt: Callable[[], str]) -> Iterator[str]:
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and editing
    while True:
        try:
            yield input(prompt())
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()


def _checked_system(text: str) -> str:
    if find_placeholders(text).count:
        raise UserError("the system text cannot show an image: leave <image> and the character \u2460 out")
    return text


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
