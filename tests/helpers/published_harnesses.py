"""MedEvalKit, VLMEvalKit and lmms-eval's SLAKE, written out plainly to compare the protocols with.

Nothing here is shared with the package. Sources: alibaba-damo-academy/MedEvalKit (``utils/utils.py`` and the classes of
the five benchmarks), hiyouga/MathRuler (``grader.py``), open-compass/VLMEvalKit (``matching_util.py``), lmms-eval
(``tasks/slake/utils.py``).
"""

import difflib
import functools
import re


def box_of(text):
    r"""MathRuler's ``extract_boxed_content``: the last ``\boxed{``, to the brace that closes it."""
    at = text.rfind("\\boxed{")
    if at == -1:
        return "None"
    inside, level = "", 0
    for letter in text[at + 7 :]:
        if letter == "{":
            level += 1
        if letter == "}":
            level -= 1
            if level == -1:
                return inside.strip()
        inside += letter
    return "None"


def between_answer_tags(text):
    """``extract(text, "answer")``."""
    if not text:
        return ""
    collected, position = "", 0
    while True:
        opened = text.find("<answer>", position)
        if opened == -1:
            break
        closed = text.find("</answer>", opened + 8)
        if closed == -1:
            break
        collected += text[opened + 8 : closed] + " "
        position = closed + 9
    return collected.strip() if collected.strip() else text


def parse(text):
    """``parse_response``."""
    text = text.lower()
    if text.find("boxed") >= 0:
        text = box_of(text)
    elif text.find("<answer>") >= 0:
        text = between_answer_tags(text)
    marks = ["**answer**:", "**answer**", "*answer*:", "**answer:**", "answer is", "answer:", "答案:"]
    for mark in [*marks, "final answer", "final answer is"]:
        pieces = text.split(mark)
        text = pieces[len(pieces) - 1]
    return text


def yes_no(answer, reply):
    """``judge_judgement``."""
    reply = parse(reply).replace("\n", "").replace(".", "")
    one = (reply.count("yes") > 0) + (reply.count("no") > 0)
    return one == 1 and reply.find(answer.lower()) >= 0


def yes_no_in_words(answer, reply):
    """What the corrected twin has instead."""
    found = {word for word in re.split(r"\W+", parse(reply)) if word in ("yes", "no")}
    return found == {answer.lower()}


def closed_text(answer, reply):
    """``judge_close_end_vqa``."""
    return parse(reply).replace("\n", "").replace(".", "") == answer.lower()


def f1_precision_recall(reply, answer):
    """``calculate_f1``, 0 where it ends in an error."""
    said, wanted = set(reply.lower().split()), set(answer.lower().split())
    if not said or not wanted or not said.intersection(wanted):
        return 0.0, 0.0, 0.0
    p = len(said.intersection(wanted)) / len(said)
    r = len(said.intersection(wanted)) / len(wanted)
    return 2 * (p * r) / (p + r), p, r


@functools.cache
def ratio(choice, reply):
    return difflib.SequenceMatcher(None, choice, reply).ratio()


def choice_is_right(choices, answer, reply, corrected=False):
    """``judge_multi_choice``; corrected, a reply without any similarity is wrong."""
    letters = [chr(97 + number) for number in range(len(choices))]
    reply = reply.lower()
    paragraphs = reply.split("\n\n")
    if paragraphs[0] in letters:
        reply = paragraphs[0]
    elif paragraphs[-1].split(".")[0] in letters:
        reply = paragraphs[-1].split(".")[0]
    reply = parse(reply)
    choices = [choice.lower() for choice in choices]
    reply = reply.strip().lower().replace("\n", "")
    short = reply.split(".")[0].split(":")[-1]
    answer = answer.strip().lower()
    if short == answer:
        return True
    if short in letters:
        return choices[letters.index(short)] == answer
    if short in choices:
        return answer in letters and choices[letters.index(answer)] == short
    ratios = [ratio(choice, reply) for choice in choices]
    if corrected and max(ratios) == 0:
        return False
    nearest = ratios.index(max(ratios))
    return answer in (letters[nearest], choices[nearest])


def medevalkit(rows, dataset, commit, judged, corrected=False):
    """``cal_metrics`` of the three benchmarks of words, as its counters run.

    Args:
        rows: (reference, answer_type, reply, verdict).
        commit: 2025-06, 564d279, 25676be or 9b12e3b.
        judged: whether the judge is on.

    Returns:
        accuracy, open.accuracy, closed.accuracy, open.precision, open.recall, open.f1
    """
    total = {"right": 0, "n": 0}
    opened, closed = {"right": 0, "n": 0, "p": 0.0, "r": 0.0, "f": 0.0}, {"right": 0, "n": 0}
    verdicts = []
    for reference, answer_type, reply, verdict in rows:
        if box_of(reply) != "None":
            reply = box_of(reply)
        elif "<answer>" in reply:
            reply = between_answer_tags(reply)
        if dataset == "slake":
            is_open = answer_type == "OPEN"
        else:
            reference, reply = reference.lower().strip(), reply.lower().strip()
            is_open = reference not in ("yes", "no")
        total["n"] += 1
        if is_open:
            opened["n"] += 1
            if parse(reply) == reference.lower():
                total["right"] += 1
                opened["right"] += 1
            f, p, r = f1_precision_recall(parse(reply), reference)
            for name, value in zip("prf", (p, r, f) if corrected else (f, p, r), strict=True):
                opened[name] += value
        else:
            closed["n"] += 1
            if corrected and reference.lower() in ("yes", "no"):
                right = yes_no_in_words(reference, reply)
            else:
                right = yes_no(reference, reply) if reference in ("yes", "no") else closed_text(reference, reply)
            if right:
                total["right"] += 1
                closed["right"] += 1
        if is_open or (dataset == "slake" and not corrected):
            verdicts.append((is_open, verdict))
    if judged:
        if corrected or (dataset == "vqarad" and commit in ("25676be", "9b12e3b")):
            total["right"], opened["right"] = closed["right"], 0
        elif dataset == "vqarad" and commit == "564d279":
            opened["right"] = 0
        elif dataset == "slake" and commit == "9b12e3b":
            total["right"], opened["right"] = closed["right"], 0
        else:
            total["right"] = opened["right"] = closed["right"] = 0
        for is_open, verdict in verdicts:
            if verdict:
                total["right"] += 1
                (opened if is_open else closed)["right"] += 1
    return {
        "accuracy": total["right"] / total["n"],
        "open.accuracy": opened["right"] / opened["n"],
        "closed.accuracy": closed["right"] / closed["n"],
        "open.precision": opened["p"] / opened["n"],
        "open.recall": opened["r"] / opened["n"],
        "open.f1": opened["f"] / opened["n"],
    }


def vlmevalkit(reply, choices, verbose):
    """``can_infer``: "" where it returns False."""
    text = reply
    for mark in ".()[],:;!*#{}":
        text = text.replace(mark, " ")
    words = text.split()
    if "Failed to obtain answer via API" not in reply:
        refusals = ["images of people yet.", "process this file.", "without the image provided", "determine the answer"]
        starts = ["Sorry, I can't help with ", "I can't ", "I'm sorry, but ", "Cannot "]
        if any(start + end in reply for start, end in zip(starts, refusals, strict=True)):
            return "Z"
        count = sum(letter in words for letter in choices)
        if count == 0 and "Z" in words:
            return "Z"
        if count == 1 and not (verbose and len(words) > 3 and "A" in words):
            letter = next(letter for letter in choices if letter in words)
            if words.index(letter) > len(words) - 5:
                return letter
    if len(reply.lower()) <= 2 * sum(len(option) for option in choices.values()):
        inside = [letter for letter, option in choices.items() if option.lower() in reply.lower()]
        if len(inside) == 1:
            return inside[0]
    return ""


CHINESE_MARKS = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～、，。；：《》？【】（）"
ASCII_MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def lmms_eval_slake(text):
    """``normalize_answer``."""
    text = text.strip().lower()
    text = re.sub(r"\([^)]*\)", " ", text)
    text = re.sub(r"（[^）]*）", " ", text)
    text = "".join(" " if letter in ASCII_MARKS + CHINESE_MARKS else letter for letter in text)
    text = " ".join(re.split(r"\s+", text)).strip()
    if text in ("x ray", "xray"):
        return "xray"
    if text in ("yes", "yeah", "yep", "true", "是", "是的", "有", "包含", "可以", "能", "会", "正常"):
        return "yes"
    if text in ("no", "nope", "false", "否", "不是", "没有", "无"):
        return "no"
    if text in ("不包含", "不能", "不会", "不可以", "不正常", "异常"):
        return "no"
    return text
