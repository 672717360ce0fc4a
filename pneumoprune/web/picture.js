// A PNG or JPEG file as the square grey plane that `pneumoprune predict` makes of it, level for level.
//
// A browser decodes both too, but not to the same levels: 16 bits become 8, transparent pixels lose digits, a colour profile
// changes grey, and some browsers add noise, lest a visitor be recognised. So all of it is done here.

import { decodeLuma } from "./jpeg.js";

export class PictureError extends Error {
  constructor(code, detail = "") { // code: a key of `words.js`
    super(`${code} ${detail}`.trim());
    Object.assign(this, { code, detail });
  }
}

export const MAX_PIXELS = 64_000_000, MIN_SIDE = 32; // a larger or a smaller picture is refused before it is decoded

const ascii = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));
const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

// bytes: Uint8Array; size: side of the result
export async function readPicture(bytes, size) { // {plane: Uint8Array(size * size), width, height}
  const png = ascii(bytes, 1, 4) === "PNG", jpeg = bytes[0] === 0xff && bytes[1] === 0xd8;
  if (!png && !jpeg) throw new PictureError(ascii(bytes, 128, 132) === "DICM" ? "dicom" : "kind");
  const { grey, orientation, sides } = await (png ? readPng(bytes) : readJpeg(bytes, size));
  const [width, height] = orientation >= 5 && orientation <= 8 ? sides.toReversed() : sides;
  return { plane: resize(turn(grey, orientation), size), width, height }; // of the picture, upright
}

function checkPixels(width, height) {
  if (!(width && height)) throw new PictureError("damaged", "no pixels");
  if (width * height > MAX_PIXELS) throw new PictureError("large", `${Math.round(width * height / 1e6)}`);
  if (Math.min(width, height) < MIN_SIDE) throw new PictureError("small", `${width} × ${height}`);
}

// ---- grey levels ----

// the luma of ITU-R 601 in 16 binary digits, as Pillow computes it
const luma = (r, g, b) => (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;

// a level over black, by its opacity: a division by 255, as Pillow's `alpha_composite` rounds it
function overBlack(level, alpha) {
  const t = level * alpha * 128 + 0x4000;
  return ((t >> 8) + t) >> 15;
}

function roundHalfEven(x) {
  const down = Math.floor(x), rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2) ? down + 1 : down;
}

// 16 bits as 8, scaled by the number of bits in use: a detector of 12 bits fills 4095, not 65535
function eightBits(samples) {
  let full = 255;
  for (const value of samples) while (value > full) full = 2 * full + 1;
  return Uint8Array.from(samples, (value) => roundHalfEven(value * (255 / full)));
}

// ---- PNG (W3C Portable Network Graphics, third edition) ----

function* chunks(bytes) {
  const at = view(bytes);
  for (let start = 8; start + 12 <= bytes.length;) {
    const length = at.getUint32(start), name = ascii(bytes, start + 4, start + 8);
    if (start + 12 + length > bytes.length && name !== "IDAT") return;
    yield [name, bytes.subarray(start + 8, start + 8 + length)];
    start += 12 + length;
  }
}

export async function readPng(bytes) { // {grey: {levels, width, height}, orientation, sides}
  let header, palette, transparent, orientation, packed = [];
  for (const [name, data] of chunks(bytes)) {
    if (name === "IHDR") header = data;
    else if (name === "PLTE") palette = data;
    else if (name === "tRNS") transparent = data;
    else if (name === "eXIf") orientation ??= exifOrientation(data);
    else if (name === "iTXt") orientation ??= xmpOrientation(data);
    else if (name === "IDAT") packed.push(data);
  }
  if (header?.length !== 13 || !packed.length) throw new PictureError("damaged", "PNG");
  const [width, height] = [view(header).getUint32(0), view(header).getUint32(4)];
  const [depth, type, , , interlaced] = header.subarray(8);
  checkPixels(width, height);
  const channels = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }[type];
  if (!channels || ![1, 2, 4, 8, 16].includes(depth)) throw new PictureError("damaged", "PNG");
  const samples = await unpack(packed, { width, height, depth, channels, interlaced });
  return { grey: { levels: greyOf(samples, type, depth, palette, transparent), width, height }, orientation, sides: [width, height] };
}

// the seven passes of an interlaced image, or the one of a plain one: first column and row, steps
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

async function unpack(packed, { width, height, depth, channels, interlaced }) { // Uint8Array or Uint16Array
  const passes = (interlaced ? PASSES : [[0, 0, 1, 1]]).map(([x, y, dx, dy]) => {
    const columns = Math.ceil((width - x) / dx), rows = columns > 0 ? Math.ceil((height - y) / dy) : 0;
    return { x, y, dx, dy, columns, rows, stride: Math.ceil(columns * channels * depth / 8) };
  }).filter(({ rows }) => rows > 0);
  const raw = await inflate(packed, passes.reduce((sum, { rows, stride }) => sum + rows * (stride + 1), 0));
  const samples = new (depth === 16 ? Uint16Array : Uint8Array)(width * height * channels);
  let start = 0;
  for (const { x, y, dx, dy, columns, rows, stride } of passes) {
    let above = new Uint8Array(stride);
    for (let row = 0; row < rows; row++, start += stride + 1) {
      const line = raw.subarray(start + 1, start + 1 + stride);
      unfilter(raw[start], line, above, Math.max(1, channels * depth / 8));
      spread(line, depth, columns, channels, samples, ((y + row * dy) * width + x) * channels, dx * channels);
      above = line;
    }
  }
  return samples;
}

async function inflate(packed, length) {
  const reader = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const raw = new Uint8Array(length);
  let filled = 0;
  while (filled < length) { // what comes after the last row is not looked at
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) throw new PictureError("damaged", "PNG");
    raw.set(value.subarray(0, length - filled), filled);
    filled += value.length;
  }
  reader.cancel().catch(() => {});
  return raw;
}

function unfilter(kind, line, above, step) {
  const average = (left, up) => (left + up) >> 1;
  const paeth = (left, up, corner) => {
    const guess = left + up - corner, [a, b, c] = [left, up, corner].map((value) => Math.abs(guess - value));
    return a <= b && a <= c ? left : b <= c ? up : corner;
  };
  const guess = [() => 0, (left) => left, (_, up) => up, average, paeth][kind];
  if (!guess) throw new PictureError("damaged", "PNG");
  if (kind) for (let i = 0; i < line.length; i++) {
    const left = i < step ? 0 : line[i - step], corner = i < step ? 0 : above[i - step];
    line[i] += guess(left, above[i], corner); // modulo 256: the array holds bytes
  }
}

// the samples of one line, written `step` apart per pixel
function spread(line, depth, columns, channels, samples, start, step) {
  for (let column = 0; column < columns; column++) for (let c = 0; c < channels; c++) {
    const i = column * channels + c, bit = i * depth;
    samples[start + column * step + c] = depth === 16 ? line[2 * i] << 8 | line[2 * i + 1]
      : depth === 8 ? line[i] : line[bit >> 3] >> (8 - depth - (bit & 7)) & ((1 << depth) - 1);
  }
}

function greyOf(samples, type, depth, palette, transparent) {
  if (type === 3) return colours(samples, palette, transparent);
  if (type === 0) return depth === 16 ? eightBits(samples) : plainGrey(samples, depth, transparent);
  const eight = depth === 16 ? Uint8Array.from(samples, (value) => value >> 8) : samples;
  const channels = { 2: 3, 4: 2, 6: 4 }[type], levels = new Uint8Array(eight.length / channels);
  const key = type === 2 && transparent && [0, 2, 4].map((i) => transparent[i] << 8 | transparent[i + 1]);
  for (let i = 0, p = 0; i < levels.length; i++, p += channels) {
    if (type === 4) levels[i] = overBlack(eight[p], eight[p + 1]);
    else if (type === 6) levels[i] = luma(...[0, 1, 2].map((c) => overBlack(eight[p + c], eight[p + 3])));
    else if (!key || key.some((value, c) => value !== eight[p + c])) levels[i] = luma(eight[p], eight[p + 1], eight[p + 2]);
  }
  return levels;
}

function plainGrey(samples, depth, transparent) {
  const step = 255 / ((1 << depth) - 1), told = transparent ? transparent[0] << 8 | transparent[1] : -1;
  const key = depth === 1 ? told * 255 : told; // of 2 and 4 bits, Pillow compares spread levels with what is told
  return samples.map((value) => value * step === key ? 0 : value * step);
}

function colours(samples, palette = new Uint8Array(), transparent = new Uint8Array()) {
  const levels = Uint8Array.from({ length: 256 }, (_, i) => {
    const rgb = 3 * i + 2 < palette.length ? palette.subarray(3 * i, 3 * i + 3) : [0, 0, 0];
    return luma(...Array.from(rgb, (level) => overBlack(level, transparent[i] ?? 255)));
  });
  return samples.map((index) => levels[index]);
}

// ---- JPEG (ITU-T T.81) ----

function* segments(bytes) { // [marker, start, end] of each segment before the pixels
  for (let at = 2; at + 4 <= bytes.length;) {
    if (bytes[at] !== 0xff) throw new PictureError("damaged", "JPEG");
    const marker = bytes[at + 1];
    if (marker === 0xff) { at++; continue; } // fill bytes
    const end = at + 2 + (bytes[at + 2] << 8 | bytes[at + 3]);
    yield [marker, at, end];
    if (marker === 0xda) return;
    at = end;
  }
}

export function readJpeg(bytes, size) { // {grey: {levels, width, height}, orientation, sides}
  let frame, orientation;
  for (const [marker, start, end] of segments(bytes)) {
    const body = bytes.subarray(start + 4, end);
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) frame ??= body;
    if (marker === 0xe1) orientation ??= ascii(body, 0, 4) === "Exif" ? exifOrientation(body.subarray(6)) : xmpOrientation(body);
  }
  if (!frame || frame.length < 6) throw new PictureError("damaged", "JPEG");
  const [height, width] = [frame[1] << 8 | frame[2], frame[3] << 8 | frame[4]];
  checkPixels(width, height);
  return { grey: decodeLuma(bytes, reduction(width, height, size)), orientation, sides: [width, height] };
}

// `predict` has large JPEGs decoded at a half, a quarter or an eighth: twice the target is plenty
const reduction = (width, height, size) =>
  [8, 4, 2].find((k) => Math.min(width, height) >= 2 * size * k) ?? 1;

// ---- which way is up ----

function exifOrientation(tiff) { // 1 to 8, or undefined
  if (tiff.length < 8) return undefined;
  const at = view(tiff), little = tiff[0] === 0x49, start = at.getUint32(4, little);
  if (start + 2 > tiff.length) return undefined;
  for (let i = 0; i < at.getUint16(start, little); i++) {
    const entry = start + 2 + 12 * i;
    if (entry + 12 > tiff.length) return undefined;
    if (at.getUint16(entry, little) === 0x0112) return at.getUint16(entry + 8, little);
  }
  return undefined;
}

function xmpOrientation(bytes) {
  const found = /tiff:Orientation(?:="|>)([0-9])/.exec(new TextDecoder("latin1").decode(bytes));
  return found ? Number(found[1]) : undefined;
}

function turn({ levels, width, height }, orientation) {
  if (!(orientation >= 2 && orientation <= 8)) return { levels, width, height };
  const across = orientation >= 5, [w, h] = across ? [height, width] : [width, height];
  const right = [2, 3, 7, 8].includes(orientation), low = [3, 4, 6, 7].includes(orientation);
  const turned = new Uint8Array(levels.length);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
    let [column, row] = across ? [y, x] : [x, y];
    if (right) column = width - 1 - column;
    if (low) row = height - 1 - row;
    turned[y * w + x] = levels[row * width + column];
  }
  return { levels: turned, width: w, height: h };
}

// ---- resizing ----

// Pillow's BILINEAR: each output level is a mean of the input, weighted by a triangle as wide as the reduction; weights
// are fixed-point numbers of 22 binary digits, and levels are rounded between the two directions.
const DIGITS = 22;

function weights(from, to) { // for each output: the first input, and the weights from there
  const scale = from / to, support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const triangle = Array.from({ length: last - first }, (_, x) =>
      Math.max(0, 1 - Math.abs((x + first - centre + 0.5) * (1 / support))));
    const sum = triangle.reduce((a, b) => a + b, 0);
    return [first, triangle.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** DIGITS))];
  });
}

// lines of `from` levels, `next` apart, become lines of `to`; `along` is the step within a line
function resample(levels, count, from, to, next, along, result, nextResult, alongResult) {
  weights(from, to).forEach(([first, factors], i) => {
    for (let line = 0; line < count; line++) {
      let sum = 2 ** (DIGITS - 1);
      for (let x = 0, p = line * next + first * along; x < factors.length; x++, p += along) sum += levels[p] * factors[x];
      result[line * nextResult + i * alongResult] = Math.min(255, sum >> DIGITS);
    }
  });
  return result;
}

export function resize({ levels, width, height }, size) { // Uint8Array(size * size)
  const across = (from, rows) => width === size ? from
    : resample(from, rows, width, size, width, 1, new Uint8Array(size * rows), size, 1);
  const down = (from, columns) => height === size ? from
    : resample(from, columns, height, size, 1, columns, new Uint8Array(columns * size), 1, columns);
  // the order that is less work, as Pillow 13 has it: it decides which levels are rounded in between
  return height > size && height - size > 2 * (width - size) ? across(down(levels, width), size) : down(across(levels, height), size);
}
