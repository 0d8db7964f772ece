"""Reads resources of KServe with its own typed models, and prints them as JSON; run by the interpreter that has them.

The models of KServe itself are of an older generator than those of Kubernetes: each has a table of its attributes'
types, and one of their names. Attributes that no model has end this with an error.
"""

import json
import re
import sys

from kserve import models
from kubernetes import client

KINDS = {"ClusterServingRuntime": "V1alpha1ClusterServingRuntime", "InferenceService": "V1beta1InferenceService"}


def typed(value, kind):
    """The value as the type of this name takes it."""
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        return [typed(one, inner[1]) for one in value]
    if kind.startswith("dict(") or not kind.startswith("V1"):
        return value
    if (model := getattr(models, kind, None)) is None:
        model = getattr(client, kind)
        read = model.from_dict(value)
        assert read.model_dump(by_alias=True, exclude_none=True) == value, (kind, value)
        return read
    names = {outside: inside for inside, outside in model.attribute_map.items()}
    assert value.keys() <= names.keys(), (kind, value.keys() - names.keys())
    read = {names[name]: typed(one, model.openapi_types[names[name]]) for name, one in value.items()}
    return model(**read)


print(json.dumps([type(typed(one, KINDS[one["kind"]])).__name__ for one in json.load(sys.stdin)]))
