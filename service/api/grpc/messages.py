"""The messages of open_inference.proto, in a pool of descriptors of their own: a process may know the protocol twice.

In the default pool they would collide with those that clients' packages register under the same names.
"""

from importlib.resources import files

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_pool = DescriptorPool()
for _file in FileDescriptorSet.FromString(files(__package__).joinpath("open_inference.binpb").read_bytes()).file:
    _pool.Add(_file)
DESCRIPTOR = _pool.FindFileByName("open_inference.proto")
globals().update({name: GetMessageClass(one) for name, one in DESCRIPTOR.message_types_by_name.items()})
