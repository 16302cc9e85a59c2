"""Validates objects of the Prometheus Operator, in the YAML files that are given, by the schemas of
its CustomResourceDefinitions, from which the types in the package are generated."""

import sys

import yaml
from cloudcoil.models.prometheus_operator import v1

count = 0
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        objects = list(yaml.safe_load_all(file))
    for given in objects:
        typed = getattr(v1, given["kind"]).model_validate(given)
        # The types drop fields that they do not know, so those are missing here.
        known = typed.model_dump(mode="json", by_alias=True, exclude_unset=True)
        if known != given:
            name = f"{given['kind']} {given['metadata']['name']}"
            sys.exit(f"{path}: {name} has fields that the Prometheus Operator does not know")
        count += 1
if count == 0:
    sys.exit("there was nothing to validate")
print(f"{count} objects are valid")
