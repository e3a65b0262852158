"""The two doors of generation: requests -> answers, and requests with candidates -> how likely each is."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from medcap.data.boxes.style import BoxStyle
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.expansion import expand_named_images
from medcap.data.images.raster import to_rgb
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.samples import question_regions
from medcap.errors import UserError
from medcap.generation.decoding.alike import by_components, distinct_prompts
from medcap.generation.decoding.answer_experts import answer_experts, answering, choose_route
from medcap.generation.decoding.answer_words import answer_words
from medcap.generation.decoding.box_outlines import BoxOutliner
from medcap.generation.decoding.captured_steps import check_capture
from medcap.generation.decoding.decoder import Decoder, answer_all
from medcap.generation.decoding.image_rows import ImageRows, num_pictures
from medcap.generation.decoding.kv_cache import KVCache, attached
from medcap.generation.decoding.likelihood import score_trees
from medcap.generation.decoding.prefix_tree import MAX_TREE_TOKENS, Prompt, Tree, longest_answer, num_equal, plan_trees
from medcap.generation.decoding.sampling import is_greedy
from medcap.generation.decoding.step import DecodingStep
from medcap.generation.progress import Progress
from medcap.generation.request import CandidateScores, Generation, PreparedImage, Request, Sampling
from medcap.models.component import EMBEDDING
from medcap.models.mask_decoders.sam_model import SamModelParts
from medcap.models.preprocess import Preprocess
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.models.words import AddedWords
from medcap.modules.eval_mode import eval_mode

OnGeneration = Callable[[int, Generation], None]
OnNewToken = Callable[[int, int], None]
OnScores = Callable[[int, CandidateScores], None]


class Generator:
    """Answers requests, and scores candidates, in batches.

    Requests of different lengths, with and without images, run together. An image is encoded once and its part of
    the prompt computed once for all the requests about it. In float32 a result does not depend on the other
    requests; in lower precisions the device's matrix kernels may round differently for another batch size, so two
    tokens that are almost equally likely may change places.

    Args:
        model: the vision-language model; it is left unchanged, so training may continue with it.
        tokenizer: tokenizer with the chat template of the training.
        preprocess: the tower's.
        reader: opens the images that requests name by path.
        batch_size: answers that are decoded together.
        max_seq_len: most tokens of a prompt and its answer; the decoder's own limit holds in any case.
        max_batch_tokens: most tokens of all prompts and answers that are decoded together, for very different
            lengths; None bounds them by ``batch_size`` only.
        compile: whether to compile the decoding step; None does so on CUDA.
        cuda_graphs: whether to capture decoding steps as CUDA graphs.
        progress: show the progress of calls with more than one request on stderr.
        box_style: how boxes are written in the texts that the model was trained on.
        router_output: say in ``Generation.outputs`` which experts took part in an answer.
        sam: a SAM that gives the masks of an answer's boxes; None gives none.

    Raises:
        UserError: if ``batch_size``, ``max_seq_len`` or ``max_batch_tokens`` is below 1, or steps cannot be captured.
        ValueError: if tokenizer and model disagree on the tokens of an image.

    Example:
        >>> generator = Generator(model, tokenizer, tower.preprocess, ImageReader(["./images"]))
        >>> generator.generate([caption_request("chest.png")], Sampling(max_new_tokens=64))[0].text
        'Chest X-ray shows clear lungs.'
        >>> generator.score([question_request("chest.png", "Is there a mass?")], [["yes", "no"]])[0].sums
        [-3.2, -0.04]
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        tokenizer: ChatTokenizer,
        preprocess: Preprocess,
        reader: ImageReader,
        batch_size: int = 16,
        max_seq_len: int | None = None,
        max_batch_tokens: int | None = None,
        compile: bool | None = None,
        cuda_graphs: bool = False,
        progress: bool = True,
        box_style: BoxStyle | None = None,
        router_output: bool = False,
        sam: SamModelParts | None = None,
    ) -> None:
        sizes = {"batch_size": batch_size, "dataset_max_seq_len": max_seq_len, "max_batch_tokens": max_batch_tokens}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: it must be at least 1")
        # [Contract] a tokenizer made for another projector or tower would place image tokens over words.
        for name in ("num_image_tokens", "image_token_id", "region_token_id"):
            ours, theirs = getattr(tokenizer, name), getattr(model, name)
            if ours != theirs:
                raise ValueError(f"{name} is {ours} in the tokenizer and {theirs} in the model")
        if tokenizer.tiles != preprocess.tiling:
            raise ValueError(f"tiles are {tokenizer.tiles} in the tokenizer and {preprocess.tiling} for the tower")
        rows = model.added_rows(EMBEDDING)
        ours, theirs = len(tokenizer.added.words) if tokenizer.added else 0, 0 if rows is None else len(rows)
        if ours != theirs:
            raise ValueError(f"the tokenizer adds {ours} words, but the model has rows of {theirs}")
        self.model = model
        self.tokenizer = tokenizer.counting(partial(num_pictures, reader))
        self.preprocess = preprocess
        self.reader = reader
        self.box_style, self.router_output = box_style or BoxStyle(), router_output
        self.outliner = None if sam is None else BoxOutliner(sam.to(model.device), self.box_style, model.dtype)
        self.own_picture = model.own_picture if self.outliner is None else self.outliner.own_picture
        self.batch_size = batch_size
        self.max_batch_tokens = max_batch_tokens
        self.progress = progress
        window = _sliding_window(model)
        self.decoder_limit = min(model.decoder.max_seq_len, window)
        self.max_seq_len = min(self.decoder_limit, max_seq_len or self.decoder_limit)
        # Window layers count the tokens of a row, not its positions, so a whole tree must be within the window.
        self.max_tree_tokens = min(MAX_TREE_TOKENS, window)
        if cuda_graphs:
            check_capture(model)
        compiled = model.device.type == "cuda" if compile is None else compile
        self._step = DecodingStep(model, compiled, cuda_graphs)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_result: OnGeneration | None = None,
        on_token: OnNewToken | None = None,
    ) -> list[Generation]:
        """Answer all requests.

        Args:
            requests: any number.
            sampling: how tokens are chosen, and how many.
            on_result: called with a request's index in the list and its answer as soon as that is complete, in the
                order of completion.
            on_token: called with a request's index and each token of its answer as soon as it is chosen;
                :class:`medcap.generation.text_stream.TextStream` makes words of them.

        Returns:
            The answers in the order of the requests. A request whose image cannot be read, or for which the model
            computes no finite numbers, has one with ``finish="error"``.

        Raises:
            UserError: if a prompt leaves no room for an answer (before anything is computed), or the device's
                memory is too small for a batch.
        """
        prompts = [self.prompt(request, sampling, index) for index, request in enumerate(requests)]
        if not prompts:
            return []
        results: dict[int, Generation] = {}
        # Sampled answers differ even where requests are equal.
        distinct, same = distinct_prompts(prompts) if is_greedy(sampling) else (prompts, {})
        phases = [phase for alike in by_components(distinct) for phase in self._phases(alike)]
        sizes = [self._size(phase) for phase in phases]
        cache = KVCache(max(num_rows * capacity for num_rows, capacity in sizes))
        progress = Progress(len(prompts), self.progress and len(prompts) > 1)

        def finish(prompt: Prompt, generation: Generation) -> None:
            for index in (prompt.index, *same.get(prompt.index, ())):
                results[index] = generation
                progress.add(len(generation.tokens))
                if on_result is not None:
                    on_result(index, generation)

        def tell(prompt: Prompt, token: int) -> None:
            assert on_token is not None
            for index in (prompt.index, *same.get(prompt.index, ())):
                on_token(index, token)

        with progress, self.running() as images, attached(self.model.decoder, cache):
            for phase, (num_rows, capacity) in zip(phases, sizes, strict=True):
                try:
                    decoder = self.decoder(cache, num_rows, capacity, longest_answer(phase))
                    with answering(self.model, phase[0].prompts[0]):
                        answer_all(decoder, phase, images, finish, None if on_token is None else tell)
                except torch.OutOfMemoryError as error:
                    raise UserError(
                        f"the device's memory is too small for {num_rows} rows of {capacity} tokens:"
                        f" lower batch_size={self.batch_size} or max_new_tokens={sampling.max_new_tokens}"
                    ) from error
        return [results[index] for index in range(len(prompts))]

    def score(
        self,
        requests: Sequence[Request],
        candidates: Sequence[Sequence[str]],
        end_of_turn: bool = True,
        on_result: OnScores | None = None,
    ) -> list[CandidateScores]:
        """Return how likely candidates are as answers.

        Args:
            requests: any number.
            candidates: for each request, the answers to compare; they follow its ``answer_prefix``.
            end_of_turn: score also that the answer ends there, so that "upper" is another answer than "upper left".
            on_result: callback as in :meth:`generate`.

        Returns:
            The scores in the order of the requests. A request whose image cannot be read, or for which the model
            computes no finite numbers, has an ``error`` instead.

        Raises:
            UserError: if a request has no candidates, one is empty, or one is too long (before anything is
                computed), or the device's memory is too small.
        """
        prompts = [
            self._scored_prompt(index, request, texts, end_of_turn)
            for index, (request, texts) in enumerate(zip(requests, candidates, strict=True))
        ]
        if not prompts:
            return []
        results: dict[int, CandidateScores] = {}
        distinct, same = distinct_prompts(prompts)
        progress = Progress(len(prompts), self.progress and len(prompts) > 1, "score")

        def finish(prompt: Prompt, scores: CandidateScores) -> None:
            for index in (prompt.index, *same.get(prompt.index, ())):
                results[index] = scores
                progress.add(sum(scores.num_tokens))
                if on_result is not None:
                    on_result(index, scores)

        with progress, self.running() as images:
            for alike in by_components(distinct):
                trees = plan_trees(alike, self.model.image_token_id, len(alike), self.max_tree_tokens)
                trees.sort(key=lambda tree: -tree.num_tokens)
                try:
                    with answering(self.model, alike[0]):
                        score_trees(self.model, trees, images, self.tokenizer.vocab_size, finish)
                except torch.OutOfMemoryError as error:
                    raise UserError(
                        f"the device's memory is too small for a row of {trees[0].num_tokens} tokens:"
                        f" lower dataset_max_seq_len={self.max_seq_len} or ask about fewer candidates"
                    ) from error
        return [results[index] for index in range(len(prompts))]

    @contextmanager
    def running(self) -> abc.Generator[ImageRows]:
        """Have the model in the state in which it answers: no gradients, every part in eval mode.

        Yields:
            The object that encodes the images of requests, and keeps them for further ones.
        """
        images = ImageRows(self.model, self.preprocess, self.reader, self.batch_size, own_picture=self.own_picture)
        # Not inference_mode: a tensor that a module keeps for later could then never be trained with.
        with torch.no_grad(), eval_mode(self.model), images:
            yield images

    def decoder(self, cache: KVCache, max_rows: int, capacity: int, most_new_tokens: int) -> Decoder:
        """Rows for answers.

        Args:
            cache: attached to the model's decoder.
            max_rows: most answers that are decoded together.
            capacity: most tokens of a prompt and its answer.
            most_new_tokens: most tokens of an answer.

        Returns:
            The decoder; it must be used within :meth:`running`.
        """
        return Decoder(
            *(self.model, self.tokenizer, cache, max_rows, capacity, most_new_tokens, self._step),
            words=answer_words(self.model, self.tokenizer, self.box_style, self.outliner),
            experts=answer_experts(self.model, self.router_output),
        )

    def prompt(self, request: Request, sampling: Sampling, index: int = 0) -> Prompt:
        """Make a request ready to run.

        Args:
            request: its id, or else ``index``, fixes with the seed what is sampled.
            sampling: how tokens are chosen, and how many.
            index: index in a list of requests.

        Returns:
            The prompt.

        Raises:
            UserError: if it leaves no room for an answer.
        """
        asked = self._tokenized(index, request)
        name, room = f"request {asked.key}", self.max_seq_len - len(asked.tokens)
        if room < 1:
            raise UserError(
                f"{name}: its prompt has {len(asked.tokens)} tokens, which leaves no room for an answer within"
                f" {self.max_seq_len}; raise dataset_max_seq_len (the model's own limit is"
                f" {self.decoder_limit}) or shorten the prompt"
            )
        wanted = sampling.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
        return replace(asked, limit=max(1, min(room, wanted)), sampling=sampling)

    def prepare(self, image: Image.Image, key: str, fit: str | None = None) -> PreparedImage:
        """Resize an image for the tower, so that nothing else of it is kept.

        Args:
            image: any picture that Pillow has decoded.
            key: names its content, such as a hash of its file.
            fit: how it becomes square, as ``View.fit``.

        Returns:
            An object that a request may hold instead of the picture; the answer is the same.
        """
        picture = to_rgb(image)
        own = None if self.own_picture is None else self.own_picture.transform()(picture)
        return PreparedImage(self.preprocess.transform()(picture, fit), key, picture.size, fit, own)

    def tokenizer_of(self, request: Request) -> ChatTokenizer:
        """Return the tokenizer of a request: one that does without added words reads them as plain text."""
        return self.tokenizer.without_added if AddedWords.name in request.without else self.tokenizer

    def _phases(self, prompts: Sequence[Prompt]) -> list[list[Tree]]:
        """Trees of like capacity together, the longest first, so that memory runs out early or not at all."""
        branches = min(self._rows_for(prompt.capacity) for prompt in prompts)
        trees = plan_trees(prompts, self.model.image_token_id, branches, self.max_tree_tokens)
        trees.sort(key=lambda tree: -tree.capacity)
        phases: list[list[Tree]] = []
        for tree in trees:
            # At least half the capacity of the first: otherwise most of a row would be unused.
            if phases and 2 * tree.capacity > phases[-1][0].capacity:
                phases[-1].append(tree)
            else:
                phases.append([tree])
        return phases

    def _size(self, phase: Sequence[Tree]) -> tuple[int, int]:
        """Rows of the cache and tokens of a row."""
        capacity = phase[0].capacity
        if not self._step.static:
            return min(self._rows_for(capacity), sum(len(tree.prompts) for tree in phase)), capacity
        # Every further size is compiled again, so there are few of them.
        capacity = min(self.max_seq_len, 1 << (capacity - 1).bit_length())
        return max(self._rows_for(capacity), max(len(tree.prompts) for tree in phase)), capacity

    def _rows_for(self, capacity: int) -> int:
        affordable = self.batch_size if self.max_batch_tokens is None else self.max_batch_tokens // capacity
        return max(1, min(self.batch_size, affordable))

    def _scored_prompt(self, index: int, request: Request, texts: Sequence[str], end_of_turn: bool) -> Prompt:
        asked = self._tokenized(index, request)
        name = f"request {asked.key}"
        if not texts or not all(text.strip() for text in texts):
            raise UserError(f"{name}: there are no candidates to score, or one of them is empty")
        try:
            tokenizer = self.tokenizer_of(request)
            prefix = tokenizer.answer(request.answer_prefix, end_of_turn=False)
            answers = [tokenizer.answer(request.answer_prefix + text, end_of_turn) for text in texts]
        except UserError as error:
            raise type(error)(f"{name}: {error}") from None
        # The last word of the prefix may become one token with the candidate's first; then it is scored with it.
        num_given = min(num_equal(prefix, answer[:-1]) for answer in answers)
        tokens = [*asked.tokens[: len(asked.tokens) - len(prefix)], *prefix[:num_given]]
        scored = [np.asarray(answer[num_given:], dtype=np.int32) for answer in answers]
        if (longest := len(tokens) + max(map(len, scored))) > self.max_seq_len:
            raise UserError(
                f"{name}: its prompt and longest candidate have {longest} tokens, more than {self.max_seq_len};"
                f" raise dataset_max_seq_len (the model's own limit is {self.decoder_limit}) or shorten the prompt"
            )
        return replace(asked, tokens=np.asarray(tokens, dtype=np.int32), candidates=scored)

    def _tokenized(self, index: int, request: Request) -> Prompt:
        """Return the prompt of a request, with no limit of its answer yet."""
        key = request.id or str(index)
        self.model.check_without(request.without)
        try:
            messages, tokenizer = expand_named_images(request.messages, self.reader), self.tokenizer_of(request)
            prompt = tokenizer.prompt(messages, request.answer_prefix)
            tokens = np.asarray(prompt.tokens, dtype=np.int32)
            regions = question_regions(tokens, prompt.regions, len(prompt.images), tokenizer)
        except UserError as error:
            raise type(error)(f"request {key}: {error}") from None
        # Only here a path becomes a reference: requests of users' programs may hold paths.
        images = [
            image if isinstance(image, Image.Image | PreparedImage) else ImageRef.of(image) for image in prompt.images
        ]
        route = choose_route(self.model, tokenizer, messages, request.without)
        return Prompt(
            index, key, tokens, images, prompt.image_lengths, without=request.without, route=route, regions=regions
        )


def _sliding_window(model: VisionLanguageModel) -> int:
    # torchtune's sliding-window layers place a decoded query at the window's start, so they hold up to there only.
    windows = [getattr(module, "sliding_window_size", None) for module in model.decoder.modules()]
    return min([MAX_TREE_TOKENS + model.decoder.max_seq_len, *(window for window in windows if window)])
