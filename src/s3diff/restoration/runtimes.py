"""Trace modules, write them as ONNX or OpenVINO and run them; the one door to both packages."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from s3diff.errors import MissingExtraError, ModelError
from s3diff.messages import install_command, reason_of

#: Runtimes besides torch.
Runtime = Literal["openvino", "onnxruntime"]
#: The extension of the files that a runtime reads.
FILE_OF: Mapping[Runtime, str] = {"openvino": ".xml", "onnxruntime": ".onnx"}
#: For each runtime the packages that it needs here; the extra has the runtime's name.
_PACKAGES: Mapping[Runtime, tuple[str, ...]] = {
    "onnxruntime": ("onnx", "onnx_ir", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
}
#: Weights beyond it lie next to the ONNX file, whose format ends at 2 GiB.
_LARGEST_ONNX_BYTES = 2**31 - 2**24


def is_installed(runtime: Runtime) -> bool:
    """Check whether a runtime and its converter are installed."""
    return all(find_spec(package) is not None for package in _PACKAGES[runtime])


def require_installed(runtime: Runtime, what: str) -> None:
    """Make sure that a runtime can be used.

    Raises:
        MissingExtraError: one of its packages is not installed.
    """
    if not is_installed(runtime):
        raise MissingExtraError(f"{what} needs {' and '.join(_PACKAGES[runtime])}: {install_command(runtime)}")


def open_graph(
    runtime: Runtime, path: Path, *, dtype: torch.dtype, num_threads: int
) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Load a graph of one output for the CPU; call it with its inputs in their order.

    Args:
        path: written by :func:`write_onnx` or :func:`write_openvino`.
        dtype: what OpenVINO computes in, float32 or bfloat16; ONNX Runtime computes in float32.

    Raises:
        Exception: of the runtime's own types, where the file cannot be read.
    """
    if runtime == "openvino":
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        # Its own memory holds the next result: ours is a copy.
        return lambda arrays: compiled(list(arrays), share_outputs=False)[0]
    import onnxruntime

    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads, chosen.log_severity_level = num_threads, 3
    session = onnxruntime.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


def _store_in_half(graph: Any) -> None:
    """Replace the float32 weights of an ONNX graph by float16 ones, which it casts back."""
    import onnx_ir as ir

    for weight in list(graph.initializers.values()):
        tensor = weight.const_value
        if weight.dtype != ir.DataType.FLOAT or tensor.size == 1:
            continue
        halved = ir.tensor(tensor.numpy().astype(np.float16), name=f"{weight.name}.half")
        stored = ir.Value(
            name=halved.name, shape=weight.shape, type=ir.TensorType(ir.DataType.FLOAT16), const_value=halved
        )
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value})
        cast.outputs[0].name = f"{weight.name}.cast"
        weight.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[weight.name]
        graph.register_initializer(stored)
        graph.insert_before(graph[0], cast)


def traced(module: nn.Module, arguments: tuple[Any, ...], dynamic_shapes: Any) -> torch.export.ExportedProgram:
    """Trace a module for all sizes that ``dynamic_shapes`` leaves open.

    Raises:
        ModelError: the networks cannot be traced.
    """
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic_shapes)
    except Exception as error:  # dozens of types, none of them documented
        raise ModelError(
            f"these networks cannot be traced ({reason_of(error)}); export a model whose networks can"
        ) from error


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    names: tuple[Sequence[str], Sequence[str]],
    properties: Mapping[str, str],
    defaults: Mapping[str, np.ndarray] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write an ONNX file; weights that one file cannot hold (2 GiB) go into ``NAME.onnx.data`` next to it.

    Args:
        program: from :func:`traced`.
        names: of inputs and outputs.
        properties: texts that the file carries.
        defaults: values of inputs that may be left out.
        half: store the weights in float16; they are computed with in float32.
    """
    import onnx_ir as ir

    with quiet():
        made = torch.onnx.export(
            program, input_names=list(names[0]), output_names=list(names[1]), dynamo=True, verbose=False
        )
    assert made is not None
    model: Any = made.model
    if half:
        _store_in_half(model.graph)
    for node in model.graph:
        node.metadata_props.clear()  # where in this machine's files each was traced; more bytes than the weights
    model.metadata_props.update(properties)
    for name, array in (defaults or {}).items():
        (given,) = (each for each in model.graph.inputs if each.name == name)
        given.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(given)
    num_bytes = sum(weight.const_value.nbytes for weight in model.graph.initializers.values())
    # Weight by weight: a message of all of them would take their memory once or twice more.
    ir.save(model, path, external_data=f"{path.name}.data" if num_bytes > _LARGEST_ONNX_BYTES else None)


def write_openvino(
    program: torch.export.ExportedProgram,
    path: Path,
    names: tuple[Sequence[str], Sequence[str]],
    properties: Mapping[str, str],
    *,
    half: bool = False,
) -> None:
    """Write an OpenVINO model, ``NAME.xml`` and ``NAME.bin``; arguments as for :func:`write_onnx`.

    ``half``: store the weights in float16.
    """
    import openvino

    with quiet():
        model = openvino.convert_model(program)
    for ports, of_ports in zip((model.inputs, model.outputs), names, strict=True):
        for port, name in zip(ports, of_ports, strict=True):
            port.get_tensor().set_names({name})
    for name, value in properties.items():
        model.set_rt_info(value, ["s3diff", name])
    openvino.save_model(model, path, compress_to_fp16=half)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' notices for programmers away from a command's output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
