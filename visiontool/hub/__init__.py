"""From a name to a file on this disk: catalog, cache, downloads. Without torch, without onnxruntime."""
