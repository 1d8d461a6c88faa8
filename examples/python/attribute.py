"""What is in a merged checkpoint, and how was it made?  On the sample that comes with the repository (examples/data)."""

import json
import sys
from pathlib import Path

import unmerge

data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "data"
manifest = json.loads((data / "manifest.json").read_text())
atoms = [data / adapter["path"] for adapter in manifest["adapters"] if adapter.get("in_dictionary", True)]
base = data / manifest["base"]["path"]

for merge in manifest["merges"][:3]:
    found = unmerge.attribute(base=base, atoms=atoms, target=data / merge["path"])
    print(f"{merge['name']}: merged by {merge['method']} from {merge['truth']}\n")
    print(found, end="\n\n")

# The recipe of the last one, ready for mergekit; and the proof again, value by value, in the data itself.
if found.rule is not None:
    print(found.mergekit_yaml())
    print(found.replay())
