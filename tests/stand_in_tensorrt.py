# ruff: noqa: ARG002  the package's own arguments
"""As much of the package tensorrt as the project calls, over ONNX Runtime and the CPU's memory: an engine is the ONNX file itself.

What TensorRT makes of the network it can't show; only that what surrounds it is right: calls in their order, file, addresses.
"""

import ctypes
from types import SimpleNamespace

import numpy as np
import onnxruntime

__version__ = "stand-in"
BuilderFlag = SimpleNamespace(TF32=0)
NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
"""Its place among the flags' bits, as in TensorRT 10."""


class Logger:
    WARNING = 2

    def __init__(self, severity: int) -> None:
        self.severity = severity


class Network:
    content = b""


class OnnxParser:
    def __init__(self, network: Network, logger: Logger) -> None:
        self.network = network

    def parse(self, content: bytes) -> bool:
        self.network.content = content
        return True


class BuilderConfig:
    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}  # TensorRT's default

    def clear_flag(self, flag: int) -> None:
        self.flags.remove(flag)


class Builder:
    def __init__(self, logger: Logger) -> None:
        pass

    def create_network(self, flags: int) -> Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> memoryview:
        assert not config.flags
        return memoryview(network.content)


class Context:
    """Reads and writes at the addresses that it was given."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert list(shape) == self.session.get_inputs()[0].shape
        self.input_shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(next(output.shape for output in self.session.get_outputs() if output.name == name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        frames = np.frombuffer(
            ctypes.string_at(self.addresses["images_uint8"], int(np.prod(self.input_shape))), np.uint8
        ).reshape(self.input_shape)
        for name, found in zip(
            ("boxes", "scores"), self.session.run(["boxes", "scores"], {"images_uint8": frames}), strict=True
        ):
            assert found.dtype == np.float32
            assert found.shape == self.get_tensor_shape(name)
            ctypes.memmove(self.addresses[name], found.ctypes.data, found.nbytes)
        return True


class Engine:
    def __init__(self, content: bytes) -> None:
        self.session = onnxruntime.InferenceSession(content)

    def create_execution_context(self) -> Context:
        return Context(self.session)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        return tuple(next(tensor.shape for tensor in tensors if tensor.name == name))


class Runtime:
    def __init__(self, logger: Logger) -> None:
        pass

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        try:
            return Engine(content)
        except Exception:
            return None
