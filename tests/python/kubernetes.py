"""Objects against Kubernetes' own schemas, and patches against another implementation of RFC 6902.

    kubernetes.py schemas FILE...   every object, strictly, for each version
    kubernetes.py patches FILE      JSON lines {"name", "before", "patch", "after"}

Prints what is wrong and exits with 1, or how much was checked.
"""

import json
import sys

import jsonpatch
import kubernetes_validate
import yaml

# The first with native sidecars by default, the one that made them general, and the newest.
VERSIONS = ["1.29", "1.33", "1.37"]


def objects(document):
    if not isinstance(document, dict):
        return []
    if document.get("kind") == "List":
        return [o for item in document["items"] for o in objects(item)]
    return [document]


def schemas(files):
    wrong, checked = [], 0
    for file in files:
        with open(file, encoding="utf-8") as text:
            found = [o for d in yaml.safe_load_all(text) for o in objects(d)]
        for item in found:
            group = item["apiVersion"].partition("/")[0]
            if "." in group and not group.endswith(".k8s.io"):
                # Kinds that others have defined: Kubernetes has no schema for them.
                continue
            for version in VERSIONS:
                checked += 1
                try:
                    kubernetes_validate.validate(item, version, strict=True)
                except Exception as error:
                    wrong.append(f"{file}: {item['kind']} ({version}): {str(error)[:600]}")
    return wrong, checked


def patches(file):
    wrong, checked = [], 0
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            case = json.loads(line)
            checked += 1
            try:
                after = jsonpatch.JsonPatch(case["patch"]).apply(case["before"])
            except Exception as error:
                wrong.append(f"{case['name']}: {error}")
                continue
            if after != case["after"]:
                wrong.append(f"{case['name']}: the patch leads elsewhere")
    return wrong, checked


def main():
    what, *files = sys.argv[1:]
    wrong, checked = schemas(files) if what == "schemas" else patches(*files)
    for line in wrong:
        print(line)
    if wrong or not checked:
        sys.exit(f"{len(wrong)} of {checked} wrong")
    print(checked)


main()
