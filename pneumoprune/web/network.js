// The network in ONNX Runtime Web, asked as `pneumoprune predict` and `pneumoprune explain` ask it.

const fround = Math.fround;

function roundHalfEven(x) {
  const down = Math.floor(x), rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2) ? down + 1 : down;
}

// A file of 8 bits rounds what its first layer gives, and ONNX Runtime adds up that layer in another order in a browser
// than on a processor. A level on the edge then falls the other way, and one image in fifteen gets another probability,
// by up to 0.02. So the first layer is computed here as a processor does it: each product added by one rounding.
export class FirstLayer {
  // about: of model.json; numbers: Float32Array, kernels and then a bias for each
  constructor(about, numbers) {
    const kernels = numbers.length - about.maps, weights = new Float64Array(kernels + 3 * about.kernel ** 2); // to fours
    weights.set(numbers.subarray(0, kernels));
    Object.assign(this, about, { weights, biases: numbers.subarray(kernels) });
  }

  // zero mean and unit spread
  standardise(levels) {
    const mean = fround(levels.reduce((a, b) => a + b, 0) / levels.length);
    const centred = Float32Array.from(levels, (level) => level - mean);
    const spread = fround(fround(Math.sqrt(fround(sumOfSquares(centred) / levels.length))) + 1);
    return centred.map((value) => value / spread);
  }

  // the convolution: float32 (maps, outer, outer). Doubles hold a product of two floats exactly, so each sum is rounded
  // once. Four maps at a time keep a processor busy while it rounds.
  convolve(plane) {
    const { maps, kernel, stride, pad, outer, weights, biases } = this, side = Math.sqrt(plane.length);
    const wide = side + 2 * pad, taps = kernel * kernel, pixels = outer * outer;
    const padded = new Float32Array(wide * wide), under = new Float64Array(taps), result = new Float32Array(maps * pixels);
    for (let row = 0; row < side; row++) padded.set(plane.subarray(row * side, (row + 1) * side), (row + pad) * wide + pad);
    for (let pixel = 0; pixel < pixels; pixel++) {
      const start = (pixel / outer | 0) * stride * wide + pixel % outer * stride;
      for (let row = 0, i = 0; row < kernel; row++) for (let c = 0; c < kernel; c++) under[i++] = padded[start + row * wide + c];
      for (let map = 0; map < maps; map += 4) {
        let [a, b, c, d] = [0, 0, 0, 0], w = map * taps;
        for (let i = 0; i < taps; i++, w++) {
          const value = under[i];
          a = fround(a + value * weights[w]);
          b = fround(b + value * weights[w + taps]);
          c = fround(c + value * weights[w + 2 * taps]);
          d = fround(d + value * weights[w + 3 * taps]);
        }
        [a, b, c, d].forEach((sum, i) => {
          if (map + i < maps) result[(map + i) * pixels + pixel] = sum + biases[map + i];
        });
      }
    }
    return result;
  }

  // the largest of each window, nothing below zero, in steps of `scale`: uint8 (maps, inner, inner)
  pool(values) {
    const { maps, outer, inner, window, step, scale, zero } = this, levels = new Uint8Array(maps * inner * inner);
    for (let map = 0, at = 0; map < maps; map++) for (let y = 0; y < inner; y++) for (let x = 0; x < inner; x++) {
      let most = 0;
      for (let r = 0; r < window; r++) for (let c = 0; c < window; c++)
        most = Math.max(most, values[(map * outer + y * step + r) * outer + x * step + c]);
      levels[at++] = Math.min(255, roundHalfEven(fround(most / scale)) + zero);
    }
    return levels;
  }

  run(levels) { // Uint8Array (size * size)
    return this.pool(this.convolve(this.standardise(levels)));
  }
}

// in float32, in the order of a processor that adds four numbers at a time, two such fours in turn
function sumOfSquares(values) {
  const squares = values.map((value) => value * value), parts = new Float32Array(8);
  const eights = values.length & ~7, fours = values.length & ~3;
  for (let i = 0; i < eights; i++) parts[i & 7] += squares[i];
  for (let i = 0; i < 4; i++) parts[i] += parts[i + 4];
  for (let i = eights; i < fours; i++) parts[i & 3] += squares[i];
  let sum = fround(fround(parts[0] + parts[2]) + fround(parts[1] + parts[3]));
  for (let i = fours; i < values.length; i++) sum = fround(sum + squares[i]);
  return sum;
}

export class Network {
  // ort: ONNX Runtime Web; about: model.json; model: bytes of the ONNX file; numbers: Float32Array of the first layer
  static async open(ort, about, model, numbers) {
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    return Object.assign(new Network(), { ort, about, session, first: about.first && new FirstLayer(about.first, numbers) });
  }

  inputs(planes) { // planes: Uint8Array (size * size) of each image
    const { size, first } = this.about, tensor = (parts, ...shape) => {
      const whole = new Uint8Array(parts.length * parts[0].length);
      parts.forEach((part, i) => whole.set(part, i * part.length));
      return new this.ort.Tensor("uint8", whole, [parts.length, ...shape]);
    };
    const feeds = {};
    if (this.session.inputNames.includes("images")) feeds.images = tensor(planes, 1, size, size);
    if (first) feeds.maps = tensor(planes.map((plane) => this.first.run(plane)), first.maps, first.inner, first.inner);
    return feeds;
  }

  async predict(planes, asked = ["probability"]) { // {probability: Float32Array, distance: Float32Array}
    const answers = await this.session.run(this.inputs(planes), asked);
    return Object.fromEntries(asked.map((name) => [name, answers[name].data]));
  }

  async judge(plane) { // what `predict --json` tells of an image
    const { classes, threshold, guarded } = this.about;
    const answers = await this.predict([plane], guarded ? ["probability", "distance"] : ["probability"]);
    const [probability, distance] = [answers.probability[0], answers.distance?.[0]];
    const known = !guarded || distance <= 1;
    return { probability, threshold, distance, known, decision: known ? classes[Number(probability >= threshold)] : null };
  }

  // Occlusion (Zeiler and Fergus 2014): mean fall of the probability under the grey patches that cover a pixel
  async occlusion(plane, tell = () => {}, batch = 5) { // Float64Array (size * size)
    const { size } = this.about, patch = Math.max(1, size >> 3), stride = Math.max(1, patch >> 1);
    const grey = roundHalfEven(plane.reduce((a, b) => a + b, 0) / plane.length);
    const heat = new Float64Array(plane.length), times = new Float64Array(plane.length);
    const places = corners(size, patch, stride), { probability: [whole] } = await this.predict([plane]);
    for (let at = 0; at < places.length; at += batch) {
      const some = places.slice(at, at + batch);
      const { probability } = await this.predict(some.map((place) => covered(plane, size, patch, place, grey)));
      some.forEach(([row, column], i) => {
        for (let r = row; r < row + patch; r++) for (let c = column; c < column + patch; c++) {
          heat[r * size + c] += whole - probability[i];
          times[r * size + c] += 1;
        }
      });
      await tell(Math.min(1, (at + batch) / places.length));
    }
    return heat.map((sum, i) => sum / times[i]);
  }
}

function corners(size, patch, stride) { // [row, column] of each patch; the last ones end at the border
  const starts = [];
  for (let at = 0; at < size - patch; at += stride) starts.push(at);
  starts.push(size - patch);
  return starts.flatMap((row) => starts.map((column) => [row, column]));
}

function covered(plane, size, patch, [row, column], grey) {
  const copy = plane.slice();
  for (let r = row; r < row + patch; r++) copy.fill(grey, r * size + column, r * size + column + patch);
  return copy;
}

const ORANGE = [213, 94, 0], BLUE = [0, 114, 178]; // Okabe and Ito (2008)

// the grey image with the heat map over it: orange speaks for pneumonia, blue against; opaque RGBA
export function tinted(plane, heat, opacity = 0.65) {
  const most = Math.max(1e-12, heat.reduce((a, b) => Math.max(a, Math.abs(b)), 0));
  const pixels = new Uint8ClampedArray(4 * plane.length).fill(255);
  for (let i = 0; i < plane.length; i++) {
    const strength = heat[i] / most, alpha = opacity * Math.abs(strength), colour = strength > 0 ? ORANGE : BLUE;
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = roundHalfEven((1 - alpha) * plane[i] + alpha * colour[c]);
  }
  return pixels;
}

// the heat map in words: its mean in each ninth of the image, from the upper left
export function ninths(heat, size) {
  const sums = new Float64Array(9), counts = new Float64Array(9);
  heat.forEach((value, i) => {
    const part = 3 * Math.floor(3 * Math.floor(i / size) / size) + Math.floor(3 * (i % size) / size);
    sums[part] += value;
    counts[part] += 1;
  });
  return Array.from(sums, (sum, i) => sum / counts[i]);
}
