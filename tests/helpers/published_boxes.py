"""The published evaluators of boxes, written out plainly and slowly, to compare the protocols with.

Nothing here is shared with the package. Sources: ColonGPT (``multimodal_evaluator.py``) and BiRD
(``eval_VG_score_modality.py``, ``eval_RO_score_modality.py``, ``regularization.py``).
"""

import re

import numpy as np

EIGHT = ["ct", "mr", "x", "pet", "endoscopy", "dermoscopy", "fundus", "ultrasound"]


def colongpt_right(prediction, reference):
    """CLS and REG: whether a row is right."""
    return prediction.lower().replace("<|endoftext|>", "") == reference.lower()


def colongpt_iou(prediction, reference):
    """REC: the IoU of a row, both ends of a side counted."""
    sides = []
    for text in (prediction.lower().replace("<|endoftext|>", ""), reference.lower()):
        sides.append([int(match.group(1)) for match in re.finditer(r"<\s*(\d+)\s*>", text)])
    a, b = sides
    if len(a) != 4 or len(b) != 4:
        return 0.0
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[2], b[2]), min(a[3], b[3])
    inter = max(0, right - left + 1) * max(0, bottom - top + 1)
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    try:
        return inter / (area_a + area_b - inter)
    except ZeroDivisionError:
        return 0.0


def extract(text):
    """BiRD's ``extract_information``."""
    if ".<|im_end|>" in text:
        text = text[: text.index(".<|im_end|>")] + "."
    text = text.replace("<|im_end|>\n", "")
    breaks = [position for position, letter in enumerate(text) if letter == "\n"]
    if len(breaks) >= 2:
        text = text[breaks[0] + 1 : breaks[1]]
    return text.replace("<|endoftext|>", "").strip()


def _array(text):
    return np.array([[float(part) for part in text.replace("(", "").replace(")", "").split(",")]])


def _iou(first, second):
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    sides = np.clip(high - low, 0, None)
    inter = sides[:, :, 0] * sides[:, :, 1]
    with np.errstate(all="ignore"):
        return (inter / (areas[0][:, None] + areas[1] - inter))[0][0]


def bird_vg_hits(prediction, reference):
    """VG: boxes of the reference that are found, and their number; a broken reference raises ValueError."""
    response = extract(prediction)
    targets = re.findall(r"<box>(.*?)</box>", reference)
    predicted = re.findall(r"<box>(.*?)</box>", response)
    if not predicted:
        predicted = re.findall(r"\(\d+,\d+\),\(\d+,\d+\)", response)
    hits = 0
    for target in targets if predicted else []:
        for box in predicted:
            wanted = _array(target)
            try:
                overlap = _iou(_array(box), wanted)
            except Exception:  # as published
                overlap = 0
            if overlap > 0.5:
                hits += 1
                break
    return hits, len(targets)


def bird_ro_right(prediction, reference):
    """RO: whether a row is right."""
    response = extract(prediction).lower()
    return all(token in response for token in reference.lower().split(" "))


def mean_of_eight(modalities, hits, totals):
    """The mean over the eight modalities, and each of them."""
    parts = {name: [0, 0] for name in EIGHT}
    for modality, hit, total in zip(modalities, hits, totals, strict=True):
        parts[modality][0] += hit
        parts[modality][1] += total
    scores = {name: hit / (total + 1e-8) for name, (hit, total) in parts.items()}
    return sum(scores.values()) / len(scores), scores
