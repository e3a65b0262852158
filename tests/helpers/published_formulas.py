"""The published evaluators' formulas, written out plainly and slowly, to compare the protocols with.

Nothing here is shared with the package. Sources: LLaVA-Med v1.0.0 (``run_eval.py``, ``run_eval_batch.py``,
``eval_metrics``), MedPLIB (``cal_metric.py``), OmniMedVQA (``medicalqa.py``), medcap (``eval_vqa``).
"""

import difflib
import functools
import math
import re
import sys
from fractions import Fraction

# GT-Vision-Lab/VQA, vqaEval.py, as LLaVA-Med's glossary.py has it: "spelling:restored spelling".
TABLE = """
aint:ain't arent:aren't cant:can't couldve:could've couldnt:couldn't couldn'tve:couldn't've couldnt've:couldn't've
didnt:didn't doesnt:doesn't dont:don't hadnt:hadn't hadnt've:hadn't've hadn'tve:hadn't've hasnt:hasn't
havent:haven't hed:he'd hed've:he'd've he'dve:he'd've hes:he's howd:how'd howll:how'll hows:how's Id've:I'd've
I'dve:I'd've Im:I'm Ive:I've isnt:isn't itd:it'd itd've:it'd've it'dve:it'd've itll:it'll let's:let's maam:ma'am
mightnt:mightn't mightnt've:mightn't've mightn'tve:mightn't've mightve:might've mustnt:mustn't mustve:must've
neednt:needn't notve:not've oclock:o'clock oughtnt:oughtn't ow's'at:'ow's'at 'ows'at:'ow's'at 'ow'sat:'ow's'at
shant:shan't shed've:she'd've she'dve:she'd've she's:she's shouldve:should've shouldnt:shouldn't
shouldnt've:shouldn't've shouldn'tve:shouldn't've somebody'd:somebodyd somebodyd've:somebody'd've
somebody'dve:somebody'd've somebodyll:somebody'll somebodys:somebody's someoned:someone'd someoned've:someone'd've
someone'dve:someone'd've someonell:someone'll someones:someone's somethingd:something'd somethingd've:something'd've
something'dve:something'd've somethingll:something'll thats:that's thered:there'd thered've:there'd've
there'dve:there'd've therere:there're theres:there's theyd:they'd theyd've:they'd've they'dve:they'd've
theyll:they'll theyre:they're theyve:they've twas:'twas wasnt:wasn't wed've:we'd've we'dve:we'd've weve:we've
werent:weren't whatll:what'll whatre:what're whats:what's whatve:what've whens:when's whered:where'd wheres:where's
whereve:where've whod:who'd whod've:who'd've who'dve:who'd've wholl:who'll whos:who's whove:who've whyll:why'll
whyre:why're whys:why's wont:won't wouldve:would've wouldnt:wouldn't wouldnt've:wouldn't've wouldn'tve:wouldn't've
yall:y'all yall'll:y'all'll y'allll:y'all'll yall'd've:y'all'd've y'alld've:y'all'd've y'all'dve:y'all'd've
youd:you'd youd've:you'd've you'dve:you'd've youll:you'll youre:you're youve:you've
"""
CONTRACTIONS = dict(entry.split(":") for entry in TABLE.split())
PUNCTUATION = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip


@functools.cache
def norm(text):
    """``normalize_word``."""
    result = text
    for mark in PUNCTUATION:
        if mark + " " in text or " " + mark in text or re.search(r"\d,\d", text):
            result = result.replace(mark, "")
        else:
            result = result.replace(mark, " ")
    stops = 0
    kept = []
    for index, character in enumerate(result):
        before_digit = index + 1 < len(result) and re.match(r"\d", result[index + 1])
        if character == "." and not before_digit and stops < 32:
            stops += 1
        else:
            kept.append(character)
    words = []
    for word in "".join(kept).lower().split():
        number = NUMBERS.get(word, word)
        if number not in ("a", "an", "the"):
            words.append(CONTRACTIONS.get(number, number))
    return " ".join(words).replace(",", "")


@functools.cache
def counts(text):
    """``split_sentence`` for single words."""
    result = {}
    for word in text.lower().strip().split():
        result[word] = result.get(word, 0) + 1
    return result


def exact_match(prediction, reference):
    """``calculate_exactmatch``."""
    predicted, wanted = counts(norm(prediction)), counts(norm(reference))
    if not predicted:
        return 0
    return len([word for word in wanted if word in predicted]) / sum(predicted.values())


def f1_precision_recall(prediction, reference):
    """``calculate_f1score``."""
    predicted, wanted = counts(norm(prediction)), counts(norm(reference))
    both = sum(predicted[word] for word in predicted if word in wanted)
    only_predicted = sum(predicted[word] for word in predicted if word not in wanted)
    only_wanted = sum(wanted[word] for word in wanted if word not in predicted)
    if not predicted or not wanted or not both:
        return 0, 0, 0
    precision, recall = both / (both + only_predicted), both / (both + only_wanted)
    return 2 * precision * recall / (precision + recall), precision, recall


def bleu(prediction, reference, weights):
    """Sentence BLEU (Papineni et al., 2002) against one reference; a precision of 0 is the smallest normal float."""
    hypothesis, wanted = prediction.lower().split(), reference.lower().split()
    total = 0
    logarithms = []
    for order, weight in enumerate(weights, start=1):
        grams = [tuple(hypothesis[i : i + order]) for i in range(len(hypothesis) - order + 1)]
        there = [tuple(wanted[i : i + order]) for i in range(len(wanted) - order + 1)]
        hits = sum(min(grams.count(gram), there.count(gram)) for gram in set(grams))
        if order == 1:
            total = hits
        precision = Fraction(hits, max(1, len(grams))) if hits else sys.float_info.min
        logarithms.append(weight * math.log(precision))
    if not total:
        return 0
    brevity = 1 if len(hypothesis) > len(wanted) else math.exp(1 - len(wanted) / len(hypothesis))
    return brevity * math.exp(math.fsum(logarithms))


def retrieved(prediction, candidates):
    """The candidate that ``calculate_appearance_with_normalization`` takes for the answer."""
    predicted = counts(norm(prediction))
    shares = []
    for candidate in candidates:
        words = counts(norm(candidate))
        shares.append(len([word for word in predicted if word in words]) / len(words) if words else 0.0)
    return norm(candidates[shares.index(max(shares))])


def open_scores(prediction, reference):
    """The word measures of an OPEN question, from the raw texts."""
    prediction, reference = norm(prediction.lower()), norm(reference.lower())
    f1, precision, recall = f1_precision_recall(prediction, reference)
    return {
        "open.exact_match": exact_match(prediction, reference),
        "open.precision": precision,
        "open.recall": recall,
        "open.f1": f1,
        "open.bleu": bleu(prediction, reference, (0.25, 0.25, 0.25, 0.25)),
        "open.bleu_1": bleu(prediction, reference, (1, 0, 0, 0)),
        "open.bleu_2": bleu(prediction, reference, (0, 1, 0, 0)),
        "open.bleu_3": bleu(prediction, reference, (0, 0, 1, 0)),
    }


def llava_med(answer_type, prediction, reference, candidates):
    """run_eval.py: the values of a row."""
    p, r = norm(prediction.lower()), norm(reference.lower())
    if answer_type == "OPEN":
        hit = 1.0 if retrieved(p, candidates) == norm(r) else 0.0
        return {**open_scores(prediction, reference), "open.accuracy": hit}
    return {"closed.accuracy": 1 if ("yes" in p or "no" in p) and r in p else 0}


def llava_med_batch(answer_type, prediction, reference):
    """run_eval_batch.py: the values of a row."""
    p, r = norm(prediction.lower()), norm(reference.lower())
    if answer_type == "OPEN":
        return {**open_scores(prediction, reference), "open.accuracy": 1 if r in p else 0}
    return {"closed.accuracy": 1 if r in p else 0, "closed.recall": f1_precision_recall(p, r)[2]}


def medplib(answer_type, prediction, reference, references):
    """cal_metric.py: the values of a row; ``references`` are all raw ones of the file in their order."""
    p, r = norm(prediction.lower()), norm(reference.lower())
    if answer_type.lower() in ("open", "other", "number"):
        hit = 1.0 if retrieved(p, references) == norm(r) or norm(p) == norm(r) else 0.0
        return {**open_scores(prediction, reference), "open.accuracy": hit}
    return {"closed.accuracy": 1 if p == r else 0}


def omnimedvqa_qa(prediction, reference, options):
    """medicalqa.py: whether a row is right."""
    ratios = [difflib.SequenceMatcher(None, option, prediction).ratio() for option in options]
    return max(ratios) > 0 and options[ratios.index(max(ratios))] == reference


def medcap_letter(reply, reference, options):
    """medcap 2024's eval_vqa: whether a row is right."""
    try:
        return "ABCD".index(reply.strip()[0].upper()) == options.index(reference)
    except (IndexError, ValueError):
        return False
