// The luma of a JPEG (ITU-T T.81, Huffman-coded, 8 bits) as libjpeg-turbo gives it to `predict`, level for level: Y alone,
// without the detour over colours, and large pictures at a half, a quarter or an eighth. No browser offers either.

import { PictureError } from "./picture.js";

const damaged = () => new PictureError("damaged", "JPEG");

// coefficients are stored from low to high frequency, along diagonals of the block of 8 × 8
const ZIGZAG = Uint8Array.from({ length: 64 }, (_, i) => i).sort((a, b) => {
  const [d, e] = [(a >> 3) + (a & 7), (b >> 3) + (b & 7)];
  return d - e || (d % 2 ? a - b : b - a);
});

// ---- bits ----

class Bits { // of one scan: a marker ends it, and then zeros follow, as libjpeg has it
  constructor(bytes, at) {
    Object.assign(this, { bytes, at, held: 0, count: 0, run: 0 });
  }

  one() {
    if (!this.count) this.fill();
    return this.held >> --this.count & 1;
  }

  fill() {
    const { bytes, at } = this;
    if (at >= bytes.length) throw damaged();
    const marker = bytes[at] === 0xff && bytes[at + 1] !== 0;
    this.held = marker ? 0 : bytes[at];
    this.at += marker ? 0 : bytes[at] === 0xff ? 2 : 1;
    this.count = 8;
  }

  several(count) {
    let value = 0;
    while (count--) value = value << 1 | this.one();
    return value;
  }

  signed(count) { // the numbers of `count` digits, negative ones first
    const value = this.several(count);
    return count && value < 1 << (count - 1) ? value - (1 << count) + 1 : value;
  }

  symbol({ first, most, offset, symbols }) {
    for (let length = 1, code = 0; length <= 16; length++) {
      code = code << 1 | this.one();
      if (code <= most[length]) return symbols[offset[length] + code - first[length]];
    }
    throw damaged();
  }

  restart() { // past the next restart marker
    this.count = this.run = 0;
    const { bytes } = this;
    while (this.at + 1 < bytes.length && !(bytes[this.at] === 0xff && bytes[this.at + 1] >= 0xd0 && bytes[this.at + 1] <= 0xd7)) {
      if (bytes[this.at] === 0xff && bytes[this.at + 1] !== 0 && bytes[this.at + 1] !== 0xff) return; // another marker: no more data
      this.at++;
    }
    this.at += 2;
  }
}

function huffman(counts, symbols) { // codes of one length are consecutive numbers
  const first = new Int32Array(17), most = new Int32Array(17).fill(-1), offset = new Int32Array(17);
  for (let length = 1, code = 0, used = 0; length <= 16; length++, code <<= 1) {
    [first[length], offset[length]] = [code, used];
    code += counts[length - 1];
    used += counts[length - 1];
    if (counts[length - 1]) most[length] = code - 1;
  }
  return { first, most, offset, symbols };
}

// ---- blocks: `c` holds the 64 coefficients, from `o` on ----

function wholeBlock(bits, part, c, o) {
  part.last += bits.signed(bits.symbol(part.dc));
  c[o] = part.last;
  for (let k = 1; k < 64; k++) {
    const symbol = bits.symbol(part.ac), size = symbol & 15;
    if (!size && symbol < 0xf0) return;
    k += symbol >> 4;
    if (size && k < 64) c[o + ZIGZAG[k]] = bits.signed(size);
    else if (size) throw damaged();
  }
}

// progressive pictures send a band of coefficients, from `from` to `to`, and their digits down to `low`
function firstDc(bits, part, c, o, { low }) {
  part.last += bits.signed(bits.symbol(part.dc));
  c[o] = part.last << low;
}

function laterDc(bits, part, c, o, { low }) {
  if (bits.one()) c[o] |= 1 << low;
}

function firstAc(bits, part, c, o, { from, to, low }) {
  if (bits.run) return void bits.run--;
  for (let k = from; k <= to; k++) {
    const symbol = bits.symbol(part.ac), zeros = symbol >> 4, size = symbol & 15;
    if (!size && zeros < 15) {
      bits.run = (1 << zeros) + bits.several(zeros) - 1;
      return;
    }
    k += zeros;
    if (size && k < 64) c[o + ZIGZAG[k]] = bits.signed(size) << low;
  }
}

function laterAc(bits, part, c, o, { from, to, low }) {
  const digit = 1 << low;
  const refine = (at) => {
    if (bits.one() && !(Math.abs(c[at]) & digit)) c[at] += c[at] > 0 ? digit : -digit;
  };
  let k = from;
  while (k <= to && !bits.run) {
    const symbol = bits.symbol(part.ac);
    let zeros = symbol >> 4, fresh = 0;
    if (symbol & 15) fresh = bits.one() ? digit : -digit;
    else if (zeros < 15) {
      bits.run = (1 << zeros) + bits.several(zeros);
      break;
    }
    for (; k <= to; k++) {
      const at = o + ZIGZAG[k];
      if (c[at]) refine(at);
      else if (!zeros--) {
        c[at] = fresh;
        k++;
        break;
      }
    }
  }
  if (!bits.run) return;
  for (; k <= to; k++) if (c[o + ZIGZAG[k]]) refine(o + ZIGZAG[k]);
  bits.run--;
}

// ---- scans ----

function readFrame(body, marker) {
  if (body[0] !== 8 || marker > 0xc2) throw new PictureError("coding");
  const frame = { progressive: marker === 0xc2, height: body[1] << 8 | body[2], width: body[3] << 8 | body[4] };
  frame.parts = Array.from({ length: body[5] }, (_, i) => {
    const [id, sides, table] = body.subarray(6 + 3 * i, 9 + 3 * i);
    return { id, across: sides >> 4, down: sides & 15, table, first: i === 0, scratch: new Int16Array(64) };
  });
  const [luma] = frame.parts, most = (key) => Math.max(...frame.parts.map((part) => part[key]));
  if (!luma || frame.parts.some(({ across, down }) => !across || !down)) throw damaged();
  if (luma.across !== most("across") || luma.down !== most("down")) throw new PictureError("coding");
  const [mcuColumns, mcuRows] = [Math.ceil(frame.width / 8 / luma.across), Math.ceil(frame.height / 8 / luma.down)];
  for (const part of frame.parts) Object.assign(part, { stride: mcuColumns * part.across,
    columns: Math.ceil(frame.width * part.across / luma.across / 8), rows: Math.ceil(frame.height * part.down / luma.down / 8) });
  luma.blocks = new Int16Array(64 * luma.stride * mcuRows * luma.down);
  return Object.assign(frame, { mcuColumns, mcuRows });
}

function readScan(bytes, at, head, frame, tables, interval) { // where the scan ends
  const parts = Array.from({ length: head[0] }, (_, i) => {
    const part = frame.parts.find(({ id }) => id === head[1 + 2 * i]), table = head[2 + 2 * i];
    if (!part) throw damaged();
    return Object.assign(part, { dc: tables[table >> 4], ac: tables[16 | table & 15], last: 0 });
  });
  const [from, to, digits] = head.subarray(1 + 2 * head[0]), band = { from, to, low: digits & 15 }, later = digits >> 4;
  const read = !frame.progressive ? wholeBlock : from ? later ? laterAc : firstAc : later ? laterDc : firstDc;
  const bits = new Bits(bytes, at);
  if (parts.length === 1 && !parts[0].first) return at; // colours alone
  const one = (part, column, row) => {
    const kept = part.first, o = kept ? 64 * (row * part.stride + column) : 0;
    read(bits, part, kept ? part.blocks : part.scratch, o, band);
  };
  const alone = parts.length === 1, columns = alone ? parts[0].columns : frame.mcuColumns;
  const count = columns * (alone ? parts[0].rows : frame.mcuRows);
  for (let i = 0; i < count; i++) {
    if (interval && i && i % interval === 0) {
      bits.restart();
      for (const part of parts) part.last = 0;
    }
    const column = i % columns, row = i / columns | 0;
    if (alone) one(parts[0], column, row);
    else for (const part of parts) for (let y = 0; y < part.down; y++) for (let x = 0; x < part.across; x++)
      one(part, column * part.across + x, row * part.down + y);
  }
  return bits.at;
}

// bytes: a JPEG file; k: 1, 2, 4 or 8, the reduction
export function decodeLuma(bytes, k) { // {levels, width, height}
  const steps = [], tables = [];
  let frame, interval = 0, ended = false, adobe, jfif = false;
  for (let at = 2; at + 2 <= bytes.length && !ended;) {
    if (bytes[at] !== 0xff || bytes[at + 1] === 0xff || !bytes[at + 1] || (bytes[at + 1] & 0xf8) === 0xd0) { at++; continue; }
    const marker = bytes[at + 1], length = bytes[at + 2] << 8 | bytes[at + 3], body = bytes.subarray(at + 4, at + 2 + length);
    at += 2 + length;
    if (marker === 0xd9) ended = true;
    else if (marker === 0xdb) readSteps(body, steps);
    else if (marker === 0xc4) readTables(body, tables);
    else if (marker === 0xdd) interval = body[0] << 8 | body[1];
    else if (marker === 0xe0) jfif = true;
    else if (marker === 0xee && body[0] === 0x41 && body.length >= 12) adobe = body[11];
    else if (marker >= 0xc0 && marker <= 0xcf && marker !== 0xc8 && marker !== 0xcc) frame = readFrame(body, marker);
    else if (marker === 0xda && frame) {
      at = readScan(bytes, at, body, frame, tables, interval);
      ended = !frame.progressive && body[0] === frame.parts.length;
    }
  }
  if (!frame || !ended) throw damaged();
  const ids = String.fromCharCode(...frame.parts.map(({ id }) => id));
  if (frame.parts.length > 3 || (frame.parts.length === 3 && !jfif && (adobe === 0 || (adobe === undefined && ids === "RGB"))))
    throw new PictureError("coding");
  return transform(frame, steps[frame.parts[0].table], k);
}

function readSteps(body, steps) {
  for (let at = 0; at < body.length;) {
    const wide = body[at] >> 4, table = new Int32Array(64);
    for (let i = 0; i < 64; i++) table[ZIGZAG[i]] = wide ? body[at + 1 + 2 * i] << 8 | body[at + 2 + 2 * i] : body[at + 1 + i];
    steps[body[at] & 15] = table;
    at += 65 + 64 * wide;
  }
}

function readTables(body, tables) {
  for (let at = 0; at + 17 <= body.length;) {
    const counts = body.subarray(at + 1, at + 17), total = counts.reduce((a, b) => a + b, 0);
    tables[body[at]] = huffman(counts, body.subarray(at + 17, at + 17 + total)); // 0 to 3: DC, 16 to 19: AC
    at += 17 + total;
  }
}

// ---- the inverse cosine transform, in integers (Loeffler, Ligtenberg and Moschytz 1989; 13 binary digits) ----

// eight coefficients to eight sums; smaller pictures take the means of two, four or eight neighbours
const LINES = {
  1: (d, o) => {
    const z = (d[2] + d[6]) * 4433, low = z - d[6] * 15137, high = z + d[2] * 6270;
    const sum = (d[0] + d[4]) * 8192, rest = (d[0] - d[4]) * 8192;
    const turn = (d[7] + d[3] + d[5] + d[1]) * 9633, a = turn - (d[7] + d[3]) * 16069, b = turn - (d[5] + d[1]) * 3196;
    const e = (d[7] + d[1]) * -7373, f = (d[5] + d[3]) * -20995;
    const odd = [d[1] * 12299 + e + b, d[3] * 25172 + f + a, d[5] * 16819 + f + b, d[7] * 2446 + e + a];
    const even = [sum + high, rest + low, rest - low, sum - high];
    for (let i = 0; i < 4; i++) {
      o[i] = even[i] + odd[i];
      o[7 - i] = even[i] - odd[i];
    }
  },
  2: (d, o) => {
    const mean = d[0] * 16384, even = d[2] * 15137 - d[6] * 6270;
    const inner = d[7] * -1730 + d[5] * 11893 + d[3] * -17799 + d[1] * 8697;
    const outer = d[7] * -4176 + d[5] * -4926 + d[3] * 7373 + d[1] * 20995;
    o[0] = mean + even + outer;
    o[3] = mean + even - outer;
    o[1] = mean - even + inner;
    o[2] = mean - even - inner;
  },
  4: (d, o) => {
    const mean = d[0] * 32768, odd = d[7] * -5906 + d[5] * 6967 + d[3] * -10426 + d[1] * 29692;
    o[0] = mean + odd;
    o[1] = mean - odd;
  },
};

const round = (value, digits) => (value + 2 ** (digits - 1)) >> digits;
const level = (value) => Math.max(0, Math.min(255, value + 128));

function transform({ width, height, parts: [luma] }, steps, k) {
  if (!steps) throw damaged();
  const side = 8 / k, extra = Math.log2(k), result = { width: Math.ceil(width / k), height: Math.ceil(height / k) };
  const levels = new Uint8Array(result.width * result.height), line = LINES[k];
  const between = new Int32Array(64), d = new Int32Array(8), o = new Float64Array(8);
  for (let row = 0; row < luma.rows; row++) for (let column = 0; column < luma.columns; column++) {
    const at = 64 * (row * luma.stride + column), c = luma.blocks;
    const put = (y, x, value) => {
      const [py, px] = [row * side + y, column * side + x];
      if (py < result.height && px < result.width) levels[py * result.width + px] = level(value);
    };
    if (k === 8) {
      put(0, 0, round(c[at] * steps[0], 3));
      continue;
    }
    for (let x = 0; x < 8; x++) {
      for (let i = 0; i < 8; i++) d[i] = c[at + 8 * i + x] * steps[8 * i + x];
      line(d, o);
      for (let y = 0; y < side; y++) between[8 * y + x] = round(o[y], 11 + extra);
    }
    for (let y = 0; y < side; y++) {
      line(between.subarray(8 * y, 8 * y + 8), o);
      for (let x = 0; x < side; x++) put(y, x, round(o[x], 18 + extra));
    }
  }
  return { levels, ...result };
}
