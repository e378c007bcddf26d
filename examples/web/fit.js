// From a picture file to the pixels that a model takes, as visiontool does it: with Pillow's arithmetic, since a network
// answers otherwise where a canvas has resized the picture.

/** The pixels of a picture file (a File or Blob), upright and over white: {width, height, data}, RGBA. */
export async function open(file) {
  const picture = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const { width, height } = picture;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
  return { width, height, data: context.getImageData(0, 0, width, height).data };
}

/** A picture resized and cut as a model's manifest says: {width, height, data}, RGBA. */
export function fit(picture, { input, preprocessing }) {
  const [rows, columns] = input.size;
  const mean = [0, 1, 2].map((channel) => input.mean[channel] ?? input.mean[0]);
  const fill = preprocessing.crop_mode === "border" ? mean.map((value) => roundToEven(255 * value)) : [0, 0, 0];
  const [height, width] = resizedTo([picture.height, picture.width], input.size, preprocessing);
  const across = (image) => resample(image, "x", taps(image.width, width, columns, preprocessing), fill);
  const down = (image) => resample(image, "y", taps(image.height, height, rows, preprocessing), fill);
  // Pillow's order, from its version 13 on: the height first where it loses more than twice as many pixels.
  const lost = picture.height - height;
  return lost > 0 && lost > 2 * (picture.width - width) ? across(down(picture)) : down(across(picture));
}

/** The [height, width] that a picture is resized to before it is cut. */
function resizedTo(picture, size, { crop_mode, crop_pct }) {
  const scaled = size.map((side) => Math.floor(side / crop_pct));
  if (crop_mode === "squash") return scaled;
  if (crop_mode === "center" && scaled[0] === scaled[1]) {
    return picture.map((side) => Math.floor((scaled[0] * side) / Math.min(...picture)));
  }
  const ratios = picture.map((side, axis) => side / scaled[axis]);
  const ratio = crop_mode === "center" ? Math.min(...ratios) : Math.max(...ratios);
  return picture.map((side) => Math.max(1, roundToEven(side / ratio)));
}

// Support in pixels, and weight at a distance.
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)],
  bicubic: [2, (x) => cubic(Math.abs(x))],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

function cubic(x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

const ONE = 2 ** 22; // Pillow's weights are whole numbers of this unit

/**
 * Along one edge, the pixels that each of the `wanted` ones in the middle of `to` is made of, when `from` pixels are
 * resized to `to`: {first, weights}, or null where the picture does not reach.
 */
function taps(from, to, wanted, { interpolation }) {
  const skipped = wanted > to ? -Math.floor((wanted - to) / 2) : roundToEven((to - wanted) / 2);
  const scale = from / to;
  const stretch = Math.max(1, scale);
  const shrink = 1 / stretch;
  return Array.from({ length: wanted }, (_, index) => {
    const place = index + skipped;
    if (place < 0 || place >= to) return null;
    if (interpolation === "nearest") return { first: Math.floor(added(scale, place)), weights: [ONE] };
    const center = (place + 0.5) * scale;
    const [support, weightAt] = FILTERS[interpolation];
    const first = Math.max(0, Math.trunc(center - support * stretch + 0.5));
    const end = Math.min(from, Math.trunc(center + support * stretch + 0.5));
    const weights = Array.from({ length: end - first }, (_, k) => weightAt((first + k - center + 0.5) * shrink));
    const sum = weights.reduce((a, b) => a + b);
    return { first, weights: weights.map((weight) => Math.trunc((weight / sum) * ONE + Math.sign(weight) * 0.5)) };
  });
}

/** (place + 0.5) * scale with the rounding errors of Pillow, which adds it up. */
function added(scale, place) {
  let sum = scale / 2;
  for (let step = 0; step < place; step++) sum += scale;
  return sum;
}

/** A picture with other pixels along its "x" or "y", each made of those that its tap names. */
function resample({ width, height, data }, axis, taps, fill) {
  const [lines, line, step] = axis === "x" ? [height, 4 * width, 4] : [width, 4, 4 * width];
  const [toLine, toStep] = axis === "x" ? [4 * taps.length, 4] : [4, 4 * width];
  const result = new Uint8ClampedArray(4 * lines * taps.length);
  taps.forEach((tap, index) => {
    for (let number = 0; number < lines; number++) {
      for (let channel = 0; channel < 3; channel++) {
        const to = number * toLine + index * toStep + channel;
        if (tap === null) {
          result[to] = fill[channel];
          continue;
        }
        let sum = ONE / 2;
        let from = number * line + tap.first * step + channel;
        for (const weight of tap.weights) {
          sum += weight * data[from];
          from += step;
        }
        result[to] = Math.floor(sum / ONE);
      }
    }
  });
  return axis === "x" ? { width: taps.length, height, data: result } : { width, height: taps.length, data: result };
}

/** A number of 0 or more as Python rounds it: halves go to the even neighbor. */
function roundToEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 === 1 ? rounded - 1 : rounded;
}
