// Asks a page's own scripts, under Node: node page.mjs FOLDER LIST.json, a list of image files, to JSON on standard output.
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, list] = process.argv.slice(2).map((name) => resolve(name));
const part = (name) => import(pathToFileURL(`${folder}/${name}`));
const bytes = async (name) => new Uint8Array(await readFile(name));
const [ort, { Network }, { readPicture }] = await Promise.all(["ort/ort.wasm.bundle.min.mjs", "network.js", "picture.js"].map(part));

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = await bytes(`${folder}/ort/ort-wasm-simd-threaded.wasm`);
const about = JSON.parse(await readFile(`${folder}/model.json`));
const first = about.first && new Float32Array((await bytes(`${folder}/${about.first.file}`)).slice().buffer);
const network = await Network.open(ort, about, await bytes(`${folder}/${about.file}`), first);

const told = [];
for (const { file, heat } of JSON.parse(await readFile(list))) {
  try {
    const { plane, width, height } = await readPicture(await bytes(file), about.size);
    const judged = await network.judge(plane);
    told.push({ file, width, height, plane: Buffer.from(plane).toString("base64"), ...judged, ...(heat && { heat: [...await network.occlusion(plane)] }) });
  } catch (error) {
    told.push({ file, error: error.code ?? String(error.stack) });
  }
}
process.stdout.write(JSON.stringify(told));
