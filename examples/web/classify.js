// Runs a visiontool model file on a picture with onnxruntime-web. Labels and preprocessing come out of the file, and the
// answers are those of `visiontool predict`.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { fit, open } from "./fit.js";
import { metadataOf } from "./metadata.js";

/** Fetches a model file: {manifest, session}. */
export async function load(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const manifest = metadataOf(bytes)["visiontool.manifest"];
  if (manifest === undefined) throw new Error(`${url} has no manifest: visiontool export writes one`);
  return { manifest: JSON.parse(manifest), session: await ort.InferenceSession.create(bytes) };
}

/** The best classes of a picture (a File or Blob), best first: [{label, probability}]. */
export async function classify({ manifest, session }, file, count = 5) {
  const { input, outputs, labels, preprocessing } = manifest;
  const picture = await open(file);
  const pixels = preprocessing.resize === "graph" ? picture : fit(picture, manifest);
  const [port] = session.inputMetadata;
  const answer = await session.run({ [port.name]: tensorOf(pixels, input, port) }, [outputs.logits]);
  const probabilities = softmax(answer[outputs.logits].data.slice(0, labels.length), manifest);
  const classes = labels.map((label, index) => ({ label, probability: probabilities[index] }));
  return classes.sort((a, b) => b.probability - a.probability).slice(0, count);
}

/** RGBA pixels as the tensor that the graph takes; where its batch is fixed, the rest of it stays empty. */
function tensorOf({ width, height, data }, { layout = "NHWC", dtype = "uint8", color = "RGB", mean, std }, port) {
  if (dtype === "float16") throw new Error("this page does not run graphs that take float16");
  const channels = color === "L" ? 1 : 3;
  const batch = typeof port.shape[0] === "number" ? port.shape[0] : 1;
  const pixels = width * height;
  const tensor = new (dtype === "uint8" ? Uint8Array : Float32Array)(batch * pixels * channels);
  for (let channel = 0; channel < channels; channel++) {
    const source = color === "BGR" ? 2 - channel : channel;
    for (let pixel = 0; pixel < pixels; pixel++) {
      const from = 4 * pixel;
      const value = color === "L" ? luma(data[from], data[from + 1], data[from + 2]) : data[from + source];
      const to = layout === "NHWC" ? pixel * channels + channel : channel * pixels + pixel;
      const scaled = (value / 255 - (mean[channel] ?? mean[0])) / (std[channel] ?? std[0]);
      tensor[to] = dtype === "uint8" ? Math.round(value) : scaled;
    }
  }
  const shape = layout === "NHWC" ? [height, width, channels] : [channels, height, width];
  return new ort.Tensor(dtype, tensor, [batch, ...shape]);
}

const luma = (red, green, blue) => 0.299 * red + 0.587 * green + 0.114 * blue;

function softmax(answer, { activation = "none", temperature = 1 }) {
  const logits = Array.from(answer, (value) => (activation === "softmax" ? Math.log(Math.max(value, 1e-30)) : value));
  const highest = logits.reduce((a, b) => Math.max(a, b));
  const powers = logits.map((logit) => Math.exp((logit - highest) / temperature));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}
