"""The stock way to 8 bits: ONNX Runtime's own dynamic quantisation of our encoder's float32 graph, as a peer of our recipe."""

from __future__ import annotations

import tempfile
from pathlib import Path

from shared_models.encoder import EncoderFiles, build_model, source_folder
from shared_models.text_encoder import TextEncoder

STOCK = "onnxruntime quantize_dynamic, same head"


def stock_encoder(files: EncoderFiles) -> tuple[TextEncoder, int]:
    """The encoder by `quantize_dynamic` (per channel, QInt8, MatMul and Gather) with our tokenizer, and its size in bytes."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory(prefix="tacit-stock-", ignore_cleanup_errors=True) as folder:
        exact, small = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        exact.write_bytes(build_model(load_file(source_folder() / "model.safetensors"), quantized=False))
        quantize_dynamic(
            exact,
            small,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            # Shape inference does not know ONNX Runtime's fused operators, which the graph has, and warns of each.
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
        # Its session holds all of the model: the file may go.
        return TextEncoder(small, files.tokenizer), small.stat().st_size
