"""The protocol's description: what others describe, whatever else knows the protocol in the same process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tritonclient.grpc.service_pb2 as triton
from google.protobuf import descriptor_pool

from service.api.grpc import messages

SOURCE = Path(messages.__file__).with_name("open_inference.proto")
MESSAGES = messages.DESCRIPTOR.message_types_by_name


def fields(message):
    return {(one.name, one.number, one.type, one.is_repeated) for one in message.fields}


@pytest.mark.parametrize("name", MESSAGES)
def test_names_numbers_and_types_are_those_that_tritons_clients_have(name):
    theirs = descriptor_pool.Default().FindMessageTypeByName(f"inference.{name}")
    own = MESSAGES[name]
    assert own is not theirs
    assert fields(own) <= fields(theirs)
    for nested in own.nested_types:
        assert fields(nested) == fields(theirs.nested_types_by_name[nested.name])


def test_methods_are_those_that_tritons_clients_call():
    own = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    theirs = triton.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for method in own.methods:
        assert method.input_type.full_name == theirs[method.name].input_type.full_name
        assert method.output_type.full_name == theirs[method.name].output_type.full_name


def test_what_was_made_of_the_description_is_of_this_description():
    text = re.sub(r"//.*", "", SOURCE.read_text())
    assert re.findall(r"^message (\w+)", text, re.MULTILINE) == list(MESSAGES)
    written = re.findall(r"(\w+) = (\d+);", text.partition("enum DataType")[0])
    made = [
        (field.name, str(field.number))
        for name in MESSAGES
        for message in (*(one for one in MESSAGES[name].nested_types if not one.GetOptions().map_entry), MESSAGES[name])
        for field in message.fields
    ]
    assert written == made[: len(written)]
    stub = SOURCE.with_name("messages.pyi").read_text()
    assert all(f"class {name}(_message.Message)" in stub for name in MESSAGES)
