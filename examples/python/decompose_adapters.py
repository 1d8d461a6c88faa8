"""Which adapters are in a merged checkpoint?  On the sample that comes with the repository (examples/data)."""

import json
import sys
from pathlib import Path

import unmerge

data = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "data"
manifest = json.loads((data / "manifest.json").read_text())
atoms = [data / adapter["path"] for adapter in manifest["adapters"] if adapter.get("in_dictionary", True)]
merge = manifest["merges"][0]

result = unmerge.decompose(base=data / manifest["base"]["path"], atoms=atoms, target=data / merge["path"])

print(f"{merge['name']}: merged by {merge['method']} from {merge['truth']}\n")
print(result)

# Evidence: a component that is really there has nearly the same weight in every module.
print("\nweights the modules would choose alone:")
for module in result.modules[:4]:
    print(f"  {module.name}: " + ", ".join(f"{name} {weight:.3f}" for name, weight in module.weights.items()))
