"""A run that learns nothing: it reports lr + epochs left, and does what its arguments say."""

import json
import os
import sys
import time
from pathlib import Path

arguments = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
folder = Path(os.environ["LIGHTNING_LOSSES_TRIAL"])
with (folder / "starts").open("a") as stream:
    stream.write("started\n")
if arguments.get("fails") == "True":
    sys.exit("it can't be done")
while len(list(folder.parent.glob("*/starts"))) < int(arguments.get("meets", 0)):
    time.sleep(0.01)
loss = float(arguments["lr"])
epochs = int(arguments.get("epochs", 2))
for epoch in range(epochs):
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"epoch": epoch, "val/loss": loss + epochs - 1 - epoch}) + "\n")
    time.sleep(float(arguments.get("seconds", 0)))
while loss > float(arguments.get("waits_above", "inf")) and not Path(arguments.get("waits_for", "nowhere")).exists():
    time.sleep(0.01)
with (folder / "metrics.jsonl").open("a") as stream:
    stream.write(json.dumps({"finished": True}) + "\n")
