// What an ONNX file says of itself, which onnxruntime-web does not tell.

const METADATA_PROPS = 14; // of ModelProto, in onnx.proto3; each entry is a message of key (1) and value (2)
const BYTES = 2;
const FIXED64 = 1;
const VARINT = 0;

/** The metadata of the ONNX file in `bytes`, a Uint8Array: {key: value}. */
export function metadataOf(bytes) {
  const text = new TextDecoder();
  const found = {};
  for (const [field, entry] of fieldsOf(bytes)) {
    if (field !== METADATA_PROPS) continue;
    const { 1: key, 2: value } = Object.fromEntries(fieldsOf(entry));
    found[text.decode(key)] = text.decode(value);
  }
  return found;
}

/** The length-delimited fields of a protobuf message, as [number, bytes]; nothing is copied. */
function* fieldsOf(bytes) {
  let at = 0;
  function varint() {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++] ?? 0;
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  }
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === BYTES) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else if (kind === VARINT) {
      varint();
    } else {
      at += kind === FIXED64 ? 8 : 4;
    }
  }
}
