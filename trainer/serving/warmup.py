"""Warm-up requests for TensorFlow Serving: assets.extra/tf_serving_warmup_requests.

The file is a TFRecord of tensorflow.serving.PredictionLog. Its protos live in tensorflow-serving-api, which
pins TensorFlow to its own version; the four messages that a warm-up needs are declared here instead, with
the field numbers of prediction_log.proto, predict.proto and model.proto. A TensorProto inside is declared as
bytes, which is the same on the wire.
"""

import os

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

# Message: {field: (number, type)}; `map` is map<string, bytes>.
_MESSAGES = {
    "ModelSpec": {"name": (1, "string"), "signature_name": (3, "string")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "map")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}
_PACKAGE = "lazytower.warmup"


def write_warmup_requests(path: str, requests: list[tuple[str, dict]]) -> None:
    """Writes the warm-up file of the SavedModel at `path`.

    Args:
      path: directory of the SavedModel.
      requests: (name of the signature, {input: value that tf.make_tensor_proto takes}); at most 1,000, or
        TensorFlow Serving refuses the model.
    """
    os.makedirs(os.path.join(path, "assets.extra"), exist_ok=True)
    message = prediction_log_class()
    with tf.io.TFRecordWriter(os.path.join(path, WARMUP_FILE)) as writer:
        for signature, inputs in requests:
            log = message()
            request = log.predict_log.request
            request.model_spec.name = "lazytower"
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name] = tf.make_tensor_proto(value).SerializeToString()
            writer.write(log.SerializeToString(deterministic=True))


def prediction_log_class() -> type:
    """The PredictionLog class, in a pool of its own so that it never meets tensorflow-serving-api's."""
    file = descriptor_pb2.FileDescriptorProto(name="warmup.proto", package=_PACKAGE, syntax="proto3")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, (number, kind) in fields.items():
            _add_field(message, field_name, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.PredictionLog"))


def _add_field(message, name: str, number: int, kind: str) -> None:
    field = descriptor_pb2.FieldDescriptorProto
    if kind == "string":
        message.field.add(name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
        return
    if kind == "map":
        entry = message.nested_type.add(name="InputsEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
        entry.field.add(name="value", number=2, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
        target, label = f".{_PACKAGE}.{message.name}.InputsEntry", field.LABEL_REPEATED
    else:
        target, label = f".{_PACKAGE}.{kind}", field.LABEL_OPTIONAL
    message.field.add(name=name, number=number, type=field.TYPE_MESSAGE, type_name=target, label=label)
