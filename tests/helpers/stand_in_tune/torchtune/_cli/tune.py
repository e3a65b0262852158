"""``tune run`` as a sweep or a pipeline sees it, in milliseconds.

It writes a training's log and checkpoints and is stopped like one; it writes a test's scores. Its overrides say what it
does.

- ``seed``: the loss falls to it; ``91``: ends with status 2 and a message; ``92``: becomes NaN; ``93``: waits after
  step 2 of its first start until it is asked to stop;
- ``epochs``: validations; ``batch_size``: hundredths of a second between them.
"""

import json
import signal
import sys
import time
from pathlib import Path


def main():
    overrides = dict(word.split("=") for word in sys.argv[sys.argv.index("--config") + 2 :])
    folder = Path(overrides["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts.txt").open("a") as file:
        file.write(sys.argv[sys.argv.index("--config") - 1].rpartition("/")[2] + "\n")
    if "vision_checkpoint" in overrides:
        (folder / "vqa").mkdir(exist_ok=True)
        seed = json.loads((folder / "summary.json").read_text())["seed"]
        (folder / "vqa" / "metrics.json").write_text(json.dumps({"scores": {"accuracy": seed / 10}}))
        return
    train(overrides, folder)


def train(overrides, folder):
    stopped = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.append(number))
    seed = int(overrides["seed"])
    if seed == 91:
        sys.exit("medcap: the data file is not there")
    checkpoint = folder / "checkpoint.json"
    done = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
    waits = seed == 93 and len((folder / "starts.txt").read_text().split()) == 1
    (folder / "log").mkdir(exist_ok=True)
    with (folder / "log" / "metrics.jsonl").open("a") as log:
        for step in range(done + 1, int(overrides["epochs"]) + 1):
            time.sleep(int(overrides["batch_size"]) / 100)
            loss = None if seed == 92 else seed + 1 / step
            log.write(json.dumps({"step": step, "validation_loss": loss}) + "\n")
            log.flush()
            checkpoint.write_text(json.dumps(step))
            while waits and step == 2 and not stopped:
                time.sleep(0.01)
            if stopped:
                sys.exit(128 + stopped[0])
    (folder / "summary.json").write_text(json.dumps({"seed": seed}))
