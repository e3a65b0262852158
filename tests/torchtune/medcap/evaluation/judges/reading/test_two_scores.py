import time

import pytest

from medcap.evaluation.judges.reading.two_scores import parse_two_scores

# Replies from which both scores are known: Assistant 1's, then Assistant 2's.
READ = {
    # The published form, and its near neighbours.
    "8 7": (8, 7),
    "8 7\nAssistant 1 describes 3 nodules of 12 mm, Assistant 2 only 1.": (8, 7),
    "\n\n  9   4  \n\nBoth are fine.": (9, 4),
    "8.5 7": (8.5, 7),
    "10 10": (10, 10),
    "10 0": (10, 0),
    "8, 7": (8, 7),
    "8,7": (8, 7),
    "8; 7": (8, 7),
    "8 | 7": (8, 7),
    "8\t7": (8, 7),
    "8 and 7": (8, 7),
    "(8, 7)": (8, 7),
    "8 - 7": (8, 7),
    "8 vs. 7": (8, 7),
    "8 7.": (8, 7),
    "８ ７": (8, 7),
    "8\n7": (8, 7),
    "8\n7\nThe second one is vague.": (8, 7),
    # Decimals with a comma.
    "8,5 7,0": (8.5, 7),
    "8,5, 7,5": (8.5, 7.5),
    "8,5; 7": (8.5, 7),
    # Out of ten.
    "8/10 7/10": (8, 7),
    "8/10, 7.5/10": (8, 7.5),
    "8 out of 10 and 7 out of 10": (8, 7),
    "8 out of 10, 6 out of 10": (8, 6),
    "10/10 9/10": (10, 9),
    "8 points, 7 points": (8, 7),
    # Words.
    "eight seven": (8, 7),
    "Eight and six": (8, 6),
    "Assistant 1: nine, Assistant 2: four": (9, 4),
    "eight out of ten and seven out of ten": (8, 7),
    # A heading before the scores.
    "Scores: 8 7": (8, 7),
    "Final scores: 8 7\nExplanation: ...": (8, 7),
    "The scores are 8 and 7.": (8, 7),
    "Ratings:\n8 7\nBecause ...": (8, 7),
    "Here is my judgement.\n\n8 7": (8, 7),
    "Assistant 1 is better.\n8 7": (8, 7),
    "Ratings below.\n8 7\nThe second refers to Figure 3.": (8, 7),
    "8 7\nSee [1, 2] and {3}.": (8, 7),
    "Assistant 1 names the organ; Assistant 2 does not.\n\n9 5": (9, 5),
    "Scores for Assistant 1 and 2: 8 7": (8, 7),
    # Labels, in either order.
    "Assistant 1: 8\nAssistant 2: 7": (8, 7),
    "Assistant 2: 7\nAssistant 1: 8": (8, 7),
    "Assistant 1: 8, Assistant 2: 7": (8, 7),
    "Assistant 2: 6.5/10, Assistant 1: 8/10": (8, 6.5),
    "**Assistant 1**: 8/10\n**Assistant 2**: 6/10\n\n**Explanation**: 3 findings are missed.": (8, 6),
    "Assistant 1's score is 8. Assistant 2's score is 7.": (8, 7),
    "Assistant 1 (8) Assistant 2 (7)": (8, 7),
    "Assistant 1 gets 8 while Assistant 2 gets 7": (8, 7),
    "Assistant 1:\n8\nAssistant 2:\n7": (8, 7),
    "Score of Assistant 1: 8\nScore of Assistant 2: 7": (8, 7),
    "Assistant 1 = 8; Assistant 2 = 7": (8, 7),
    "Answer A: 8\nAnswer B: 7": (8, 7),
    "Response 1 - 8\nResponse 2 - 7": (8, 7),
    "The first assistant gets 8 and the second 7.": (8, 7),
    "8 for Assistant 1 and 7 for Assistant 2": (8, 7),
    "Rating: 7 out of 10 for Assistant 2, 8 out of 10 for Assistant 1.": (8, 7),
    "1. 8\n2. 7": (8, 7),
    "1) 8/10\n2) 7/10": (8, 7),
    "| Assistant 1 | 8 |\n| Assistant 2 | 7 |": (8, 7),
    "| Assistant 1 | Assistant 2 |\n|---|---|\n| 8 | 7 |": (8, 7),
    "### Scores\n- Assistant 1: **8**\n- Assistant 2: **7**": (8, 7),
    "Helpfulness: Assistant 1: 9, Assistant 2: 6\nAccuracy: Assistant 1: 7, Assistant 2: 6\n"
    "Overall: Assistant 1: 8, Assistant 2: 6": (8, 6),
    # Code fences, markup, tags.
    "```\n8 7\n```": (8, 7),
    "```text\n8 7\n```\nThe first is better.": (8, 7),
    "**8 7**\n\nBoth are good.": (8, 7),
    "`8 7`": (8, 7),
    "$\\boxed{8\\ 7}$": (8, 7),
    "<scores>8 7</scores>": (8, 7),
    # JSON.
    '{"assistant_1": 8, "assistant_2": 7}': (8, 7),
    '{"Assistant 2": 7, "Assistant 1": 8}': (8, 7),
    '```json\n{"score1": 8, "score2": 7.5, "reason": "the 3 findings"}\n```': (8, 7.5),
    '{"scores": [8, 7], "explanation": "..."}': (8, 7),
    "[8, 7]": (8, 7),
    '{"assistant1": {"score": 8, "reason": "good"}, "assistant2": {"score": "7/10", "reason": "1 error"}}': (8, 7),
    '[{"name": "Assistant 2", "score": 6}, {"name": "Assistant 1", "score": 9}]': (9, 6),
    '[{"assistant": 2, "score": 7}, {"assistant": 1, "score": 8}]': (8, 7),
    '[{"score": 2, "id": 2}, {"score": 1, "id": 1}]': (1, 2),
    'Here you are:\n{"a": "8,5", "b": "7"}': (8.5, 7),
    # Reasoning in tags.
    "<think>Perhaps 9 8? No, Assistant 2 misses it.</think>\n8 6": (8, 6),
    "<think>\n3 4\n</think>\n\nAssistant 1: 8\nAssistant 2: 7": (8, 7),
    "9 9 is too much.</think>8 7": (8, 7),
    "<answer>8 7</answer>": (8, 7),
}

# Replies without two scores of the scale, or with several that differ.
NOT_READ = (
    "",
    "8",
    "8/10",
    "10/10",
    "8\nThe second answer is missing.",
    "Assistant 1: 8",
    "Assistant 1: 8\nAssistant 2: no score",
    "Assistant 1: 8/10\nAssistant 2: N/A",
    "1. 8",
    "11/10 7",
    "11 7",
    "8 11/10",
    "Assistant 1: 11/10, Assistant 2: 7/10",
    "80 70",
    "80% 70%",
    "-1 7",
    "8 7 6",
    "8 7 because [1, 2]\n6",
    "8-9 7",
    "8/7",
    "N/A 7",
    '{"assistant_1": 8}',
    '{"assistant_1": 8, "assistant_2": null}',
    '{"assistant_1": 12, "assistant_2": 7}',
    '{"assistant_1": true, "assistant_2": false}',
    "[8, 7, 6]",
    "Assistant 1: 8, Assistant 2: 7\nAssistant 1: 6, Assistant 2: 7",
    "Both assistants are good.",
    "Assistant 1 mentions 3 nodules and Assistant 2 mentions 4 nodules.",
    "Assistant 1 finds 3 lesions; Assistant 2 finds 2 cm of effusion.",
    "<think>8 7",
    "I cannot rate medical answers.",
    "Image 3 of figure 2 shows 4 cells.",
)


def test_there_are_sixty_forms_and_more():
    assert len(READ) + len(NOT_READ) >= 60


@pytest.mark.parametrize("reply", READ)
def test_both_scores_are_read(reply):
    assert parse_two_scores(reply) == READ[reply]


@pytest.mark.parametrize("reply", NOT_READ)
def test_a_reply_without_two_scores_is_not_read(reply):
    assert parse_two_scores(reply) is None


def test_a_long_reply_takes_no_time_that_grows_with_its_square():
    start = time.process_time()
    parse_two_scores("Assistant 1 " * 2_000 + "{" * 2_000 + "8 " * 2_000 + " " * 10_000)
    assert time.process_time() - start < 3
