from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from helpers.judge_checkpoints import write_chat_checkpoint
from helpers.llm_checkpoints import random_decoder, tiny_llm
from helpers.tiny_generation import NUM_IMAGE_TOKENS, FakeProjector, FakeTower
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.evaluation.judges.local import LocalJudge
from medcap.evaluation.judges.model_under_test import ModelUnderTestJudge
from medcap.models.tokenizers import llama3_tokenizer
from medcap.models.vision_language_model import VisionLanguageModel

PROMPTS = ["Is there a circle?", "No", "Describe the small image of the left lung, please: is it clear?"]


class Plan:
    """What the judge uses of a ModelPlan, over the weights of a Hugging Face folder."""

    def __init__(self, folder, decoder):
        tower = FakeTower()
        self.num_loads = 0
        self.tokenizer = ChatTokenizer(llama3_tokenizer(str(folder / "original/tokenizer.model")), NUM_IMAGE_TOKENS)
        self.vision = SimpleNamespace(preprocess=tower.preprocess, notices=[])
        self.model = VisionLanguageModel(tower, FakeProjector(), decoder, self.tokenizer.image_token_id)

    def base(self):
        return self

    def load(self, device, dtype, decoder):
        self.num_loads += 1
        return self.model


@pytest.fixture
def folder(tmp_path):
    return write_chat_checkpoint(tmp_path / "llm")


@pytest.fixture
def judge(folder):
    plan = Plan(folder, random_decoder(tiny_llm()))
    cfg = OmegaConf.create({"device": "cpu", "dtype": "fp32"})
    return ModelUnderTestJudge(cfg, plan, {"vision": "tiny"}, max_new_tokens=12, progress=False)


def ask(judge, prompts):
    replies = {}
    judge.ask(prompts, lambda position, reply: replies.update({position: reply}))
    return [replies[position] for position in range(len(prompts))]


def test_it_says_what_the_local_judge_says_with_the_same_weights(judge, folder):
    local = LocalJudge(folder, bits=16, dtype="fp32", max_new_tokens=12, progress=False)
    assert ask(judge, PROMPTS) == ask(local, PROMPTS)
    assert judge._plan.num_loads == 1


def test_weights_are_read_at_the_first_question(judge):
    assert (judge.name, judge.settings) == (
        "self",
        {"vision": "tiny", "dtype": "torch.float32", "max_new_tokens": 12},
    )
    assert judge._plan.num_loads == 0


def test_a_prompt_that_cannot_be_asked_fails_alone(judge):
    long, marked, short, image = ask(judge, ["left " * 300, "a \ufdd0", "No", "what is ①?"])
    assert "tokens; the judge reads and writes at most 256" in long.error
    assert "stands for an image" in marked.error
    assert (short.error, image.error) == ("", "")
    assert image == ask(judge, ["what is (1)?"])[0]
